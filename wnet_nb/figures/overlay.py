"""Figures of a volume in planes: a preview of the training, outlines of cells, cells in 3D.

Like in `curves`, every function returns a Figure of its own and shows nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from scipy import ndimage

from wnet_nb.events import Preview
from wnet_nb.figures import planes
from wnet_nb.figures.curves import DPI, draw_losses, new_figure

SAME_COLOUR, NETWORK_COLOUR, BASELINE_COLOUR = "#ffe119", "#ff4fd8", "#00d5e0"
COLOURS_IN_WORDS = {
    SAME_COLOUR: "yellow: found with and without the network",
    NETWORK_COLOUR: "pink: only with the network",
    BASELINE_COLOUR: "turquoise: only without it",
}
LINE_PIXELS = 2
OVERLAY_PIXELS, MARGIN_PIXELS, HEAD_PIXELS, FOOT_PIXELS = 1100, 10, 52, 64
SCALE_BAR_PIXELS = 36
CLASSES_SHOWN = 4
PERCENTILES = (0.5, 99.8)


def plot_preview(
    preview: Preview,
    *,
    voxel_size_um: Sequence[float] | None = None,
    title: str = "",
    cells: np.ndarray | None = None,
) -> Figure:
    """Draw the preview patch: image, class maps and reconstruction, three planes of each.

    Parameters
    ----------
    preview : Preview
        From an `EpochEnd` event.
    voxel_size_um : sequence of 3 float, optional
        (z, y, x) in µm, for true proportions; without it, voxels count as cubes.
    title : str
        Above the figure.
    cells : ndarray, optional
        (Z, Y, X) labels of the patch, 0 background, drawn in a column of their own.
    """
    columns = _preview_columns(preview) + (cells is not None)
    figure = new_figure(2.3 * columns, 3.2)
    axes = [figure.add_subplot(1, columns, n + 1) for n in range(columns)]
    _draw_preview(axes, preview, voxel_size_um, cells)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def plot_progress(
    history: Sequence[Mapping[str, Any]],
    preview: Preview,
    *,
    voxel_size_um: Sequence[float] | None = None,
    epochs: int | None = None,
) -> Figure:
    """Draw loss curves above the preview of the last epoch: the picture of a run."""
    columns = _preview_columns(preview)
    figure = new_figure(max(11.5, 2.9 * columns), 7.2)
    top, bottom = figure.subfigures(2, 1, height_ratios=[3.3, 3.9])
    draw_losses([top.add_subplot(1, 3, n) for n in (1, 2, 3)], history)
    axes = [bottom.add_subplot(1, columns, n + 1) for n in range(columns)]
    _draw_preview(axes, preview, voxel_size_um)
    last = history[-1]["epoch"] if history else 0
    figure.suptitle(f"Training after epoch {last}" + (f" of {epochs}" if epochs else ""))
    return figure


def plot_overlay(
    image: np.ndarray,
    labels: np.ndarray,
    baseline_labels: np.ndarray | None,
    *,
    voxel_size_um: Sequence[float],
    name: str,
) -> Figure:
    """Draw the planes through most cells: XY plain and with outlines, below it XZ and YZ.

    An outline has the colour of who found the cell: `COLOURS_IN_WORDS`. Two cells count as the
    same if their overlap (IoU) is more than a half within the part that is shown.

    Parameters
    ----------
    image : ndarray
        (Z, Y, X), any real dtype; only the part that is shown is read.
    labels, baseline_labels : ndarray
        (Z, Y, X) integer, 0 is background: cells found with and without the network. The second
        is None where no network was used.
    voxel_size_um : sequence of 3 float
        (z, y, x) in µm.
    name : str
        Name of the volume, for the title.
    """
    title = f"{name}: {_count(labels):,} cells"
    if baseline_labels is not None:
        title += f" with the network, {_count(baseline_labels):,} without"
    other = labels if baseline_labels is None else baseline_labels
    centre = planes.densest_point(labels if labels.any() else other)
    window = planes.window_around(centre, image.shape, voxel_size_um)
    part = _describe_part(image.shape, window, centre)
    point = [c - w.start for c, w in zip(centre, window, strict=True)]
    image, labels, other = (np.asarray(array[window]) for array in (image, labels, other))

    depth, height, width = np.multiply(image.shape, voxel_size_um)
    pixel_um = max(2 * width, width + height) / (OVERLAY_PIXELS - 3 * MARGIN_PIXELS)
    z, y, x = (max(1, round(length / pixel_um)) for length in (depth, height, width))
    plain = _draw_grey(image, point, ((y, x), (z, x), (z, y)))
    outlined = _outline(plain, _colour_cells(labels, other), point)
    left, right, second = MARGIN_PIXELS, 2 * MARGIN_PIXELS + x, HEAD_PIXELS + y + MARGIN_PIXELS
    bottom = second + z
    blocks = {
        "XY, from above": (plain[0], HEAD_PIXELS, left),
        "XY, outlined": (outlined[0], HEAD_PIXELS, right),
        "XZ, from the front": (outlined[1], second, left),
        "YZ, from the side": (outlined[2], second, right),
    }
    canvas = np.ones((bottom + FOOT_PIXELS, OVERLAY_PIXELS, 3))
    for rgb, row, column in blocks.values():
        canvas[row : row + rgb.shape[0], column : column + rgb.shape[1]] = rgb
    figure, ax = _show_pixels(canvas)
    for words, (_, row, column) in blocks.items():
        _write_on_image(ax, words, (column, row))
    ax.text(OVERLAY_PIXELS / 2, 16, title, fontsize=12, ha="center", va="center")
    ax.text(OVERLAY_PIXELS / 2, 38, part, fontsize=9, ha="center", va="center", color="0.3")
    _draw_scale_bar(ax, width, pixel_um, (left, bottom + 18))
    if baseline_labels is not None:
        _draw_legend(ax, bottom + FOOT_PIXELS - 16)
    return figure


def plot_projections(labels: np.ndarray, voxel_size_um: Sequence[float]) -> Figure:
    """Draw the cells as seen from above, from the front and from the right; see `projections`."""
    rgb = planes.projections(labels, voxel_size_um)
    foot = np.full((SCALE_BAR_PIXELS, *rgb.shape[1:]), planes.SURROUNDINGS, np.uint8)
    figure, ax = _show_pixels(np.concatenate([rgb, foot]))
    _, height, width = np.multiply(labels.shape, voxel_size_um)
    pixel_um = (2 * width + height) / (rgb.shape[1] - 2 * planes.GAP_PIXELS)
    for place, words in enumerate(("from above", "from the front", "from the right")):
        _write_on_image(ax, words, (place * (width / pixel_um + planes.GAP_PIXELS), 0))
    _draw_scale_bar(ax, width, pixel_um, (8, rgb.shape[0] + SCALE_BAR_PIXELS / 2))
    return figure


def find_edges(labels: np.ndarray) -> np.ndarray:
    """Return where a plane of labels has its outlines, bool: `LINE_PIXELS` wide, inside cells."""
    around = 2 * LINE_PIXELS + 1
    highest, lowest = (f(labels, around) for f in (ndimage.maximum_filter, ndimage.minimum_filter))
    return (highest != lowest) & (labels > 0)


def _colour_cells(labels: np.ndarray, other: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return what to outline, in order, as (labels, colour of each label in 0-1)."""
    sizes, other_sizes = np.bincount(labels.ravel()), np.bincount(other.ravel())
    both = (labels > 0) & (other > 0)
    pairs = labels[both].astype(np.int64) * len(other_sizes) + other[both]
    pairs, shared = np.unique(pairs, return_counts=True)
    mine, theirs = np.divmod(pairs, len(other_sizes))
    same = shared / (sizes[mine] + other_sizes[theirs] - shared) > 0.5  # one partner at most
    colours = np.tile(to_rgb(NETWORK_COLOUR), (len(sizes), 1))
    colours[mine[same]] = to_rgb(SAME_COLOUR)
    other = np.where(np.isin(other, theirs[same]), 0, other)  # these are drawn by the network's
    return [(other, np.tile(to_rgb(BASELINE_COLOUR), (len(other_sizes), 1))), (labels, colours)]


def _upright(volume: np.ndarray, point: Sequence[int]) -> list[np.ndarray]:
    """Return the planes XY (Y, X), XZ (Z, X) and YZ (Z, Y) through a voxel."""
    xy, xz, yz = planes.cross(volume, point)
    return [xy, xz, yz.T]


def _draw_grey(image: np.ndarray, point: Sequence[int], shapes) -> list[np.ndarray]:
    """Return the planes of an image, scaled to `shapes`, as (rows, columns, 3) in 0-1."""
    pairs = zip(_upright(image, point), shapes, strict=True)
    grey = [planes.fit_plane(plane, shape) for plane, shape in pairs]
    low, high = np.percentile(np.concatenate([plane.ravel() for plane in grey]), PERCENTILES)
    span = max(high - low, 1e-6)
    return [np.repeat(np.clip((g - low) / span, 0, 1)[..., None], 3, axis=2) for g in grey]


def _outline(plain: Sequence[np.ndarray], cells, point: Sequence[int]) -> list[np.ndarray]:
    """Return the planes with the outlines of cells; see `_colour_cells`."""
    drawn = [rgb.copy() for rgb in plain]
    for labels, colours in cells:
        for rgb, plane in zip(drawn, _upright(labels, point), strict=True):
            enlarged = planes.enlarge(plane, rgb.shape[:2])
            edges = find_edges(enlarged)
            rgb[edges] = colours[enlarged[edges]]
    return drawn


def _show_pixels(rgb: np.ndarray) -> tuple[Figure, Axes]:
    """Return a figure that shows (rows, columns, 3) pixel by pixel, with axes that count pixels."""
    rows, columns = rgb.shape[:2]
    figure = new_figure(columns / DPI, rows / DPI)
    figure.set_layout_engine("none")
    ax = figure.add_axes((0, 0, 1, 1))
    ax.imshow(rgb, interpolation="nearest", aspect="auto", extent=(0, columns, rows, 0))
    ax.set_axis_off()
    return figure, ax


def _draw_legend(ax: Axes, y: float) -> None:
    """Draw the colours of the outlines and what they mean along the bottom of an overlay."""
    x = MARGIN_PIXELS
    for colour, words in COLOURS_IN_WORDS.items():
        ax.plot([x, x + 16], [y, y], color=colour, linewidth=5, solid_capstyle="butt")
        ax.text(x + 24, y, words, fontsize=11, va="center")
        x += 44 + 7.6 * len(words)


def _preview_columns(preview: Preview) -> int:
    return 2 + min(len(preview.probabilities), CLASSES_SHOWN)


def _draw_preview(
    axes: Sequence[Axes], preview: Preview, voxel_size_um, cells: np.ndarray | None = None
) -> None:
    size = (1.0, 1.0, 1.0) if voxel_size_um is None else tuple(voxel_size_um)
    layout = planes.Layout.of(preview.image.shape, size)
    point = [n // 2 for n in preview.image.shape]
    image, *maps, reconstruction = axes if cells is None else axes[1:]
    _show_block(image, preview.image, layout, point, "image")
    for k, (ax, probabilities) in enumerate(zip(maps, preview.probabilities, strict=False)):
        title = f"class {k}: how probable\n(dark 0, yellow 1)"
        _show_block(ax, probabilities, layout, point, title, "viridis")
    _show_block(reconstruction, preview.reconstruction, layout, point, "reconstruction")
    if cells is not None:
        _show_block(axes[0], preview.image, layout, point, f"{_count(cells)} cells in the patch")
        _lay_cells_over(axes[0], cells, layout, point)
    unit = "voxels" if voxel_size_um is None else "µm"
    width, below = layout.places[0][1].stop, layout.shape[0] + SCALE_BAR_PIXELS / 2
    _draw_scale_bar(image, width * layout.pixel_um, layout.pixel_um, (8, below), unit)


def _show_block(
    ax: Axes, volume: np.ndarray, layout: planes.Layout, point, title: str, cmap: str = "gray"
) -> None:
    white = 1.0 if cmap != "gray" else max(1.0, float(np.percentile(volume, PERCENTILES[1])))
    canvas = layout.draw(volume, point)
    ax.imshow(canvas, cmap=cmap, vmin=0, vmax=white, interpolation="nearest")
    ax.set_axis_off()
    ax.set_ylim(canvas.shape[0] + SCALE_BAR_PIXELS, 0)
    ax.set_title(title, fontsize=10)
    for word, (rows, columns) in zip(planes.NAMES, layout.places, strict=True):
        _write_on_image(ax, word, (columns.start, rows.start))


def _lay_cells_over(ax: Axes, cells: np.ndarray, layout: planes.Layout, point) -> None:
    colours = planes.cell_colours(cells)
    overlay = np.zeros((*layout.shape, 4))
    for place, plane in zip(layout.places, planes.cross(cells, point), strict=True):
        colour, alpha = planes.paint(planes.enlarge(plane, overlay[place].shape[:2]), 0.5, colours)
        overlay[place] = np.concatenate([colour / 255, alpha[..., None]], axis=-1)
    limits = ax.get_ylim()
    ax.imshow(overlay, interpolation="nearest")
    ax.set_ylim(limits)


def _write_on_image(ax: Axes, words: str, corner: Sequence[float]) -> None:
    x, y = corner
    text = ax.text(x + 8, y + 8, words, color="white", fontsize=8, va="top")
    text.set_path_effects([patheffects.withStroke(linewidth=2, foreground="black")])


def _draw_scale_bar(ax: Axes, width_um: float, pixel_um: float, place, unit: str = "µm") -> None:
    """Draw a bar for an image `width_um` wide, from the pixel (x, y) to the right."""
    (x, y), length = place, planes.round_length(width_um)
    ax.plot([x, x + length / pixel_um], [y, y], color="black", linewidth=3)
    ax.annotate(
        f"{length:g} {unit}", (x + length / pixel_um, y), (5, 0), textcoords="offset points",
        fontsize=9, va="center",
    )  # fmt: skip


def _describe_part(shape, window, point) -> str:
    z, y, x = point
    text = f"planes at z = {z}, y = {y}, x = {x}"
    parts = [
        f"{axis} {w.start}-{w.stop - 1} of {n}"
        for axis, w, n in zip("zyx", window, shape, strict=True)
        if w.stop - w.start < n
    ]
    return text + (f"; part of the volume is shown: {', '.join(parts)} voxels" if parts else "")


def _count(labels: np.ndarray) -> int:
    present = np.unique(np.concatenate([np.unique(plane) for plane in labels]))  # little memory
    return int(np.count_nonzero(present))
