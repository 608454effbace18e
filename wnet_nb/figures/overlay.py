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
    with_network = baseline_labels is not None
    baseline_labels = baseline_labels if with_network else labels
    centre = planes.densest_point(labels if labels.any() else baseline_labels)
    window = planes.window_around(centre, image.shape, voxel_size_um)
    point = [c - part.start for c, part in zip(centre, window, strict=True)]
    cells = _colour_cells(np.asarray(labels[window]), np.asarray(baseline_labels[window]))
    depth, height, width = np.multiply(image[window].shape, voxel_size_um)
    room = OVERLAY_PIXELS - 3 * MARGIN_PIXELS
    pixel_um = max(2 * width, width + height) / room
    z, y, x = (max(1, round(length / pixel_um)) for length in (depth, height, width))
    rows = HEAD_PIXELS + y + MARGIN_PIXELS + z + FOOT_PIXELS
    figure = _pixel_figure(rows, OVERLAY_PIXELS)

    grey = [planes.fit_plane(plane, shape) for plane, shape in zip(
        _upright(image[window], point), ((y, x), (z, x), (z, y)), strict=True)]  # fmt: skip
    low, high = np.percentile(np.concatenate([plane.ravel() for plane in grey]), PERCENTILES)
    grey = [np.clip((plane - low) / max(high - low, 1e-6), 0, 1) for plane in grey]
    second = HEAD_PIXELS + y + MARGIN_PIXELS
    left, right = MARGIN_PIXELS, 2 * MARGIN_PIXELS + x
    places = ((HEAD_PIXELS, right), (second, left), (second, right))
    _add_pixels(figure, _as_rgb(grey[0]), (HEAD_PIXELS, left), "XY, from above")
    for plane, place, title, *outlined in zip(
        grey, places, ("XY, outlined", "XZ, from the front", "YZ, from the side"),
        *(_upright(volume, point) for volume, _ in cells), strict=True,
    ):  # fmt: skip
        rgb = _as_rgb(plane)
        for labelled, (_, colours) in zip(outlined, cells, strict=True):
            enlarged = planes.enlarge(labelled, plane.shape)
            edges = find_edges(enlarged)
            rgb[edges] = colours[enlarged[edges]]
        _add_pixels(figure, rgb, place, title)
    title = f"{name}: {_count(labels):,} cells"
    if with_network:
        title += f" with the network, {_count(baseline_labels):,} without"
        _draw_legend(figure)
    figure.text(0.5, 1 - 16 / rows, title, fontsize=12, ha="center", va="center")
    _draw_scale_bar(figure, width, pixel_um, (MARGIN_PIXELS, rows - FOOT_PIXELS + 18))
    words = _describe_part(image.shape, window, centre)
    figure.text(0.5, 1 - 38 / rows, words, fontsize=9, ha="center", va="center", color="0.3")
    return figure


def plot_projections(labels: np.ndarray, voxel_size_um: Sequence[float]) -> Figure:
    """Draw the cells as seen from above, from the front and from the right; see `projections`."""
    rgb = planes.projections(labels, voxel_size_um)
    rows, columns = rgb.shape[:2]
    figure = _pixel_figure(rows + SCALE_BAR_PIXELS, columns)
    ax = _add_pixels(figure, rgb, (0, 0))
    _, height, width = np.multiply(labels.shape, voxel_size_um)
    pixel_um = (2 * width + height) / (columns - 2 * planes.GAP_PIXELS)
    for place, words in enumerate(("from above", "from the front", "from the right")):
        _write_on_image(ax, words, (place * (width / pixel_um + planes.GAP_PIXELS), 0))
    _draw_scale_bar(figure, width, pixel_um, (8, rows + SCALE_BAR_PIXELS / 2))
    return figure


def find_edges(labels: np.ndarray) -> np.ndarray:
    """Return where a plane of labels has its outlines, bool: `LINE_PIXELS` wide, inside cells."""
    around = 2 * LINE_PIXELS + 1
    highest, lowest = (f(labels, around) for f in (ndimage.maximum_filter, ndimage.minimum_filter))
    return (highest != lowest) & (labels > 0)


def _colour_cells(
    labels: np.ndarray, baseline: np.ndarray
) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """Return what to draw, in order, as (labels, colour of each label in 0-1)."""
    sizes, baseline_sizes = np.bincount(labels.ravel()), np.bincount(baseline.ravel())
    both = (labels > 0) & (baseline > 0)
    pairs = labels[both].astype(np.int64) * len(baseline_sizes) + baseline[both]
    pairs, shared = np.unique(pairs, return_counts=True)
    mine, other = np.divmod(pairs, len(baseline_sizes))
    same = shared / (sizes[mine] + baseline_sizes[other] - shared) > 0.5  # one partner at most
    colours = np.tile(to_rgb(NETWORK_COLOUR), (len(sizes), 1))
    colours[mine[same]] = to_rgb(SAME_COLOUR)
    baseline = np.where(np.isin(baseline, other[same]), 0, baseline)  # drawn once, by the network's
    return (baseline, np.tile(to_rgb(BASELINE_COLOUR), (len(baseline_sizes), 1))), (labels, colours)


def _upright(volume: np.ndarray, point: Sequence[int]) -> list[np.ndarray]:
    """Return the planes XY (Y, X), XZ (Z, X) and YZ (Z, Y) through a voxel."""
    xy, xz, yz = planes.cross(volume, point)
    return [xy, xz, yz.T]


def _as_rgb(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, axis=2)


def _pixel_figure(rows: int, columns: int) -> Figure:
    """Return an empty figure on which `_add_pixels` puts arrays pixel by pixel."""
    figure = new_figure(columns / DPI, rows / DPI)
    figure.set_layout_engine("none")
    return figure


def _add_pixels(figure: Figure, rgb: np.ndarray, place: Sequence[int], title: str = "") -> Axes:
    """Put (rows, columns, 3) in 0-1 or uint8 into a figure, its first pixel at (row, column)."""
    width, height = figure.get_size_inches() * DPI
    rows, columns = rgb.shape[:2]
    box = (place[1] / width, 1 - (place[0] + rows) / height, columns / width, rows / height)
    ax = figure.add_axes(box)
    ax.imshow(rgb, interpolation="nearest", aspect="auto")
    ax.set_axis_off()
    if title:
        _write_on_image(ax, title, (0, 0))
    return ax


def _draw_legend(figure: Figure) -> None:
    """Draw the colours of the outlines and what they mean along the bottom of an overlay."""
    x, y = MARGIN_PIXELS, 16 / (figure.get_size_inches()[1] * DPI)
    for colour, words in COLOURS_IN_WORDS.items():
        text = figure.text(x / OVERLAY_PIXELS, y, "▬ ", color=colour, fontsize=14, va="center")
        text.set_path_effects([patheffects.withStroke(linewidth=1, foreground="0.4")])
        figure.text((x + 24) / OVERLAY_PIXELS, y, words, fontsize=11, va="center")
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
        _show_block(ax, probabilities, layout, point, f"probability of class {k}", "viridis")
        _draw_colour_bar(ax, layout)
    _show_block(reconstruction, preview.reconstruction, layout, point, "reconstruction")
    if cells is not None:
        _show_block(axes[0], preview.image, layout, point, f"{_count(cells)} cells in the patch")
        _draw_cells(axes[0], cells, layout, point)
    unit = "voxels" if voxel_size_um is None else "µm"
    length = planes.round_length(layout.places[0][1].stop * layout.pixel_um)
    x, y = 8, layout.shape[0] + SCALE_BAR_PIXELS / 2
    image.plot([x, x + length / layout.pixel_um], [y, y], color="black", linewidth=3)
    words = f"{length:g} {unit}"
    image.text(x + length / layout.pixel_um + 10, y, words, fontsize=9, va="center")


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


def _draw_colour_bar(ax: Axes, layout: planes.Layout) -> None:
    """Draw which colour means 0 and which 1 below a class map."""
    middle, below = layout.shape[1] / 2, layout.shape[0] + SCALE_BAR_PIXELS / 2
    extent = (middle - 90, middle + 90, below + 8, below - 8)
    limits = ax.get_xlim(), ax.get_ylim()
    ax.imshow(np.linspace(0, 1, 64)[None], cmap="viridis", extent=extent, aspect="auto")
    ax.set(xlim=limits[0], ylim=limits[1], aspect="equal")
    for words, x in (("0", middle - 110), ("1", middle + 110)):
        ax.text(x, below, words, fontsize=9, ha="center", va="center")


def _draw_cells(ax: Axes, cells: np.ndarray, layout: planes.Layout, point) -> None:
    colours = planes.cell_colours(cells)
    overlay = np.zeros((*layout.shape, 4))
    for place, plane in zip(layout.places, planes.cross(cells, point), strict=True):
        colour, alpha = planes.paint(planes.enlarge(plane, overlay[place].shape[:2]), 0.5, colours)
        overlay[place] = np.concatenate([colour / 255, alpha[..., None]], axis=-1)
    ax.imshow(overlay, interpolation="nearest")
    ax.set_ylim(overlay.shape[0] + SCALE_BAR_PIXELS, 0)


def _write_on_image(ax: Axes, words: str, corner: Sequence[float]) -> None:
    x, y = corner
    text = ax.text(x + 8, y + 8, words, color="white", fontsize=8, va="top")
    text.set_path_effects([patheffects.withStroke(linewidth=2, foreground="black")])


def _draw_scale_bar(figure: Figure, width_um: float, pixel_um: float, place) -> None:
    """Draw a bar for images `width_um` wide into a figure of pixels, from (x, y) to the right."""
    columns, rows = figure.get_size_inches() * DPI
    (x, y), length = place, planes.round_length(width_um)
    ax = figure.add_axes((0, 0, 1, 1), facecolor="none")
    ax.set(xlim=(0, columns), ylim=(rows, 0))
    ax.set_axis_off()
    ax.plot([x, x + length / pixel_um], [y, y], color="black", linewidth=3)
    ax.text(x + length / pixel_um + 8, y, f"{length:g} µm", fontsize=9, va="center")


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
