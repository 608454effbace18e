"""The run folder: made or opened by one training at a time, and filled while it goes on.

Each file is replaced as a whole, so a lost browser, a crash or a full disk leaves the last good
one. Full states and weights are written by `training.fit`; the rest by `RunRecorder`.
"""

from __future__ import annotations

import csv
import json
import platform
import warnings
from collections.abc import Sequence
from datetime import datetime
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

import wnet_nb
from wnet_nb.config import DEFAULTS, PRESETS, Settings, names_with
from wnet_nb.data import Prepared
from wnet_nb.errors import UserError
from wnet_nb.events import EpochEnd, Event, Started
from wnet_nb.figures import overlay
from wnet_nb.files.run_files import (
    HISTORY,
    HISTORY_COLUMNS,
    PREVIEWS,
    PROGRESS,
    SETTINGS,
    VALIDATION,
    is_run,
    read_record,
    read_validation,
)
from wnet_nb.jobs.stacks import Stack
from wnet_nb.whole_file import write_whole

LOCK = ".lock"
LIBRARIES = ("torch", "numpy", "scipy", "scikit-image", "tifffile", "safetensors")


def check_free(path: str | Path) -> None:
    """Check that a run folder can be made.

    Raises
    ------
    UserError
        If the path is a file, or a folder with anything in it: a run is never overwritten.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise UserError(f"'{path}' is a file; give a new folder for the run")
    if not _is_empty(path):
        advice = "go on with it (--resume)" if is_run(path) else "empty it yourself"
        raise UserError(
            f"'{path}' is not empty and a run is never overwritten; choose another folder, or "
            f"{advice}"
        )


def _is_empty(path: Path) -> bool:
    return not path.exists() or all(entry.name == LOCK for entry in path.iterdir())


def take_folder(path: str | Path, *, resume: bool = False) -> Path:
    """Make the folder of a run, or take an empty one; with `resume`, also one with a run in it.

    Raises
    ------
    UserError
        If there is anything else; see `check_free`.
    """
    path = Path(path)
    if not resume or path.is_file():
        check_free(path)
    elif not _is_empty(path):
        read_record(path)  # says what is wrong if it is no run
    path.mkdir(parents=True, exist_ok=True)
    return path


def free_run(folder: str | Path, name: str) -> Path:
    """Return a folder of this name that is not there yet, or NAME-2, NAME-3; nothing is made."""
    run, number = Path(folder) / name, 1
    while run.exists():
        number += 1
        run = Path(folder) / f"{name}-{number}"
    return run


def lock_run(run: Path) -> FileLock:
    """Take the right to train in a run folder until the lock is released, or the process ends.

    Raises
    ------
    UserError
        If another training has it, here or in another process.
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


def check_same(path: Path, settings: Settings, stacks: Sequence[Stack]) -> None:
    """Check that a run can go on with these settings and volumes; a new one can with any.

    Raises
    ------
    UserError
        If the run was made with other options or volumes. Options that may change while it trains
        may differ, and those that do not affect it.
    """
    if not is_run(path):
        return
    record = read_record(path)
    options = Settings(**record["options"])
    fixed = set(names_with("training")) - set(names_with("live"))
    changed = [
        f"{name} was {getattr(options, name)} and is now {getattr(settings, name)}"
        for name in DEFAULTS
        if name in fixed and getattr(options, name) != getattr(settings, name)
    ]
    if changed:
        raise UserError(
            f"'{path}' cannot go on with other options: {'; '.join(changed)}; leave them as they "
            "were, or start a new run"
        )
    before = {item["file"]: item["sha256"] for item in record.get("inputs", [])}
    now = {stack.source.name: stack.sha256 for stack in stacks}
    if before != now:
        other = sorted(n for n in before.keys() | now.keys() if before.get(n) != now.get(n))
        raise UserError(
            f"'{path}' was trained on other volumes: '{other[0]}' was added, removed or changed; "
            "give the same ones, or start a new run"
        )


def nearest_preset(settings: Settings) -> str:
    """Return the name of the preset from which the fewest options differ."""
    now = settings.as_dict()

    def distance(name: str) -> int:
        begun = Settings(**PRESETS[name]).as_dict()
        return sum(now[option] != begun[option] for option in begun)

    return min(PRESETS, key=distance)


class RunRecorder:
    """Writes a training's events to its run folder; call it with every event.

    Parameters
    ----------
    run : Path
        From `take_folder`.
    settings : Settings
        As the training starts; changes made while it runs are in ``history.csv``.
    stacks : sequence of Stack
        What it trains on.
    preset : str, optional
        Name of the preset the settings come from; the nearest one if not given.
    """

    def __init__(
        self,
        run: Path,
        settings: Settings,
        stacks: Sequence[Stack],
        *,
        preset: str | None = None,
    ) -> None:
        self.run, self.settings = run, settings
        self.preset = preset or nearest_preset(settings)
        prepared = [stack.prepared(settings) for stack in stacks]
        self.inputs = [
            describe_stack(stack) | describe_preparation(one)
            for stack, one in zip(stacks, prepared, strict=True)
        ]
        self.history: list[dict[str, Any]] = []
        self.voxel_size_um = None  # of the preview, which is as the network takes the volume
        if stacks[0].voxel_size_source != "assumed":
            pairs = zip(stacks[0].voxel_size_um, prepared[0].factors, strict=True)
            self.voxel_size_um = tuple(size * factor for size, factor in pairs)

    def __call__(self, event: Event) -> None:
        """Write what the event brings."""
        if isinstance(event, Started):
            self.history = [dict(row) for row in event.history]
            self._write_settings(event)
            self._write_history()
        elif isinstance(event, EpochEnd):
            self.history.append(dict(event.row))
            self._write_history()
            self._write_pictures(event)
            if event.validation_dice is not None:
                self._write_validation(event.epoch, event.validation_dice)

    def _write_settings(self, started: Started) -> None:
        record = {
            "options": self.settings.as_dict(),
            "preset": self.preset,
            "seed": self.settings.seed,
            "inputs": self.inputs,
            "patch_shape": list(started.patch_shape),
            "parameters": started.parameters,
            "device": started.device,
            "precision": started.precision,
            "versions": versions(),
            "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        }
        if is_run(self.run):  # when the run began stays known
            record["resumed"] = record["started"]
            record["started"] = read_record(self.run).get("started")
        self._write(SETTINGS, json.dumps(record, indent=2, ensure_ascii=False).encode())

    def _write_history(self) -> None:
        self._write(HISTORY, _as_csv(HISTORY_COLUMNS, self.history))

    def _write_validation(self, epoch: int, dice: float) -> None:
        before = [row for row in read_validation(self.run) if row[0] < epoch]
        rows = [{"epoch": at, "dice": score} for at, score in [*before, (epoch, dice)]]
        self._write(VALIDATION, _as_csv(("epoch", "dice"), rows))

    def _write_pictures(self, event: EpochEnd) -> None:
        size, epochs = self.voxel_size_um, self.settings.epochs
        png = overlay.progress_png(self.history, event.preview, voxel_size_um=size, epochs=epochs)
        self._write(PROGRESS, png)
        png = overlay.preview_png(event.preview, voxel_size_um=size, title=f"Epoch {event.epoch}")
        self._write(f"{PREVIEWS}/epoch-{event.epoch:04d}.png", png)

    def _write(self, name: str, content: bytes) -> None:
        path = self.run / name
        path.parent.mkdir(exist_ok=True)
        write_whole(path, lambda temporary: temporary.write_bytes(content))


def describe_stack(stack: Stack) -> dict[str, Any]:
    """Return what ``settings.json`` says about a volume as it was read, as JSON values."""
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


def describe_preparation(prepared: Prepared) -> dict[str, Any]:
    """Return what ``settings.json`` says about how a volume was prepared, as JSON values.

    ``cell_radius_um`` is None where none was needed or found.
    """
    return {
        "normalisation": vars(prepared.normalisation),
        "averaged_voxels": list(prepared.factors),
        "cell_radius_um": prepared.cell_radius_um,
    }


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    found = {"wnet_nb": wnet_nb.__version__, "python": platform.python_version()}
    return found | {name: version(name) for name in LIBRARIES}


def _as_csv(columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> bytes:
    buffer = StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue().encode()
