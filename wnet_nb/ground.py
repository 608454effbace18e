"""What cells stand out of: the local background of a volume, and the texture it is covered with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from wnet_nb.preparation import block_means, enlarge

# Lengths in cell radii; chosen by measurement, see tests/benchmarks/quality.md.
SEED_SIGMA = 0.52  # of the Laplacian of Gaussian that finds the middle of cells
OUTLINE_SIGMA = 0.15  # smoothing of the image whose level is the boundary
BACKGROUND_SIGMA = 2.5  # reach of the local background
HALO = 4.0  # overlap of blocks
BACKGROUND_ROUNDS, BACKGROUND_CLIP = 12, 2.0  # so often, what is further from the background
# than so many of its standard deviations is set aside
FALSE_SHARE = 0.05  # of the seeds may be texture
DARK_FACTOR = 1.5  # bright texture reaches higher than dark texture reaches down


def difference_of_gaussians(image: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Return about the negative Laplacian of Gaussian at `sigma` (Lowe 2004, section 3)."""
    image = np.asarray(image, np.float32)
    narrow = ndimage.gaussian_filter(image, sigma / 1.26, truncate=3)
    narrow -= ndimage.gaussian_filter(image, sigma * 1.26, truncate=3)
    return narrow


class Ground:
    """What all blocks share: image, foreground, radii, background and noise."""

    def __init__(self, image: np.ndarray, foreground: np.ndarray, radii: np.ndarray) -> None:
        self.image, self.foreground, self.radii = image, foreground, radii
        self.step = np.maximum(1.0, radii)
        self.background = _find_background(
            block_means(image, self.step), block_means(foreground, self.step), radii / self.step
        )
        self.floor = self._find_floor()

    def _find_floor(self) -> float:
        """Return what the Laplacian of a seed must exceed, so that few seeds are texture.

        Dark spots of cell size are no cells, and there are about as many bright ones that are none
        either: the floor lies where the dark spots above it are `FALSE_SHARE` of the bright ones
        (the target-decoy estimate of Elias & Gygi 2007).
        """
        step = np.maximum(1.0, 0.5 * self.radii)
        above = block_means(self.image, step)
        above -= enlarge(self.background, above.shape, self.step / step)
        sigma = SEED_SIGMA * self.radii / step
        bright, dark = (difference_of_gaussians(np.maximum(a, 0), sigma) for a in (above, -above))
        spots = np.sort(bright[is_peak(bright, (3, 3, 3))])[::-1]
        decoys = np.sort(DARK_FACTOR * dark[is_peak(dark, (3, 3, 3))])
        n_dark = len(decoys) - np.searchsorted(decoys, spots)
        enough = np.flatnonzero(n_dark <= FALSE_SHARE * np.arange(1, len(spots) + 1))
        return 0.999 * float(spots[enough[-1]]) if enough.size else np.inf

    def region(self, block: tuple[slice, ...]) -> tuple[slice, ...]:
        """Return `block` enlarged by the halo, within the volume."""
        halo = np.ceil(HALO * self.radii).astype(int)
        return tuple(
            slice(max(0, s.start - h), min(n, s.stop + h))
            for s, h, n in zip(block, halo, self.image.shape, strict=True)
        )

    def contrast(self, region: tuple[slice, ...], image: np.ndarray) -> np.ndarray:
        """Return the lightly smoothed image above its background in a region, float32."""
        contrast = ndimage.gaussian_filter(image, OUTLINE_SIGMA * self.radii, truncate=3)
        contrast -= self.background_of(region)
        return contrast

    def background_of(self, region: tuple[slice, ...]) -> np.ndarray:
        """Return the background of a region, float32."""
        shape, start = ([getattr(s, k) for s in region] for k in ("stop", "start"))
        shape = np.subtract(shape, start)
        return enlarge(self.background, shape, self.step, start=start)


def is_peak(blob: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Return where a volume is positive and highest in a box of `size` voxels (z, y, x), bool."""
    return (blob == ndimage.maximum_filter(blob, size=size)) & (blob > 0)


def _find_background(picture: np.ndarray, foreground: np.ndarray, reach: np.ndarray) -> np.ndarray:
    """Return the local background of `picture`, from a Gaussian mean without what stands out.

    It begins with what the network is sure is no cell; then what is too far from the mean, bright
    or dark, is set aside again and again (local sigma clipping), so that cells the network missed
    do not count and bright stripes it took do.
    """
    weight = np.clip(1 - foreground, 0, 1) ** 4 + 1e-6
    sigma = BACKGROUND_SIGMA * reach
    for _ in range(BACKGROUND_ROUNDS):
        share = ndimage.gaussian_filter(weight, sigma, mode="nearest")
        mean = ndimage.gaussian_filter(weight * picture, sigma, mode="nearest") / share
        squared = (picture - mean) ** 2
        spread = ndimage.gaussian_filter(weight * squared, sigma, mode="nearest") / share
        weight = (squared < BACKGROUND_CLIP**2 * spread) + np.float32(1e-6)
    return mean
