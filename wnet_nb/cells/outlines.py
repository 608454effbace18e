"""Class probabilities to cell instances: foreground, seeds, split, and each cell's own boundary.

All lengths follow from one number, the cell radius in µm, and the voxel size. Large volumes are
worked on in blocks that overlap by several cell radii; a cell belongs to the block of its seed.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from skimage.segmentation import watershed

from wnet_nb.cells.seeds import SEED_SIGMA, Ground, find_seeds
from wnet_nb.cells.size import CellSize, estimate_cell_radius
from wnet_nb.grid import block_means, difference_of_gaussians

# Lengths in cell radii; chosen by measurement, see tests/benchmarks/quality.md.
OUTLINE_SIGMA = 0.15  # smoothing of the image whose level is the boundary
ROUND_SIGMA = 0.2  # smoothing of the finished outline
CORE_RADIUS = 0.5  # the middle of a cell, where its brightness is measured
HALO = 4.0  # overlap of blocks
BOUNDARY_DEFAULT, BOUNDARY_SLOPE = 0.4, 0.6  # the level where cells end, and how far it follows
# the steepest level of the volume
GROWTH_PROBABILITY = 0.1  # cells may reach this far beyond the class map
BLOCK_SIZE = 256  # voxels
SAMPLE_SIZE, SAMPLES = 128, 8  # voxels, boxes in which the boundary of a large volume is found


@dataclass(frozen=True)
class Instances:
    """The cells of a volume.

    Attributes
    ----------
    labels : ndarray
        (Z, Y, X) int32: 0 background, 1 to n the cells, numbered along z, y, x of their seeds.
    foreground : ndarray
        (Z, Y, X) float32 in 0-1: probability of the classes that are cells.
    classes : tuple of int
        Those classes.
    reason : str
        Why they were taken.
    cell_size : CellSize
        The radius that everything else follows from.
    boundary : float
        Where cells end between background (0) and core (1).
    """

    labels: np.ndarray
    foreground: np.ndarray
    classes: tuple[int, ...]
    reason: str
    cell_size: CellSize
    boundary: float

    @property
    def count(self) -> int:
        """Number of cells."""
        return int(self.labels.max(initial=0))


def segment_instances(
    probabilities: np.ndarray,
    image: np.ndarray,
    *,
    voxel_size_um: Sequence[float],
    cell_radius_um: float | CellSize | None = None,
    foreground_classes: Sequence[int] | None = None,
    boundary: float | None = None,
    minimum_size: float = 0.1,
    block_size: int = BLOCK_SIZE,
) -> Instances:
    """Turn class probabilities and the image into labelled cells.

    Parameters
    ----------
    probabilities : ndarray
        (K, Z, Y, X) float, 0-1; classes in any order.
    image : ndarray
        (Z, Y, X), any real dtype, bright cells on a darker background.
    voxel_size_um : sequence of float
        (z, y, x) in µm.
    cell_radius_um : float or CellSize, optional
        Typical radius in µm, or what was estimated before; estimated if not given.
    foreground_classes : sequence of int, optional
        The classes that are cells; found if not given (`find_foreground`).
    boundary : float, optional
        Where a cell ends between its surroundings (0) and its core (1); found if not given.
    minimum_size : float
        Smallest object kept, as a share of the volume of a ball of the cell radius.
    block_size : int
        Edge in voxels of the blocks of a large volume.

    Returns
    -------
    Instances

    Raises
    ------
    ValueError
        If shapes or classes do not fit, or no cell size can be estimated.
    """
    if probabilities.ndim != 4 or probabilities.shape[1:] != image.shape:
        raise ValueError(
            f"probabilities {probabilities.shape} do not belong to an image {image.shape}"
        )
    size = np.asarray(voxel_size_um, float)
    cell = _cell_size(image, size, cell_radius_um)
    radii = cell.radius_um / size
    if foreground_classes is None:
        classes, reason = find_foreground(probabilities, image, radii)
    else:
        classes, reason = tuple(int(k) for k in foreground_classes), "chosen by you"
        if not classes or not set(classes) <= set(range(len(probabilities))):
            raise ValueError(
                f"foreground_classes={classes} must be among 0 to {len(probabilities) - 1}"
            )
    foreground = np.zeros(image.shape, np.float32)
    for k in classes:
        foreground += probabilities[k]
    ground = Ground(image, foreground, radii)
    blocks = _blocks(image.shape, block_size)
    volume = (image, foreground, radii, ground)
    whole = _find_cells(*volume, blocks[0]) if len(blocks) == 1 else None
    if boundary is None:  # the cells of a large volume are found anew: memory would cost more
        parts = [whole] if whole else (_find_cells(*volume, box) for box in _busiest(foreground))
        boundary = _find_boundary(parts, radii)
    labels = np.zeros(image.shape, np.int32)
    smallest = minimum_size * 4 / 3 * np.pi * np.prod(radii)
    count = 0
    for block in blocks:
        cells = whole or _find_cells(*volume, block)
        count = _label_cells(cells, radii, boundary, smallest, labels, count)
        del cells
    return Instances(_renumber(labels), foreground, classes, reason, cell, float(boundary))


def _cell_size(
    image: np.ndarray, size: np.ndarray, cell_radius_um: float | CellSize | None
) -> CellSize:
    if isinstance(cell_radius_um, CellSize):
        return cell_radius_um
    if cell_radius_um is None:
        return estimate_cell_radius(image, voxel_size_um=tuple(size))
    if not cell_radius_um > 0:
        raise ValueError(f"cell_radius_um={cell_radius_um} must be positive")
    radii = tuple(float(cell_radius_um / step) for step in size)
    return CellSize(float(cell_radius_um), radii, 0, 0.0, "given by you")


def find_foreground(
    probabilities: np.ndarray, image: np.ndarray, radii: Sequence[float]
) -> tuple[tuple[int, ...], str]:
    """Find the classes that are cells.

    Cells are bright, take the smaller part of the volume, and are compact: a Laplacian of Gaussian
    of their size answers positively inside them, and negatively in the halo around them. The class
    with the strongest answer is taken, and with three or more classes every other class whose
    answer is at least a third as strong and which is brighter than the volume on average. Where
    the probabilities of the class hardly vary, the network has learned nothing: the reason says so.

    Parameters
    ----------
    probabilities : ndarray
        (K, Z, Y, X).
    image : ndarray
        (Z, Y, X).
    radii : sequence of float
        Cell radius in voxels (z, y, x).

    Returns
    -------
    classes : tuple of int
    reason : str
    """
    step = np.maximum(1.0, 0.5 * np.asarray(radii))
    picture = block_means(image, step)
    reach = np.asarray(radii) / step
    blob = difference_of_gaussians(picture, SEED_SIGMA * reach)
    maps = [block_means(p, step) for p in probabilities]
    shares = np.array([float(m.mean()) for m in maps])
    totals = [max(float(m.sum()), 1e-9) for m in maps]
    spread = max(float(picture.std()), 1e-9)
    answers = np.array(
        [float((blob * m).sum()) / t / spread for m, t in zip(maps, totals, strict=True)]
    )
    brightness = np.array(
        [float((picture * m).sum()) / t for m, t in zip(maps, totals, strict=True)]
    )
    best = int(np.argmax(answers))
    if np.ptp(maps[best]) < 0.5:
        return (int(np.argmin(shares)),), (
            "no class tells one place from another: the network has learned nothing; train it "
            "again, longer or with another seed"
        )
    limit = answers[best] / 3
    classes = tuple(
        k
        for k in range(len(maps))
        if k == best or (len(maps) > 2 and answers[k] > limit and brightness[k] > picture.mean())
    )
    words = " and ".join(
        f"class {k} (mean brightness {brightness[k]:.4g}, {100 * shares[k]:.1f} % of the volume)"
        for k in classes
    )
    rest = max((brightness[k] for k in range(len(maps)) if k not in classes), default=np.nan)
    return classes, f"{words}: most like blobs of cell size; brightness of the rest {rest:.4g}"


@dataclass
class _Cells:
    """The basins of a region with its halo, and the brightness of each cell's core."""

    region: tuple[slice, ...]
    basins: np.ndarray  # (z, y, x) int32
    contrast: np.ndarray  # (z, y, x) float32
    cores: np.ndarray  # (n + 1,) contrast of the core of each cell; entry 0 is unused
    owned: np.ndarray  # (n + 1,) whether the seed lies in the block itself


def _find_cells(
    image: np.ndarray,
    foreground: np.ndarray,
    radii: np.ndarray,
    ground: Ground,
    block: tuple[slice, ...],
) -> _Cells:
    halo = np.ceil(HALO * radii).astype(int)
    region = tuple(
        slice(max(0, s.start - h), min(n, s.stop + h))
        for s, h, n in zip(block, halo, image.shape, strict=True)
    )
    above = ground.above(image, region)
    near = ndimage.gaussian_filter(foreground[region], 0.3 * radii, truncate=3)
    blob = difference_of_gaussians(np.maximum(above, 0), SEED_SIGMA * radii)
    seeds = find_seeds(blob, near, radii, ground.floor)
    markers = np.zeros(above.shape, np.int32)
    markers[tuple(seeds.T)] = np.arange(1, len(seeds) + 1)
    # On the image itself a dim cell would be the slope of a brighter neighbour, and flooded by it.
    np.negative(blob, out=blob)
    near = near > GROWTH_PROBABILITY
    basins = watershed(blob, markers, mask=near)
    del blob, markers, near  # a block must stay small
    contrast = ndimage.gaussian_filter(above, OUTLINE_SIGMA * radii, truncate=3)
    cores = np.zeros(len(seeds) + 1, np.float32)
    ball = _ball(np.maximum(CORE_RADIUS * radii, 1.0))
    for number, seed in enumerate(seeds, start=1):
        places = ball + seed
        inside = ((places >= 0) & (places < above.shape)).all(1)
        places = tuple(places[inside].T)
        cores[number] = np.median(contrast[places][basins[places] == number])
    owned = np.zeros(len(seeds) + 1, bool)
    low = np.array([b.start - r.start for b, r in zip(block, region, strict=True)])
    high = low + [b.stop - b.start for b in block]
    owned[1:] = ((seeds >= low) & (seeds < high)).all(1)
    return _Cells(region, basins, contrast, cores, owned)


def _ball(radii: np.ndarray) -> np.ndarray:
    """Return the offsets (n, 3) of the voxels in an ellipsoid of `radii` voxels."""
    reach = [int(r) for r in radii]
    grid = np.stack(np.meshgrid(*[np.arange(-n, n + 1) for n in reach], indexing="ij"), -1)
    return grid[((grid / np.maximum(radii, 1e-9)) ** 2).sum(-1) <= 1]


def _find_boundary(parts: Iterable[_Cells], radii: np.ndarray) -> float:
    """Return the level, between background 0 and core 1, at which cells end.

    The image is steepest where a cell ends. Over the cells that all parts own, the mean gradient
    is taken as a function of the level. It is largest near 1/2 where cells are wider than the blur
    and further up where they are not, as in a Gaussian spot, which is steepest at 0.61.
    """
    total, number = np.zeros(27), np.zeros(27)
    # What was taken for one cell in plain background may fill more voxels than all cells together.
    largest = 4 / 3 * np.pi * np.prod(2 * radii)
    for cells in parts:
        inside = cells.owned[cells.basins]
        steepness = np.sqrt(
            sum(np.gradient(cells.contrast, r, axis=a) ** 2 for a, r in enumerate(1 / radii))
        )
        basins = cells.basins[inside]
        core = np.maximum(cells.cores, 1e-9)[basins]
        level = cells.contrast[inside] / core
        bins = np.clip((level * 20).astype(int), -1, 25) + 1
        share = np.minimum(1, largest / np.maximum(np.bincount(basins), 1))[basins]
        total += np.bincount(bins, share * steepness[inside] / core, 27)
        number += np.bincount(bins, share, 27)
    if not number.any():
        return BOUNDARY_DEFAULT
    mean = total / np.maximum(number, 1e-9)
    mean = ndimage.gaussian_filter1d(mean, 1.0)[1 + 5 : 1 + 18]  # levels 0.25 to 0.9
    steepest = (int(np.argmax(mean)) + 5.5) / 20
    return float(np.clip(BOUNDARY_DEFAULT + BOUNDARY_SLOPE * (steepest - 0.55), 0.35, 0.5))


def _label_cells(
    cells: _Cells,
    radii: np.ndarray,
    boundary: float,
    smallest: float,
    labels: np.ndarray,
    count: int,
) -> int:
    """Write the cells that their block owns into `labels`; return the new count."""
    level = boundary * cells.cores
    core = cells.contrast > level[cells.basins]
    core &= cells.basins > 0
    basins = np.where(core, cells.basins, 0)
    target = labels[cells.region]
    margin = np.ceil(3 * ROUND_SIGMA * radii).astype(int)
    for number, place in enumerate(ndimage.find_objects(basins), start=1):
        if place is None or not cells.owned[number]:
            continue
        place = tuple(
            slice(max(0, s.start - m), min(n, s.stop + m))
            for s, m, n in zip(place, margin, basins.shape, strict=True)
        )
        mask = _tidy(basins[place] == number, radii)
        mask &= cells.basins[place] == number  # rounding never takes from a neighbour
        if mask.sum() >= max(smallest, 1):
            count += 1
            target[place][mask] = count
    return count


def _tidy(mask: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Return the largest piece of a mask (z, y, x), holes filled and outline rounded."""
    pieces, n = ndimage.label(mask)
    if n > 1:
        mask = pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:])
    mask = ndimage.binary_fill_holes(mask)
    return ndimage.gaussian_filter(mask.astype(np.float32), ROUND_SIGMA * radii) > 0.5


def _blocks(shape: Sequence[int], block_size: int) -> list[tuple[slice, ...]]:
    """Return blocks that cover a volume; a volume a little larger than a block is one block."""
    axes = []
    for n in shape:
        count = max(1, round(n / block_size))
        edges = np.linspace(0, n, count + 1).round().astype(int)
        axes.append([slice(int(a), int(b)) for a, b in itertools.pairwise(edges)])
    return list(itertools.product(*axes))


def _busiest(foreground: np.ndarray) -> list[tuple[slice, ...]]:
    """Return the boxes of `SAMPLE_SIZE` voxels that hold most of the foreground (z, y, x)."""
    boxes = _blocks(foreground.shape, SAMPLE_SIZE)
    return sorted(boxes, key=lambda box: -float(foreground[box][::4, ::4, ::4].sum()))[:SAMPLES]


def _renumber(labels: np.ndarray) -> np.ndarray:
    """Return labels numbered from 1 without gaps: a cell may have vanished under another."""
    present = np.zeros(int(labels.max(initial=0)) + 1, bool)
    for plane in labels:  # the whole at once would be copied as int64
        present[plane] = True
    present[0] = False
    return (np.cumsum(present) * present).astype(np.int32)[labels]
