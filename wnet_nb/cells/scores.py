"""Score a prediction against truth: Dice, instances matched by IoU, cells matched to points."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from scipy.ndimage import center_of_mass
from scipy.sparse import csr_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching
from scipy.spatial import cKDTree

from wnet_nb.errors import UserError

IOU_THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
TITLES = {
    "threshold": "IoU",
    "radius_um": "radius µm",
    "true_positives": "matched",
    "false_positives": "extra",
    "false_negatives": "missed",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "panoptic_quality": "PQ",
    "mean_matched_iou": "mean IoU",
    "mean_distance_um": "distance µm",
}


@dataclass(frozen=True)
class InstanceScores:
    """Scores of an instance segmentation; every tuple has one value per IoU threshold.

    With neither predicted nor true cells every ratio is 1; with only one of the two every ratio
    is 0. ``mean_matched_iou`` is 0 where cells exist and none match. ``panoptic_quality`` is
    ``mean_matched_iou`` · ``f1`` (Kirillov et al. 2019, arXiv:1801.00868, equation 2).
    """

    n_predicted: int
    n_true: int
    thresholds: tuple[float, ...]
    true_positives: tuple[int, ...]
    false_positives: tuple[int, ...]
    false_negatives: tuple[int, ...]
    precision: tuple[float, ...]
    recall: tuple[float, ...]
    f1: tuple[float, ...]
    panoptic_quality: tuple[float, ...]
    mean_matched_iou: tuple[float, ...]

    @property
    def mean_f1(self) -> float:
        """F1 averaged over the thresholds."""
        return float(np.mean(self.f1))

    def as_rows(self) -> list[dict[str, float]]:
        """Return one dict per threshold: ``threshold`` and the names of the other tuples."""
        names = [field.name for field in fields(self)[2:]]  # all but the two counts
        table = zip(*(getattr(self, name) for name in names), strict=True)
        return [dict(zip(["threshold", *names[1:]], row, strict=True)) for row in table]

    def as_dict(self) -> dict:
        """Return the counts, the mean F1 and ``rows``, ready for JSON."""
        names = ("n_predicted", "n_true", "mean_f1")
        return {name: getattr(self, name) for name in names} | {"rows": self.as_rows()}


@dataclass(frozen=True)
class DetectionScores:
    """Scores of predicted cells against true points; empty cases as in `InstanceScores`."""

    n_predicted: int
    n_true: int
    radius_um: float
    true_positives: int
    false_positives: int
    false_negatives: int
    precision: float
    recall: float
    f1: float
    mean_distance_um: float | None  # of the matched pairs, None without any

    def as_rows(self) -> list[dict[str, float]]:
        """Return the one row of a table."""
        return [asdict(self)]

    def as_dict(self) -> dict:
        """Return every field, ready for JSON."""
        return asdict(self)


def dice(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Return the Dice overlap 2·|P ∩ T| / (|P| + |T|) of what is above 0, 1.0 if nothing is."""
    prediction, truth = prediction > 0, truth > 0
    total = np.count_nonzero(prediction) + np.count_nonzero(truth)
    return 2 * np.count_nonzero(prediction & truth) / total if total else 1.0


def match_instances(
    prediction: np.ndarray, truth: np.ndarray, *, thresholds: Sequence[float] = IOU_THRESHOLDS
) -> InstanceScores:
    """Match predicted to true cells one-to-one where their IoU reaches each threshold.

    Both are integer labels (Z, Y, X) in any order, 0 is background; thresholds are above 0, at most
    1, and a pair counts if its IoU is at least the threshold. The matching has the most pairs
    possible and, among those, the largest sum of IoU. It counts as StarDist's ``matching`` does
    (github.com/stardist/stardist), except that StarDist's tie-break also sums pairs below the
    threshold: its ``mean_matched_score`` can be lower, never higher.
    """
    rows, columns, ious, n_predicted, n_true = _overlap_ious(prediction, truth)
    empty_iou = 1.0 if n_predicted == n_true == 0 else 0.0
    table = []
    for threshold in thresholds:
        near = np.flatnonzero(ious >= threshold)
        matched = ious[near[_match_pairs(rows[near], columns[near], 1 - ious[near])]]
        counts_to_f1 = _count_and_rate(matched.size, n_predicted, n_true)
        mean_iou = float(matched.mean()) if matched.size else empty_iou
        table.append((*counts_to_f1, mean_iou * counts_to_f1[-1], mean_iou))
    return InstanceScores(n_predicted, n_true, tuple(thresholds), *zip(*table, strict=True))


def match_points(
    prediction: np.ndarray, points: np.ndarray, *, radius_um: float, voxel_size_um: Sequence[float]
) -> DetectionScores:
    """Match the centroids of predicted cells one-to-one to true points within a radius.

    The prediction is integer labels (Z, Y, X), 0 is background; points are (n, 3), (z, y, x) in
    voxels, the centre of the first voxel at 0; the radius is the largest distance of a pair,
    included. The matching has the most pairs possible and, among those, the least sum of distances.

    UserError if a point lies more than one voxel outside the volume, most often because its
    coordinates are in another order.
    """
    points, shape = np.reshape(points, (-1, 3)), prediction.shape
    outside = np.flatnonzero(((points < -1) | (points > shape)).any(axis=1))
    if outside.size:
        point = f"points[{outside[0]}] = {points[outside[0]].tolist()}"
        raise UserError(f"{point} lies outside the volume {shape}; give (z, y, x) in voxels")
    found = centroids(prediction)
    true_tree, found_tree = cKDTree(points * voxel_size_um), cKDTree(found * voxel_size_um)
    pairs = true_tree.sparse_distance_matrix(found_tree, radius_um, output_type="ndarray")
    distances = pairs["v"][_match_pairs(pairs["i"], pairs["j"], pairs["v"] / radius_um)]
    counts_to_f1 = _count_and_rate(distances.size, len(found), len(points))
    mean_distance = float(distances.mean()) if distances.size else None
    return DetectionScores(len(found), len(points), float(radius_um), *counts_to_f1, mean_distance)


def centroids(labels: np.ndarray) -> np.ndarray:
    """Return the mean voxel index of every cell, (n, 3) float64 (z, y, x), by rising label."""
    values = np.unique(labels[labels > 0])
    return np.reshape(center_of_mass(labels > 0, labels, values), (-1, 3))


def format_table(scores: InstanceScores | DetectionScores) -> str:
    """Return a line with the counts and a plain-text table; no newline at the end."""
    rows = scores.as_rows()
    names = [name for name in TITLES if name in rows[0]]
    cells = [[TITLES[name] for name in names]]
    cells += [[_format(row[name]) for name in names] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(map(str.rjust, line, widths)) for line in cells]
    return "\n".join([f"{scores.n_predicted} cells predicted, {scores.n_true} true", *lines])


def _format(value: float | None) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value).replace("None", "-")


def _overlap_ious(prediction, truth):
    """Return true index, predicted index and IoU of every overlapping pair, and both counts."""
    true_values, true_sizes = np.unique(truth[truth > 0], return_counts=True)
    values, sizes = np.unique(prediction[prediction > 0], return_counts=True)
    both = (prediction > 0) & (truth > 0)
    rows = np.searchsorted(true_values, truth[both])
    columns = np.searchsorted(values, prediction[both])
    # Two indices in one number: a single sort of the shared voxels counts all the overlaps.
    pairs, overlaps = np.unique(rows * values.size + columns, return_counts=True)
    rows, columns = np.divmod(pairs, max(values.size, 1))
    ious = overlaps / (true_sizes[rows] + sizes[columns] - overlaps)
    return rows, columns, ious, values.size, true_values.size


def _match_pairs(rows, columns, costs):
    """Return the indices of the most pairs that share no row or column, at least sum of costs.

    Costs lie in 0..1. Each row gets a column of its own that means "unmatched" and is dearer than
    all that another matching could save, so the answer is a full matching of least weight in a
    sparse graph: 20,000 cells take about a second.
    """
    if rows.size == 0:
        return np.empty(0, dtype=int)
    rows, columns = (np.unique(ends, return_inverse=True)[1] for ends in (rows, columns))
    n, m = rows.max() + 1, columns.max() + 1
    weights = np.append(1.0 + costs, np.full(n, n + 2.0))  # 1 + : the solver refuses a weight of 0
    edges = np.stack([np.append(rows, np.arange(n)), np.append(columns, m + np.arange(n))])
    edges = edges.astype(np.int32)  # scipy 1.13 takes no other index
    graph = csr_array((weights, tuple(edges)), shape=(n, m + n))
    chosen = min_weight_full_bipartite_matching(graph)[1]
    return np.flatnonzero(chosen[rows] == columns)


def _count_and_rate(matched, n_predicted, n_true):
    """Return true and false positives, false negatives, precision, recall and F1."""
    empty = 1.0 if n_predicted == n_true == 0 else 0.0
    precision = matched / n_predicted if n_predicted else empty
    recall = matched / n_true if n_true else empty
    f1 = 2 * matched / (n_predicted + n_true) if n_predicted + n_true else empty
    return matched, n_predicted - matched, n_true - matched, precision, recall, f1


def f1_at_half(scores: Mapping[str, Any]) -> float:
    """Return the F1 at an IoU of 0.5, or the only one that there is, of scores as JSON values."""
    at_half = [row["f1"] for row in scores.get("rows", ()) if row["threshold"] == 0.5]
    return at_half[0] if at_half else scores["f1"]
