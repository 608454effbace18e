"""A volume in blocks: where each lies, what lies around it, and the cells that were found in it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

BLOCK_SIZE = 256  # voxels
HALO = 4.0  # cell radii by which blocks look beyond their edges

Box = tuple[slice, ...]


@dataclass
class Region:
    """The cells of a block and of its halo."""

    place: Box  # of the block with its halo, in the volume
    basins: np.ndarray  # (z, y, x) int32: the space that each cell may take, 0 for none
    inside: np.ndarray  # (z, y, x) bool: what of that space is cell
    owned: np.ndarray  # (n + 1,) bool: whether the seed lies in the block itself; entry 0 is unused


def blocks(shape: Sequence[int], block_size: int) -> list[Box]:
    """Return blocks that cover a volume; a volume a little larger than a block is one block."""
    axes = []
    for n in shape:
        count = max(1, round(n / block_size))
        edges = np.linspace(0, n, count + 1).round().astype(int)
        axes.append([slice(int(a), int(b)) for a, b in itertools.pairwise(edges)])
    return list(itertools.product(*axes))


def with_halo(block: Box, radii: np.ndarray, shape: Sequence[int]) -> Box:
    """Return a block enlarged by `HALO` cell radii (`radii` in voxels), inside the volume."""
    halo = np.ceil(HALO * radii).astype(int)
    return tuple(
        slice(max(0, s.start - h), min(n, s.stop + h))
        for s, h, n in zip(block, halo, shape, strict=True)
    )


def owned_by(block: Box, place: Box, seeds: np.ndarray) -> np.ndarray:
    """Return for which seeds (n, 3), counted from `place`, lie in the block: (n + 1,) bool."""
    owned = np.zeros(len(seeds) + 1, bool)
    low = np.array([b.start - p.start for b, p in zip(block, place, strict=True)])
    high = low + [b.stop - b.start for b in block]
    owned[1:] = ((seeds >= low) & (seeds < high)).all(1)
    return owned


def markers(seeds: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Return a volume that is 0 but for the seeds (n, 3), which are numbered from 1; int32."""
    marked = np.zeros(shape, np.int32)
    marked[tuple(seeds.T)] = np.arange(1, len(seeds) + 1)
    return marked
