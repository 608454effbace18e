"""Class probabilities to cell instances: foreground, seeds, split, and each cell's own boundary.

Large volumes are worked on in blocks that overlap by several cell radii; a cell belongs to the
block of its seed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from wnet_nb.cells.evidence import find_evidence
from wnet_nb.cells.regions import BLOCK_SIZE, Region, blocks, busiest, enlarged
from wnet_nb.cells.seeds import SEED_SIGMA, Ground
from wnet_nb.cells.size import CellSize, estimate_cell_radius
from wnet_nb.grid import block_means, difference_of_gaussians

NAMED, KNOWN = "chosen by you", "core and rim of cells, as the network was taught them"
ROUND_SIGMA = 0.2  # cell radii: smoothing of the finished outline


@dataclass(frozen=True)
class Instances:
    """The cells of a volume."""

    labels: np.ndarray  # (Z, Y, X) int32: 0 background, 1 to n along z, y, x of their seeds
    foreground: np.ndarray  # (Z, Y, X) float32 in 0-1: probability of the classes that are cells
    classes: tuple[int, ...]  # these classes
    reason: str  # why they were taken
    cell_size: CellSize  # whose radius everything else follows from
    boundary: float  # where cells end between background (0) and core (1)
    floor: float  # what seeds had to exceed, in grey levels, see `seeds.Ground`

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
    core_class: int | None = None,
    boundary: float | None = None,
    minimum_size: float = 0.1,
    minimum_contrast: float = 0.0,
    block_size: int = BLOCK_SIZE,
) -> Instances:
    """Turn class probabilities and the image into labelled cells.

    Parameters
    ----------
    probabilities, image : ndarray
        (K, Z, Y, X) float, 0-1, classes in any order; (Z, Y, X), any real dtype, bright cells on a
        darker background.
    cell_radius_um : float or CellSize, optional
        Typical radius, or what was estimated before; estimated if not given (UserError if there is
        none to be seen).
    foreground_classes : sequence of int, optional
        The classes that are cells; found if not given (`find_foreground`).
    core_class : int, optional
        The class that is the middle of cells, of a network that knows it: then seeds and outlines
        come from the network, else from the image within the foreground.
    boundary : float, optional
        Where a cell ends between its surroundings (0) and its core (1); found if not given.
    minimum_size, minimum_contrast : float
        Smallest object kept, as a share of a ball of the cell radius; dimmest one, in grey levels
        of its middle above the background.
    block_size : int
        Edge in voxels of the blocks of a large volume.
    """
    size = np.asarray(voxel_size_um, float)
    cell = cell_radius_um
    if cell is None:
        cell = estimate_cell_radius(image, voxel_size_um=tuple(size))
    elif not isinstance(cell, CellSize):
        cell = CellSize(float(cell), tuple((cell / size).tolist()), 0, 0.0, "given by you")
    radii = cell.radius_um / size
    if foreground_classes:
        classes = tuple(int(k) for k in foreground_classes)
        reason = NAMED if core_class is None else KNOWN
    else:
        classes, reason = find_foreground(probabilities, image, radii)
    foreground = np.zeros(image.shape, np.float32)
    for k in classes:
        foreground += probabilities[k]
    parts = blocks(image.shape, block_size)
    ground = Ground(image, foreground, radii)
    core = None if core_class is None else probabilities[core_class]
    evidence = find_evidence(image, foreground, core, radii, ground)
    # The cells of a large volume are found anew for the boundary: memory would cost more.
    whole = evidence.find(parts[0]) if len(parts) == 1 else None
    if boundary is None:
        sample = [whole] if whole else map(evidence.find, busiest(foreground))
        boundary = evidence.find_boundary(sample)
    labels = np.zeros(image.shape, np.int32)
    smallest = minimum_size * 4 / 3 * np.pi * np.prod(radii)
    count = 0
    for block in parts:
        region = whole or evidence.find(block)
        region.leave_out_dim(minimum_contrast)
        cells = np.where(evidence.inside(region, boundary), region.basins, 0)
        count = label_cells(cells, region, radii, smallest, labels, count)
    found = float(boundary), float(ground.floor)
    return Instances(_renumber(labels), foreground, classes, reason, cell, *found)


def find_foreground(
    probabilities: np.ndarray, image: np.ndarray, radii: np.ndarray
) -> tuple[tuple[int, ...], str]:
    """Find the classes that are cells, and say why.

    Cells are bright, take the smaller part of the volume, and are compact: a Laplacian of Gaussian
    of their size answers positively inside them, and negatively in the halo around them. The class
    with the strongest answer is taken, and with three or more classes every other class whose
    answer is at least a third as strong and which is brighter than the volume on average. Where
    the probabilities of the class hardly vary, the network has learned nothing: the reason says so.

    `probabilities` are (K, Z, Y, X), the image (Z, Y, X), and `radii` a cell's in voxels (z, y, x).
    """
    step = np.maximum(1.0, 0.5 * radii)
    picture = block_means(image, step)
    blob = difference_of_gaussians(picture, SEED_SIGMA * (radii / step))
    spread = max(float(picture.std()), 1e-9)
    maps = [block_means(p, step) for p in probabilities]
    shares = [float(m.mean()) for m in maps]
    totals = [max(float(m.sum()), 1e-9) for m in maps]
    answers = [float((blob * m).sum()) / t / spread for m, t in zip(maps, totals, strict=True)]
    brightness = [float((picture * m).sum()) / t for m, t in zip(maps, totals, strict=True)]
    best = int(np.argmax(answers))
    if np.ptp(maps[best]) < 0.5:
        return (int(np.argmin(shares)),), (
            "no class tells one place from another: the network has learned nothing; train it "
            "again, longer or with another seed"
        )
    classes = [best]
    if len(maps) > 2:
        bright = [k for k in range(len(maps)) if brightness[k] > picture.mean()]
        classes = sorted({best, *(k for k in bright if answers[k] > answers[best] / 3)})
    words = " and ".join(
        f"class {k} (mean brightness {brightness[k]:.4g}, {100 * shares[k]:.1f} % of the volume)"
        for k in classes
    )
    rest = max((brightness[k] for k in range(len(maps)) if k not in classes), default=np.nan)
    return tuple(classes), (
        f"{words}, which lies on bright spots as large as a cell; mean brightness of the rest "
        f"{rest:.4g}"
    )


def label_cells(
    cells: np.ndarray,
    region: Region,
    radii: np.ndarray,
    smallest: float,
    labels: np.ndarray,
    count: int,
) -> int:
    """Write the cells that their block owns into `labels`; return the new count."""
    target = labels[region.place]
    margin = np.ceil(3 * ROUND_SIGMA * radii).astype(int)
    for number, box in enumerate(ndimage.find_objects(cells), start=1):
        if box is None or not region.owned[number]:
            continue
        box = enlarged(box, margin, cells.shape)
        mask = _tidy(cells[box] == number, radii)
        mask &= region.basins[box] == number  # rounding never takes from a neighbour
        if mask.sum() >= max(smallest, 1):
            count += 1
            target[box][mask] = count
    return count


def _tidy(mask: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Return the largest piece of a mask (z, y, x), holes filled and outline rounded."""
    pieces, n = ndimage.label(mask)
    if n > 1:
        mask = pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:])
    mask = ndimage.binary_fill_holes(mask)
    return ndimage.gaussian_filter(mask.astype(np.float32), ROUND_SIGMA * radii) > 0.5


def _renumber(labels: np.ndarray) -> np.ndarray:
    """Return labels numbered from 1 without gaps: a cell may have vanished under another."""
    present = np.zeros(int(labels.max(initial=0)) + 1, bool)
    for plane in labels:  # the whole at once would be copied as int64
        present[plane] = True
    present[0] = False
    return (np.cumsum(present) * present).astype(np.int32)[labels]
