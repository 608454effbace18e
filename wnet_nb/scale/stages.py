"""What is done with one chunk, in six stages, each of which leaves files of its own behind.

A chunk reads what it needs of its neighbours from the disk, and no worker holds anything that is
not there: a task can be repeated, anywhere and at any time, and gives the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zarr
from scipy import ndimage

from wnet_nb.cells.evidence import find_evidence
from wnet_nb.cells.measure import measure_cells
from wnet_nb.cells.outlines import label_cells
from wnet_nb.cells.regions import Box
from wnet_nb.cells.seeds import SEED_SIGMA, find_background
from wnet_nb.data import Prepared, clean
from wnet_nb.device import choose_device
from wnet_nb.grid import block_means, difference_of_gaussians, enlarge
from wnet_nb.jobs.models import predict_classes
from wnet_nb.scale.job import OFFSETS, Job, marker, open_job
from wnet_nb.scale.layout import BACKGROUND_REACH, Layout, shared, union, within
from wnet_nb.scale.ome_zarr import CELLS, make_level
from wnet_nb.whole_file import write_whole

EMPTY_SHARE = 0.5  # of what a seed must exceed: no spot this strong, no cells
CERTAIN = 255  # in which probabilities are kept


def run_stage(folder: str, stage: str, number: int) -> dict[str, Any]:
    """Do a stage of a chunk unless it is done, and return what is to be known of it."""
    job = open_job(folder)
    done = marker(job.work, stage, number)
    if done.exists():
        return json.loads(done.read_text(encoding="utf-8"))
    name, _, level = stage.partition("-")
    done.parent.mkdir(exist_ok=True)
    found = STAGES[name](job, number, *([int(level)] if level else [])) or {}
    write_whole(done, lambda part: part.write_text(json.dumps(found), encoding="utf-8"))
    return found


def find_maps(job: Job, number: int) -> dict[str, Any]:
    """Write foreground and core of a chunk, and the means that its background is found from."""
    layout, chunk = job.layout, job.layout.chunks[number]
    blocks = layout.blocks_of(number)
    wide, around = layout.voxels_of(blocks), layout.with_halo(number)
    cleaning = layout.cleaning_box(number)
    box = union(layout.in_voxels(cleaning), around, chunk, wide)
    image = job.source.read(box)
    picture = _coarse(job, image[within(wide, box)], wide)
    empty = _is_empty(job, image[within(around, box)])
    inside = np.zeros_like(picture)
    if not empty:
        needed = union(chunk, wide)
        part = image[within(layout.in_voxels(cleaning), box)]
        del image
        foreground, core = _class_maps(job, part, number, needed)
        inside = _coarse(job, foreground[within(wide, needed)], wide)
        here = within(chunk, needed)
        job.result["0"][chunk] = _packed(foreground[here])
        if core is not None:
            job.core[chunk] = _packed(core[here])
    _save(job.file("maps", number, "npz"), picture=picture, inside=inside)
    return {"empty": bool(empty)}


def _coarse(job: Job, array: np.ndarray, place: Box) -> np.ndarray:
    """Return the means over the grid of the background, in two steps as `Ground` takes them."""
    layout = job.layout
    starts = [s.start for s in place]
    if 0 in array.shape:
        return np.zeros([0 if s.start == s.stop else 1 for s in place], np.float32)
    fine = block_means(array, layout.fine, start=starts)
    return block_means(fine, layout.step / layout.fine, start=layout.fine_start(starts))


def _is_empty(job: Job, image: np.ndarray) -> bool:
    """Return whether no spot of cell size is nearly as strong as a seed must be."""
    layout = job.layout
    means = block_means(image, layout.fine)
    blob = difference_of_gaussians(means, SEED_SIGMA * layout.radii / layout.fine)
    return float(blob.max()) < EMPTY_SHARE * job.survey.floor


def _class_maps(
    job: Job, image: np.ndarray, number: int, needed: Box
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return foreground and core in the box `needed`, from the image of the cleaning box."""
    layout, survey = job.layout, job.survey
    cleaning, network = layout.cleaning_box(number), layout.network_box(number)
    voxels = layout.in_voxels(network)
    if layout.cleaned:
        start = [s.start for s in cleaning]
        image = clean(image, job.model.settings, layout.prepared_radii, start=start)
    array = image[within(network, cleaning)]
    shape = tuple(s.stop - s.start for s in voxels)
    prepared = Prepared(array, survey.normalisation, layout.factors, shape)
    whole = survey.of_whole(choose_device())
    with job.lock:
        maps = predict_classes(prepared, job.model, job.settings, of_whole=whole)
    maps = maps[(slice(None), *within(needed, voxels))]
    foreground = np.zeros(maps.shape[1:], np.float32)
    for k in survey.classes:
        foreground += maps[k]
    return foreground, None if job.core_class is None else maps[job.core_class]


def _packed(probabilities: np.ndarray) -> np.ndarray:
    return np.round(probabilities * CERTAIN).astype(np.uint8)


def _unpacked(array: zarr.Array, box: Box) -> np.ndarray:
    return array[box].astype(np.float32) / np.float32(CERTAIN)


def find_grounds(job: Job, number: int) -> None:
    """Write the background of a chunk, on its grid, from the means around it."""
    layout = job.layout
    blocks = layout.blocks_of(number)
    around = layout.blocks_around(layout.chunks[number], BACKGROUND_REACH)
    picture = _gather(job, "maps", around, "picture")
    inside = _gather(job, "maps", around, "inside")
    background = picture
    if inside.any() and picture.size:
        background = find_background(picture, inside, layout.radii / layout.step)
    _save(job.file("grounds", number, "npz"), background=background[within(blocks, around)])


def _gather(job: Job, stage: str, blocks: Box, name: str) -> np.ndarray:
    """Return some blocks of the background's grid from what chunks wrote of it."""
    layout = job.layout
    found = np.zeros([s.stop - s.start for s in blocks], np.float32)
    for number in layout.touching(layout.voxels_of(blocks)):
        own = layout.blocks_of(number)
        common = shared(own, blocks)
        if common is not None:
            with np.load(job.file(stage, number, "npz")) as file:
                found[within(common, blocks)] = file[name][within(common, own)]
    return found


class _Ground:
    """The background of a box, and what a seed must exceed: `seeds.Ground` of a part."""

    def __init__(self, job: Job, box: Box) -> None:
        layout = job.layout
        blocks = layout.blocks_around(box, 0)
        self.background, self.step = _gather(job, "grounds", blocks, "background"), layout.step
        self.floor = job.survey.floor
        first = [b.start * step for b, step in zip(blocks, self.step, strict=True)]
        self._corner = np.array([s.start for s in box]) - first

    def above(self, image: np.ndarray, region: Box) -> np.ndarray:
        """Return a region of the box's image minus its background, float32."""
        part = np.array(image[region], np.float32)
        start = self._corner + [s.start for s in region]
        part -= enlarge(self.background, part.shape, self.step, start=start)
        return part


def find_cells(job: Job, number: int) -> dict[str, Any]:
    """Write the cells whose seed lies in a chunk, numbered from 1, with what lies beyond it."""
    layout, radii = job.layout, job.layout.radii
    chunk, box = layout.chunks[number], layout.with_halo(number)
    labels, cut = np.zeros([s.stop - s.start for s in box], np.int32), 0
    if not run_stage(str(job.folder), "maps", number)["empty"]:
        image, ground = job.source.read(box), _Ground(job, box)
        foreground = _unpacked(job.result["0"], box)
        core = None if job.core_class is None else _unpacked(job.core, box)
        evidence = find_evidence(image, foreground, core, radii, ground)
        region = evidence.find(within(chunk, box))
        region.leave_out_dim(job.settings.minimum_contrast)
        cells = np.where(evidence.inside(region, job.survey.boundary), region.basins, 0)
        smallest = job.settings.minimum_size * 4 / 3 * np.pi * np.prod(radii)
        label_cells(cells, region, radii, smallest, labels, 0)
        cut = _cut_by_halo(labels, box, layout)
    here = within(chunk, box)
    own = labels[here].astype(np.min_scalar_type(int(labels.max())))
    labels[here] = 0
    outside = np.argwhere(labels).astype(np.int32)
    _save(
        job.file("cells", number, "npz"),
        own=own,
        places=outside + np.array([s.start for s in box], np.int32),
        numbers=labels[tuple(outside.T)],
    )
    return {"count": int(max(own.max(initial=0), labels.max(initial=0))), "cut": cut}


def _cut_by_halo(labels: np.ndarray, box: Box, layout: Layout) -> int:
    """Return how many cells reach the end of what a chunk sees, and may go on beyond it."""
    cut: set[int] = set()
    for axis, (s, n) in enumerate(zip(box, layout.shape, strict=True)):
        faces = ([0] if s.start > 0 else []) + ([-1] if s.stop < n else [])
        cut.update(*(np.unique(labels.take(face, axis)).tolist() for face in faces))
    return len(cut - {0})


def write_labels(job: Job, number: int) -> None:
    """Write the labels of a chunk: where cells of several chunks meet, the last one's.

    That is what `segment_instances` does with its blocks, so the result is the same.
    """
    layout, chunk = job.layout, job.layout.chunks[number]
    offsets = np.load(job.work / OFFSETS)
    labels = np.zeros([s.stop - s.start for s in chunk], np.uint32)
    start = np.array([s.start for s in chunk])
    for other in layout.touching(layout.with_halo(number)):
        with np.load(job.file("cells", other, "npz")) as file:
            if other == number:
                own = file["own"]
                labels[own > 0] = own[own > 0] + offsets[number]
                continue
            places, numbers = file["places"] - start, file["numbers"]
        inside = ((places >= 0) & (places < labels.shape)).all(1)
        labels[tuple(places[inside].T)] = numbers[inside] + offsets[other]
    if labels.any():
        job.result[f"{CELLS}/0"][chunk] = labels


def measure(job: Job, number: int) -> dict[str, Any]:
    """Write the rows of the cells whose seed lies in a chunk."""
    first, last = np.load(job.work / OFFSETS)[number : number + 2]
    if first == last:
        return {"cells": 0}
    layout = job.layout
    box = layout.with_halo(number)
    labels = job.result[f"{CELLS}/0"][box].astype(np.int64)
    own = (labels > first) & (labels <= last)
    # Cells of others only keep their surroundings from being taken for background.
    local = np.where(own, labels - first, np.where(labels > 0, last - first + 1, 0))
    local = local.astype(np.int32)
    columns = measure_cells(local, job.source.read(box), voxel_size_um=job.source.voxel_size_um)
    kept = columns["label"] <= last - first
    columns = {name: values[kept] for name, values in columns.items()}
    columns["touches_border"] = _touching(local, columns["label"], box, layout)
    columns["label"] += first
    for axis, s, size in zip("zyx", box, job.source.voxel_size_um, strict=True):
        columns[f"centroid_{axis}_voxels"] += s.start
        columns[f"centroid_{axis}_um"] += s.start * size
    file = job.file("table", number, "parquet")
    write_whole(file, lambda part: pq.write_table(pa.table(columns), part))
    cut = int(columns["touches_border"].sum())
    return {"cells": int(kept.sum()), "cut_by_edge": cut}


def _touching(local: np.ndarray, numbers: np.ndarray, box: Box, layout: Layout) -> np.ndarray:
    """Return for each cell whether it touches the border of the volume, 0 or 1."""
    places = ndimage.find_objects(local)
    return np.array(
        [
            any(
                s.start + b.start == 0 or s.stop + b.start == n
                for s, b, n in zip(places[number - 1], box, layout.shape, strict=True)
            )
            for number in numbers
        ],
        np.int64,
    )


def coarsen(job: Job, number: int, level: int) -> None:
    """Write one box of a level of both pyramids."""
    make_level(job.result, level, number, job.layout.chunk)


def _save(file: Path, **arrays: np.ndarray) -> None:
    def write(part: Path) -> None:
        with part.open("wb") as opened:
            np.savez_compressed(opened, **arrays)

    write_whole(file, write)


STAGES: dict[str, Callable[..., dict[str, Any] | None]] = {
    "maps": find_maps,
    "grounds": find_grounds,
    "cells": find_cells,
    "labels": write_labels,
    "table": measure,
    "level": coarsen,
}
