"""Volumes on coarser and finer grids: block means, interpolation, thinning, padding, and blobs."""

import math
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from wnet_nb.errors import UserError


def average_blocks(image: np.ndarray, factors: Sequence[int]) -> np.ndarray:
    """Return the means of blocks of `factors` voxels, float32; the last block may be smaller."""
    if tuple(factors) == (1, 1, 1):
        return image
    starts = range(0, len(image), factors[0])  # a memory map is read slab by slab
    return np.concatenate([block_means(image[z : z + factors[0]], factors) for z in starts])


def block_starts(n: int, size: float) -> np.ndarray:
    """Return where each of the blocks of `size` voxels begins that cover `n` voxels."""
    starts = np.unique((np.arange(np.ceil(n / size)) * size).astype(int))
    return starts[starts < n]  # 21 / 1.4 is a little more than 15


def block_means(
    array: np.ndarray, steps: Sequence[float], *, start: Sequence[int] = (0, 0, 0)
) -> np.ndarray:
    """Return the means of blocks of `steps` voxels (z, y, x; not always whole), float32.

    A part of a larger array has the blocks of the whole if it begins at `start`, where one begins.
    """
    array = np.asarray(array)
    for axis, (step, first) in enumerate(zip(steps, start, strict=True)):
        array = _means_along(array, step, axis, first)
    return array


def _means_along(array: np.ndarray, size: float, axis: int, first: int = 0) -> np.ndarray:
    starts = block_starts(first + array.shape[axis], size) - first
    starts = starts[starts >= 0]
    sums = np.add.reduceat(array, starts, axis, dtype=np.float32)
    counts = np.diff(np.append(starts, array.shape[axis])).astype(np.float32)
    return sums / counts.reshape([-1 if a == axis else 1 for a in range(array.ndim)])


def enlarge(
    array: np.ndarray,
    shape: Sequence[int],
    steps: Sequence[float],
    *,
    start: Sequence[float] = (0, 0, 0),
) -> np.ndarray:
    """Return block means (Z', Y', X') interpolated linearly to a finer grid of `shape`, float32.

    `steps` are the voxels (z, y, x) of the fine grid in one block; it may begin at `start`.
    """
    for axis, (first, n, step) in enumerate(zip(start, shape, steps, strict=True)):
        have = array.shape[axis]
        if step == 1 and (first, n) == (0, have):
            continue
        place = np.clip((first + np.arange(n) + 0.5) / step - 0.5, 0, have - 1)
        low = np.minimum(place.astype(int), max(have - 2, 0))
        share = (place - low).astype(np.float32)
        share = share.reshape([-1 if a == axis else 1 for a in range(3)])
        below = array.take(low, axis)
        array = below + share * (array.take(np.minimum(low + 1, have - 1), axis) - below)
    return array.astype(np.float32, copy=False)


def thin_out(array: np.ndarray, voxels: int) -> np.ndarray:
    """Return every n-th voxel of `array` (Z, Y, X) along each axis, about `voxels` at most."""
    step = max(1, round((array.size / voxels) ** (1 / 3)))
    return array[::step, ::step, ::step]


def pad_to(array: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Return `array` (Z, Y, X) enlarged to at least `shape` by reflection at its far ends."""
    missing = [max(0, want - have) for want, have in zip(shape, array.shape, strict=True)]
    if not any(missing):
        return array
    return np.pad(array, [(0, n) for n in missing], mode="symmetric")


def difference_of_gaussians(image: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Return about the negative Laplacian of Gaussian at `sigma` (Lowe 2004, section 3)."""
    image = np.asarray(image, np.float32)
    narrow = ndimage.gaussian_filter(image, sigma / 1.26, truncate=3)
    narrow -= ndimage.gaussian_filter(image, sigma * 1.26, truncate=3)
    return narrow


def check_voxel_size(voxel_size_um: Sequence[float]) -> tuple[float, float, float]:
    """Return the (z, y, x) in µm that somebody gave; UserError unless positive and finite."""
    try:
        z, y, x = (float(size) for size in voxel_size_um)
    except (TypeError, ValueError):
        z = y = x = math.nan
    if isinstance(voxel_size_um, str) or not all(0 < size < math.inf for size in (z, y, x)):
        raise UserError(
            f"voxel_size_um {voxel_size_um!r} is not a voxel size; give three positive numbers "
            "z,y,x in µm"
        )
    return z, y, x
