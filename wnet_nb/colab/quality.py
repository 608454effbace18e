"""The folder ``Quality Control`` of a run, as users of ZeroCostDL4Mic know it."""

from __future__ import annotations

import csv
import platform
import shutil
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from wnet_nb.cells.scores import InstanceScores
from wnet_nb.colab import drive as storage
from wnet_nb.figures import plots, report
from wnet_nb.files.result import Result
from wnet_nb.files.run_files import HISTORY, read_history
from wnet_nb.jobs import train as pipeline
from wnet_nb.jobs.run_folder import versions

FOLDER = "Quality Control"
COLUMNS = ("volume", "method", "cells", "Dice", "F1")


def write_quality(run: Path, found: Sequence[Result], truth: Path | None = None) -> Path:
    """Write loss curves, cells and scores of both methods, and versions; return the new folder.

    Parameters
    ----------
    run : Path
        Run folder.
    found : sequence of Result
        Cells of its volumes.
    truth : Path, optional
        True labels or points. F1 against labels is the mean over the overlaps of 0.1 to 0.9.
    """
    folder = storage.free_name(run / FOLDER)
    folder.mkdir()
    figure = plots.plot_losses(read_history(run))
    (folder / "training_losses.png").write_bytes(plots.figure_png(figure))
    shutil.copyfile(run / HISTORY, folder / "training_evaluation.csv")
    rows = [row for one in found for row in _score(one, truth, folder)]
    if truth is not None:
        report.renew(run)
    with (folder / "quality_metrics.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    (folder / "version_log.txt").write_text(version_log() + "\n", encoding="utf-8")
    return folder


def _score(one: Result, truth: Path | None, folder: Path) -> list[tuple]:
    network = (one.name, "network", one.facts["count"])
    classical = (one.name, "classical", one.facts["baseline_count"])
    if truth is None:
        return [network, classical]
    scored = pipeline.keep_scores(one, truth)
    if isinstance(scored.scores, InstanceScores):
        shutil.copyfile(one.scores_picture, folder / f"{one.name}_scores.png")
    f1 = [
        s.mean_f1 if isinstance(s, InstanceScores) else s.f1
        for s in (scored.scores, scored.baseline)
    ]
    return [(*network, scored.dice, f1[0]), (*classical, "", f1[1])]


def version_log() -> str:
    """Return the versions that a result depends on, one a line."""
    found = versions() | {"system": platform.platform()}
    for name in ("ipywidgets", "ipykernel", "ipython", "gdown"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return "\n".join(f"{name} {value}" for name, value in found.items())
