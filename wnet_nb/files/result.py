"""A folder of results, the cells of one volume: the only place that knows its file names.

It appears under its name when everything is in it, and never replaces an older one.
"""

import contextlib
import itertools
import math
import shutil
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from filelock import FileLock

from wnet_nb.errors import UserError
from wnet_nb.files.run_files import ALL_CELLS, ALL_VOLUMES, PREDICTIONS, read_json
from wnet_nb.files.tables import read_table, to_number, write_table
from wnet_nb.files.volumes import read_volume
from wnet_nb.files.writing import write_labels, write_volume
from wnet_nb.whole_file import write_json, write_whole

LABELS = "labels.tif"
FOREGROUND = "foreground.tif"
BASELINE_LABELS = "baseline_labels.tif"
CELLS = "cells.csv"
OVERLAY = "overlay.png"
PROJECTIONS = "projections.png"
ROIS = "rois.zip"
FACTS = "result.json"
SCORES = "scores.json"
SCORES_PICTURE = "scores.png"
YES_OR_NO = {"touches_border"}  # columns of cells.csv


class Result:
    """The cells of one volume, as they lie in a folder ``predictions/NAME``."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    @classmethod
    def find_all(cls, run: str | Path) -> list[Self]:
        """Return the results in the ``predictions`` of a run, as `find_in` does."""
        return cls.find_in(Path(run) / PREDICTIONS)

    @classmethod
    def find_in(cls, folder: str | Path) -> list[Self]:
        """Return the results in a folder, the newest last; one that cannot be read is a warning."""
        found = []
        for file in Path(folder).glob(f"[!.]*/{FACTS}"):
            try:
                one = cls(file.parent)
                order = (one.facts["made"], len(one.folder.name), one.folder.name)
                found.append((order, one))
            except UserError as error:
                warnings.warn(f"a result is left aside: {error}", stacklevel=2)
        return [one for _, one in sorted(found, key=lambda pair: pair[0])]

    @classmethod
    @contextlib.contextmanager
    def write_new(cls, parent: str | Path, name: str) -> Iterator[Self]:
        """Yield a result in a hidden folder, to be filled; it gets a free name when all went well.

        `parent`, the folder of results, is made if needed. `name` is the volume's; where a result
        has it already, the new one becomes NAME-2, NAME-3. What a writer that was killed has left
        behind is cleared away.
        """
        parent, name = Path(parent), name.lstrip(".") or "volume"  # never hidden, never a parent
        parent.mkdir(parents=True, exist_ok=True)
        _clear_away_dead(parent)
        part = parent / f".{name}-{uuid.uuid4().hex[:8]}.part"
        lock = _lock_of(part)
        with contextlib.suppress(OSError, NotImplementedError):  # a file system without locks
            lock.acquire(timeout=0)
        result = cls(part)
        try:
            part.mkdir()
            yield result
            result.folder = _move_to_free_name(part, parent, name)
        finally:
            _take_away(part, lock)

    @cached_property
    def facts(self) -> dict[str, Any]:
        """The content of result.json: counts, cell radius, classes and why, settings."""
        return read_json(self.folder / FACTS, ("name", "made", "count"), "segment the volume again")

    @property
    def name(self) -> str:
        """Name of the volume."""
        return self.facts["name"]

    @property
    def files(self) -> list[Path]:
        """All files of the folder, by name."""
        return sorted(path for path in self.folder.iterdir() if not path.name.startswith("."))

    @property
    def overlay(self) -> Path:
        """Where the picture of the outlines is."""
        return self.folder / OVERLAY

    @property
    def scores_picture(self) -> Path:
        """Where the picture of the scores is, if there was a truth with labels."""
        return self.folder / SCORES_PICTURE

    @property
    def rois(self) -> Path:
        """Where the outlines for Fiji are, once somebody asked for them."""
        return self.folder / ROIS

    def labels(self) -> np.ndarray:
        """Return the cells, (Z, Y, X) uint16 or uint32: 0 background, 1 to n the cells."""
        return read_volume(self.folder / LABELS).array

    def foreground(self) -> np.ndarray:
        """Return the probability of the classes that are cells, (Z, Y, X) float32 in 0-1."""
        return read_volume(self.folder / FOREGROUND).array

    def baseline_labels(self) -> np.ndarray:
        """Return the cells that the same steps find without a network, as `labels` does."""
        return read_volume(self.folder / BASELINE_LABELS).array

    @property
    def scores(self) -> dict[str, Any] | None:
        """The content of scores.json, where there was a truth to compare with."""
        file = self.folder / SCORES
        return read_json(file, ("scores", "truth"), "score it again") if file.exists() else None

    def cells(self) -> list[dict[str, Any]]:
        """Return the rows of cells.csv: numbers as float, yes and no as bool, nothing as NaN.

        UserError if the file is missing, or a cell holds something else; says where.
        """
        _, rows = read_table(self.folder / CELLS, ("label",))
        return [
            {name: _value(text, f"'{name}' in {where}") for name, text in cells.items()}
            for where, cells in rows
        ]

    def cells_as_text(self) -> list[dict[str, str]]:
        """Return the rows of cells.csv as they are written, with decimal points."""
        _, rows = read_table(self.folder / CELLS, ("label",))
        return [{name: text.replace(",", ".") for name, text in row.items()} for _, row in rows]

    def write_labels(self, labels: np.ndarray, voxel_size_um: Sequence[float]) -> None:
        """Write labels.tif from integer labels (Z, Y, X)."""
        write_labels(self.folder / LABELS, labels, voxel_size_um=voxel_size_um)

    def write_baseline_labels(self, labels: np.ndarray, voxel_size_um: Sequence[float]) -> None:
        """Write baseline_labels.tif from integer labels (Z, Y, X)."""
        write_labels(self.folder / BASELINE_LABELS, labels, voxel_size_um=voxel_size_um)

    def write_foreground(self, foreground: np.ndarray, voxel_size_um: Sequence[float]) -> None:
        """Write foreground.tif from probabilities (Z, Y, X) float32 in 0-1."""
        write_volume(self.folder / FOREGROUND, foreground, voxel_size_um=voxel_size_um)

    def write_cells(self, columns: Mapping[str, Sequence[object]]) -> None:
        """Write cells.csv from columns of one length, six digits of what is no whole number."""
        columns = dict(columns) | {
            name: ["yes" if value else "no" for value in columns[name]]
            for name in columns.keys() & YES_OR_NO
        }
        rows = (map(_six_digits, row) for row in zip(*columns.values(), strict=True))
        rows = [dict(zip(columns, row, strict=True)) for row in rows]
        write_table(self.folder / CELLS, columns, rows)

    def write_overlay(self, png: bytes) -> None:
        """Write overlay.png, the outlines in three planes."""
        self.overlay.write_bytes(png)

    def write_projections(self, png: bytes) -> None:
        """Write projections.png, the cells seen from three sides."""
        (self.folder / PROJECTIONS).write_bytes(png)

    def write_facts(self, facts: Mapping[str, Any]) -> None:
        """Write result.json from JSON values."""
        write_json(self.folder / FACTS, facts)
        self.__dict__.pop("facts", None)

    def write_scores(self, scores: Mapping[str, Any], png: bytes | None = None) -> None:
        """Write scores.json and, if there is a picture, scores.png, in place of earlier ones."""
        write_json(self.folder / SCORES, scores)
        if png is not None:
            write_whole(self.scores_picture, lambda part: part.write_bytes(png))


def _lock_of(part: Path) -> FileLock:
    """Return the lock of a hidden folder: taken before it is made, and kept until it is gone.

    So whoever gets it knows that the writer is dead: the system frees a lock then.
    """
    return FileLock(part.with_suffix(".lock"), thread_local=False)


def _clear_away_dead(parent: Path) -> None:
    """Take away what killed writers left; never a living one's, nor a folder without a lock."""
    for part in parent.glob(".*.part"):
        lock = _lock_of(part)
        if Path(lock.lock_file).exists():
            with contextlib.suppress(OSError, NotImplementedError):  # as a rule: it is held
                lock.acquire(timeout=0)
                _take_away(part, lock)


def _take_away(part: Path, lock: FileLock) -> None:
    shutil.rmtree(part, ignore_errors=True)
    lock.release()
    Path(lock.lock_file).unlink(missing_ok=True)


def _move_to_free_name(folder: Path, parent: Path, name: str) -> Path:
    for number in itertools.count(1):
        final = parent / (name if number == 1 else f"{name}-{number}")
        if final.exists() or final.name in (ALL_CELLS, ALL_VOLUMES):
            continue
        try:
            return folder.rename(final)
        except OSError:
            if not final.exists():  # else somebody took the name just now
                raise


def _six_digits(value: object) -> object:
    return float(f"{value:.6g}") if isinstance(value, float) and value % 1 else value


def _value(text: str, where: str) -> float | bool:
    said = {"yes": True, "no": False, "": math.nan}
    return said[text] if text in said else to_number(text, where)
