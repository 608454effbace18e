"""The folder ``Quality Control`` of a run, as users of ZeroCostDL4Mic know it."""

from __future__ import annotations

import csv
import platform
import shutil
import tempfile
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from wnet_nb.cells.scores import InstanceScores
from wnet_nb.colab.drive import free_name
from wnet_nb.errors import UserError
from wnet_nb.figures import curves, report
from wnet_nb.files.result import Result
from wnet_nb.files.run_files import HISTORY, read_history
from wnet_nb.jobs.evaluate import score
from wnet_nb.jobs.run_folder import versions

FOLDER = "Quality Control"
COLUMNS = ("volume", "method", "cells", "Dice", "F1", "remark")


def write_quality(run: Path, found: Sequence[Result], truth: Path | None = None) -> Path:
    """Write loss curves, cells and scores of both methods, and versions; return the new folder.

    Parameters
    ----------
    run : Path
        Run folder.
    found : sequence of Result
        Cells of its volumes.
    truth : Path, optional
        True labels or points, of some of the volumes at least. F1 against labels is the mean over
        the overlaps of 0.1 to 0.9.
    """
    with tempfile.TemporaryDirectory(dir=run, prefix=".quality-") as scratch:
        folder = Path(scratch) / FOLDER
        folder.mkdir()
        figure = curves.plot_losses(read_history(run))
        (folder / "training_losses.png").write_bytes(curves.figure_png(figure))
        shutil.copyfile(run / HISTORY, folder / "training_evaluation.csv")
        rows = [row for one in found for row in _score(one, truth, folder)]
        with (folder / "quality_metrics.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([COLUMNS, *rows])
        (folder / "version_log.txt").write_text(version_log() + "\n", encoding="utf-8")
        folder = folder.rename(free_name(run / FOLDER))
    if truth is not None:
        report.renew(run)
    return folder


def _score(one: Result, truth: Path | None, folder: Path) -> list[tuple]:
    """Return one row for each method; without labels for this volume, the reason stands in it."""
    network = (one.name, "network", one.facts["count"])
    classical = (one.name, "classical", one.facts["baseline_count"])
    if truth is None:
        return [(*network, "", "", "no labels"), (*classical, "", "", "no labels")]
    try:
        scored = score(one, truth)
    except UserError as error:
        return [(*network, "", "", error), (*classical, "", "", error)]
    if isinstance(scored.scores, InstanceScores):
        shutil.copyfile(one.scores_picture, folder / f"{one.name}_scores.png")
    f1 = [
        s.mean_f1 if isinstance(s, InstanceScores) else s.f1
        for s in (scored.scores, scored.baseline)
    ]
    return [(*network, scored.dice, f1[0], ""), (*classical, "", f1[1], "")]


def version_log() -> str:
    """Return the versions that a result depends on, one a line."""
    found = versions() | {"system": platform.platform()}
    for name in ("ipywidgets", "ipykernel", "ipython", "gdown"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return "\n".join(f"{name} {value}" for name, value in found.items())
