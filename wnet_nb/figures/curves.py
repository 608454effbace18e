"""Everything with axes: loss curves, scores, sizes of cells, affinities.

Every function that draws returns a Figure of its own and shows nothing; `figure_png` turns one
into bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, ScalarFormatter

from wnet_nb.cells.scores import InstanceScores

DPI = 100
LOSS_COLOUR, MARK_COLOUR = "#1f5fa8", "#c2410c"
LOSSES = {
    "soft_ncut": "Soft N-cut\n(0: classes fully apart)",
    "reconstruction": "Reconstruction\n(squared error, image in 0-100)",
    "total": "Weighted total\n(what the training lowers)",
}
LOG_FROM = 10.0  # a curve that falls by more is drawn on a logarithmic axis


def new_figure(width: float, height: float, dpi: int = DPI) -> Figure:
    """Return an empty figure of a size in inches that belongs to no screen."""
    figure = Figure((width, height), dpi, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def figure_png(figure: Figure) -> bytes:
    """Return a figure as the bytes of a PNG."""
    buffer = BytesIO()
    figure.canvas.print_png(buffer)  # draws once, where savefig lays out and draws twice
    return buffer.getvalue()


def plot_losses(
    history: Sequence[Mapping[str, Any]],
    *,
    log: bool = False,
    steps: Sequence[tuple[int, float, float, float]] = (),
    steps_per_epoch: int = 1,
    epochs: int | None = None,
    changes: Sequence[int] | None = None,
) -> Figure:
    """Draw the three loss curves in two rows, with a mark where options were changed.

    Parameters
    ----------
    history : sequence of mapping
        Rows of ``history.csv``.
    log : bool
        Logarithmic vertical axes for all; else only for a curve that falls more than tenfold.
    steps : sequence of (step, soft N-cut, reconstruction, total), optional
        Drawn thin behind the means of the epochs, which then stand in the middle of theirs.
    steps_per_epoch, epochs : int, optional
        For the horizontal axis of a training that goes on.
    changes : sequence of int, optional
        Steps before which options were changed, drawn with their numbers; without it, the epochs
        of the history in which that happened.
    """
    figure = new_figure(7.2, 4.9)
    grid = figure.add_gridspec(2, 2)
    axes = [figure.add_subplot(place) for place in (grid[0, 0], grid[0, 1], grid[1, :])]
    draw_losses(axes, history, log=log, steps=steps, per_epoch=steps_per_epoch, changes=changes)
    if epochs:
        reached = steps[-1][0] / steps_per_epoch if steps else epochs
        for ax in axes:
            ax.set_xlim(0, max(1, min(epochs, 1.5 * reached)))
    return figure


def draw_losses(
    axes: Sequence[Axes], history, *, log=False, steps=(), per_epoch=1, changes=None
) -> None:
    """Draw the three loss curves into axes that are there; see `plot_losses`."""
    epochs = np.array([row["epoch"] for row in history]) - (0.5 if steps else 0)
    places = [(step - 0.5) / per_epoch for step, *_ in steps]
    marks = [row["epoch"] for row in history if row.get("changes")]
    if changes is not None:
        marks = [(step - 1) / per_epoch for step in changes]
    style = {"color": LOSS_COLOUR, "markersize": 3, "zorder": 3}
    for n, (ax, (name, title)) in enumerate(zip(axes, LOSSES.items(), strict=True), start=1):
        values = [row[name] for row in history]
        of_steps = [step[n] for step in steps]
        ax.plot(epochs, values, "o-" if len(values) < 40 else "-", **style)
        if steps:
            ax.plot(places, of_steps, color=LOSS_COLOUR, alpha=0.35, linewidth=1)
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
        ax.set_ylabel("loss")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        ax.grid(alpha=0.3)
        if marks and changes is None:
            ax.legend(fontsize=8)
        _scale_axis(ax, [*values, *of_steps], log)


def _scale_axis(ax: Axes, values: Sequence[float], log: bool) -> None:
    least = min(values, default=0)
    if not values:
        ax.set_ylim(0, 1)
    if least > 0 and (log or max(values) > LOG_FROM * least):
        ax.set_yscale("log")
        ax.set_ylabel("loss (logarithmic)")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.yaxis.set_minor_formatter("")
    else:
        ax.yaxis.set_major_formatter(ScalarFormatter(useOffset=False))


def plot_scores(
    scores: InstanceScores, baseline_scores: InstanceScores | None = None, *, title: str = ""
) -> Figure:
    """Draw F1 against the overlap asked of a cell, with and without the network.

    Parameters
    ----------
    scores, baseline_scores : InstanceScores
        Of the network's cells, and of those of the same steps without a network.
    title : str
        Such as the name of the volume.
    """
    figure = new_figure(6.0, 4.3)
    axes = figure.add_subplot()
    curves = [("network", scores, "#b45309", "o-")]
    if baseline_scores is not None:
        curves.append(("without network", baseline_scores, "#0e7490", "s--"))
    for name, curve, colour, style in curves:
        at_half = "".join(
            f", F1 {row['f1']:.2f} at IoU 0.5" for row in curve.as_rows() if row["threshold"] == 0.5
        )
        label = f"{name}: {curve.n_predicted:,} cells{at_half}"
        axes.plot(curve.thresholds, curve.f1, style, color=colour, label=label)
    axes.axvline(0.5, color="0.6", linewidth=1, zorder=0)
    axes.set(xlim=(0.05, 0.95), ylim=(-0.02, 1.02))
    axes.set_xlabel(
        "overlap (IoU) from which a cell counts as found\n"
        "0.5: half of what the cell and the true one cover together is covered by both"
    )
    axes.set_ylabel("F1: 1 = every cell found, none invented")
    against = f"against {scores.n_true:,} true cells"
    axes.set_title(f"{title}: {against}" if title else against.capitalize(), fontsize=11)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", fontsize=9, frameon=False)
    return figure


def plot_sizes(volumes_um3: Sequence[float], smallest_um3: float) -> Figure:
    """Draw how many cells there are of each volume; a line marks the smallest that is kept."""
    figure = new_figure(4.2, 2.5)
    axes = figure.add_subplot()
    if len(volumes_um3):
        top = max(float(np.percentile(volumes_um3, 99)) * 1.1, smallest_um3 * 1.5)
        axes.hist(np.clip(volumes_um3, 0, top), bins=24, range=(0, top), color=LOSS_COLOUR)
    axes.axvline(smallest_um3, color=MARK_COLOUR, linestyle="--", label="smallest that is kept")
    axes.set_xlabel("volume of a cell (µm³)", fontsize=9)
    axes.set_ylabel("cells", fontsize=9)
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.tick_params(labelsize=8)
    figure.legend(loc="outside upper right", fontsize=8, frameon=False)
    return figure


def plot_affinity(
    brightness: np.ndarray,
    intensity: np.ndarray,
    spatial: np.ndarray,
    *,
    point: Sequence[int],
    corner: Sequence[int],
    white: float = 100.0,
) -> Figure:
    """Draw how alike the voxels around one voxel count: brightness, distance, and both.

    Parameters
    ----------
    brightness : ndarray
        (Y, X) in 0-100, the part of a plane that is shown.
    intensity, spatial : ndarray
        (Y, X) in 0-1, the two terms of the affinity for the same part.
    point, corner : sequence of int
        The voxel (y, x), and the first voxel (y, x) of the part, both in the plane.
    white : float
        Brightness drawn white.
    """
    blocks = [
        ("image, 0-100", brightness, "gray", white),
        ("alike in brightness", intensity, "viridis", 1),
        ("near enough", spatial, "viridis", 1),
        ("both: pulls together", intensity * spatial, "viridis", 1),
    ]
    figure = new_figure(8.4, 2.6)
    top, left = corner
    bottom, right = top + brightness.shape[0], left + brightness.shape[1]
    extent = (left - 0.5, right - 0.5, bottom - 0.5, top - 0.5)
    for n, (title, values, cmap, highest) in enumerate(blocks, start=1):
        axes = figure.add_subplot(1, 4, n)
        shown = axes.imshow(values, cmap=cmap, vmin=0, vmax=highest, extent=extent)
        axes.plot(point[1], point[0], "+", color="red", markersize=9)
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("x (voxels)", fontsize=8)
        axes.tick_params(labelsize=7, labelleft=n == 1)
        axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    figure.axes[0].set_ylabel("y (voxels)", fontsize=8)
    figure.colorbar(shown, ax=axes, ticks=[0, 0.5, 1], shrink=0.8).ax.tick_params(labelsize=7)
    return figure
