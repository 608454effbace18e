"""Boxes from all over a volume larger than memory, as the stacks that a training learns from."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from wnet_nb.config import Settings
from wnet_nb.data import Prepared
from wnet_nb.errors import UserError
from wnet_nb.files.volumes import Volume
from wnet_nb.jobs.check import check_volume
from wnet_nb.jobs.stacks import Memory, Stack, Stacks
from wnet_nb.scale.sources import Source, open_source
from wnet_nb.scale.survey import common_normalisation, sample_boxes, typical_cell

TRAINING_BOXES, TRAINING_EDGE = 16, 160  # of a sample to learn from; the edge in voxels


class SampleStack(Stack):
    """A box of a large volume, prepared with the cell size and the brightness of the sample."""

    def __init__(self, volume: Volume, siblings: list[SampleStack], **facts: Any) -> None:
        super().__init__(volume, **facts)
        self._siblings = siblings  # itself included
        self._ranges: dict[Any, Any] = {}

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the voxels of the box: the whole may be terabytes."""
        return hashlib.sha256(np.ascontiguousarray(self.array)).hexdigest()

    @cached_property
    def cell_size(self) -> Any:
        """Typical cell of all boxes; None if no cells stand out of the noise in any."""
        first = self._siblings[0]
        if self is not first:
            return first.cell_size
        return typical_cell([one.array for one in self._siblings], self.voxel_size_um)

    def prepared(self, settings: Settings, **facts: Any) -> Prepared:
        """Return the box as the network takes it, in the brightness range of all boxes."""
        key = (settings.cell_radius_um, settings.normalisation, settings.match_cell_size)
        key += (settings.subtract_background,)
        first = self._siblings[0]
        if key not in first._ranges:
            parts = [Stack.prepared(one, settings, **facts) for one in self._siblings]
            first._ranges[key] = common_normalisation(parts)
        return replace(super().prepared(settings, **facts), normalisation=first._ranges[key])


def sample_stacks(path: str | Path, settings: Settings) -> Stacks:
    """Return boxes from all over a volume as stacks; what is empty is left out.

    Parameters
    ----------
    path : str or Path
        A TIFF, a folder of slices, or an OME-Zarr; only the boxes are read.
    settings : Settings
        `channel`, `time`, `voxel_size_um`, and what `check_volume` looks at.

    Raises
    ------
    UserError
        As `sources.open_source`; not if no box can be used.
    """
    source = open_source(path, settings)
    memory, siblings, skipped = Memory(), [], []
    for box in sample_boxes(source, TRAINING_BOXES, TRAINING_EDGE):
        volume = _as_volume(source, box)
        try:
            findings = check_volume(volume, settings)
        except UserError as error:
            skipped.append((source.path, f"{volume.name}: {error}"))
            continue
        siblings.append(SampleStack(volume, siblings, findings=findings, memory=memory))
    return Stacks(source.path, tuple(siblings), tuple(skipped))


def _as_volume(source: Source, box: tuple[slice, ...]) -> Volume:
    place = "-".join(str(s.start) for s in box)
    named = source.path.with_name(f"{source.name} at {place}")
    size, known = source.voxel_size_um, source.voxel_size_source
    return Volume(source.read(box), size, known, named, source.remarks)
