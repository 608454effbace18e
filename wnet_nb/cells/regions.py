"""A volume in blocks: where each lies, what lies around it, and the cells that were found in it."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from skimage.segmentation import watershed

BLOCK_SIZE = 256  # voxels
SAMPLE_SIZE, SAMPLES = 128, 8  # voxels, boxes in which the boundary of a large volume is found
HALO = 4.0  # cell radii by which blocks look beyond their edges
# Lengths in cell radii; chosen by measurement, see tests/benchmarks/quality.md.
OUTLINE_SIGMA = 0.15  # smoothing of the image whose level is the boundary
CORE_RADIUS = 0.5  # the middle of a cell, where its brightness is measured

Box = tuple[slice, ...]


@dataclass
class Region:
    """The cells of a block and of its halo: the space of each, and its brightness."""

    place: Box  # of the block with its halo, in the volume
    basins: np.ndarray  # (z, y, x) int32: the space that each cell may take, 0 for none
    contrast: np.ndarray  # (z, y, x) float32: the image without its background, a little smoothed
    cores: np.ndarray  # (n + 1,) float32: median contrast of the middle of each cell
    owned: np.ndarray  # (n + 1,) bool: whether the seed lies in the block itself; entry 0 is unused

    def leave_out_dim(self, minimum_contrast: float) -> None:
        """Own no cell whose core is dimmer than this, in grey levels; 0 leaves out none."""
        if minimum_contrast:
            self.owned &= self.cores >= minimum_contrast


def blocks(shape: Sequence[int], block_size: int) -> list[Box]:
    """Return blocks that cover a volume; a volume a little larger than a block is one block."""
    axes = []
    for n in shape:
        count = max(1, round(n / block_size))
        edges = np.linspace(0, n, count + 1).round().astype(int)
        axes.append([slice(int(a), int(b)) for a, b in itertools.pairwise(edges)])
    return list(itertools.product(*axes))


def busiest(foreground: np.ndarray) -> list[Box]:
    """Return the boxes of `SAMPLE_SIZE` voxels that hold most of the foreground (z, y, x)."""
    boxes = blocks(foreground.shape, SAMPLE_SIZE)
    return sorted(boxes, key=lambda box: -float(foreground[box][::4, ::4, ::4].sum()))[:SAMPLES]


def enlarged(box: Box, margin: Sequence[int], shape: Sequence[int]) -> Box:
    """Return a box with a margin of voxels around it, inside a volume of `shape`."""
    return tuple(
        slice(max(0, s.start - m), min(n, s.stop + m))
        for s, m, n in zip(box, margin, shape, strict=True)
    )


def with_halo(block: Box, radii: np.ndarray, shape: Sequence[int]) -> Box:
    """Return a block enlarged by `HALO` cell radii (`radii` in voxels), inside the volume."""
    return enlarged(block, np.ceil(HALO * radii).astype(int), shape)


def grow_cells(
    block: Box,
    place: Box,
    seeds: np.ndarray,
    landscape: np.ndarray,
    mask: np.ndarray,
    above: np.ndarray,
    radii: np.ndarray,
) -> Region:
    """Divide the space around the seeds among them, and measure how bright each cell is.

    The arrays (z, y, x) lie in `place`, the `block` with its halo. The `landscape`, low where cells
    are, is flooded within the `mask` from `seeds` (n, 3), the middle of each cell in voxels of
    `place`. `above` is the image without its background, float32; `radii` a cell's in voxels.
    """
    markers = np.zeros(landscape.shape, np.int32)
    markers[tuple(seeds.T)] = np.arange(1, len(seeds) + 1)
    basins = watershed(landscape, markers, mask=mask)
    del markers  # a block must stay small
    contrast = ndimage.gaussian_filter(above, OUTLINE_SIGMA * radii, truncate=3)
    cores = np.zeros(len(seeds) + 1, np.float32)
    ball = _ball(np.maximum(CORE_RADIUS * radii, 1.0))
    for number, seed in enumerate(seeds, start=1):
        places = ball + seed
        fits = ((places >= 0) & (places < above.shape)).all(1)
        places = tuple(places[fits].T)
        cores[number] = np.median(contrast[places][basins[places] == number])
    owned = np.zeros(len(seeds) + 1, bool)
    low = np.array([b.start - p.start for b, p in zip(block, place, strict=True)])
    high = low + [b.stop - b.start for b in block]
    owned[1:] = ((seeds >= low) & (seeds < high)).all(1)
    return Region(place, basins, contrast, cores, owned)


def edges(region: Region, radii: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return how the brightness of the cells that a region owns falls off, voxel by voxel.

    Given are, for n voxels, the cell (int32), the brightness between its surroundings (0) and its
    core (1), and how much that changes over one cell radius (`radii` in voxels), both float32.
    """
    inside = region.owned[region.basins]
    slopes = (np.gradient(region.contrast, 1 / r, axis=a) for a, r in enumerate(radii))
    steepness = np.sqrt(sum(slope**2 for slope in slopes))
    basins = region.basins[inside]
    core = np.maximum(region.cores, 1e-9)[basins]
    return basins, region.contrast[inside] / core, steepness[inside] / core


def _ball(radii: np.ndarray) -> np.ndarray:
    """Return the offsets (n, 3) of the voxels in an ellipsoid of `radii` voxels."""
    along = [np.arange(-int(r), int(r) + 1) for r in radii]
    grid = np.stack(np.meshgrid(*along, indexing="ij"), -1)
    return grid[((grid / radii) ** 2).sum(-1) <= 1]
