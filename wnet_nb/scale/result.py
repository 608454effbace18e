"""What a large segmentation leaves: an OME-Zarr, a table of cells, and facts."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow.csv
import pyarrow.parquet as pq
import zarr

from wnet_nb.checkpoint import Checkpoint
from wnet_nb.config import Settings, names_with
from wnet_nb.jobs.run_folder import versions
from wnet_nb.scale import ome_zarr
from wnet_nb.scale.job import JOB, WEIGHTS, WORK, open_job
from wnet_nb.scale.sources import Source
from wnet_nb.scale.survey import Survey
from wnet_nb.whole_file import sha256, write_json, write_whole

TABLE, SPREADSHEET, FACTS = "cells.parquet", "cells.csv", "result.json"
SPREADSHEET_ROWS = 1_000_000  # about what a spreadsheet program opens


@dataclass(frozen=True)
class LargeResult:
    """A finished OME-Zarr: foreground in ``0`` to ``n``, cells in ``labels/cells``, a table."""

    folder: Path

    @cached_property
    def facts(self) -> dict[str, Any]:
        """The content of result.json: count, cell radius, settings, times."""
        return json.loads((self.folder / FACTS).read_text(encoding="utf-8"))

    @property
    def table(self) -> Path:
        """The measurements of all cells, as Parquet; up to a million also as cells.csv."""
        return self.folder / TABLE

    def labels(self, level: int = 0) -> Any:
        """Return the cells as a Zarr array (Z, Y, X) uint32, of which parts can be read."""
        return zarr.open_group(self.folder, mode="r")[f"{ome_zarr.CELLS}/{level}"]

    def foreground(self, level: int = 0) -> Any:
        """Return the foreground as a Zarr array (Z, Y, X) uint8: 255 is the probability 1."""
        return zarr.open_group(self.folder, mode="r")[str(level)]


def finish(
    folder: Path,
    source: Source,
    model: Checkpoint,
    settings: Settings,
    found: Survey,
    facts: dict[str, Any],
    seconds: float,
) -> None:
    """Write table and facts, and take the work folder away."""
    work = folder / WORK
    _join_tables(work / "table", folder, facts["count"])
    job = json.loads((work / JOB).read_text(encoding="utf-8"))
    write_json(
        folder / FACTS,
        {
            "name": source.name,
            "made": datetime.now().astimezone().isoformat(timespec="seconds"),
            **{name: job[name] for name in ("path", "shape", "dtype", "voxel_size_um", "chunk")},
            "model": str(model.source),
            "weights_sha256": sha256(work / WEIGHTS) if (work / WEIGHTS).exists() else None,
            **facts,
            "cell_radius_um": found.cell.radius_um,
            "survey": found.as_dict(),
            "settings": {name: settings.as_dict()[name] for name in names_with("segmenting")},
            "remarks": list(source.remarks),
            "seconds_of_last_call": round(seconds, 1),
            "versions": versions(),
        },
    )
    open_job.cache_clear()
    shutil.rmtree(work)


def _join_tables(parts: Path, folder: Path, count: int) -> None:
    """Join what the chunks measured, by chunk; also as CSV where that can still be opened."""
    files = sorted(parts.glob("*.parquet"), key=lambda file: int(file.stem))
    if not files:
        return

    def join(part: Path) -> None:
        with pq.ParquetWriter(part, pq.read_schema(files[0])) as writer:
            for file in files:
                writer.write_table(pq.read_table(file))

    write_whole(folder / TABLE, join)
    if count <= SPREADSHEET_ROWS:
        table = pq.read_table(folder / TABLE)
        write_whole(folder / SPREADSHEET, lambda part: pyarrow.csv.write_csv(table, part))
