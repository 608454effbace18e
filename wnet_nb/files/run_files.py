"""What lies in a run folder and under which names; its record and its tables, read back.

The network itself (weights, full states) is `checkpoint`'s; a folder of results is `Result`'s.
"""

from __future__ import annotations

import json
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
    """Return the content of ``settings.json``, its options checked; UserError if it has none."""
    path = Path(run) / SETTINGS
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        record["options"] = Settings().replace(**record["options"]).as_dict()
    except FileNotFoundError:
        raise UserError(f"'{run}' is not a run folder: it holds no {SETTINGS}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"'{path}' cannot be read ({error}); start a new run") from None
    return record


def read_history(run: str | Path) -> list[dict[str, Any]]:
    """Return the rows of ``history.csv``, numbers as numbers; UserError if it is no history."""
    path = Path(run) / HISTORY
    names, rows = read_table(path)
    if missing := set(HISTORY_COLUMNS) - set(names):
        raise UserError(f"'{path}' is no history: it has no column {min(missing)}")
    return [
        {name: _value(name, text, f"line {line} of '{path}'") for name, text in row.items()}
        for line, row in rows
    ]


def read_validation(run: str | Path) -> list[tuple[int, float]]:
    """Return (epoch, Dice) of ``validation.csv``, nothing where there were no labels.

    UserError if it is there and cannot be read.
    """
    path = Path(run) / VALIDATION
    names, rows = read_table(path) if path.exists() else (["epoch", "dice"], [])
    if names != ["epoch", "dice"]:
        raise UserError(f"'{path}' has no columns epoch and dice; move it away")
    return [
        tuple(_value(name, row[name], f"line {line} of '{path}'") for name in names)
        for line, row in rows
    ]


def _value(name: str, text: str, where: str) -> Any:
    if name in WORDS:
        return text
    number = to_number(text, f"'{name}' in {where}")
    return int(number) if name in WHOLE_NUMBERS else number
