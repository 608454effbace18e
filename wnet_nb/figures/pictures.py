"""The viewer's picture: three planes with crosshair and overlays, drawn as pixels to be quick."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from io import BytesIO

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imsave
from skimage.segmentation import find_boundaries

from wnet_nb.figures import planes

CROSSHAIR = (255, 210, 60)
SURROUNDINGS = 255  # grey around the planes
N_COLOURS = 997  # labels that share a colour are far apart in number


def planes_png(
    image: np.ndarray,
    point: Sequence[int],
    layout: planes.Layout,
    *,
    limits: tuple[float, float],
    left: np.ndarray | None = None,
    right: np.ndarray | None = None,
    opacity: float = 0.45,
    curtain: float = 1.0,
) -> bytes:
    """Draw three planes through a voxel, with a crosshair, and one overlay or two.

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
    opacity : float
        Of the overlay, 0-1.
    curtain : float
        Where the curtain hangs in each plane, from 0 (left edge) to 1 (right edge).
    """
    canvas = layout.draw(image, point)
    low, high = limits
    grey = np.clip((canvas - low) / max(high - low, 1e-9), 0, 1) * 255
    grey[np.isnan(canvas)] = SURROUNDINGS
    rgb = np.repeat(grey[..., None], 3, axis=2)  # (rows, columns, 3)
    cuts = zip(*(_cross_planes(volume, point) for volume in (left, right)), strict=True)
    for place, pair in zip(layout.places, cuts, strict=True):
        part = rgb[place]
        edge = round(part.shape[1] * (curtain if right is not None or left is None else 1.0))
        for plane, columns in zip(pair, (slice(0, edge), slice(edge, None)), strict=True):
            if plane is not None:
                colour, alpha = paint(enlarge(plane, part.shape[:2]), opacity)
                seen, alpha = part[:, columns], alpha[:, columns, None]
                part[:, columns] = (1 - alpha) * seen + alpha * colour[:, columns]
        if right is not None and 0 < edge < part.shape[1]:
            part[:, edge - 1 : edge + 1] = 255
    _draw_crosshair(rgb, point, image.shape, layout)
    _draw_names(rgb, layout)
    return image_png(rgb.astype(np.uint8))


def image_png(rgb: np.ndarray) -> bytes:
    """Return (rows, columns, 3) uint8 as the bytes of a PNG."""
    buffer = BytesIO()
    imsave(buffer, rgb, format="png", pil_kwargs={"compress_level": 1})
    return buffer.getvalue()


def _cross_planes(volume: np.ndarray | None, point: Sequence[int]) -> list[np.ndarray | None]:
    """Return the planes of a volume through a voxel, as `planes.cross`; Nones without a volume."""
    return [None] * 3 if volume is None else list(planes.cross(volume, point))


def enlarge(plane: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Return a plane (rows, columns) repeated to `shape`, so that labels stay labels."""
    rows, columns = (
        ((np.arange(n) + 0.5) * have / n).astype(int)
        for n, have in zip(shape, plane.shape, strict=True)
    )
    return plane[np.ix_(rows, columns)]


def paint(plane: np.ndarray, opacity: float) -> tuple[np.ndarray, np.ndarray]:
    """Return colours (rows, columns, 3) in 0-255 and opacity (rows, columns) of an overlay."""
    if plane.dtype.kind == "f":
        return colormaps["viridis"](plane)[..., :3] * 255, opacity * np.clip(plane, 0, 1)
    inside = plane > 0
    edges = find_boundaries(plane, mode="inner")
    colour = label_colours()[plane.astype(np.int64) % N_COLOURS]
    return colour, np.where(edges, min(1.0, 2 * opacity), opacity) * inside


@cache
def label_colours() -> np.ndarray:
    """Return the colour of each label, (n, 3) in 0-255; the same label has the same always."""
    hue = np.arange(N_COLOURS) * 0.61803398875 % 1.0  # the golden ratio keeps neighbours apart
    return colormaps["hsv"](hue)[:, :3] * 255 * 0.8 + 51


def _draw_crosshair(rgb: np.ndarray, point, shape, layout: planes.Layout) -> None:
    z, y, x = point
    depth, height, width = shape
    lines = [((y, height), (x, width)), ((z, depth), (x, width)), ((y, height), (z, depth))]
    for place, (row, column) in zip(layout.places, lines, strict=True):
        part = rgb[place]
        r, c = (
            min(n - 1, int((p + 0.5) / have * n))
            for n, (p, have) in zip(part.shape[:2], (row, column), strict=True)
        )
        gap = 9  # the voxel itself stays visible
        for line in (part[r, : max(c - gap, 0)], part[r, c + gap :]):
            line[:] = 0.45 * line + 0.55 * np.array(CROSSHAIR)
        for line in (part[: max(r - gap, 0), c], part[r + gap :, c]):
            line[:] = 0.45 * line + 0.55 * np.array(CROSSHAIR)


def _draw_names(rgb: np.ndarray, layout: planes.Layout) -> None:
    for name, (rows, columns) in zip(planes.NAMES, layout.places, strict=True):
        mask = _word(name)[: rows.stop - rows.start - 4, : columns.stop - columns.start - 4]
        place = (
            slice(rows.start + 4, rows.start + 4 + mask.shape[0]),
            slice(columns.start + 4, columns.start + 4 + mask.shape[1]),
        )
        rgb[place] = (1 - mask[..., None]) * (0.4 * rgb[place]) + mask[..., None] * 255


@cache
def _word(text: str) -> np.ndarray:
    """Return `text` as a mask (rows, columns) in 0-1."""
    figure = Figure((0.3, 0.2), 100)
    FigureCanvasAgg(figure)
    figure.text(0.5, 0.42, text, fontsize=9, ha="center", va="center")
    figure.canvas.draw()
    return 1 - np.asarray(figure.canvas.buffer_rgba())[..., 0] / 255.0
