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

from wnet_nb import planes
from wnet_nb.metrics import InstanceScores
from wnet_nb.training import Preview

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


def plot_losses(history: Sequence[Mapping[str, Any]], *, log: bool = False) -> Figure:
    """Draw the three loss curves, with a mark where options were changed during training.

    Parameters
    ----------
    history : sequence of mapping
        Rows of ``history.csv``.
    log : bool
        Logarithmic vertical axes.
    """
    figure = new_figure(11.5, 3.2)
    _draw_losses([figure.add_subplot(1, 3, n) for n in (1, 2, 3)], history, log)
    return figure


def plot_preview(
    preview: Preview,
    *,
    voxel_size_um: Sequence[float] | None = None,
    title: str = "",
    class_names: Sequence[str] = (),
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
    class_names : sequence of str
        What to write above the class maps, in place of "class 0" and so on.
    """
    columns = 2 + min(len(preview.probabilities), CLASSES_SHOWN)
    figure = new_figure(3.1 * columns, 3.8)
    axes = [figure.add_subplot(1, columns, n + 1) for n in range(columns)]
    _draw_preview(axes, preview, voxel_size_um, class_names)
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
    _draw_losses([top.add_subplot(1, 3, n) for n in (1, 2, 3)], history, log=False)
    axes = [bottom.add_subplot(1, columns, n + 1) for n in range(columns)]
    _draw_preview(axes, preview, voxel_size_um, ())
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


def _draw_losses(axes: list[Axes], history: Sequence[Mapping[str, Any]], log: bool) -> None:
    epochs = [row["epoch"] for row in history]
    changed = [row["epoch"] for row in history if row.get("changes")]
    for ax, (name, title) in zip(axes, LOSSES.items(), strict=True):
        values = [row[name] for row in history]
        ax.plot(epochs, values, "o-" if len(values) < 40 else "-", color=LOSS_COLOUR, markersize=3)
        for n, epoch in enumerate(changed):
            label = "options changed" if n == 0 else None
            ax.axvline(epoch, color=MARK_COLOUR, linestyle=":", linewidth=1.2, label=label)
        ax.set_title(title, fontsize=10)
        ax.set_xlabel("epoch")
        ax.set_ylabel("loss, lower is better", fontsize=9)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        ax.grid(alpha=0.3)
        if log and values and min(values) > 0:
            ax.set_yscale("log")
            ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            ax.yaxis.set_minor_formatter("")
        else:
            ax.yaxis.set_major_formatter(ScalarFormatter(useOffset=False))
        if changed:
            ax.legend(fontsize=8)


def _draw_preview(axes: list[Axes], preview: Preview, voxel_size_um, class_names) -> None:
    spacing = (1.0, 1.0, 1.0) if voxel_size_um is None else tuple(voxel_size_um)
    point = [n // 2 for n in preview.image.shape]
    classes = preview.probabilities[: len(axes) - 2]
    names = list(class_names) or [f"class {k}" for k in range(len(preview.probabilities))]
    grey = (0, max(1.0, float(np.percentile(preview.image, PERCENTILES[1]))))
    blocks = [(f"input (white: {grey[1]:.0f} of 100)", preview.image, "gray", grey)]
    blocks += [
        (f"{name} (yellow: sure)", p, "viridis", (0, 1))
        for name, p in zip(names, classes, strict=False)
    ]
    white = max(1.0, float(np.percentile(preview.reconstruction, PERCENTILES[1])))
    blocks.append(
        (f"reconstruction (white: {white:.0f})", preview.reconstruction, "gray", (0, white))
    )
    layout = planes.Layout.of(preview.image.shape, spacing)
    for ax, (title, volume, cmap, limits) in zip(axes, blocks, strict=True):
        _show_block(ax, layout.draw(volume, point), layout, limits=limits, cmap=cmap)
        ax.set_title(title, fontsize=10)
    _draw_scale_bar(axes[0], layout, "voxels" if voxel_size_um is None else "µm")


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
