"""Two tables over all results of a folder: every cell with its volume, and one row per volume."""

from __future__ import annotations

import csv
import io
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from wnet_nb.errors import UserError
from wnet_nb.files.result import Result
from wnet_nb.files.run_files import ALL_CELLS, ALL_VOLUMES
from wnet_nb.whole_file import write_whole


def write_tables(folder: Path) -> list[Path]:
    """Write cells.csv and volumes.csv from the newest result of each volume in a folder.

    Earlier ones are replaced. A result whose own table cannot be read is left out with a warning.
    """
    newest = {result.facts.get("sha256"): result for result in Result.find_in(folder)}
    cells, volumes = [], []
    for result in sorted(newest.values(), key=lambda one: one.name):
        try:
            volumes.append(_describe(result))
            cells += [{"volume": result.name} | row for row in result.cells_as_text()]
        except UserError as error:
            warnings.warn(f"{ALL_CELLS} goes without '{result.name}': {error}", stacklevel=2)
    return [_write(folder / ALL_CELLS, cells), _write(folder / ALL_VOLUMES, volumes)]


def _describe(result: Result) -> dict[str, object]:
    facts, scores = result.facts, (result.scores or {}).get("scores", {})
    sizes = [cell["volume_um3"] for cell in result.cells()]
    f1 = scores.get("mean_f1", scores.get("f1"))
    return {
        "volume": result.name,
        "folder": result.folder.name,
        "cells": facts["count"],
        "cells_cut_by_edge": facts.get("cut_by_edge"),
        "cells_without_network": facts.get("baseline_count"),
        "cell_radius_um": f"{facts['cell_radius_um']:.4g}",
        "median_volume_um3": f"{np.median(sizes):.4g}" if sizes else "",
        "f1": "" if f1 is None else f"{f1:.4f}",
    }


def _write(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    text = io.StringIO()
    columns = dict.fromkeys(name for row in rows for name in row) or ("volume",)
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(path, lambda part: part.write_text(text.getvalue(), encoding="utf-8"))
    return path
