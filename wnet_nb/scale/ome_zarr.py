"""The result as an OME-Zarr 0.4: foreground and cells as pyramids with their voxel size.

Version 0.4 (Zarr 2, one file per block of voxels), as every viewer reads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numcodecs import Blosc

from wnet_nb.cells.regions import Box
from wnet_nb.grid import block_means
from wnet_nb.scale.layout import regular_boxes, zarr_edge

VERSION = "0.4"
CELLS = "labels/cells"
COARSEST = 256  # voxels: a level this small is the last one
LIKE = 1.5  # an axis is halved while its voxels are at most so much longer than the shortest


def pyramid(shape: Sequence[int], voxel_size_um: Sequence[float]) -> list[tuple[int, int, int]]:
    """Return for each level how many voxels (z, y, x) of the volume are one; the first are 1.

    Voxels become cubes before they become larger, as in most viewers' own pyramids.
    """
    levels = [(1, 1, 1)]
    while max(-(-n // f) for n, f in zip(shape, levels[-1], strict=True)) > COARSEST:
        size = np.multiply(voxel_size_um, levels[-1])
        grow = size <= LIKE * size.min()
        levels.append(tuple(np.where(grow, 2, 1) * levels[-1]))
    return [tuple(int(f) for f in level) for level in levels]


def create(
    path: Path,
    shape: Sequence[int],
    *,
    voxel_size_um: Sequence[float],
    chunk: int,
    name: str,
) -> None:
    """Make the empty arrays of a result with all that viewers must know of them."""
    root = zarr.open_group(path, mode="a", zarr_format=2)
    levels = pyramid(shape, voxel_size_um)
    _add_image(root, np.dtype("uint8"), shape, levels, chunk)
    window = {"start": 0, "end": 255, "min": 0, "max": 255}
    channel = {"label": "foreground", "color": "FFFFFF", "active": True, "window": window}
    root.attrs["multiscales"] = [_multiscale(name, levels, voxel_size_um, "local mean")]
    root.attrs["omero"] = {"version": VERSION, "channels": [channel]}
    labels = root.require_group("labels")
    labels.attrs["labels"] = ["cells"]
    cells = root.require_group(CELLS)
    _add_image(cells, np.dtype("uint32"), shape, levels, chunk)
    cells.attrs["multiscales"] = [_multiscale("cells", levels, voxel_size_um, "nearest")]
    cells.attrs["image-label"] = {"version": VERSION, "source": {"image": "../../"}}


def _add_image(
    group: zarr.Group,
    dtype: np.dtype,
    shape: Sequence[int],
    levels: Sequence[Sequence[int]],
    chunk: int,
) -> None:
    for number, factors in enumerate(levels):
        size = tuple(-(-n // f) for n, f in zip(shape, factors, strict=True))
        add_array(group, str(number), size, dtype, chunk)


def add_array(
    group: zarr.Group, name: str, shape: Sequence[int], dtype: np.dtype, chunk: int
) -> None:
    """Make an array of zeros, of which only blocks that hold something take room on the disk."""
    if name in group:  # of a run that was broken off
        return
    group.create_array(
        name,
        shape=tuple(shape),
        chunks=tuple(min(zarr_edge(chunk), n) for n in shape),
        dtype=dtype,
        fill_value=0,
        compressors=Blosc(cname="zstd", clevel=3, shuffle=Blosc.BITSHUFFLE),
        chunk_key_encoding={"name": "v2", "separator": "/"},
    )


def _multiscale(
    name: str, levels: Sequence[Sequence[int]], voxel_size_um: Sequence[float], method: str
) -> dict[str, Any]:
    """Return the entry of `multiscales`: axes in µm, and where each level's voxels lie."""
    axes = [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "zyx"]
    datasets = []
    for number, factors in enumerate(levels):
        scale = [float(size * f) for size, f in zip(voxel_size_um, factors, strict=True)]
        moves = [{"type": "scale", "scale": scale}]
        if method == "local mean":  # the middle of a mean is not that of its first voxel
            shift = [float(s * (f - 1) / 2) for s, f in zip(voxel_size_um, factors, strict=True)]
            moves.append({"type": "translation", "translation": shift})
        datasets.append({"path": str(number), "coordinateTransformations": moves})
    return {"version": VERSION, "name": name, "axes": axes, "datasets": datasets, "type": method}


def level_boxes(shape: Sequence[int], chunk: int) -> list[Box]:
    """Return the boxes in which a level is made: each reads at most a chunk of the finer level."""
    edge = zarr_edge(chunk)
    return regular_boxes(shape, max(edge, chunk // 2 // edge * edge))


def make_level(root: zarr.Group, level: int, number: int, chunk: int) -> None:
    """Make one box of a level of both pyramids from the level before."""
    finer, array = root[str(level - 1)], root[str(level)]
    cells, finer_cells = root[f"{CELLS}/{level}"], root[f"{CELLS}/{level - 1}"]
    sizes = zip(finer.shape, array.shape, strict=True)
    factors = [1 if coarse == fine else 2 for fine, coarse in sizes]
    box = level_boxes(array.shape, chunk)[number]
    source = tuple(
        slice(s.start * f, min(s.stop * f, n))
        for s, f, n in zip(box, factors, finer.shape, strict=True)
    )
    means = block_means(finer[source], factors)
    array[box] = np.round(means).astype(np.uint8)
    cells[box] = finer_cells[source][tuple(slice(None, None, f) for f in factors)]
