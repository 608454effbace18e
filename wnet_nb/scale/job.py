"""A run as its workers see it: all that they share stands in the folder of the result."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import zarr

from wnet_nb.checkpoint import Checkpoint
from wnet_nb.config import Settings
from wnet_nb.jobs.models import load_model
from wnet_nb.scale.layout import Layout
from wnet_nb.scale.sources import Source, open_source
from wnet_nb.scale.survey import Survey

WORK = ".work"  # in the result, until it is complete
JOB, SURVEY, WEIGHTS, OFFSETS = "job.json", "survey.json", "model.safetensors", "offsets.npy"


@dataclass(frozen=True)
class Job:
    """A run as every worker opens it from its folder."""

    folder: Path  # the result
    source: Source
    model: Checkpoint
    settings: Settings
    survey: Survey
    layout: Layout
    lock: threading.Lock  # a network serves one thread at a time

    @property
    def work(self) -> Path:
        """The folder of what is finished of an incomplete result."""
        return self.folder / WORK

    @cached_property
    def result(self) -> zarr.Group:
        """The result."""
        return zarr.open_group(self.folder, mode="r+")

    @cached_property
    def core(self) -> zarr.Array:
        """Probability of the core of cells, of a network that knows it."""
        return zarr.open_group(self.work / "core.zarr", mode="r+")["0"]

    @property
    def core_class(self) -> int | None:
        """The class that is the core, as `find_cells` takes it."""
        return None if self.model.model is None else self.settings.core_class

    def file(self, stage: str, number: int, ending: str) -> Path:
        """Return where a stage keeps what it made of a chunk."""
        return self.work / stage / f"{number}.{ending}"


@lru_cache(maxsize=2)
def open_job(folder: str) -> Job:
    """Open a run, once in each process."""
    work = Path(folder) / WORK
    facts = json.loads((work / JOB).read_text(encoding="utf-8"))
    found = Survey.from_dict(json.loads((work / SURVEY).read_text(encoding="utf-8")))
    settings = Settings(**facts["settings"])
    source = open_source(facts["path"], settings.replace(voxel_size_um=facts["voxel_size_um"]))
    weights = work / WEIGHTS
    model = load_model(weights if weights.exists() else "none")
    size, cell = np.array(source.voxel_size_um), found.cell
    prepared = found.prepared_radius_um and found.prepared_radius_um / size
    layout = Layout(source.shape, facts["chunk"], cell.radius_um / size, prepared, model.settings)
    return Job(Path(folder), source, model, settings, found, layout, threading.Lock())


def marker(work: Path, stage: str, number: int) -> Path:
    """Return the file that says that a stage is done with a chunk."""
    return work / stage / f"{number}.json"
