"""Segment a volume larger than memory: chunk by chunk on a Dask cluster, to an OME-Zarr.

What is finished stands in files, so a run that was broken off goes on with the same call.
"""

from __future__ import annotations

import errno
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from dask.distributed import Client, KilledWorker, as_completed
from filelock import FileLock, Timeout

from wnet_nb.checkpoint import Checkpoint, save_weights
from wnet_nb.config import Settings
from wnet_nb.errors import UserError
from wnet_nb.jobs.models import load_model
from wnet_nb.jobs.segment import segment_settings
from wnet_nb.scale import ome_zarr
from wnet_nb.scale.cluster import CHUNKS, chunk_bytes, connect, count_of_workers, memory_of_workers
from wnet_nb.scale.job import JOB, OFFSETS, SURVEY, WEIGHTS, WORK, marker
from wnet_nb.scale.layout import Layout
from wnet_nb.scale.result import LargeResult, finish
from wnet_nb.scale.sources import Source, open_source
from wnet_nb.scale.stages import run_stage
from wnet_nb.scale.survey import Survey, survey
from wnet_nb.whole_file import write_json, write_whole

SLICE = 1000  # chunks that are given to the scheduler at a time
WORDS = {
    "maps": "class maps",
    "grounds": "backgrounds",
    "cells": "cells",
    "labels": "labels",
    "table": "measurements",
}


@dataclass(frozen=True)
class ChunkProgress:
    """Where a large segmentation stands."""

    stage: str  # what is being made, in words
    done: int  # chunks of this stage
    total: int
    note: str = ""  # what there is to say before the first chunk: cluster, cells, time and disk


def segment_large(
    model: str | Path | Checkpoint,
    path: str | Path,
    out: str | Path,
    *,
    scheduler: str | None = None,
    workers: int | None = None,
    chunk: int | None = None,
    observe: Callable[[ChunkProgress], bool | None] | None = None,
    **changes: Any,
) -> LargeResult:
    """Segment a volume of any size.

    Parameters
    ----------
    model : str, Path or Checkpoint
        A run folder, a weights file, or ``starter``, ``published`` or ``none``; or one loaded.
    path : str or Path
        A TIFF, a folder of slices, or an OME-Zarr 0.4 or 0.5.
    out : str or Path
        A new folder ``NAME.zarr``, or one that an earlier call with the same arguments left
        incomplete: then only what is missing is computed.
    scheduler : str, optional
        Address of a Dask scheduler, whose workers see `path` and `out` under the same names; else
        a cluster is made on this machine.
    workers : int, optional
        Processes of that cluster; as many as the machine has room for if not given.
    chunk : int, optional
        Edge of a chunk in voxels, a multiple of 8; chosen by the workers' memory if not given.
    observe : callable, optional
        Called with every `ChunkProgress`; ends the work by returning True.
    **changes
        Options of the segmentation, such as ``cell_radius_um=4``.

    Raises
    ------
    UserError
        If input or options do not fit, `out` is somebody else's, or the disk is full.
    """
    loaded = load_model(model)
    settings = segment_settings(loaded, changes)
    source = open_source(path, _reading(loaded, settings, changes))
    folder = Path(out)
    began = time.perf_counter()
    tell = _teller(observe)
    with _full_disk_is_a_sentence(folder), _taken(folder):
        _begin(folder, source, loaded, settings, chunk)
        with connect(scheduler, workers) as client:
            tell(
                "cluster",
                0,
                0,
                f"dashboard of the {count_of_workers(client)} workers: {client.dashboard_link}",
            )
            found = _survey_once(folder, source, loaded, settings)
            layout = _lay_out(folder, source, loaded, found, client)
            tell("sample", 0, 0, _estimate(layout, found, folder, count_of_workers(client)))
            facts = _work_through(folder, layout, source, client, tell)
        finish(folder, source, loaded, settings, found, facts, time.perf_counter() - began)
    return LargeResult(folder)


def _teller(observe: Callable[[ChunkProgress], bool | None] | None) -> Callable[..., None]:
    def tell(*values: Any) -> None:
        if observe is not None and observe(ChunkProgress(*values)):
            raise UserError("stopped; the same call goes on with what is missing")

    return tell


def _reading(model: Checkpoint, settings: Settings, changes: Mapping[str, Any]) -> Settings:
    """Return the settings to read with: a voxel size given now, never that of the training."""
    return settings.replace(voxel_size_um=changes.get("voxel_size_um"))


@contextmanager
def _full_disk_is_a_sentence(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, getattr(errno, "EDQUOT", None)):
            raise
        raise UserError(
            f"the disk of '{folder}' is full; free some room and give the same command again: "
            "finished chunks are kept"
        ) from error
    except KilledWorker as error:
        raise UserError(
            "a chunk ended its worker several times, as a rule for want of memory; give the "
            "workers more, or start anew with smaller chunks (--chunk 128)"
        ) from error


@contextmanager
def _taken(folder: Path) -> Iterator[None]:
    """Keep others from working on a result; take the lock's file away with the work folder."""
    if folder.suffix != ".zarr":
        raise UserError(f"the result '{folder}' must be called NAME.zarr")
    work = folder / WORK
    if folder.exists() and not work.exists():
        raise UserError(f"'{folder}' exists and is never overwritten; choose another name")
    work.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(work / "lock", timeout=0):
            yield
    except Timeout:
        raise UserError(f"somebody else is working on '{folder}'; wait for its end") from None


def _begin(
    folder: Path, source: Source, model: Checkpoint, settings: Settings, chunk: int | None
) -> None:
    """Write down what is to be done, or make sure that it is what was begun."""
    work = folder / WORK
    weights = None
    if model.model is not None:
        if not (work / WEIGHTS).exists():
            save_weights(work / WEIGHTS, model.model, model.settings, model.history)
        weights = str(model.source)
    facts = {
        "path": str(source.path.resolve()),
        "shape": list(source.shape),
        "dtype": source.dtype.name,
        "voxel_size_um": list(source.voxel_size_um),
        "model": weights or "none",
        "settings": settings.as_dict(),
    }
    if not (work / JOB).exists():
        write_json(work / JOB, facts | {"chunk": chunk})
        return
    before = json.loads((work / JOB).read_text(encoding="utf-8"))
    changed = [name for name, value in facts.items() if before.get(name) != value]
    if chunk is not None and before["chunk"] not in (None, chunk):
        changed.append("chunk")
    if changed:
        raise UserError(
            f"'{folder}' was begun with another {' and '.join(changed)}; give the same again to "
            "go on with it, or another name for a new result"
        )


def _survey_once(folder: Path, source: Source, model: Checkpoint, settings: Settings) -> Survey:
    file = folder / WORK / SURVEY
    if not file.exists():
        write_json(file, survey(source, model, settings).as_dict())
    return Survey.from_dict(json.loads(file.read_text(encoding="utf-8")))


def _lay_out(
    folder: Path, source: Source, model: Checkpoint, found: Survey, client: Client
) -> Layout:
    """Settle the chunks, and make the arrays of the result."""
    work = folder / WORK
    facts = json.loads((work / JOB).read_text(encoding="utf-8"))
    size = np.array(source.voxel_size_um)
    prepared = found.prepared_radius_um and found.prepared_radius_um / size

    def lay_out(chunk: int) -> Layout:
        return Layout(source.shape, chunk, found.cell.radius_um / size, prepared, model.settings)

    if facts["chunk"] is None:
        memory = memory_of_workers(client)
        fitting = [c for c in CHUNKS if chunk_bytes(lay_out(c)) < memory]
        facts["chunk"] = (fitting or CHUNKS[-1:])[0]
        write_json(work / JOB, facts)
    layout = lay_out(facts["chunk"])
    ome_zarr.create(
        folder,
        source.shape,
        voxel_size_um=source.voxel_size_um,
        chunk=layout.chunk,
        name=source.name,
    )
    scratch = zarr.open_group(work / "core.zarr", mode="a", zarr_format=2)
    ome_zarr.add_array(scratch, "0", source.shape, np.dtype("uint8"), layout.chunk)
    return layout


def _estimate(layout: Layout, found: Survey, folder: Path, workers: int) -> str:
    """Say what the whole will take, as far as the sample tells."""
    voxels = float(np.prod([float(n) for n in layout.shape]))
    hours = found.seconds_per_voxel * voxels / workers / 3600
    room, free = found.bytes_per_voxel * voxels / 1e9, shutil.disk_usage(folder).free / 1e9
    words = (
        f"{len(layout.chunks)} chunks of {layout.chunk} voxels; typical radius "
        f"{found.cell.radius_um:.3g} µm ({found.cell.reason}); about {_duration(hours)} and "
        f"{room:.2g} GB on the disk, twice that while it works, and less where the volume is empty"
    )
    if 2 * room > free:
        words += f"; only {free:.2g} GB are free"
    return words


def _duration(hours: float) -> str:
    return f"{hours:.1f} hours" if hours >= 1 else f"{max(hours * 60, 1):.0f} minutes"


def _work_through(
    folder: Path, layout: Layout, source: Source, client: Client, tell: Callable[..., None]
) -> dict[str, Any]:
    """Do all stages, one after the other, and return what they counted."""
    total, facts = len(layout.chunks), {}
    maps = _do_stage(folder, "maps", total, client, tell)
    facts["empty_chunks"] = sum(one["empty"] for one in maps)
    _do_stage(folder, "grounds", total, client, tell)
    cells = _do_stage(folder, "cells", total, client, tell)
    facts["cut_by_halo"] = sum(one["cut"] for one in cells)
    offsets = np.cumsum([0, *(one["count"] for one in cells)])
    if offsets[-1] >= 2**32:
        raise UserError(f"{offsets[-1]} cells are more than 32 bits can number")
    write_whole(folder / WORK / OFFSETS, lambda part: _save_npy(part, offsets.astype(np.uint32)))
    _do_stage(folder, "labels", total, client, tell)
    table = _do_stage(folder, "table", total, client, tell)
    facts["count"] = sum(one["cells"] for one in table)
    facts["cut_by_edge"] = sum(one.get("cut_by_edge", 0) for one in table)
    for level, factors in enumerate(ome_zarr.pyramid(source.shape, source.voxel_size_um)):
        if level:
            shape = [-(-n // f) for n, f in zip(source.shape, factors, strict=True)]
            boxes = len(ome_zarr.level_boxes(shape, layout.chunk))
            _do_stage(folder, f"level-{level}", boxes, client, tell)
    return facts


def _save_npy(part: Path, array: np.ndarray) -> None:
    with part.open("wb") as file:
        np.save(file, array)


def _do_stage(
    folder: Path, stage: str, total: int, client: Client, tell: Callable[..., None]
) -> list[dict[str, Any]]:
    """Do a stage of all chunks and return what each found, in their order."""
    work, words = folder / WORK, WORDS.get(stage, f"pyramid {stage.partition('-')[2]}")
    (work / stage).mkdir(exist_ok=True)
    found: dict[int, dict[str, Any]] = {}
    missing = []
    for number in range(total):
        done = marker(work, stage, number)
        if done.exists():
            found[number] = json.loads(done.read_text(encoding="utf-8"))
        else:
            missing.append(number)
    tell(words, len(found), total)
    for first in range(0, len(missing), SLICE):
        futures = {
            client.submit(run_stage, str(folder.resolve()), stage, number, pure=False): number
            for number in missing[first : first + SLICE]
        }
        try:
            for future in as_completed(futures):
                found[futures[future]] = future.result()
                tell(words, len(found), total)
        finally:
            client.cancel(list(futures))
    return [found[number] for number in range(total)]
