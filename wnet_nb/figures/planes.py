"""Three planes through a volume, XY, XZ and YZ, laid out on one canvas at true proportions.

Arrays in, arrays out: the figures and the viewer both draw from here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from skimage.segmentation import find_boundaries
from skimage.transform import resize

CANVAS_PIXELS = 620  # longer side
GAP_PIXELS = 8  # between the planes
SHOWN_VOXELS = 384  # along one edge: more, and outlines of cells can no longer be told apart
NAMES = ("XY", "XZ", "YZ")


@dataclass(frozen=True)
class Layout:
    """Where the planes lie on the canvas: YZ to the right of XY and XZ below it.

    Attributes
    ----------
    pixel_um : float
        Edge of a canvas pixel in µm.
    places : tuple of (slice, slice)
        Rows and columns of XY, XZ and YZ.
    """

    pixel_um: float
    places: tuple[tuple[slice, slice], ...]

    @classmethod
    def of(cls, shape: Sequence[int], voxel_size_um: Sequence[float]) -> Layout:
        """Return the layout for a volume of `shape` (Z, Y, X)."""
        z, y, x = (n * s for n, s in zip(shape, voxel_size_um, strict=True))
        pixel = (max(x, y) + z) / (CANVAS_PIXELS - GAP_PIXELS)
        depth, height, width = (max(1, round(length / pixel)) for length in (z, y, x))
        below = slice(height + GAP_PIXELS, height + GAP_PIXELS + depth)
        right = slice(width + GAP_PIXELS, width + GAP_PIXELS + depth)
        upper, left = slice(0, height), slice(0, width)
        return cls(pixel, ((upper, left), (below, left), (upper, right)))

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the canvas in pixels."""
        return self.places[1][0].stop, self.places[2][1].stop

    def draw(self, volume: np.ndarray, point: Sequence[int]) -> np.ndarray:
        """Return the planes of `volume` (Z, Y, X) through a voxel, float32; NaN between them."""
        canvas = np.full(self.shape, np.nan, np.float32)
        for place, plane in zip(self.places, cross(volume, point), strict=True):
            size = canvas[place].shape
            shrinks = size[0] < plane.shape[0] or size[1] < plane.shape[1]
            canvas[place] = resize(
                plane.astype(np.float32),
                size,
                order=1,
                anti_aliasing=shrinks,
                preserve_range=True,
            )
        return canvas

    def outline(self, labels: np.ndarray, point: Sequence[int]) -> np.ndarray:
        """Return where the outlines of `labels` (Z, Y, X) lie in the planes, bool."""
        canvas = np.zeros(self.shape, bool)
        for place, plane in zip(self.places, cross(labels, point), strict=True):
            rows, columns = (
                ((np.arange(n) + 0.5) * have / n).astype(int)
                for n, have in zip(canvas[place].shape, plane.shape, strict=True)
            )
            canvas[place] = find_boundaries(plane[np.ix_(rows, columns)], mode="inner")
        return canvas


def cross(volume: np.ndarray, point: Sequence[int]) -> list[np.ndarray]:
    """Return the planes XY (Y, X), XZ (Z, X) and YZ, turned to (Y, Z), through a voxel."""
    z, y, x = point
    return [np.asarray(volume[z]), np.asarray(volume[:, y]), np.asarray(volume[:, :, x]).T]


def densest_point(labels: np.ndarray) -> tuple[int, int, int]:
    """Return the voxel (z, y, x) whose planes, one by one, cut the most cells."""
    step = max(1, round((labels.size / 4_000_000) ** (1 / 3)))
    sample = np.asarray(labels[::step, ::step, ::step])
    point = []
    for axis, length in enumerate(labels.shape):
        cells = [len(np.unique(plane)) for plane in np.moveaxis(sample, axis, 0)]
        best = np.flatnonzero(np.array(cells) == max(cells))  # of equals, the one in the middle
        point.append(min(int(best[len(best) // 2]) * step, length - 1))
    return tuple(point)


def window_around(
    point: Sequence[int], shape: Sequence[int], voxel_size_um: Sequence[float]
) -> tuple[slice, slice, slice]:
    """Return the part of a volume worth showing around a voxel.

    It has at most `SHOWN_VOXELS` along an edge, and is no deeper than wide in µm.
    """
    size = [min(n, SHOWN_VOXELS) for n in shape]
    widest = max(size[1] * voxel_size_um[1], size[2] * voxel_size_um[2])
    size[0] = max(1, min(size[0], int(widest / voxel_size_um[0])))
    starts = [
        max(0, min(p - n // 2, have - n)) for p, n, have in zip(point, size, shape, strict=True)
    ]
    return tuple(slice(start, start + n) for start, n in zip(starts, size, strict=True))
