"""Pictures of the notebook's panels: planes with overlays, affinities, curves, sizes of cells.

Like `plots`, every function returns a Figure or the bytes of a PNG and shows nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from io import BytesIO
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.ticker import MaxNLocator
from skimage.segmentation import find_boundaries

from wnet_nb import planes
from wnet_nb.config import Settings
from wnet_nb.plots import (
    LOSS_COLOUR,
    LOSSES,
    MARK_COLOUR,
    figure_png,
    new_figure,
)
from wnet_nb.training import Preview

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
    cuts = zip(*(_planes(volume, point) for volume in (left, right)), strict=True)
    for place, pair in zip(layout.places, cuts, strict=True):
        part = rgb[place]
        edge = round(part.shape[1] * (curtain if right is not None or left is None else 1.0))
        for plane, columns in zip(pair, (slice(0, edge), slice(edge, None)), strict=True):
            if plane is not None:
                colour, alpha = _paint(_enlarge(plane, part.shape[:2]), opacity)
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


def _planes(volume: np.ndarray | None, point: Sequence[int]) -> list[np.ndarray | None]:
    return [None] * 3 if volume is None else list(planes.cross(volume, point))


def _enlarge(plane: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    rows, columns = (
        ((np.arange(n) + 0.5) * have / n).astype(int)
        for n, have in zip(shape, plane.shape, strict=True)
    )
    return plane[np.ix_(rows, columns)]


def _paint(plane: np.ndarray, opacity: float) -> tuple[np.ndarray, np.ndarray]:
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
    figure = new_figure(0.3, 0.2)
    figure.text(0.5, 0.42, text, fontsize=9, ha="center", va="center")
    figure.canvas.draw()
    return 1 - np.asarray(figure.canvas.buffer_rgba())[..., 0] / 255.0


def affinity_terms(
    plane: np.ndarray, point: Sequence[int], settings: Settings
) -> tuple[np.ndarray, np.ndarray]:
    """Return the intensity and the spatial term of the soft N-cut around one voxel.

    Parameters
    ----------
    plane : ndarray
        (Y, X) in 0-100.
    point : sequence of int
        The voxel (y, x). In the class-mean form its brightness stands for the class's mean.
    settings : Settings
        `affinity`, `intensity_sigma`, `spatial_sigma`, `radius`.

    Returns
    -------
    intensity, spatial : ndarray
        Each (Y, X) in 0-1; see `losses.soft_ncut_loss` for the formulas.
    """
    y, x = np.indices(plane.shape)
    difference = plane - plane[tuple(point)]
    apart = (y - point[0]), (x - point[1])
    squared = apart[0] ** 2 + apart[1] ** 2
    power, scale = (4, 2.0) if settings.affinity == "class_mean" else (2, 1.0)
    intensity = np.exp(-(np.abs(difference) ** power) / settings.intensity_sigma**2)
    spatial = np.exp(-squared / (scale * settings.spatial_sigma**2))
    if settings.affinity == "class_mean":
        inside = np.maximum(*map(np.abs, apart)) <= settings.radius
    else:
        inside = squared < settings.radius**2
    return intensity, spatial * inside


def plot_affinity(plane: np.ndarray, point: Sequence[int], settings: Settings) -> Figure:
    """Draw how alike the voxels around one voxel count: brightness, distance, and both.

    Parameters
    ----------
    plane : ndarray
        (Y, X) in 0-100.
    point : sequence of int
        The voxel (y, x).
    settings : Settings
        See `affinity_terms`.
    """
    reach = max(10, settings.radius + 4)
    window = tuple(
        slice(max(0, p - reach), min(n, p + reach + 1))
        for p, n in zip(point, plane.shape, strict=True)
    )
    crop = plane[window]
    middle = [p - w.start for p, w in zip(point, window, strict=True)]
    intensity, spatial = affinity_terms(crop, middle, settings)
    blocks = [
        ("image, 0-100", crop, "gray", max(1.0, float(plane.max()))),
        ("alike in brightness", intensity, "viridis", 1),
        ("near enough", spatial, "viridis", 1),
        ("both: pulls together", intensity * spatial, "viridis", 1),
    ]
    figure = new_figure(8.4, 2.5)
    figure.set_layout_engine("none")
    extent = (
        window[1].start - 0.5, window[1].stop - 0.5, window[0].stop - 0.5, window[0].start - 0.5
    )  # fmt: skip
    for n, (title, values, cmap, top) in enumerate(blocks):
        axes = figure.add_axes((0.055 + 0.225 * n, 0.17, 0.205, 0.70))
        shown = axes.imshow(values, cmap=cmap, vmin=0, vmax=top, extent=extent)
        axes.plot(point[1], point[0], "+", color="red", markersize=9)
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("x (voxels)", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        if n == 0:
            axes.set_ylabel("y (voxels)", fontsize=8)
        else:
            axes.set_yticklabels([])
    bar = figure.add_axes((0.945, 0.17, 0.012, 0.70))
    figure.colorbar(shown, cax=bar, ticks=[0, 0.5, 1]).ax.tick_params(labelsize=7)
    return figure
