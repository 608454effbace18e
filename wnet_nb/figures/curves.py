"""Everything with axes, loss curves, scores and sizes of cells, and what the losses say in words.

Every `plot_` returns a Figure of its own and shows nothing; `figure_png` turns one into bytes.
"""

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, ScalarFormatter

from wnet_nb.cells.scores import InstanceScores
from wnet_nb.config import Settings

DPI = 100
LOSS_COLOUR, MARK_COLOUR = "#1f5fa8", "#c2410c"
LOSSES = {
    "soft_ncut": "Soft N-cut\n(0: classes fully apart)",
    "reconstruction": "Reconstruction\n(squared error, image in 0-100)",
    "total": "Weighted total\n(what the training lowers)",
}
LOG_FROM = 10.0  # a curve that falls by more is drawn on a logarithmic axis
STILL_FALLING, COLLAPSED, SETTLED = 0.02, 0.93, 0.1


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
    steps: Sequence[tuple[int, float, float, float]] = (),
    steps_per_epoch: int = 1,
    changes: Sequence[int] | None = None,
) -> Figure:
    """Draw the three loss curves in two rows, with a numbered line where options were changed.

    `history` holds rows of ``history.csv``. `steps` are drawn thin behind the means of the epochs,
    which then stand in the middle of theirs: step, soft N-cut, reconstruction and total of each.
    `changes` are the steps before which options were changed; without it, the history says after
    which epochs.
    """
    ends = np.array([row["epoch"] for row in history]) - (0.5 if steps else 0)
    places = [(step - 0.5) / steps_per_epoch for step, *_ in steps]
    marks = [row["epoch"] for row in history if row.get("changes")]
    if changes is not None:
        marks = [(step - 1) / steps_per_epoch for step in changes]
    figure = new_figure(7.2, 4.9)
    grid = figure.add_gridspec(2, 2)
    for n, (name, title) in enumerate(LOSSES.items()):
        axes = figure.add_subplot(grid[1, :] if n == 2 else grid[0, n])
        values, of_steps = [row[name] for row in history], [step[n + 1] for step in steps]
        style = "o-" if len(values) < 40 else "-"
        axes.plot(ends, values, style, color=LOSS_COLOUR, markersize=3, zorder=3)
        axes.plot(places, of_steps, color=LOSS_COLOUR, alpha=0.35, linewidth=1)
        for number, place in enumerate(marks, start=1):
            axes.axvline(place, color=MARK_COLOUR, linestyle=":", linewidth=1.3)
            corner = {"transform": axes.get_xaxis_transform(), "va": "top", "fontsize": 9}
            axes.text(place, 0.98, f" {number}", color=MARK_COLOUR, **corner)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("epoch (dotted: options changed)" if marks else "epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))
        axes.grid(alpha=0.3)
        _scale_axis(axes, [*values, *of_steps])
    return figure


def _scale_axis(axes: Axes, values: Sequence[float]) -> None:
    axes.set_ylabel("loss")
    axes.yaxis.set_major_formatter(ScalarFormatter(useOffset=False))
    if not values:
        axes.set(xlim=(0, 1), ylim=(0, 1))
    elif max(values) > LOG_FROM * min(values) > 0:
        axes.set_yscale("log")
        axes.set_ylabel("loss (logarithmic)")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter("")


def plot_scores(scores: InstanceScores, baseline: InstanceScores | None, *, title: str) -> Figure:
    """Draw F1 against the overlap asked of a cell, with and without the network."""
    figure = new_figure(6.0, 4.3)
    axes = figure.add_subplot()
    curves = {"network": (scores, "#b45309", "o-")}
    if baseline is not None:
        curves["without network"] = baseline, "#0e7490", "s--"
    for name, (curve, colour, style) in curves.items():
        at_half = curve.f1[curve.thresholds.index(0.5)]
        label = f"{name}: {curve.n_predicted:,} cells, F1 {at_half:.2f} at IoU 0.5"
        axes.plot(curve.thresholds, curve.f1, style, color=colour, label=label)
    axes.axvline(0.5, color="0.6", linewidth=1, zorder=0)
    axes.set(xlim=(0.05, 0.95), ylim=(-0.02, 1.02))
    axes.set_xlabel(
        "overlap (IoU) from which a cell counts as found\n"
        "0.5: half of what the cell and the true one cover together is covered by both"
    )
    axes.set_ylabel("F1: 1 = every cell found, none invented")
    axes.set_title(f"{title}: against {scores.n_true:,} true cells", fontsize=11)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", fontsize=9, frameon=False)
    return figure


def plot_sizes(volumes_um3: Sequence[float], smallest_um3: float) -> Figure:
    """Draw how many cells there are of each volume; a line marks the smallest that is kept."""
    figure = new_figure(3.6, 2.4)
    axes = figure.add_subplot()
    if len(volumes_um3):
        top = max(float(np.percentile(volumes_um3, 99)) * 1.1, smallest_um3 * 1.5)
        axes.hist(np.clip(volumes_um3, 0, top), bins=24, range=(0, top), color=LOSS_COLOUR)
    axes.axvline(smallest_um3, color=MARK_COLOUR, linestyle="--", label="smallest that is kept")
    axes.set_xlabel("volume of a cell (µm³)", fontsize=9)
    axes.set_ylabel("cells", fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.tick_params(labelsize=8)
    figure.legend(loc="outside upper right", fontsize=8, frameon=False)
    return figure


def read_losses(history: Sequence[Mapping[str, Any]], settings: Settings) -> list[str]:
    """Say what the rows of ``history.csv`` mean and what to do, one sentence each."""
    if len(history) < 3:
        return ["There are too few epochs to read the curves; train for at least three."]
    names = ("soft_ncut", "reconstruction")
    ncut, reconstruction = (np.array([row[name] for row in history]) for name in names)
    # Of one class only, and of classes that are all alike; core and rim are cut as one.
    worst = 1 if settings.core_class is not None else settings.n_classes - 1
    sentences = [_read_trend(ncut, worst)]
    if ncut[-1] > COLLAPSED * worst:
        sentences.append(
            f"The soft N-cut is {ncut[-1]:.2f}, near {worst}, its value without any separation: "
            "all voxels share one class or none is sure; raise learning_rate, intensity_sigma or "
            "ncut_weight, or train longer."
        )
    if reconstruction[-3:].mean() > 1.05 * reconstruction[:2].mean():
        sentences.append(
            "The reconstruction got worse during training; raise reconstruction_weight or lower "
            "learning_rate."
        )
    return sentences


def _read_trend(values: np.ndarray, worst: float) -> str:
    tail = max(2, len(values) // 4)
    before, after = np.mean(values[-2 * tail : -tail]), np.mean(values[-tail:])
    change = (before - after) / max(np.ptp(values), 1e-12)  # as a share of the whole descent
    if change > STILL_FALLING and values[-1] < SETTLED * worst:
        return (
            f"The soft N-cut has come down to {values[-1]:.3f}, where 0 is best: the classes are "
            "well apart. More epochs often make the cells narrower rather than better: the overlay "
            "tells, and the Dice where there are labels."
        )
    if change > STILL_FALLING:
        return "The soft N-cut still falls; more epochs may give clearer classes (raise epochs)."
    if change < -STILL_FALLING:
        return "The soft N-cut rises at the end; lower learning_rate."
    return "The soft N-cut is flat at the end; more epochs would change little."
