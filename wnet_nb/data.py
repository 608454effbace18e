"""From volumes to training patches: the one normalisation, preparation, crops, and augmentation.

Prepared, very different stacks suit one small network: cells are about four voxels in radius, and
the background is gone at their scale.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from wnet_nb.config import DEPTH_FACTOR, Settings
from wnet_nb.errors import UserError
from wnet_nb.grid import average_blocks, block_means, enlarge, pad_to, thin_out

PERCENTILES = (0.5, 99.9)
SAMPLE_VOXELS = 4_000_000  # enough for percentiles to a tenth of a grey level
LARGEST_VALUE = 1e30  # sums of ten million such voxels fit in float32
CANDIDATES = 4  # crops drawn for each patch that is kept
EMPTY_SHARE, FULL_SHARE = 0.001, 0.6
POOR_CROP_WEIGHT = 0.05
CELL_RADIUS_VOXELS = 4.0  # what voxels are averaged down to
BACKGROUND_REACH = 2.0  # cell radii: what is wider than twice this is background
SMOOTH_SIGMA = 0.3  # cell radii: smoothing that leaves cells and takes noise
GRID_STEP = 0.5  # cell radii between the points at which the background is found


@dataclass(frozen=True)
class Normalisation:
    """Map of brightness from `low`-`high` to 0-100, clipped; linear but for ``square_root``."""

    method: str  # percentile, minmax or square_root
    low: float  # brightness that becomes 0, in the units of the image
    high: float  # brightness that becomes 100

    def apply(self, array: np.ndarray) -> np.ndarray:
        """Return `array` (any shape, real dtype) as float32 in 0-100; all 0 if low = high."""
        if self.high <= self.low:
            return np.zeros(array.shape, np.float32)
        values = np.asarray(array).astype(np.float64)
        np.clip(values, self.low, self.high, out=values)
        values -= self.low
        values /= self.high - self.low  # not times the inverse, which overflows in a tiny range
        if self.method == "square_root":
            np.sqrt(values, out=values)
        return (values * 100).astype(np.float32)


def fit_normalisation(
    array: np.ndarray, method: str = "percentile", *, name: str = "volume"
) -> Normalisation:
    """Find the brightness range of a volume (Z, Y, X), maybe a memory map; low = high if constant.

    The `method` is ``percentile`` (0.5 to 99.9 %, so hot pixels do not matter), ``minmax`` (as
    published), or ``square_root`` (of the percentile range: shot noise gets the same strength
    everywhere, and dim cells come closer to bright ones; Anscombe 1948 without the offset). Where
    percentiles coincide (sparse bright spots), minimum and maximum are taken.

    UserError, which calls the volume `name`, if it is none of real numbers, is empty, or holds NaN,
    infinite or enormous values, or if there is no such method.
    """
    if array.ndim != 3 or array.dtype.kind not in "biuf" or array.size == 0:
        raise UserError(
            f"'{name}' is no volume: it has the shape {array.shape} and the type {array.dtype}; "
            "give real numbers (Z, Y, X)"
        )
    low, high = np.inf, -np.inf
    for plane in array:  # plane by plane: a memory map never comes into memory whole
        lowest, highest = float(plane.min()), float(plane.max())
        if not -LARGEST_VALUE <= lowest <= highest <= LARGEST_VALUE:
            raise UserError(
                f"'{name}' holds values that are not finite (NaN or infinite) or beyond "
                f"{LARGEST_VALUE:g}; replace them, in Fiji with Process > Math > NaN Background"
            )
        low, high = min(low, lowest), max(high, highest)
    if method in ("percentile", "square_root"):
        robust = np.percentile(thin_out(array, SAMPLE_VOXELS).astype(np.float64), PERCENTILES)
        if robust[1] > robust[0]:
            low, high = float(robust[0]), float(robust[1])
    elif method != "minmax":
        raise UserError(f"normalisation='{method}' must be percentile, minmax or square_root")
    return Normalisation(method, low, high)


def times(shape: Sequence[int]) -> str:
    """Return a size in words, such as 16×24×24."""
    return "×".join(map(str, shape))


@dataclass(frozen=True)
class Prepared:
    """A volume as the network takes it."""

    array: np.ndarray  # (Z', Y', X'): the image itself, or float32 averaged, without background
    normalisation: Normalisation  # of `array`
    factors: tuple[int, int, int] = (1, 1, 1)  # voxels (z, y, x) averaged into one of `array`
    shape: tuple[int, ...] = ()  # (Z, Y, X) of the image
    cell_radius_um: float | None = None  # that it was prepared for; None: taken as it is


def prepare(
    image: np.ndarray,
    settings: Settings,
    *,
    cell_radius_um: float | None = None,
    voxel_size_um: Sequence[float] | None = None,
    name: str = "volume",
) -> Prepared:
    """Prepare a volume (Z, Y, X) as `settings` say; without a cell radius it is taken as it is.

    Radius and voxel size (z, y, x) are those of the settings if not given, the size 1 µm if not
    there either. A memory map that needs no change stays one. UserError as of `fit_normalisation`.
    """
    ranges = fit_normalisation(image, settings.normalisation, name=name)
    radius = cell_radius_um or settings.cell_radius_um
    if not settings.needs_radius or radius is None or ranges.high <= ranges.low:
        return Prepared(image, ranges, shape=image.shape)
    radii = radius / np.array(voxel_size_um or settings.voxel_size_um or (1.0, 1.0, 1.0))
    array = clean(image, settings, radii)
    ranges = fit_normalisation(array, settings.normalisation, name=name)
    return Prepared(array, ranges, voxels_averaged(settings, radii), image.shape, radius)


def voxels_averaged(settings: Settings, radii: Sequence[float]) -> tuple[int, int, int]:
    """Return how many voxels (z, y, x) are averaged into one; `radii` are a cell's in voxels."""
    if not settings.match_cell_size:
        return (1, 1, 1)
    return tuple(int(max(1, round(r / CELL_RADIUS_VOXELS))) for r in radii)


def clean(
    image: np.ndarray,
    settings: Settings,
    radii: np.ndarray,
    *,
    start: Sequence[int] = (0, 0, 0),
) -> np.ndarray:
    """Return the image (Z, Y, X) averaged and without background, as `settings` ask for.

    `radii` are a cell's in voxels (z, y, x). A part of a larger volume begins, in averaged voxels,
    at `start`, where also a block of `background_step` begins.
    """
    factors, array = voxels_averaged(settings, radii), image
    if settings.match_cell_size:
        # What is smaller than a third of a cell is noise; on small cells no averaging removes it.
        array = np.asarray(average_blocks(image, factors), np.float32)
        array = ndimage.gaussian_filter(array, SMOOTH_SIGMA * radii / factors, mode="nearest")
    if settings.subtract_background:
        array = subtract_background(array, radii / factors, start=start)
    return array


def background_step(radii: Sequence[float]) -> np.ndarray:
    """Return the voxels (z, y, x) between the points at which the background is found."""
    return np.maximum(1.0, GRID_STEP * np.asarray(radii))


def subtract_background(
    image: np.ndarray, radii: Sequence[float], *, start: Sequence[int] = (0, 0, 0)
) -> np.ndarray:
    """Return the image (Z, Y, X) minus its background, float32: the top-hat of a smoothed copy.

    The background is the grey opening (Serra 1982) with a box of 4 cell radii, so whatever is
    narrower than that stays. It is found on a grid of half a cell radius and smoothed. `radii` is
    the cell radius in voxels of each axis.
    """
    step = background_step(radii)
    grid = block_means(image, step, start=start)
    reach = np.asarray(radii) / step  # a cell radius, in grid points
    smooth = ndimage.gaussian_filter(grid, 0.5 * reach, mode="nearest")
    box = [2 * round(BACKGROUND_REACH * r) + 1 for r in reach]
    opened = ndimage.grey_opening(smooth, box, mode="nearest")
    opened = ndimage.gaussian_filter(opened, 0.5 * BACKGROUND_REACH * reach, mode="nearest")
    behind = start - np.ceil(np.asarray(start) / step) * step  # of the first block's exact place
    return np.asarray(image, np.float32) - enlarge(opened, image.shape, step, start=behind)


class PatchSampler:
    """Draws normalised training patches from volumes; memory maps are read crop by crop.

    For each patch, one of four crops is kept, with odds of 1 for an ordinary crop and 0.05 for one
    whose bright share (voxels above the volume's Otsu threshold) is below 0.1 % (empty) or above
    60 % (a large bright region). So a volume without any content still gives patches.
    """

    def __init__(self, volumes: Sequence[Prepared], settings: Settings) -> None:
        self.shape = fit_patch_shape(settings.patch_shape, [v.array.shape for v in volumes])
        self.arrays = [pad_to(v.array, self.shape) for v in volumes]
        self.normalisations = [v.normalisation for v in volumes]
        self.augmentation = settings.augmentation
        self.remarks = [  # what is not as asked for, for the user
            f"volume {number} is smaller than a patch: its edges are mirrored, up to "
            f"{times(now.shape)} voxels"
            for number, (now, given) in enumerate(zip(self.arrays, volumes, strict=True), 1)
            if now.shape != given.array.shape
        ]
        if self.shape != settings.patch_shape:
            self.remarks.append(
                f"patches are {times(self.shape)} voxels, as no volume is as large as patch_size="
                f"{settings.patch_size} in every axis"
            )
        self.thresholds = [
            bright_threshold(a, n) for a, n in zip(self.arrays, self.normalisations, strict=True)
        ]

    def draw(self, volume: int, random: np.random.Generator) -> np.ndarray:
        """Return one patch (Z, Y, X), float32 in 0-100, of volume number `volume`."""
        crops = [self._crop(volume, random) for _ in range(CANDIDATES)]
        weights = np.array([self.weight(crop, volume) for crop in crops])
        patch = crops[random.choice(CANDIDATES, p=weights / weights.sum())]
        return augment(patch, random) if self.augmentation else patch

    def weight(self, crop: np.ndarray, volume: int) -> float:
        """Return how willingly a normalised crop is taken."""
        share = float((crop > self.thresholds[volume]).mean())
        return 1.0 if EMPTY_SHARE <= share <= FULL_SHARE else POOR_CROP_WEIGHT

    def richest(self, random: np.random.Generator, tries: int = 16) -> np.ndarray:
        """Return, of `tries` crops of the first volume, the one that varies most."""
        return max((self._crop(0, random) for _ in range(tries)), key=lambda crop: crop.std())

    def epoch(self, per_volume: int, random: np.random.Generator) -> list[int]:
        """Return the volume numbers of one epoch's patches, in random order."""
        order = np.repeat(np.arange(len(self.arrays)), per_volume)
        random.shuffle(order)
        return order.tolist()

    def _crop(self, volume: int, random: np.random.Generator) -> np.ndarray:
        array = self.arrays[volume]
        free = np.subtract(array.shape, self.shape)
        corner = [int(random.integers(n + 1)) for n in free]
        place = tuple(slice(c, c + edge) for c, edge in zip(corner, self.shape, strict=True))
        return self.normalisations[volume].apply(array[place])


def fit_patch_shape(wanted: Sequence[int], shapes: Sequence[Sequence[int]]) -> tuple[int, int, int]:
    """Return patch edges (z, y, x), at most the largest in `shapes` rounded up to 8."""
    rounded = -(-np.max(shapes, axis=0) // DEPTH_FACTOR) * DEPTH_FACTOR
    return tuple(np.minimum(wanted, rounded).tolist())


def bright_threshold(array: np.ndarray, normalisation: Normalisation) -> float:
    """Return Otsu's threshold of the normalised volume, from a sample of its voxels."""
    from skimage.filters import threshold_otsu  # slow to import, and only needed here

    sample = normalisation.apply(thin_out(array, 1_000_000))
    return float(threshold_otsu(sample)) if np.ptp(sample) > 0 else 0.0


def augment(patch: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return a patch (Z, Y, X) flipped at random in every axis and turned by 90 degrees in YX.

    The axes Z and X are never exchanged (the resolution in Z differs); a patch that is not
    square in YX is only turned by 180 degrees.
    """
    for axis in range(3):
        if random.integers(2):
            patch = np.flip(patch, axis)
    turns = int(random.integers(4))
    if patch.shape[1] != patch.shape[2]:
        turns -= turns % 2
    return np.ascontiguousarray(np.rot90(patch, turns, axes=(1, 2)))
