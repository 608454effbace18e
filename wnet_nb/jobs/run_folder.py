"""The run folder: made or opened by one training at a time, and filled while it goes on.

Each file is replaced as a whole, so a crash or a full disk leaves the last good one.
"""

import platform
import warnings
from collections.abc import Sequence
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unicodedata import normalize

import numpy as np
from filelock import FileLock, Timeout

import wnet_nb
from wnet_nb.config import PRESETS, Settings, names_with, preset
from wnet_nb.errors import UserError
from wnet_nb.events import EpochEnd, Event, Started
from wnet_nb.figures import overlay
from wnet_nb.files import run_files
from wnet_nb.files.result import Result
from wnet_nb.files.tables import write_table
from wnet_nb.jobs.stacks import Stack
from wnet_nb.whole_file import write_json, write_whole

LOCK = ".lock"
LIBRARIES = ("torch", "numpy", "scipy", "scikit-image", "tifffile", "safetensors")


def check_free(path: str | Path) -> None:
    """Raise UserError if a path is a file, or a folder with anything in it."""
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise UserError(f"'{path}' is a file; give a new folder for the run")
    if path.exists() and any(entry.name != LOCK for entry in path.iterdir()):
        advice = "go on with it (--resume)" if run_files.is_run(path) else "empty it yourself"
        raise UserError(
            f"'{path}' is not empty and a run is never overwritten; choose another folder, or "
            f"{advice}"
        )


def take_folder(path: str | Path, *, resume: bool = False) -> Path:
    """Make the folder of a run, or take an empty one; with `resume`, also one with a run in it.

    UserError if there is anything else.
    """
    path = Path(path)
    try:
        check_free(path)
    except UserError:
        if not resume or path.is_file():
            raise
        run_files.read_record(path)  # says what is wrong if it is no run
    path.mkdir(parents=True, exist_ok=True)
    return path


def lock_run(run: Path) -> FileLock:
    """Take the right to train in a run folder until the lock is released, or the process ends.

    UserError if another training has it, here or in another process.
    """
    lock = FileLock(run / LOCK, thread_local=False)  # a notebook trains in more than one thread
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"'{run}' is being trained by another notebook or command; stop it there first, or "
            "choose another folder (looking at the run and segmenting with it are possible)"
        ) from None
    except NotImplementedError:  # a file system that knows no locks
        warnings.warn(f"'{run}' cannot be locked here; do not train in it twice", stacklevel=2)
    return lock


def check_same(run: Path, settings: Settings, stacks: Sequence[Stack]) -> None:
    """Check that a run can go on with these settings and volumes; a new one can with any.

    UserError if volumes differ, or options that affect the training and may not change live.
    """
    if not run_files.is_run(run):
        return
    record = run_files.read_record(run)
    was, now = record["options"], settings.as_dict()
    fixed = [name for name in names_with("training") if name not in names_with("live")]
    changed = [
        f"{name} was {was[name]} and is now {now[name]}" for name in fixed if was[name] != now[name]
    ]
    if changed:
        raise UserError(
            f"'{run}' cannot go on with other options: {'; '.join(changed)}; leave them as they "
            "were, or start a new run"
        )
    # Normalised, as some systems write an accent as a letter of its own.
    before = {(normalize("NFC", item["file"]), item["sha256"]) for item in record.get("inputs", [])}
    other = before ^ {(normalize("NFC", stack.source.name), stack.sha256) for stack in stacks}
    if other:
        raise UserError(
            f"'{run}' was trained on other volumes: '{min(other)[0]}' was added, removed or "
            "changed; give the same ones, or start a new run"
        )


def nearest_preset(settings: Settings) -> str:
    """Return the name of the preset from which the fewest options differ."""

    def distance(name: str) -> int:
        return sum(getattr(settings, option) != v for option, v in vars(preset(name)).items())

    return min(PRESETS, key=distance)


class RunRecorder:
    """Writes each event of a training on `stacks` to its run folder; `settings` as at its start."""

    def __init__(self, run: Path, settings: Settings, stacks: Sequence[Stack]) -> None:
        self.run, self.settings, self._stacks = run, settings, stacks
        self._history: list[dict[str, Any]] = []
        self._voxel_size_um = None  # of the preview
        if stacks[0].voxel_size_source != "assumed":
            self._voxel_size_um = stacks[0].prepared_voxel_size(settings)

    def __call__(self, event: Event) -> None:
        """Write what the event brings."""
        if isinstance(event, Started):
            self._history = [dict(row) for row in event.history]
            self._write_settings(event)
            write_table(self.run / run_files.HISTORY, run_files.HISTORY_COLUMNS, self._history)
        elif isinstance(event, EpochEnd):
            self._history.append(dict(event.row))
            write_table(self.run / run_files.HISTORY, run_files.HISTORY_COLUMNS, self._history)
            self._write_pictures(event)
            if event.validation_dice is not None:
                rows = [*run_files.read_validation(self.run), (event.epoch, event.validation_dice)]
                scores = {epoch: dice for epoch, dice in rows if epoch <= event.epoch}
                table = [{"epoch": epoch, "dice": dice} for epoch, dice in scores.items()]
                write_table(self.run / run_files.VALIDATION, ("epoch", "dice"), table)

    def _write_settings(self, started: Started) -> None:
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        record = {
            "options": self.settings.as_dict(),
            "preset": nearest_preset(self.settings),
            "seed": self.settings.seed,
            "inputs": [self._describe_input(stack) for stack in self._stacks],
            "patch_shape": list(started.patch_shape),
            "parameters": started.parameters,
            "device": started.device,
            "precision": started.precision,
            "versions": versions(),
            "started": now,
        }
        if run_files.is_run(self.run):  # when the run began stays known
            record |= {"started": run_files.read_record(self.run).get("started"), "resumed": now}
        write_json(self.run / run_files.SETTINGS, record)

    def _describe_input(self, stack: Stack) -> dict[str, Any]:
        prepared = stack.prepared(self.settings)
        return describe_stack(stack) | {
            "normalisation": vars(prepared.normalisation),
            "averaged_voxels": list(prepared.factors),
            "cell_radius_um": prepared.cell_radius_um,  # None where none was needed or found
        }

    def _write_pictures(self, event: EpochEnd) -> None:
        title = f"One patch after epoch {event.epoch} of {self.settings.epochs}"
        size = self._voxel_size_um
        png = overlay.preview_png(event.preview, voxel_size_um=size, title=title)
        self._write(f"{run_files.PREVIEWS}/epoch-{event.epoch:04d}.png", png)
        self._write(run_files.PROGRESS, overlay.progress_png(self._history, png))

    def _write(self, name: str, content: bytes) -> None:
        path = self.run / name
        path.parent.mkdir(exist_ok=True)
        write_whole(path, lambda temporary: temporary.write_bytes(content))


def describe_stack(stack: Stack) -> dict[str, Any]:
    """Return what ``settings.json`` and ``result.json`` say about a volume, as JSON values."""
    return {
        "name": stack.name,
        "file": stack.source.name,
        "path": str(stack.source),
        "sha256": stack.sha256,
        "shape": list(stack.shape),
        "dtype": stack.dtype.name,
        "voxel_size_um": list(stack.voxel_size_um),
        "voxel_size_source": stack.voxel_size_source,
        "truth": None if stack.truth_file is None else str(stack.truth_file),
    }


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    found = {"wnet_nb": wnet_nb.__version__, "python": platform.python_version()}
    return found | {name: version(name) for name in LIBRARIES}


def write_tables(folder: Path) -> None:
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
            warnings.warn(
                f"{run_files.ALL_CELLS} goes without '{result.name}': {error}", stacklevel=2
            )
    for name, rows in ((run_files.ALL_CELLS, cells), (run_files.ALL_VOLUMES, volumes)):
        columns = dict.fromkeys(column for row in rows for column in row) or ("volume",)
        write_table(folder / name, columns, rows)


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
