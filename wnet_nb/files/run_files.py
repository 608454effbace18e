"""What lies in a run folder and under which names; its record and its tables, read back.

The network itself (weights, full states) is `checkpoint`'s; a folder of results is `Result`'s.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from wnet_nb.config import from_mapping
from wnet_nb.errors import UserError

SETTINGS = "settings.json"
HISTORY = "history.csv"
VALIDATION = "validation.csv"
PROGRESS = "progress.png"
REPORT = "report.html"
PREVIEWS = "previews"  # folder, one picture per epoch
PREDICTIONS = "predictions"  # folder, one `Result` per volume
ALL_CELLS = "cells.csv"  # in PREDICTIONS: the cells of all volumes in one table
ALL_VOLUMES = "volumes.csv"  # in PREDICTIONS: one row per volume

HISTORY_COLUMNS = (
    "epoch",
    "step",
    "soft_ncut",
    "reconstruction",
    "total",
    "learning_rate",
    "seconds",
    "peak_memory_mb",
    "changes",
)
WHOLE_NUMBERS, WORDS = ("epoch", "step", "peak_memory_mb"), ("changes",)


def is_run(folder: str | Path) -> bool:
    """Return whether a folder is a run folder: whether it has settings."""
    return (Path(folder) / SETTINGS).is_file()


def read_record(run: str | Path) -> dict[str, Any]:
    """Return the content of a run's ``settings.json``; its options are checked.

    Raises
    ------
    UserError
        If it is missing or cannot be read.
    """
    path = Path(run) / SETTINGS
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        record["options"] = from_mapping(record["options"]).as_dict()
    except FileNotFoundError:
        raise UserError(f"'{run}' is not a run folder: it holds no {SETTINGS}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"'{path}' cannot be read ({error}); start a new run") from None
    return record


def read_history(run: str | Path) -> list[dict[str, Any]]:
    """Return the rows of a run's ``history.csv``, numbers as numbers.

    Raises
    ------
    UserError
        If it is missing or not a history.
    """
    path = Path(run) / HISTORY
    try:
        with path.open(newline="", encoding="utf-8") as file:
            table = csv.DictReader(file)
            rows = list(table)
        if missing := set(HISTORY_COLUMNS) - set(table.fieldnames or ()):
            raise ValueError(f"it has no column {min(missing)}")
        return [{name: _value(name, text) for name, text in row.items()} for row in rows]
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"'{path}' is not a readable history: {error}") from None


def _value(name: str, text: str) -> Any:
    if name in WORDS:
        return text
    return int(text) if name in WHOLE_NUMBERS else float(text)


def read_validation(run: str | Path) -> list[tuple[int, float]]:
    """Return (epoch, Dice) of a run's ``validation.csv``; nothing where there were no labels.

    Raises
    ------
    UserError
        If the file is there and cannot be read.
    """
    path = Path(run) / VALIDATION
    if not path.exists():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [(int(row["epoch"]), float(row["dice"])) for row in csv.DictReader(file)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"'{path}' cannot be read ({error}); move it away") from None
