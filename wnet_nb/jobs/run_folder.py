"""The run folder: everything a training leaves behind, written while it goes on.

Each file is replaced as a whole, so a lost browser, a crash or a full disk leaves the last good
one. Full states and weights are written by `training.fit`; the rest by `RunRecorder`.
"""

from __future__ import annotations

import csv
import hashlib
import json
import platform
from collections.abc import Sequence
from datetime import datetime
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

import wnet_nb
from wnet_nb.config import OPTIONS, Settings, from_mapping
from wnet_nb.data import Prepared
from wnet_nb.errors import UserError
from wnet_nb.events import EpochEnd, Event, Started
from wnet_nb.figures import plots
from wnet_nb.files.run_files import (
    HISTORY,
    HISTORY_COLUMNS,
    PREVIEWS,
    PROGRESS,
    SETTINGS,
    VALIDATION,
    read_record,
    read_validation,
)
from wnet_nb.files.volumes import Volume, find_volumes
from wnet_nb.whole_file import sha256, write_whole

LIBRARIES = ("torch", "numpy", "scipy", "scikit-image", "tifffile", "safetensors")


def new_run(path: str | Path) -> Path:
    """Make a run folder, or take an empty one; see `check_free` for what is refused."""
    check_free(path)
    Path(path).mkdir(parents=True, exist_ok=True)
    return Path(path)


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
    if path.exists() and any(path.iterdir()):
        advice = "go on with it (--resume)" if (path / SETTINGS).exists() else "empty it yourself"
        raise UserError(
            f"'{path}' is not empty and a run is never overwritten; choose another folder, or "
            f"{advice}"
        )


def open_run(path: str | Path, settings: Settings, volumes: Sequence[Volume]) -> Path:
    """Open a run folder to go on with it, or make it if there is nothing yet.

    Raises
    ------
    UserError
        If the folder holds something else, or the run was made with other options or volumes.
        More epochs than before are welcome; options that do not touch the training may differ.
    """
    path = Path(path)
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return new_run(path)
    record = read_record(path)
    options = from_mapping(record["options"])
    free = {"epochs", "validation_interval"}
    changed = [
        f"{name} was {getattr(options, name)} and is now {getattr(settings, name)}"
        for name, option in OPTIONS.items()
        if option.group != "cells"
        and name not in free
        and getattr(options, name) != getattr(settings, name)
    ]
    if changed:
        raise UserError(
            f"'{path}' cannot go on with other options: {'; '.join(changed)}; leave them as they "
            "were, or start a new run"
        )
    before = {item["file"]: item["sha256"] for item in record.get("inputs", [])}
    now = {volume.source.name: hash_source(volume) for volume in volumes}
    if before != now:
        other = sorted(n for n in before.keys() | now.keys() if before.get(n) != now.get(n))
        raise UserError(
            f"'{path}' was trained on other volumes: '{other[0]}' was added, removed or changed; "
            "give the same ones, or start a new run"
        )
    return path


def hash_source(volume: Volume) -> str:
    """Return the SHA-256 of a volume's file, of its slices, or of its array if it has no file."""
    if volume.source.is_file():
        return sha256(volume.source)
    digest = hashlib.sha256()
    if volume.source.is_dir():
        for path in find_volumes(volume.source):
            digest.update(f"{path.name} {sha256(path)}\n".encode())
    else:
        for plane in volume.array:
            digest.update(np.ascontiguousarray(plane))
    return digest.hexdigest()


class RunRecorder:
    """Writes a training's events to its run folder; call it with every event.

    Parameters
    ----------
    run : Path
        From `new_run` or `open_run`.
    settings : Settings
        As the training starts; changes made while it runs are in ``history.csv``.
    volumes : sequence of Volume
        What it trains on.
    prepared : sequence of Prepared
        The same as the network takes them.
    preset : str, optional
        Name of the preset the settings come from.
    """

    def __init__(
        self,
        run: Path,
        settings: Settings,
        volumes: Sequence[Volume],
        prepared: Sequence[Prepared],
        *,
        preset: str | None = None,
    ) -> None:
        self.run, self.settings, self.preset = run, settings, preset
        self.inputs = [
            describe_volume(v) | describe_preparation(p, settings)
            for v, p in zip(volumes, prepared, strict=True)
        ]
        self.history: list[dict[str, Any]] = []
        self.voxel_size_um = None  # of the preview, which is as the network takes the volume
        if volumes[0].voxel_size_source != "assumed":
            pairs = zip(volumes[0].voxel_size_um, prepared[0].factors, strict=True)
            self.voxel_size_um = tuple(size * factor for size, factor in pairs)
        self.written: set[Path] = set()

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
        if (self.run / SETTINGS).exists():  # when the run began stays known
            record["resumed"], record["started"] = (
                record["started"],
                read_record(self.run).get("started"),
            )
        self._write(SETTINGS, json.dumps(record, indent=2, ensure_ascii=False).encode())

    def _write_history(self) -> None:
        self._write(HISTORY, _as_csv(HISTORY_COLUMNS, self.history))

    def _write_validation(self, epoch: int, dice: float) -> None:
        before = [row for row in read_validation(self.run) if row[0] < epoch]
        rows = [{"epoch": at, "dice": score} for at, score in [*before, (epoch, dice)]]
        self._write(VALIDATION, _as_csv(("epoch", "dice"), rows))

    def _write_pictures(self, event: EpochEnd) -> None:
        figure = plots.plot_progress(
            self.history,
            event.preview,
            voxel_size_um=self.voxel_size_um,
            epochs=self.settings.epochs,
        )
        self._write(PROGRESS, plots.figure_png(figure))
        figure = plots.plot_preview(
            event.preview, voxel_size_um=self.voxel_size_um, title=f"Epoch {event.epoch}"
        )
        self._write(f"{PREVIEWS}/epoch-{event.epoch:04d}.png", plots.figure_png(figure))

    def _write(self, name: str, content: bytes) -> None:
        path = self.run / name
        path.parent.mkdir(exist_ok=True)
        write_whole(path, lambda temporary: temporary.write_bytes(content))
        self.written.add(path)


def describe_volume(volume: Volume) -> dict[str, Any]:
    """Return what ``settings.json`` says about a volume as it was read, as JSON values."""
    return {
        "name": volume.name,
        "file": volume.source.name,
        "path": str(volume.source),
        "sha256": hash_source(volume),
        "shape": list(volume.shape),
        "dtype": volume.array.dtype.name,
        "voxel_size_um": list(volume.voxel_size_um),
        "voxel_size_source": volume.voxel_size_source,
    }


def describe_preparation(prepared: Prepared, settings: Settings) -> dict[str, Any]:
    """Return what ``settings.json`` says about how a volume was prepared, as JSON values.

    ``cell_radius_um`` is None where none was needed or found.
    """
    return {
        "normalisation": prepared.normalisation.as_dict(),
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
