"""Figures from arrays and events: losses, previews, outlines, scores.

Every function returns a Figure of its own and shows nothing; `figure_png` turns one into bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, ScalarFormatter

from wnet_nb.cells.scores import InstanceScores
from wnet_nb.events import Preview
from wnet_nb.figures import pictures, planes

DPI, OVERLAY_DPI = 100, 150  # at 150, one pixel of an outline is at least one of the figure
NETWORK_COLOUR, BASELINE_COLOUR = "#ffb000", "#3ddbd9"
LOSS_COLOUR, MARK_COLOUR = "#1f5fa8", "#c2410c"
SCALE_BAR_PIXELS = 36
CLASSES_SHOWN = 4
PERCENTILES = (0.5, 99.8)
LOSSES = {
    "soft_ncut": "Soft N-cut: are the classes coherent?",
    "reconstruction": "Reconstruction: is the image given back?",
    "total": "Weighted total",
}


def plot_losses(
    history: Sequence[Mapping[str, Any]],
    *,
    log: bool = False,
    steps: Sequence[tuple[int, float, float, float]] = (),
    steps_per_epoch: int = 1,
    epochs: int | None = None,
    changes: Sequence[int] | None = None,
) -> Figure:
    """Draw the three loss curves, with a mark where options were changed during training.

    Parameters
    ----------
    history : sequence of mapping
        Rows of ``history.csv``.
    log : bool
        Logarithmic vertical axes.
    steps : sequence of (step, soft N-cut, reconstruction, total), optional
        Drawn thin behind the means of the epochs, which then stand in the middle of theirs.
    steps_per_epoch, epochs : int, optional
        For the horizontal axis of a training that goes on.
    changes : sequence of int, optional
        Steps before which options were changed, drawn with their numbers; without it, the epochs
        of the history in which that happened.
    """
    figure = new_figure(11.5, 3.2)
    axes = [figure.add_subplot(1, 3, n) for n in (1, 2, 3)]
    _draw_losses(axes, history, log=log, steps=steps, per_epoch=steps_per_epoch, changes=changes)
    if epochs:
        reached = steps[-1][0] / steps_per_epoch if steps else epochs
        for ax in axes:
            ax.set_xlim(0, max(1, min(epochs, 1.5 * reached)))
    return figure


def plot_preview(
    preview: Preview,
    *,
    voxel_size_um: Sequence[float] | None = None,
    title: str = "",
    cells: np.ndarray | None = None,
) -> Figure:
    """Draw the preview patch: input, class maps and reconstruction, three planes of each.

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
    columns = 2 + min(len(preview.probabilities), CLASSES_SHOWN)
    columns += cells is not None
    figure = new_figure(2.3 * columns, 3.2)
    axes = [figure.add_subplot(1, columns, n + 1) for n in range(columns)]
    if cells is not None:
        _draw_cells(axes.pop(), preview, voxel_size_um, cells)
    _draw_preview(axes, preview, voxel_size_um)
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
    columns = 2 + min(len(preview.probabilities), CLASSES_SHOWN)
    figure = new_figure(max(11.5, 2.9 * columns), 7.0)
    top, bottom = figure.subfigures(2, 1, height_ratios=[3, 3.9])
    _draw_losses([top.add_subplot(1, 3, n) for n in (1, 2, 3)], history)
    axes = [bottom.add_subplot(1, columns, n + 1) for n in range(columns)]
    _draw_preview(axes, preview, voxel_size_um)
    last = history[-1]["epoch"] if history else 0
    figure.suptitle(f"Training after epoch {last}" + (f" of {epochs}" if epochs else ""))
    return figure


def plot_overlay(
    image: np.ndarray,
    labels: np.ndarray,
    baseline_labels: np.ndarray,
    *,
    voxel_size_um: Sequence[float],
    name: str = "",
    centre: Sequence[int] | None = None,
) -> Figure:
    """Draw three planes of a volume at true proportions, plain and with both sets of outlines.

    Parameters
    ----------
    image : ndarray
        (Z, Y, X), any real dtype; only the part that is shown is read.
    labels, baseline_labels : ndarray
        (Z, Y, X) integer, 0 is background: cells of the network and of the classical method.
    voxel_size_um : sequence of 3 float
        (z, y, x) in µm.
    name : str
        Name of the volume, for the title.
    centre : sequence of 3 int, optional
        Voxel (z, y, x) where the planes cross; without it, where most cells are.
    """
    if centre is None:
        centre = planes.densest_point(labels if labels.any() else baseline_labels)
    window = planes.window_around(centre, image.shape, voxel_size_um)
    point = [c - part.start for c, part in zip(centre, window, strict=True)]
    layout = planes.Layout.of(image[window].shape, voxel_size_um)
    grey = layout.draw(image[window], point)
    blocks = [
        ("image", None, None),
        (f"network: {_count(labels):,} cells", labels, NETWORK_COLOUR),
        (
            f"classical (Voronoi-Otsu): {_count(baseline_labels):,} cells",
            baseline_labels,
            BASELINE_COLOUR,
        ),
    ]
    figure = new_figure(14.0, 14.0 / 3 * grey.shape[0] / grey.shape[1] + 0.9, OVERLAY_DPI)
    low, high = np.nanpercentile(grey, PERCENTILES)
    for column, (title, outlined, colour) in enumerate(blocks, start=1):
        axes = figure.add_subplot(1, 3, column)
        _show_block(axes, grey, layout, limits=(low, max(high, low + 1e-6)))
        if outlined is not None:
            _show_mask(axes, layout.outline(outlined[window], point), colour)
        axes.set_title(title, fontsize=12)
        if column == 1:
            _draw_scale_bar(axes, layout, "µm")
    figure.suptitle(_describe_part(name, image.shape, window, centre), fontsize=11)
    return figure


def plot_scores(
    scores: InstanceScores, baseline_scores: InstanceScores | None = None, *, title: str = ""
) -> Figure:
    """Draw F1 against the overlap that is asked of a cell, for the network and the baseline."""
    figure = new_figure(6.2, 4.0)
    axes = figure.add_subplot()
    curves = [("network", scores, "#b45309", "o-")]
    if baseline_scores is not None:
        curves.append(("classical (Voronoi-Otsu)", baseline_scores, "#0e7490", "s--"))
    for name, curve, colour, style in curves:
        label = f"{name}: mean {curve.mean_f1:.2f}, {curve.n_predicted} cells"
        axes.plot(curve.thresholds, curve.f1, style, color=colour, label=label)
    axes.set(xlim=(0.05, 0.95), ylim=(-0.02, 1.02))
    axes.set_xlabel("overlap (IoU) from which a cell counts as found")
    axes.set_ylabel("F1: 1 = every cell found, none invented")
    axes.set_title(title or f"Against {scores.n_true} true cells", fontsize=11)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left", fontsize=9)
    return figure


def figure_png(figure: Figure) -> bytes:
    """Return a figure as the bytes of a PNG."""
    buffer = BytesIO()
    figure.canvas.print_png(buffer)  # draws once, where savefig lays out and draws twice
    return buffer.getvalue()


def new_figure(width: float, height: float, dpi: int = DPI) -> Figure:
    """Return an empty figure of a size in inches that belongs to no screen."""
    figure = Figure((width, height), dpi, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _draw_losses(
    axes: list[Axes], history, *, log=False, steps=(), per_epoch=1, changes=None
) -> None:
    epochs = np.array([row["epoch"] for row in history]) - (0.5 if steps else 0)
    places = [(step - 0.5) / per_epoch for step, *_ in steps]
    marks = [row["epoch"] for row in history if row.get("changes")]
    if changes is not None:
        marks = [(step - 1) / per_epoch for step in changes]
    style = {"color": LOSS_COLOUR, "markersize": 3, "zorder": 3}
    for n, (ax, (name, title)) in enumerate(zip(axes, LOSSES.items(), strict=True), start=1):
        values = [row[name] for row in history]
        ax.plot(epochs, values, "o-" if len(values) < 40 else "-", **style)
        if steps:
            ax.plot(places, [step[n] for step in steps], color=LOSS_COLOUR, alpha=0.35, linewidth=1)
        for number, place in enumerate(marks, start=1):
            label = "options changed" if number == 1 else None
            ax.axvline(place, color=MARK_COLOUR, linestyle=":", linewidth=1.3, label=label)
            if changes is not None:
                ax.annotate(
                    f"{number}", (place, 1), (2, -2), xycoords=("data", "axes fraction"),
                    textcoords="offset points", va="top", fontsize=9, color=MARK_COLOUR,
                )  # fmt: skip
        ax.set_title(title, fontsize=10)
        ax.set_xlabel("epoch")
        ax.set_ylabel("loss, lower is better", fontsize=9)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        ax.grid(alpha=0.3)
        if not values and not steps:
            ax.set_ylim(0, 1)
        if log and min([*values, *(step[n] for step in steps)], default=0) > 0:
            ax.set_yscale("log")
            ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            ax.yaxis.set_minor_formatter("")
        else:
            ax.yaxis.set_major_formatter(ScalarFormatter(useOffset=False))
        if marks and changes is None:
            ax.legend(fontsize=8)


def _draw_preview(axes: list[Axes], preview: Preview, voxel_size_um) -> None:
    blocks = [("input", "white: {:.0f} of 100", preview.image, "gray")]
    for k, probabilities in enumerate(preview.probabilities[: len(axes) - 2]):
        blocks.append((f"class {k}", "yellow: sure", probabilities, "viridis"))
    blocks.append(("reconstruction", "white: {:.0f}", preview.reconstruction, "gray"))
    layout, point = _preview_layout(preview, voxel_size_um)
    for ax, (title, scale, volume, cmap) in zip(axes, blocks, strict=True):
        white = max(1.0, float(np.percentile(volume, PERCENTILES[1])))
        _show_block(ax, layout.draw(volume, point), layout, limits=(0, white), cmap=cmap)
        ax.set_title(f"{title}\n({scale.format(white)})", fontsize=10)
    _draw_scale_bar(axes[0], layout, "voxels" if voxel_size_um is None else "µm")


def _draw_cells(ax: Axes, preview: Preview, voxel_size_um, cells: np.ndarray) -> None:
    layout, point = _preview_layout(preview, voxel_size_um)
    white = max(1.0, float(np.percentile(preview.image, PERCENTILES[1])))
    _show_block(ax, layout.draw(preview.image, point), layout, limits=(0, white))
    overlay = np.zeros((*layout.shape, 4))
    for place, plane in zip(layout.places, planes.cross(cells, point), strict=True):
        size = overlay[place].shape[:2]
        colour, alpha = pictures.paint(pictures.enlarge(plane, size), 0.5)
        overlay[place] = np.concatenate([colour / 255, alpha[..., None]], axis=-1)
    ax.imshow(overlay, interpolation="nearest")
    ax.set_ylim(overlay.shape[0] + SCALE_BAR_PIXELS, 0)
    ax.set_title(f"{_count(cells)} cells\nin the patch", fontsize=10)


def _preview_layout(preview: Preview, voxel_size_um) -> tuple[planes.Layout, list[int]]:
    size = (1.0, 1.0, 1.0) if voxel_size_um is None else tuple(voxel_size_um)
    return planes.Layout.of(preview.image.shape, size), [n // 2 for n in preview.image.shape]


def _show_block(
    ax: Axes, canvas: np.ndarray, layout: planes.Layout, *, limits, cmap: str = "gray"
) -> None:
    ax.imshow(canvas, cmap=cmap, vmin=limits[0], vmax=limits[1], interpolation="nearest")
    ax.set_axis_off()
    ax.set_ylim(canvas.shape[0] + SCALE_BAR_PIXELS, 0)
    for word, (rows, columns) in zip(planes.NAMES, layout.places, strict=True):
        text = ax.text(columns.start + 8, rows.start + 8, word, color="white", fontsize=8, va="top")
        text.set_path_effects([patheffects.withStroke(linewidth=2, foreground="black")])


def _show_mask(ax: Axes, mask: np.ndarray, colour: str) -> None:
    overlay = np.zeros((*mask.shape, 4), np.float32)
    overlay[mask] = to_rgba(colour)
    ax.imshow(overlay, interpolation="nearest")
    ax.set_ylim(mask.shape[0] + SCALE_BAR_PIXELS, 0)


def _draw_scale_bar(ax: Axes, layout: planes.Layout, unit: str) -> None:
    """Draw a bar of 1, 2 or 5 times a power of ten, about a quarter of the XY plane's width."""
    width = layout.places[0][1].stop * layout.pixel_um
    power = 10.0 ** math.floor(math.log10(width / 4))
    length = power * max(n for n in (1, 2, 5) if n * power <= width / 4)
    x, y = 8, layout.shape[0] + SCALE_BAR_PIXELS / 2
    ax.plot([x, x + length / layout.pixel_um], [y, y], color="black", linewidth=3)
    words = f"{length:g} {unit}"
    ax.text(x + length / layout.pixel_um + 10, y, words, fontsize=9, va="center")


def _describe_part(name: str, shape, window, point) -> str:
    z, y, x = point
    text = f"{name + ': ' if name else ''}planes at z = {z}, y = {y}, x = {x}"
    parts = [
        f"{axis} {w.start}-{w.stop - 1} of {n}"
        for axis, w, n in zip("zyx", window, shape, strict=True)
        if w.stop - w.start < n
    ]
    return text + (f"; part of the volume is shown: {', '.join(parts)} voxels" if parts else "")


def _count(labels: np.ndarray) -> int:
    present = np.unique(np.concatenate([np.unique(plane) for plane in labels]))  # little memory
    return int(np.count_nonzero(present))
