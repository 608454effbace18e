"""Score results on disk against truth: one result, two files, or two folders matched by name."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from wnet_nb.cells.scores import (
    DetectionScores,
    InstanceScores,
    dice,
    match_instances,
    match_points,
)
from wnet_nb.cells.size import median_radius_um
from wnet_nb.errors import UserError
from wnet_nb.figures import curves
from wnet_nb.files.result import BASELINE_LABELS, LABELS, Result
from wnet_nb.files.run_files import PREDICTIONS
from wnet_nb.files.tables import read_points
from wnet_nb.jobs.truth import find_labels, is_points, match_name, read_labels


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
        ``predictions``, or the run), of which the newest result of each volume counts.
    truth : str or Path
        A label TIFF, a CSV of points (columns z, y, x in voxels), or a folder of these. In
        folders, files belong together that differ only in endings such as _image or _labels;
        UserError if none do.
    radius_um : float, optional
        How far from a point its cell may lie, in µm; if not given, the radius of the median
        predicted cell.
    voxel_size_um : sequence of 3 float, optional
        (z, y, x) in µm, in place of what the files state; only points need it.
    """
    prediction, truth = Path(prediction), Path(truth)
    if (prediction / LABELS).exists():
        prediction = prediction / LABELS
    elif (prediction / PREDICTIONS).is_dir():
        prediction = prediction / PREDICTIONS
    found, true = find_labels(prediction), find_labels(truth)
    for result in Result.find_in(prediction) if prediction.is_dir() else ():  # the newest last
        found.pop(match_name(result.folder), None)
        found[match_name(Path(result.name))] = result.folder / LABELS
    if truth.is_file() and len(found) == 1:
        true = dict.fromkeys(found, truth)
    names = [name for name in found if name in true]
    if not names:
        raise UserError(
            f"nothing in '{prediction}' ({_listed(found)}) has the name of a truth in '{truth}' "
            f"({_listed(true)}); name them alike, or give two files"
        )
    return [_score_pair(name, found[name], true[name], radius_um, voxel_size_um) for name in names]


def _listed(names: dict[str, Path]) -> str:
    return textwrap.shorten(", ".join(names), 60, placeholder=" …") or "no label TIFFs"


def score(result: Result, truth: str | Path) -> Evaluation:
    """Score a result against the truth of its volume; kept in it, in place of earlier scores."""
    (scored,) = evaluate(result.folder, truth)
    scored = replace(scored, name=result.name)
    png = None
    if isinstance(scored.scores, InstanceScores):
        figure = curves.plot_scores(scored.scores, scored.baseline, title=scored.name)
        png = curves.figure_png(figure)
    result.write_scores(scored.as_dict(), png)
    return scored


def _score_pair(
    name: str,
    prediction: Path,
    truth: Path,
    radius_um: float | None,
    voxel_size_um: Sequence[float] | None,
) -> Evaluation:
    labels = read_labels(prediction, voxel_size_um)
    if is_points(truth):
        size, overlap = labels.voxel_size_um, None
        radius = radius_um or median_radius_um(labels.array, size)
        if radius <= 0:
            raise UserError(f"'{prediction}' holds no cells to take a radius from; give the radius")
        points = read_points(truth)
        match = partial(match_points, points=points, radius_um=radius, voxel_size_um=size)
    else:
        true = read_labels(truth).array
        if true.shape != labels.shape:
            raise UserError(
                f"'{prediction}' is {labels.shape} voxels and '{truth}' {true.shape}; give two "
                "label images of the same volume"
            )
        overlap, match = float(dice(labels.array, true)), partial(match_instances, truth=true)
    beside, baseline = prediction.with_name(BASELINE_LABELS), None
    if prediction.name == LABELS and beside.exists():
        baseline = match(read_labels(beside).array)
    return Evaluation(name, prediction, truth, overlap, match(labels.array), baseline)
