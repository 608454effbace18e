"""Three planes through a volume, XY, XZ and YZ, at true proportions: arrays in, pixels out.

The figures and the viewer of the notebook both draw from here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from io import BytesIO

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imsave
from scipy import ndimage
from skimage.segmentation import find_boundaries
from skimage.transform import resize

CANVAS_PIXELS = 620  # longer side
GAP_PIXELS = 8  # between the planes
PROJECTIONS_PIXELS = 1100  # width of the cells from three sides
SHOWN_VOXELS = 384  # along one edge: more, and outlines of cells can no longer be told apart
NAMES = ("XY", "XZ", "YZ")
CROSSHAIR = (255, 210, 60)
SURROUNDINGS = 255  # grey around the planes
# Periods per voxel along z, y, x of the waves that give a cell its hue and its brightness, found by
# trying: neighbours 8 to 34 voxels apart look different, a centre that moves by one voxel does not.
WAVES = np.array([(0.0223, -0.0217, -0.0235), (0.0499, 0.0574, -0.0557)])


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
            canvas[place] = fit_plane(plane, canvas[place].shape)
        return canvas


def cross(volume: np.ndarray, point: Sequence[int]) -> list[np.ndarray]:
    """Return the planes XY (Y, X), XZ (Z, X) and YZ, turned to (Y, Z), through a voxel."""
    z, y, x = point
    return [np.asarray(volume[z]), np.asarray(volume[:, y]), np.asarray(volume[:, :, x]).T]


def fit_plane(plane: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Return a plane of an image (rows, columns), scaled smoothly to `shape`, float32."""
    shrinks = shape[0] < plane.shape[0] or shape[1] < plane.shape[1]
    plane = plane.astype(np.float32)
    return resize(plane, shape, order=1, anti_aliasing=shrinks, preserve_range=True)


def enlarge(plane: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Return a plane (rows, columns) repeated to `shape`, so that labels stay labels."""
    rows, columns = (
        ((np.arange(n) + 0.5) * have / n).astype(int)
        for n, have in zip(shape, plane.shape, strict=True)
    )
    return plane[np.ix_(rows, columns)]


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
    window = []
    for p, n, have in zip(point, size, shape, strict=True):
        start = max(0, min(p - n // 2, have - n))
        window.append(slice(start, start + n))
    return tuple(window)


def round_length(width_um: float) -> float:
    """Return the length in µm of a scale bar: 1, 2 or 5 times a power of ten, within a quarter."""
    power = 10.0 ** math.floor(math.log10(width_um / 4))
    return power * max(n for n in (1, 2, 5) if n * power <= width_um / 4)


def cell_colours(labels: np.ndarray) -> np.ndarray:
    """Return the colour of each cell, which follows from where the cell lies.

    A cell that is cut out anew keeps its colour, whatever its number, and so do the same cells of
    two results side by side.

    Parameters
    ----------
    labels : ndarray
        (Z, Y, X) integer, 0 is background.

    Returns
    -------
    ndarray
        (largest label + 1, 3) uint8, red, green and blue; black for background.
    """
    centres = [
        [(part.start + part.stop) / 2 for part in box] if box else (0, 0, 0)
        for box in ndimage.find_objects(labels)
    ]
    waves = np.reshape(centres, (-1, 3)) @ WAVES.T  # (cells, 2)
    bright = 0.8 + 0.2 * np.cos(2 * np.pi * waves[:, 1:])
    colours = 255 * (0.25 + 0.75 * colormaps["hsv"](waves[:, 0] % 1)[:, :3] * bright)
    return np.concatenate([np.zeros((1, 3)), colours]).astype(np.uint8)


def paint(
    plane: np.ndarray, opacity: float, colours: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return what to lay over a plane: colours and how much they cover.

    Parameters
    ----------
    plane : ndarray
        (rows, columns), labels (integer) or a class map (float, 0-1).
    opacity : float
        0-1; edges of cells cover twice as much.
    colours : ndarray, optional
        From `cell_colours`; labels need it.

    Returns
    -------
    colour, opacity : ndarray
        (rows, columns, 3) in 0-255 and (rows, columns) in 0-1.
    """
    if plane.dtype.kind == "f":
        return colormaps["viridis"](plane)[..., :3] * 255, opacity * np.clip(plane, 0, 1)
    edges = find_boundaries(plane, mode="inner")
    return colours[plane], np.where(edges, min(1.0, 2 * opacity), opacity) * (plane > 0)


def planes_png(
    image: np.ndarray,
    point: Sequence[int],
    layout: Layout,
    *,
    limits: tuple[float, float],
    left: np.ndarray | None = None,
    right: np.ndarray | None = None,
    colours: tuple[np.ndarray | None, np.ndarray | None] = (None, None),
    opacity: float = 0.45,
    curtain: float = 1.0,
) -> bytes:
    """Draw three planes through a voxel, with a crosshair, and one overlay or two, quickly.

    Parameters
    ----------
    image : ndarray
        (Z, Y, X), any real dtype.
    point : sequence of int
        Voxel (z, y, x) where the planes cross.
    layout : Layout
        Of the volume.
    limits : tuple of float
        Brightness drawn black and white.
    left, right : ndarray, optional
        Labels (integer) or class maps (float, 0-1), (Z, Y, X), on either side of the curtain.
    colours : tuple of ndarray, optional
        `cell_colours` of both, which take a while in a large volume; None finds them each time.
    opacity : float
        Of the overlay, 0-1.
    curtain : float
        Where the curtain hangs in each plane, from 0 (left edge) to 1 (right edge).
    """
    canvas = layout.draw(image, point)
    grey = 255 * np.clip((canvas - limits[0]) / max(limits[1] - limits[0], 1e-9), 0, 1)
    rgb = np.repeat(np.nan_to_num(grey, nan=SURROUNDINGS)[..., None], 3, axis=2)
    share = 1.0 if right is None and left is not None else curtain
    for volume, known, is_left in ((left, colours[0], True), (right, colours[1], False)):
        if volume is None:
            continue
        if known is None and volume.dtype.kind != "f":
            known = cell_colours(volume)
        for place, plane in zip(layout.places, cross(volume, point), strict=True):
            part = rgb[place]
            edge = round(part.shape[1] * share)
            side = slice(0, edge) if is_left else slice(edge, None)
            colour, alpha = paint(enlarge(plane, part.shape[:2]), opacity, known)
            alpha = alpha[:, side, None]
            part[:, side] = (1 - alpha) * part[:, side] + alpha * colour[:, side]
            if not is_left and 0 < edge < part.shape[1]:
                part[:, edge - 1 : edge + 1] = 255
    _draw_crosshair(rgb, point, image.shape, layout)
    _draw_names(rgb, layout)
    buffer = BytesIO()
    imsave(buffer, rgb.astype(np.uint8), format="png", pil_kwargs={"compress_level": 1})
    return buffer.getvalue()


def projections(labels: np.ndarray, voxel_size_um: Sequence[float]) -> np.ndarray:
    """Look at the cells in three dimensions: from above, from the front and from the right.

    The first cell along each line of sight is seen. Far ones and slopes are darker, so that cells
    look round.

    Parameters
    ----------
    labels : ndarray
        (Z, Y, X) integer, 0 is background.
    voxel_size_um : sequence of 3 float
        (z, y, x) in µm.

    Returns
    -------
    ndarray
        (rows, columns, 3) uint8, the three side by side at one scale. Their widths are x, x and
        y, and z runs downwards in the second and the third.
    """
    steps = [max(1, n // CANVAS_PIXELS) for n in labels.shape]
    labels = np.asarray(labels[tuple(slice(None, None, step) for step in steps)])
    colours = cell_colours(labels) / 255
    size = np.multiply(voxel_size_um, steps)
    extent = size * labels.shape
    pixel_um = (2 * extent[2] + extent[1]) / (PROJECTIONS_PIXELS - 2 * GAP_PIXELS)
    pixels = [max(1, round(length / pixel_um)) for length in extent]  # of z, y and x
    rgb = np.full((max(pixels[:2]), PROJECTIONS_PIXELS + 2, 3), SURROUNDINGS, np.uint8)
    start = 0
    sides = labels, labels[:, ::-1], labels[..., ::-1]  # the nearest first
    for side, axes in zip(sides, ((0, 1, 2), (1, 0, 2), (2, 0, 1)), strict=True):
        seen = _look_at(side.transpose(axes), size[list(axes)], colours)
        rows, columns = pixels[axes[1]], pixels[axes[2]]
        seen = 255 * resize(seen, (rows, columns, 3), order=1).clip(0, 1)
        rgb[:rows, start : start + columns] = seen
        start += columns + GAP_PIXELS
    return rgb[:, : start - GAP_PIXELS]


def _look_at(labels: np.ndarray, size_um: Sequence[float], colours: np.ndarray) -> np.ndarray:
    """Return what is seen along the first axis, (rows, columns, 3) in 0-1."""
    first = (labels > 0).argmax(axis=0)
    cells = np.take_along_axis(labels, first[None], axis=0)[0]
    depth_um = ndimage.gaussian_filter(first * size_um[0], 0.7)
    slopes = np.gradient(depth_um, *size_um[1:]) if min(depth_um.shape) > 1 else [0.0, 0.0]
    facing = 1 / np.sqrt(1 + slopes[0] ** 2 + slopes[1] ** 2)
    near = 1 - 0.4 * first / len(labels)
    return colours[cells] * ((0.45 + 0.55 * facing) * near)[..., None]


def _draw_crosshair(rgb: np.ndarray, point, shape, layout: Layout) -> None:
    z, y, x = ((p + 0.5) / n for p, n in zip(point, shape, strict=True))
    for place, (down, across) in zip(layout.places, ((y, x), (z, x), (y, z)), strict=True):
        part, gap = rgb[place], 9  # the voxel itself stays visible
        row, column = int(down * part.shape[0]), int(across * part.shape[1])
        line = np.zeros(part.shape[:2], bool)
        line[row] = line[:, column] = True
        line[max(0, row - gap) : row + gap, max(0, column - gap) : column + gap] = False
        part[line] = 0.45 * part[line] + 0.55 * np.array(CROSSHAIR)


def _draw_names(rgb: np.ndarray, layout: Layout) -> None:
    for name, place in zip(NAMES, layout.places, strict=True):
        word = _word(name)
        corner = rgb[place][4 : 4 + word.shape[0], 4 : 4 + word.shape[1]]
        word = word[: corner.shape[0], : corner.shape[1], None]
        corner[:] = (1 - word) * 0.4 * corner + word * 255


@cache
def _word(text: str) -> np.ndarray:
    """Return `text` as a mask (rows, columns) in 0-1."""
    figure = Figure((0.3, 0.2), 100)
    FigureCanvasAgg(figure)
    figure.text(0.5, 0.42, text, fontsize=9, ha="center", va="center")
    figure.canvas.draw()
    return 1 - np.asarray(figure.canvas.buffer_rgba())[..., 0] / 255.0
