"""Score results on disk against truth: one result, two files, or two folders matched by name."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from wnet_nb.cells.scores import (
    DetectionScores,
    InstanceScores,
    dice,
    match_instances,
    match_points,
)
from wnet_nb.errors import UserError
from wnet_nb.figures import curves
from wnet_nb.files.result import BASELINE_LABELS, LABELS, Result
from wnet_nb.files.run_files import PREDICTIONS
from wnet_nb.files.tables import read_points
from wnet_nb.files.volumes import find_volumes
from wnet_nb.jobs.truth import is_points, match_name, read_labels, says_truth


@dataclass(frozen=True)
class Evaluation:
    """Scores of one volume."""

    name: str
    prediction: Path
    truth: Path
    dice: float | None  # of the foregrounds; None for point truth
    scores: InstanceScores | DetectionScores
    # Of the baseline_labels.tif beside the prediction, where there is one; of the same type.
    baseline: InstanceScores | DetectionScores | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        paths = {"prediction": str(self.prediction), "truth": str(self.truth)}
        baseline = self.baseline.as_dict() if self.baseline else None
        return vars(self) | paths | {"scores": self.scores.as_dict(), "baseline": baseline}


def evaluate(
    prediction: str | Path,
    truth: str | Path,
    *,
    radius_um: float | None = None,
    voxel_size_um: Sequence[float] | None = None,
) -> list[Evaluation]:
    """Score label images against true labels or true points.

    Parameters
    ----------
    prediction : str or Path
        A label TIFF, or a folder of them or of folders that hold ``labels.tif`` (a run's
        ``predictions``, or the run).
    truth : str or Path
        A label TIFF, a CSV of points (columns z, y, x in voxels), or a folder of these. In
        folders, files belong together that differ only in endings such as _image or _labels.
    radius_um : float, optional
        How far from a point its cell may lie, in µm; if not given, the radius of the median
        predicted cell.
    voxel_size_um : sequence of 3 float, optional
        (z, y, x) in µm, in place of what the files state; only points need it.

    Raises
    ------
    UserError
        If a file cannot be read, nothing matches, or two volumes differ in shape.
    """
    return [
        _evaluate_pair(name, found, true, radius_um, voxel_size_um)
        for name, found, true in _pairs(Path(prediction), Path(truth))
    ]


def score(result: Result, truth: str | Path) -> Evaluation:
    """Score a result and keep that in it, in place of earlier scores.

    Parameters
    ----------
    result : Result
    truth : str or Path
        True labels or points of its volume, or a folder in which they are named alike.

    Raises
    ------
    UserError
        As `evaluate`; also if there is no truth for this volume.
    """
    ((_, labels, true),) = _pairs(result.folder, Path(truth))
    scored = _evaluate_pair(result.name, labels, true, None, None)
    png = None
    if isinstance(scored.scores, InstanceScores):
        figure = curves.plot_scores(scored.scores, scored.baseline, title=scored.name)
        png = curves.figure_png(figure)
    result.write_scores(scored.as_dict(), png)
    return scored


def typical_radius_um(labels: np.ndarray, voxel_size_um: Sequence[float]) -> float:
    """Return the radius in µm of the ball as large as the median cell; 0 without cells."""
    sizes = np.bincount(labels[labels > 0].astype(np.int64))
    sizes = sizes[sizes > 0]
    if not sizes.size:
        return 0.0
    return float((3 * np.median(sizes) * math.prod(voxel_size_um) / (4 * math.pi)) ** (1 / 3))


def _pairs(prediction: Path, truth: Path) -> list[tuple[str, Path, Path]]:
    if not truth.exists():
        raise UserError(f"'{truth}' does not exist; check the path")
    if (prediction / LABELS).exists():
        prediction = prediction / LABELS
    if truth.is_file() and (prediction.is_file() or not prediction.exists()):
        return [(match_name(prediction), prediction, truth)]
    found, true = _results(prediction), _results(truth)
    if truth.is_file() and len(found) == 1:
        return [(*next(iter(found.items())), truth)]
    names = [name for name in found if name in true]
    if not names:
        raise UserError(
            f"nothing in '{prediction}' ({_some(found)}) has the name of a truth in '{truth}' "
            f"({_some(true)}); name them alike, or give two files"
        )
    return [(name, found[name], true[name]) for name in names]


def _results(path: Path) -> dict[str, Path]:
    """Return the label images and points at a path, by their common name."""
    if path.is_dir() and (path / PREDICTIONS).is_dir():
        path = path / PREDICTIONS
    files = list(find_volumes(path).paths)
    if path.is_dir():
        files += sorted(path.glob("*.csv")) + sorted(path.glob(f"[!.]*/{LABELS}"))
        said = [file for file in files if says_truth(file)]
        files = said or files  # images often lie beside their labels
    return {match_name(file): file for file in files}


def _some(names: dict[str, Path]) -> str:
    listed = list(names)[:3]
    return ", ".join(listed) + (", …" if len(names) > 3 else "") if listed else "no label TIFFs"


def _evaluate_pair(name, prediction: Path, truth: Path, radius_um, voxel_size_um) -> Evaluation:
    labels = read_labels(prediction, voxel_size_um)
    arrays = [labels.array, None]
    beside = prediction.with_name(BASELINE_LABELS)
    if prediction.name == LABELS and beside.exists():
        arrays[1] = read_labels(beside).array
    if is_points(truth):
        points, size, overlap = read_points(truth), labels.voxel_size_um, None
        radius = radius_um or typical_radius_um(labels.array, size)
        if radius <= 0:
            raise UserError(f"'{prediction}' holds no cells to take a radius from; give the radius")
        score = partial(match_points, points=points, radius_um=radius, voxel_size_um=size)
    else:
        true = read_labels(truth).array
        if true.shape != labels.shape:
            raise UserError(
                f"'{prediction}' is {labels.shape} voxels and '{truth}' {true.shape}; give two "
                "label images of the same volume"
            )
        overlap, score = float(dice(labels.array, true)), partial(match_instances, truth=true)
    scores = [None if array is None else score(array) for array in arrays]
    return Evaluation(name, prediction, truth, overlap, *scores)
