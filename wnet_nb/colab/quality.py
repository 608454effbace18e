"""The folder ``Quality Control`` of a run, as users of ZeroCostDL4Mic know it."""

import csv
import platform
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

from wnet_nb.figures import curves
from wnet_nb.files.result import Result
from wnet_nb.files.run_files import HISTORY, read_history
from wnet_nb.jobs.run_folder import versions
from wnet_nb.whole_file import free_name

FOLDER = "Quality Control"


def write_quality(run: Path, results: Sequence[Result]) -> Path:
    """Write loss curves, cells and scores with and without the network, and versions.

    F1 against true labels is the mean over the overlaps of 0.1 to 0.9; a volume without truth has
    no scores. Returned is the new folder, which appears when it is whole.
    """
    with tempfile.TemporaryDirectory(dir=run, prefix=".quality-") as scratch:
        folder = Path(scratch) / FOLDER
        folder.mkdir()
        figure = curves.plot_losses(read_history(run))
        (folder / "training_losses.png").write_bytes(curves.figure_png(figure))
        shutil.copyfile(run / HISTORY, folder / "training_evaluation.csv")
        with (folder / "quality_metrics.csv").open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(("volume", "method", "cells", "Dice", "F1"))
            for one in results:
                table.writerows(_rows(one))
        for one in results:
            if one.scores_picture.exists():
                shutil.copyfile(one.scores_picture, folder / f"{one.name}_scores.png")
        (folder / "version_log.txt").write_text(version_log() + "\n", encoding="utf-8")
        return folder.rename(free_name(run / FOLDER))


def _rows(one: Result) -> Iterator[tuple]:
    scores = one.scores or {"scores": {}, "baseline": {}, "dice": ""}
    network, without = scores["scores"], scores["baseline"] or {}
    yield one.name, "network", one.facts["count"], scores["dice"], _f1(network)
    yield one.name, "without network", one.facts["baseline_count"], "", _f1(without)


def _f1(scores: dict) -> float | str:
    return scores.get("mean_f1", scores.get("f1", ""))


def version_log() -> str:
    """Return the versions that a result depends on, one a line."""
    found = versions() | {"system": platform.platform()}
    found |= {name: version(name) for name in ("ipywidgets", "ipykernel", "ipython", "gdown")}
    return "\n".join(f"{name} {value}" for name, value in found.items())
