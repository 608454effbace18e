"""What lies in a run folder and under which names; its record and its tables, read back.

The network itself (weights, full states) is `checkpoint`'s; a folder of results is `Result`'s.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wnet_nb.config import Settings
from wnet_nb.errors import UserError
from wnet_nb.files.tables import read_table, to_number

SETTINGS = "settings.json"
HISTORY = "history.csv"
VALIDATION = "validation.csv"
PROGRESS = "progress.png"
REPORT = "report.html"
PREVIEWS = "previews"  # folder, one picture per epoch
PREDICTIONS = "predictions"  # folder, one `Result` per volume
ALL_CELLS = "cells.csv"  # in PREDICTIONS: the cells of all volumes in one table
ALL_VOLUMES = "volumes.csv"  # in PREDICTIONS: one row per volume

WORDS, WHOLE_NUMBERS = ("changes",), ("epoch", "step", "peak_memory_mb")
HISTORY_COLUMNS = ("epoch", "step", "soft_ncut", "reconstruction", "total", "learning_rate")
HISTORY_COLUMNS += ("seconds", "peak_memory_mb", "changes")


def is_run(folder: str | Path) -> bool:
    """Return whether a folder is a run folder: whether it has settings."""
    return (Path(folder) / SETTINGS).is_file()


def read_json(path: Path, needed: Sequence[str], advice: str) -> dict[str, Any]:
    """Return the JSON object of a file; UserError with `advice` if it is none or lacks an entry."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"'{path}' cannot be read ({error}); {advice}") from None
    missing = [name for name in needed if not isinstance(content, dict) or name not in content]
    if missing:
        raise UserError(f"'{path}' lacks '{missing[0]}'; {advice}")
    return content


def read_record(run: str | Path) -> dict[str, Any]:
    """Return the content of ``settings.json``, its options checked; UserError if it has none."""
    if not is_run(run):
        raise UserError(f"'{run}' is not a run folder: it holds no {SETTINGS}")
    path = Path(run) / SETTINGS
    record = read_json(path, ("options",), "start a new run")
    try:
        record["options"] = Settings().replace(**record["options"]).as_dict()
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"'{path}' cannot be read ({error}); start a new run") from None
    return record


def read_history(run: str | Path) -> list[dict[str, Any]]:
    """Return the rows of ``history.csv``, numbers as numbers; UserError if it is no history."""
    return _read_rows(Path(run) / HISTORY, HISTORY_COLUMNS)


def read_validation(run: str | Path) -> list[tuple[int, float]]:
    """Return (epoch, Dice) of ``validation.csv``, nothing where there were no labels.

    UserError if it is there and cannot be read.
    """
    path = Path(run) / VALIDATION
    rows = _read_rows(path, ("epoch", "dice")) if path.exists() else []
    return [(row["epoch"], row["dice"]) for row in rows]


def _read_rows(path: Path, columns: Sequence[str]) -> list[dict[str, Any]]:
    rows = []
    for where, cells in read_table(path, columns)[1]:
        row: dict[str, Any] = dict(cells)
        for name in set(cells) - set(WORDS):
            number = to_number(cells[name], f"'{name}' in {where}")
            row[name] = int(number) if name in WHOLE_NUMBERS else number
        rows.append(row)
    return rows
