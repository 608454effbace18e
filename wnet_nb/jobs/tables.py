"""Two tables over all results of a folder: every cell with its volume, and one row per volume."""

from __future__ import annotations

import csv
import io
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wnet_nb.errors import UserError
from wnet_nb.files.result import Result
from wnet_nb.files.run_files import ALL_CELLS, ALL_VOLUMES
from wnet_nb.whole_file import write_whole

VOLUME_COLUMNS = (
    "volume",
    "folder",
    "cells",
    "cells_cut_by_edge",
    "cells_without_network",
    "cell_radius_um",
    "median_volume_um3",
    "mean_f1",
)


def write_tables(folder: Path) -> list[Path]:
    """Write cells.csv and volumes.csv from the newest result of each volume in a folder.

    Earlier ones are replaced. A result whose own table cannot be read is left out with a warning.
    """
    newest = {result.facts.get("sha256"): result for result in Result.find_in(folder)}
    cells, volumes, columns = [], [], []
    for result in sorted(newest.values(), key=lambda one: one.name):
        try:
            rows = result.cells()
        except UserError as error:
            warnings.warn(f"{ALL_CELLS} goes without '{result.name}': {error}", stacklevel=2)
            continue
        columns = list(rows[0]) if rows else columns
        cells += [[result.name, *row.values()] for row in rows]
        volumes.append(_describe(result, rows))
    paths = [folder / ALL_CELLS, folder / ALL_VOLUMES]
    _write(paths[0], ("volume", *columns), cells)
    _write(paths[1], VOLUME_COLUMNS, volumes)
    return paths


def _describe(result: Result, rows: Sequence[dict[str, Any]]) -> list[Any]:
    facts, scores = result.facts, (result.scores or {}).get("scores", {})
    return [
        result.name,
        result.folder.name,
        facts["count"],
        facts.get("cut_by_edge"),
        facts.get("baseline_count"),
        facts.get("cell_radius_um"),
        np.median([row["volume_um3"] for row in rows]) if rows else None,
        scores.get("mean_f1", scores.get("f1")),
    ]


def _write(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_field(value) for value in row] for row in rows)
    write_whole(path, lambda part: part.write_text(text.getvalue(), encoding="utf-8"))


def _field(value: Any) -> str:
    if value is None or value != value:  # NaN is the one value that differs from itself
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else f"{value:.15g}"
