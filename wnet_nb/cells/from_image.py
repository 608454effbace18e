"""Cells from the image within a class map: Laplacian seeds, and a level of each cell's own core.

This is all there is without a network that knows cells; lengths follow from the cell radius.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from skimage.segmentation import watershed

from wnet_nb.cells.regions import Box, Region, blocks, markers, owned_by, with_halo
from wnet_nb.cells.seeds import SEED_SIGMA, Ground, find_seeds
from wnet_nb.grid import difference_of_gaussians

# Lengths in cell radii; chosen by measurement, see tests/benchmarks/quality.md.
OUTLINE_SIGMA = 0.15  # smoothing of the image whose level is the boundary
CORE_RADIUS = 0.5  # the middle of a cell, where its brightness is measured
BOUNDARY_DEFAULT, BOUNDARY_SLOPE = 0.4, 0.6  # the level where cells end, and how far it follows
# the steepest level of the volume
GROWTH_PROBABILITY = 0.1  # cells may reach this far beyond the class map
SAMPLE_SIZE, SAMPLES = 128, 8  # voxels, boxes in which the boundary of a large volume is found


class ImageEvidence:
    """Finds cells block by block in an image, where the class map allows them.

    Parameters
    ----------
    image : ndarray
        (Z, Y, X), any real dtype.
    foreground : ndarray
        (Z, Y, X) in 0-1: probability of being a cell.
    radii : ndarray
        Cell radius in voxels (z, y, x).
    boundary : float, optional
        Where a cell ends between its surroundings (0) and its core (1); found if not given.
    floor : float, optional
        What a seed must exceed, see `Ground`; found if not given.
    in_one_block : bool
        Whether the volume will be asked for as one block, whose cells are then measured once.

    Attributes
    ----------
    boundary, floor : float
    """

    def __init__(
        self,
        image: np.ndarray,
        foreground: np.ndarray,
        radii: np.ndarray,
        *,
        boundary: float | None = None,
        floor: float | None = None,
        in_one_block: bool = False,
    ) -> None:
        self._image, self._foreground, self._radii = image, foreground, radii
        self._ground = Ground(image, foreground, radii, floor)
        self.floor = self._ground.floor
        # The cells of a large volume are found anew for the boundary: memory would cost more.
        self._whole = (
            self._measure(blocks(image.shape, max(image.shape))[0]) if in_one_block else None
        )
        if boundary is None:
            parts = [self._whole] if self._whole else map(self._measure, _busiest(foreground))
            boundary = _find_boundary(parts, radii)
        self.boundary = boundary

    def find(self, block: Box) -> Region:
        """Return the cells of a block and its halo."""
        cells = self._whole or self._measure(block)
        level = self.boundary * cells.cores
        inside = cells.contrast > level[cells.basins]
        inside &= cells.basins > 0
        return Region(cells.place, cells.basins, inside, cells.owned)

    def _measure(self, block: Box) -> _Measured:
        radii, place = self._radii, with_halo(block, self._radii, self._image.shape)
        above = self._ground.above(self._image, place)
        near = ndimage.gaussian_filter(self._foreground[place], 0.3 * radii, truncate=3)
        blob = difference_of_gaussians(np.maximum(above, 0), SEED_SIGMA * radii)
        seeds = find_seeds(blob, near, radii, self._ground.floor)
        marked = markers(seeds, above.shape)
        # On the image itself a dim cell would be the slope of a brighter neighbour, and flooded by
        # it.
        np.negative(blob, out=blob)
        near = near > GROWTH_PROBABILITY
        basins = watershed(blob, marked, mask=near)
        del blob, marked, near  # a block must stay small
        contrast, cores = measure_cores(above, basins, seeds, radii)
        return _Measured(place, basins, contrast, cores, owned_by(block, place, seeds))


@dataclass
class _Measured:
    """The basins of a region with its halo, and the brightness of each cell's core."""

    place: Box
    basins: np.ndarray  # (z, y, x) int32
    contrast: np.ndarray  # (z, y, x) float32
    cores: np.ndarray  # (n + 1,) contrast of the core of each cell; entry 0 is unused
    owned: np.ndarray  # (n + 1,) whether the seed lies in the block itself


def measure_cores(
    above: np.ndarray, basins: np.ndarray, seeds: np.ndarray, radii: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the image whose levels are outlines, and the brightness of the middle of each cell.

    Parameters
    ----------
    above : ndarray
        (z, y, x) float32: the image without its background.
    basins : ndarray
        (z, y, x) int32: the space of each cell.
    seeds : ndarray
        (n, 3): the middle of each cell, in voxels.
    radii : ndarray
        Cell radius in voxels (z, y, x).

    Returns
    -------
    contrast : ndarray
        (z, y, x) float32: `above`, a little smoothed.
    cores : ndarray
        (n + 1,) float32: median of `contrast` in the middle of each cell; entry 0 is unused.
    """
    contrast = ndimage.gaussian_filter(above, OUTLINE_SIGMA * radii, truncate=3)
    cores = np.zeros(len(seeds) + 1, np.float32)
    ball = _ball(np.maximum(CORE_RADIUS * radii, 1.0))
    for number, seed in enumerate(seeds, start=1):
        places = ball + seed
        fits = ((places >= 0) & (places < above.shape)).all(1)
        places = tuple(places[fits].T)
        cores[number] = np.median(contrast[places][basins[places] == number])
    return contrast, cores


def _ball(radii: np.ndarray) -> np.ndarray:
    """Return the offsets (n, 3) of the voxels in an ellipsoid of `radii` voxels."""
    reach = [int(r) for r in radii]
    grid = np.stack(np.meshgrid(*[np.arange(-n, n + 1) for n in reach], indexing="ij"), -1)
    return grid[((grid / np.maximum(radii, 1e-9)) ** 2).sum(-1) <= 1]


def _find_boundary(parts: Iterable[_Measured], radii: np.ndarray) -> float:
    """Return the level, between background 0 and core 1, at which cells end.

    The image is steepest where a cell ends. Over the cells that all parts own, the mean gradient
    is taken as a function of the level. It is largest near 1/2 where cells are wider than the blur
    and further up where they are not, as in a Gaussian spot, which is steepest at 0.61.
    """
    total, number = np.zeros(27), np.zeros(27)
    # What was taken for one cell in plain background may fill more voxels than all cells together.
    largest = 4 / 3 * np.pi * np.prod(2 * radii)
    for cells in parts:
        inside = cells.owned[cells.basins]
        steepness = np.sqrt(
            sum(np.gradient(cells.contrast, r, axis=a) ** 2 for a, r in enumerate(1 / radii))
        )
        basins = cells.basins[inside]
        core = np.maximum(cells.cores, 1e-9)[basins]
        level = cells.contrast[inside] / core
        bins = np.clip((level * 20).astype(int), -1, 25) + 1
        share = np.minimum(1, largest / np.maximum(np.bincount(basins), 1))[basins]
        total += np.bincount(bins, share * steepness[inside] / core, 27)
        number += np.bincount(bins, share, 27)
    if not number.any():
        return BOUNDARY_DEFAULT
    mean = total / np.maximum(number, 1e-9)
    mean = ndimage.gaussian_filter1d(mean, 1.0)[1 + 5 : 1 + 18]  # levels 0.25 to 0.9
    steepest = (int(np.argmax(mean)) + 5.5) / 20
    return float(np.clip(BOUNDARY_DEFAULT + BOUNDARY_SLOPE * (steepest - 0.55), 0.35, 0.5))


def _busiest(foreground: np.ndarray) -> list[Box]:
    """Return the boxes of `SAMPLE_SIZE` voxels that hold most of the foreground (z, y, x)."""
    boxes = blocks(foreground.shape, SAMPLE_SIZE)
    return sorted(boxes, key=lambda box: -float(foreground[box][::4, ::4, ::4].sum()))[:SAMPLES]
