"""What a volume goes through before the network, in training and afterwards alike.

Two steps make one small network fit very different stacks: voxels are averaged until a cell is
about four voxels in radius, and the background is taken away at the scale of the cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from wnet_nb.cell_size import CellSize, estimate_cell_radius
from wnet_nb.config import Settings
from wnet_nb.data import Normalisation, fit_normalisation

CELL_RADIUS_VOXELS = 4.0  # what voxels are averaged down to
BACKGROUND_REACH = 2.0  # cell radii: what is wider than twice this is background
SMOOTH_SIGMA = 0.3  # cell radii: smoothing that leaves cells and takes noise
GRID_STEP = 0.5  # cell radii between the points at which the background is found


@dataclass(frozen=True)
class Prepared:
    """A volume as the network takes it.

    Attributes
    ----------
    array : ndarray
        (Z', Y', X'): the image itself, or float32 after averaging and background subtraction.
    normalisation : Normalisation
        Brightness range of `array`.
    factors : tuple of int
        Voxels (z, y, x) of the image averaged into one of `array`.
    shape : tuple of int
        (Z, Y, X) of the image.
    cell_size : CellSize or None
        The estimated cell; None where none was needed or found.
    """

    array: np.ndarray
    normalisation: Normalisation
    factors: tuple[int, int, int] = (1, 1, 1)
    shape: tuple[int, ...] = ()
    cell_size: CellSize | None = None


def prepare(
    image: np.ndarray,
    settings: Settings,
    *,
    voxel_size_um: Sequence[float] | None = None,
    otherwise_radius_um: float | None = None,
    name: str = "volume",
) -> Prepared:
    """Prepare a volume as `settings` say.

    Parameters
    ----------
    image : ndarray
        (Z, Y, X), any real dtype; a memory map that needs no change stays one.
    settings : Settings
        `match_cell_size`, `subtract_background`, `normalisation`, `cell_radius_um`.
    voxel_size_um : sequence of float, optional
        (z, y, x) in µm; the one of the settings, or 1, 1, 1, if not given.
    otherwise_radius_um : float, optional
        Cell radius to take where the settings have none and the image shows none.
    name : str
        What to call the volume in an error.

    Raises
    ------
    DataError
        If the volume is empty or not finite.
    """
    size = tuple(voxel_size_um or settings.voxel_size_um or (1.0, 1.0, 1.0))
    ranges = fit_normalisation(image, settings.normalisation, name=name)
    plain = Prepared(image, ranges, shape=image.shape)
    if not (settings.match_cell_size or settings.subtract_background) or ranges.high <= ranges.low:
        return plain
    cell = None
    radius = settings.cell_radius_um
    if radius is None:
        try:
            cell = estimate_cell_radius(image, voxel_size_um=size)
            radius = cell.radius_um
        except ValueError:  # nothing stands out
            radius = otherwise_radius_um
    if radius is None:  # the volume is taken as it is
        return plain
    radii = np.array([radius / step for step in size])
    factors = (1, 1, 1)
    if settings.match_cell_size:
        factors = tuple(int(max(1, round(r / CELL_RADIUS_VOXELS))) for r in radii)
        array = average_blocks(image, factors)
        # What is smaller than a third of a cell is noise; on small cells no averaging removes it.
        array = ndimage.gaussian_filter(
            np.asarray(array, np.float32), SMOOTH_SIGMA * radii / factors, mode="nearest"
        )
    else:
        array = image
    if settings.subtract_background:
        array = subtract_background(array, radii / factors)
    ranges = fit_normalisation(array, settings.normalisation, name=name)
    return Prepared(array, ranges, factors, image.shape, cell)


def average_blocks(image: np.ndarray, factors: Sequence[int]) -> np.ndarray:
    """Return the means of blocks of `factors` voxels, float32; the last block may be smaller.

    Examples
    --------
    >>> average_blocks(np.arange(8).reshape(2, 2, 2), (1, 1, 2)).ravel()
    array([0.5, 2.5, 4.5, 6.5], dtype=float32)
    """
    if tuple(factors) == (1, 1, 1):
        return image
    planes = []
    for start in range(0, image.shape[0], factors[0]):  # a memory map is read slab by slab
        slab = image[start : start + factors[0]].mean(0, dtype=np.float32)
        for axis, factor in enumerate(factors[1:]):
            slab = _means_along(slab, factor, axis)
        planes.append(slab)
    return np.stack(planes)


def block_means(array: np.ndarray, steps: Sequence[float]) -> np.ndarray:
    """Return the means of blocks of `steps` voxels (z, y, x; not always whole), float32."""
    array = np.asarray(array)
    for axis, step in enumerate(steps):
        array = _means_along(array, step, axis)
    return array


def _means_along(array: np.ndarray, size: float, axis: int) -> np.ndarray:
    starts = np.unique((np.arange(np.ceil(array.shape[axis] / size)) * size).astype(int))
    starts = starts[starts < array.shape[axis]]  # 21 / 1.4 is a little more than 15
    sums = np.add.reduceat(array, starts, axis, dtype=np.float32)
    counts = np.diff(np.append(starts, array.shape[axis])).astype(np.float32)
    return sums / counts.reshape([-1 if a == axis else 1 for a in range(array.ndim)])


def subtract_background(image: np.ndarray, radii: Sequence[float]) -> np.ndarray:
    """Return the image minus its background, float32: the white top-hat of a smoothed copy.

    The background is the grey opening (Serra 1982) with a box of 4 cell radii, so whatever is
    narrower than that stays. It is found on a grid of half a cell radius and smoothed.

    Parameters
    ----------
    image : ndarray
        (Z, Y, X), any real dtype.
    radii : sequence of float
        Cell radius in voxels of each axis.
    """
    step = np.maximum(1.0, GRID_STEP * np.asarray(radii))
    grid = block_means(image, step)
    reach = np.asarray(radii) / step  # a cell radius, in grid points
    smooth = ndimage.gaussian_filter(grid, 0.5 * reach, mode="nearest")
    box = [2 * round(BACKGROUND_REACH * r) + 1 for r in reach]
    opened = ndimage.grey_opening(smooth, box, mode="nearest")
    opened = ndimage.gaussian_filter(opened, 0.5 * BACKGROUND_REACH * reach, mode="nearest")
    return np.asarray(image, np.float32) - enlarge(opened, image.shape, step)


def enlarge(
    array: np.ndarray,
    shape: Sequence[int],
    steps: Sequence[float],
    *,
    start: Sequence[int] = (0, 0, 0),
) -> np.ndarray:
    """Return `array` (Z', Y', X') interpolated linearly to a finer grid, float32.

    Parameters
    ----------
    array : ndarray
        Block means.
    shape : sequence of int
        (Z, Y, X) of the result.
    steps : sequence of float
        Voxels (z, y, x) of the fine grid in one block.
    start : sequence of int
        Where on the fine grid the result begins.
    """
    for axis, (first, n, step) in enumerate(zip(start, shape, steps, strict=True)):
        have = array.shape[axis]
        if step == 1 and (first, n) == (0, have):
            continue
        place = np.clip((np.arange(first, first + n) + 0.5) / step - 0.5, 0, have - 1)
        low = np.minimum(place.astype(int), max(have - 2, 0))
        share = (place - low).astype(np.float32)
        share = share.reshape([-1 if a == axis else 1 for a in range(3)])
        below = array.take(low, axis)
        array = below + share * (array.take(np.minimum(low + 1, have - 1), axis) - below)
    return array.astype(np.float32, copy=False)
