"""Where the chunks of a volume lie, what each must read, and the grid of the background.

Every place is counted in voxels of the whole volume, so neighbours agree to the last bit.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from wnet_nb.cells.regions import HALO, Box, enlarged, with_halo
from wnet_nb.cells.seeds import ground_steps
from wnet_nb.config import DEPTH_FACTOR, Settings
from wnet_nb.data import background_step, voxels_averaged
from wnet_nb.errors import UserError
from wnet_nb.grid import block_starts

MARGIN = 16  # averaged voxels around a chunk that the network sees and that are left out again
CLEANING_REACH = 6.0  # cell radii around them that the background of the network's input needs
BACKGROUND_REACH = 16.0  # cell radii around a chunk that its background under the cells needs
ZARR_CHUNK = 128  # voxels, at most: what is one file on the disk


class Layout:
    """A volume in chunks.

    `shape` in voxels, `chunk` the edge of a chunk in voxels, `radii` a cell's in voxels (z, y, x)
    for the cells, `prepared_radii` those that the network's input is prepared for, if it is.
    """

    def __init__(
        self,
        shape: Sequence[int],
        chunk: int,
        radii: np.ndarray,
        prepared_radii: np.ndarray | None,
        settings: Settings,
    ) -> None:
        self.shape, self.chunk, self.radii = tuple(shape), chunk, radii
        self.prepared_radii = prepared_radii
        self.cleaned = settings.needs_radius and prepared_radii is not None
        self.factors = voxels_averaged(settings, prepared_radii) if self.cleaned else (1, 1, 1)
        if any(HALO * r > chunk < n for r, n in zip(radii, shape, strict=True)):
            raise UserError(
                f"chunks of {chunk} voxels are too small for cells of {max(radii):.3g} voxels in "
                f"radius; take at least {int(np.ceil(HALO * max(radii)))}"
            )
        self.step, self.fine = ground_steps(shape, radii)
        # Two levels of means, as `Ground` takes them; where a block begins, in voxels.
        self.fine_starts = [block_starts(n, s) for n, s in zip(shape, self.fine, strict=True)]
        self.block_starts = [
            f[block_starts(len(f), ratio)]
            for f, ratio in zip(self.fine_starts, self.step / self.fine, strict=True)
        ]

    @cached_property
    def chunks(self) -> list[Box]:
        """The chunks along z, y, x; their numbers are their places in this list."""
        return regular_boxes(self.shape, self.chunk)

    def touching(self, box: Box) -> list[int]:
        """Return the numbers, rising, of the chunks that share voxels with a box."""
        counts = [-(-n // self.chunk) for n in self.shape]
        axes = [range(s.start // self.chunk, -(-s.stop // self.chunk)) for s in box]
        return [int(np.ravel_multi_index(one, counts)) for one in itertools.product(*axes)]

    def with_halo(self, number: int) -> Box:
        """Return a chunk and all around it that its cells may reach."""
        return with_halo(self.chunks[number], self.radii, self.shape)

    def blocks_of(self, number: int) -> Box:
        """Return the blocks of the background's grid that begin in a chunk."""
        return tuple(
            slice(*(int(edge) for edge in np.searchsorted(starts, (s.start, s.stop))))
            for s, starts in zip(self.chunks[number], self.block_starts, strict=True)
        )

    def voxels_of(self, blocks: Box) -> Box:
        """Return the voxels of some blocks of the background's grid."""
        return tuple(
            slice(int(edges[b.start]), int(edges[b.stop]))
            for b, edges in zip(blocks, self._edges, strict=True)
        )

    @cached_property
    def _edges(self) -> list[np.ndarray]:
        return [
            np.append(starts, n) for starts, n in zip(self.block_starts, self.shape, strict=True)
        ]

    def blocks_around(self, box: Box, reach: float) -> Box:
        """Return the blocks in a box and `reach` cell radii around it."""
        margin = np.ceil(reach * self.radii).astype(int)
        found = []
        for s, starts in zip(enlarged(box, margin, self.shape), self.block_starts, strict=True):
            first = max(int(np.searchsorted(starts, s.start, "right")) - 2, 0)
            last = min(int(np.searchsorted(starts, s.stop)) + 1, len(starts))
            found.append(slice(first, last))
        return tuple(found)

    def fine_start(self, place: Sequence[int]) -> list[int]:
        """Return the number of the fine block that begins at a place, for every axis."""
        pairs = zip(self.fine_starts, place, strict=True)
        return [int(np.searchsorted(starts, one)) for starts, one in pairs]

    def network_box(self, number: int) -> Box:
        """Return what the network sees of a chunk, in averaged voxels, on its grid of poolings."""
        axes = zip(self._wide(number), self.factors, self.shape, strict=True)
        return tuple(
            slice(
                max(s.start // f - MARGIN, 0) // DEPTH_FACTOR * DEPTH_FACTOR,
                min(-(-(-(-s.stop // f) + MARGIN) // DEPTH_FACTOR) * DEPTH_FACTOR, -(-n // f)),
            )
            for s, f, n in axes
        )

    def _wide(self, number: int) -> Box:
        """Return a chunk with the whole of the blocks that begin in it."""
        voxels = self.voxels_of(self.blocks_of(number))
        pairs = zip(self.chunks[number], voxels, strict=True)
        return tuple(slice(c.start, max(c.stop, v.stop)) for c, v in pairs)

    def cleaning_box(self, number: int) -> Box:
        """Return what is read, in averaged voxels, to prepare `network_box` as in the whole."""
        box = self.network_box(number)
        if not self.cleaned:
            return box
        radii = self.prepared_radii / self.factors
        lengths = [-(-n // f) for n, f in zip(self.shape, self.factors, strict=True)]
        wide = enlarged(box, np.ceil(CLEANING_REACH * radii).astype(int), lengths)
        steps = background_step(radii)
        return tuple(
            slice(int(np.floor(s.start / step) * step), s.stop)
            for s, step in zip(wide, steps, strict=True)
        )

    def in_voxels(self, box: Box) -> Box:
        """Return a box of averaged voxels in voxels."""
        return tuple(
            slice(s.start * f, min(s.stop * f, n))
            for s, f, n in zip(box, self.factors, self.shape, strict=True)
        )


def regular_boxes(shape: Sequence[int], edge: int | Sequence[int]) -> list[Box]:
    """Return boxes of one size, cut at the far ends, that cover a volume along z, y, x."""
    edges = [edge] * len(shape) if isinstance(edge, int) else edge
    axes = [
        [slice(start, min(start + e, n)) for start in range(0, n, e)]
        for n, e in zip(shape, edges, strict=True)
    ]
    return list(itertools.product(*axes))


def within(box: Box, outer: Box) -> Box:
    """Return a box as counted from the corner of one around it."""
    pairs = zip(box, outer, strict=True)
    return tuple(slice(s.start - o.start, s.stop - o.start) for s, o in pairs)


def union(*boxes: Box) -> Box:
    """Return the smallest box around boxes."""
    return tuple(
        slice(min(s.start for s in axis), max(s.stop for s in axis))
        for axis in zip(*boxes, strict=True)
    )


def shared(box: Box, other: Box) -> Box | None:
    """Return what two boxes share, if they do."""
    pairs = zip(box, other, strict=True)
    found = tuple(slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in pairs)
    return found if all(s.start < s.stop for s in found) else None


def zarr_edge(chunk: int) -> int:
    """Return the edge of what is one file on the disk: it divides the chunk."""
    return max(edge for edge in range(1, ZARR_CHUNK + 1) if chunk % edge == 0)
