"""What holds for a whole volume, found once from a sample of it: brightness, cells, statistics.

A small volume is its own sample, so its chunks give what the whole gives.
"""

from __future__ import annotations

import contextlib
import itertools
import time
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from skimage.filters import threshold_otsu

from wnet_nb.cells.outlines import Instances
from wnet_nb.cells.regions import Box
from wnet_nb.cells.size import CellSize, estimate_cell_radius
from wnet_nb.checkpoint import Checkpoint
from wnet_nb.config import Settings
from wnet_nb.data import Normalisation, Prepared, fit_normalisation, prepare
from wnet_nb.errors import UserError
from wnet_nb.grid import block_means, thin_out
from wnet_nb.inference import Moments, measure_moments
from wnet_nb.jobs.models import find_cells, predict_classes
from wnet_nb.scale.sources import Source

WHOLE = 2**22  # voxels of a volume that is its own sample
BOXES, BOX_EDGE = 8, 160  # of the sample of a larger one; the edge in voxels
SMALLEST_EDGE, EDGE_IN_RADII = 96, 12  # to which boxes are cut once the cells are known
PROBES, PROBE_EDGE = 6, 32  # places along each axis that are looked at, and how many voxels
EMPTY_CONTRAST = 0.1  # of the strongest probe's: less is outside the tissue


@dataclass(frozen=True)
class Survey:
    """What every chunk is told."""

    normalisation: Normalisation  # of the prepared volume
    prepared_radius_um: float | None  # that it is prepared for
    cell: CellSize
    threshold: float | None  # of the class map without a network, 0-100
    moments: dict[str, list[list[float]]] | None  # of the group norms of a network
    classes: tuple[int, ...]  # that are cells
    reason: str
    boundary: float
    floor: float
    boxes: int  # the sample: 1 is the whole of a small volume
    seconds_per_voxel: float  # of one process
    bytes_per_voxel: float  # of the result

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)

    @staticmethod
    def from_dict(values: dict[str, Any]) -> Survey:
        """Return what `as_dict` described."""
        cell = values["cell"] | {"radius_voxels": tuple(values["cell"]["radius_voxels"])}
        ranges = Normalisation(**values["normalisation"])
        changed = {"cell": CellSize(**cell), "normalisation": ranges}
        return Survey(**(values | changed | {"classes": tuple(values["classes"])}))

    def of_whole(self, device: str) -> Moments | float:
        """Return what `predict_classes` must know of the whole."""
        if self.moments is None:
            return self.threshold
        exact = torch.float32 if device == "mps" else torch.float64
        return {name: torch.tensor(m, dtype=exact) for name, m in self.moments.items()}


class _Scale(NamedTuple):
    voxel_size_um: tuple[float, float, float]  # all that `find_cells` asks of a stack


def survey(source: Source, model: Checkpoint, settings: Settings) -> Survey:
    """Find what holds for the whole of a volume.

    Parameters
    ----------
    source : Source
        The volume; only the sample is read.
    model : Checkpoint
        The network with the settings of its training, by which the volume is prepared.
    settings : Settings
        Those with which it is segmented.

    Raises
    ------
    UserError
        If the sample is constant, or shows no cells and no radius was given.
    """
    images = [source.read(box) for box in sample_boxes(source)]
    images = [image for image in images if image.min() < image.max()]
    if not images:
        raise UserError(f"'{source.path}' has the same value everywhere it was looked at")
    shown = typical_cell(images, source.voxel_size_um)
    cell = _given(settings.cell_radius_um, source.voxel_size_um) or shown
    if cell is None:
        raise UserError(
            f"no cells stand out of the noise in '{source.name}'; give cell_radius_um "
            "(command line: --set cell_radius_um=4)"
        )
    radius = cell.radius_um
    if len(images) > 1:
        images = [_middle(image, cell) for image in images]
    began, size = time.perf_counter(), source.voxel_size_um
    parts = [
        prepare(image, model.settings, cell_radius_um=radius, voxel_size_um=size)
        for image in images
    ]
    ranges = common_normalisation(parts)
    parts = [Prepared(p.array, ranges, p.factors, p.shape) for p in parts]
    whole = _of_whole(parts, model, settings)
    found = [
        find_cells(
            predict_classes(part, model, settings, of_whole=whole),
            image,
            _Scale(size),
            model,
            settings,
            cell_radius_um=cell,
        )
        for part, image in zip(parts, images, strict=True)
    ]
    seconds, voxels = time.perf_counter() - began, sum(image.size for image in images)
    classes, reason = _most_common(found)
    with_cells = [one for one in found if one.count] or found
    floors = [one.floor for one in with_cells if np.isfinite(one.floor)]
    network = model.model is not None
    return Survey(
        normalisation=ranges,
        prepared_radius_um=radius,
        cell=cell,
        threshold=None if network else whole,
        moments={name: m.tolist() for name, m in whole.items()} if network else None,
        classes=classes,
        reason=reason,
        boundary=float(np.median([one.boundary for one in with_cells])),
        floor=float(np.median(floors)) if floors else np.inf,
        boxes=len(images),
        seconds_per_voxel=seconds / voxels,
        bytes_per_voxel=sum(map(_packed_bytes, found)) / voxels,
    )


def _of_whole(parts: Sequence[Prepared], model: Checkpoint, settings: Settings) -> Moments | float:
    """Return what `predict_classes` must know of the whole: mean moments, or a threshold."""
    if model.model is None:
        values = [part.normalisation.apply(part.array).ravel() for part in parts]
        return float(threshold_otsu(np.concatenate(values)))
    found = [measure_moments(model.model, part, settings.precision) for part in parts]
    return {name: torch.stack([one[name] for one in found]).mean(0).cpu() for name in found[0]}


def sample_boxes(source: Source, count: int = BOXES, edge: int = BOX_EDGE) -> list[Box]:
    """Return boxes spread over what is not empty of a volume; a small volume is one box."""
    if np.prod(source.shape) <= WHOLE:
        return [source.whole]
    probes = list(itertools.product(*(_spread(n) for n in source.shape)))
    contrast = np.array([_contrast(source.read(_around(p, PROBE_EDGE, source))) for p in probes])
    full = [p for p, c in zip(probes, contrast, strict=True) if c > EMPTY_CONTRAST * contrast.max()]
    if not full:
        return [_around(probes[len(probes) // 2], edge, source)]
    order = np.random.default_rng(0).permutation(len(full))
    boxes = [_around(full[place], edge, source) for place in order]
    # Two that were moved in from the border may be the same.
    unlike = {tuple(s.start for s in box): box for box in boxes}
    return list(unlike.values())[:count]


def common_normalisation(prepared: Sequence[Prepared]) -> Normalisation:
    """Return the brightness range of several prepared volumes together."""
    if len(prepared) == 1:
        return prepared[0].normalisation
    values = np.concatenate([thin_out(p.array, 500_000).ravel() for p in prepared])
    return fit_normalisation(values[np.newaxis, np.newaxis], prepared[0].normalisation.method)


def _spread(n: int) -> list[int]:
    """Return places along an axis of n voxels, each in the middle of its share."""
    return ((np.arange(PROBES) + 0.5) * n / PROBES).astype(int).tolist()


def _around(middle: Sequence[int], edge: int, source: Source) -> Box:
    """Return the box of `edge` voxels around a place, moved into the volume."""
    starts = [
        max(min(m - edge // 2, n - edge), 0) for m, n in zip(middle, source.shape, strict=True)
    ]
    return tuple(
        slice(start, min(start + edge, n)) for start, n in zip(starts, source.shape, strict=True)
    )


def _contrast(image: np.ndarray) -> float:
    """Return how much a probe varies once the noise of single voxels is averaged away."""
    return float(np.ptp(np.percentile(block_means(image, (2, 2, 2)), (5, 99))))


def _given(radius_um: float | None, voxel_size_um: Sequence[float]) -> CellSize | None:
    if radius_um is None:
        return None
    voxels = tuple(float(radius_um / step) for step in voxel_size_um)
    return CellSize(float(radius_um), voxels, 0, 0.0, "given by you")


def typical_cell(
    images: Sequence[np.ndarray], voxel_size_um: tuple[float, float, float]
) -> CellSize | None:
    """Return the median, by number of cells, of what the images show; None if none does."""
    found = []
    for image in images:
        with contextlib.suppress(UserError):  # nothing in this one
            found.append(estimate_cell_radius(image, voxel_size_um=voxel_size_um))
    found.sort(key=lambda cell: cell.radius_um)
    weight = np.cumsum([cell.n_cells for cell in found])
    return found[int(np.searchsorted(weight, weight[-1] / 2))] if found else None


def _middle(image: np.ndarray, cell: CellSize) -> np.ndarray:
    """Return the middle of a box, as large as the cells need it to show what they are."""
    edges = [max(SMALLEST_EDGE, int(EDGE_IN_RADII * r)) for r in cell.radius_voxels]
    starts = [max((n - edge) // 2, 0) for n, edge in zip(image.shape, edges, strict=True)]
    return image[tuple(slice(s, s + edge) for s, edge in zip(starts, edges, strict=True))]


def _most_common(found: Sequence[Instances]) -> tuple[tuple[int, ...], str]:
    """Return the classes that most boxes take for cells, and the reason of one of them."""
    ((classes, _),) = Counter(one.classes for one in found).most_common(1)
    return classes, next(one.reason for one in found if one.classes == classes)


def _packed_bytes(cells: Instances) -> int:
    """Return about how many bytes the result of a box takes, the coarser levels included."""
    foreground = np.round(255 * cells.foreground).astype(np.uint8)
    return int(1.2 * sum(len(zlib.compress(a, 1)) for a in (foreground, cells.labels)))
