"""Tests of `wnet_nb.cells.scores`: answers by hand, brute-force oracles, invariants."""

import json
from itertools import combinations, permutations

import numpy as np
import pytest
from scipy import ndimage

from wnet_nb.cells.scores import (
    IOU_THRESHOLDS,
    centroids,
    dice,
    format_table,
    match_instances,
    match_points,
)

VOXEL = (1.0, 1.0, 1.0)


def draw(*boxes, shape=(12, 12, 40), dtype=np.uint16):
    """Return labels (Z, Y, X) with one box per (label, z slice, y slice, x slice)."""
    labels = np.zeros(shape, dtype=dtype)
    for label, *place in boxes:
        labels[tuple(place)] = label
    return labels


def cube(label, x, size=10):
    """Return one cube of 10 x 10 x `size` voxels that starts at `x`."""
    return label, slice(0, 10), slice(0, 10), slice(x, x + size)


def row(*lengths_and_labels):
    """Return a (1, 1, X) row of labels from (length, label) runs."""
    lengths, labels = zip(*lengths_and_labels, strict=True)
    return np.repeat(labels, lengths).astype(np.uint16)[None, None]


def random_blobs(seed, n_labels=6, shape=(4, 9, 9)):
    """Return a pair of blob labels; the second is the first after moves, splits and merges."""
    rng = np.random.default_rng(seed)
    seeds = rng.uniform(0, shape, (n_labels, 3))
    grid = np.stack(np.indices(shape), axis=-1)[..., None, :]  # (Z, Y, X, 1, 3)
    pair = []
    for places in (seeds, seeds + rng.normal(0, 1.5, seeds.shape)):
        distance = np.linalg.norm(grid - places, axis=-1)  # (Z, Y, X, n)
        nearest = rng.permutation(n_labels)[distance.argmin(axis=-1)]  # 0 is background
        pair.append(np.where(distance.min(axis=-1) < 3.5, nearest, 0))
    return pair


def partial_matchings(n_rows, n_columns):
    """Yield every one-to-one matching of rows to columns, of every size."""
    for size in range(min(n_rows, n_columns) + 1):
        for rows in combinations(range(n_rows), size):
            for columns in permutations(range(n_columns), size):
                yield list(zip(rows, columns, strict=True))


def best_by_trying_all(allowed, value):
    """Return (pairs, sum of values) of the best matching that uses allowed pairs only."""
    candidates = partial_matchings(*allowed.shape)
    valid = (pairs for pairs in candidates if all(allowed[pair] for pair in pairs))
    return max((len(pairs), sum(value[pair] for pair in pairs)) for pairs in valid)


def iou_by_definition(prediction, truth):
    """Return the (n_true, n_predicted) IoU, cell by cell."""
    masks = [
        [array == label for label in np.unique(array[array > 0])] for array in (truth, prediction)
    ]
    return np.array([[(t & p).sum() / (t | p).sum() for p in masks[1]] for t in masks[0]])


# --- Dice ----------------------------------------------------------------------------------------


def test_dice_of_a_cube_shifted_by_a_fifth_is_eight_tenths():
    assert dice(draw(cube(1, 2)), draw(cube(1, 0))) == pytest.approx(2 * 8 / 20)


def test_dice_sees_labels_and_masks_alike():
    labels = draw(cube(7, 0), cube(300, 20))
    assert dice(labels, labels > 0) == 1.0
    assert dice(labels > 0, draw(cube(1, 0))) == pytest.approx(2 * 1 / 3)


def test_dice_of_two_empty_volumes_is_one_and_of_one_empty_volume_zero():
    assert dice(draw(), draw()) == 1.0
    assert dice(draw(cube(1, 0)), draw()) == dice(draw(), draw(cube(1, 0))) == 0.0


# --- Instances -----------------------------------------------------------------------------------


def test_a_cube_shifted_by_two_matches_up_to_its_iou_of_eight_twelfths():
    scores = match_instances(draw(cube(1, 2)), draw(cube(1, 0)))
    assert scores.thresholds == IOU_THRESHOLDS
    assert scores.true_positives == (1, 1, 1, 1, 1, 1, 0, 0, 0)
    assert scores.false_positives == scores.false_negatives == (0, 0, 0, 0, 0, 0, 1, 1, 1)
    assert scores.f1 == scores.precision == scores.recall == (1, 1, 1, 1, 1, 1, 0, 0, 0)
    assert scores.mean_matched_iou == pytest.approx((8 / 12,) * 6 + (0,) * 3)
    assert scores.panoptic_quality == pytest.approx((8 / 12,) * 6 + (0,) * 3)
    assert scores.mean_f1 == pytest.approx(6 / 9)


@pytest.mark.parametrize("tenths", range(1, 10))
def test_an_iou_equal_to_the_threshold_counts(tenths):
    prediction, truth = row((tenths, 1), (10 - tenths, 0)), row((10, 1))
    assert match_instances(prediction, truth, thresholds=[tenths / 10]).true_positives == (1,)


def test_ratios_of_three_predicted_and_two_true_cells():
    truth = draw(cube(1, 0), cube(2, 20))
    prediction = draw(cube(1, 2), cube(2, 14, size=3), cube(3, 32, size=5))
    scores = match_instances(prediction, truth, thresholds=[0.5])
    assert (scores.n_predicted, scores.n_true) == (3, 2)
    assert (scores.true_positives, scores.false_positives, scores.false_negatives) == (
        (1,),
        (2,),
        (1,),
    )
    assert (scores.precision, scores.recall) == ((pytest.approx(1 / 3),), (pytest.approx(1 / 2),))
    assert scores.f1 == (pytest.approx(2 * 1 / 5),)
    assert scores.panoptic_quality == (pytest.approx((8 / 12) / (1 + 2 / 2 + 1 / 2)),)


def test_a_cell_split_in_unequal_halves_keeps_the_larger_one():
    prediction = draw(cube(1, 0, size=7), cube(2, 7, size=3))
    scores = match_instances(prediction, draw(cube(1, 0)), thresholds=[0.2, 0.7, 0.8])
    assert scores.true_positives == (1, 1, 0)
    assert scores.false_positives == (1, 1, 2)
    assert scores.mean_matched_iou == (pytest.approx(0.7), pytest.approx(0.7), 0)


def test_two_merged_cells_count_as_one_match_and_one_miss():
    truth = draw(cube(1, 0), cube(2, 10))
    scores = match_instances(draw(cube(1, 0, size=20)), truth, thresholds=[0.5, 0.6])
    assert scores.true_positives == (1, 0)
    assert scores.false_negatives == (1, 2)
    assert scores.false_positives == (0, 1)


def test_matching_is_optimal_where_taking_the_best_pair_first_loses_one():
    truth = row((6, 1), (2, 0), (5, 2))
    prediction = row((2, 2), (4, 1), (2, 0), (2, 1), (3, 0))
    # IoU of true 1 with predicted 1: 4/8, with predicted 2: 2/6; of true 2 with predicted 1: 2/9.
    # Greedy takes the 4/8, which leaves true 2 and predicted 2 without a partner.
    scores = match_instances(prediction, truth, thresholds=[0.2, 0.3])
    assert scores.true_positives == (2, 1)
    assert scores.mean_matched_iou == (pytest.approx((2 / 6 + 2 / 9) / 2), pytest.approx(4 / 8))


def test_among_equally_many_matches_the_larger_iou_sum_wins():
    # The predicted cell may go with either true cell: 3/9 with true 1, 4/7 with true 2.
    scores = match_instances(row((2, 0), (7, 1)), row((5, 1), (4, 2)), thresholds=[0.1])
    assert scores.mean_matched_iou == (pytest.approx(4 / 7),)


@pytest.mark.parametrize("seed", range(25))
def test_matching_agrees_with_trying_every_assignment(seed):
    prediction, truth = random_blobs(seed)
    iou = iou_by_definition(prediction, truth)
    scores = match_instances(prediction, truth)
    for index, threshold in enumerate(IOU_THRESHOLDS):
        n_matched, iou_sum = best_by_trying_all(iou >= threshold, iou)
        assert scores.true_positives[index] == n_matched
        assert scores.mean_matched_iou[index] * n_matched == pytest.approx(iou_sum)


@pytest.mark.parametrize(
    ("dtype", "names"),
    [
        ("uint8", [0, 255, 3, 77, 8, 120]),
        ("int16", [0, 1, 32767, 5, 4, 300]),
        (">u2", [0, 65535, 256, 255, 1, 2]),
        ("uint32", [0, 2**32 - 1, 2**31, 70000, 9, 2**32 - 2]),
        ("int64", [0, 2**31, 2**32 - 1, 7, 6, 5]),
        ("uint64", [0, 2**31, 2**32 - 1, 7, 6, 5]),
    ],
)
def test_scores_do_not_depend_on_label_values_or_integer_type(dtype, names):
    prediction, truth = random_blobs(3)
    renamed = np.array(names, dtype=dtype)
    expected = match_instances(prediction, truth)
    assert match_instances(renamed[prediction], truth) == expected
    assert match_instances(prediction, renamed[truth]) == expected


def test_swapping_prediction_and_truth_swaps_precision_and_recall_and_keeps_f1():
    prediction, truth = random_blobs(11)
    prediction[prediction == 2] = 0
    forth, back = match_instances(prediction, truth), match_instances(truth, prediction)
    assert forth.n_predicted != forth.n_true
    assert (forth.precision, forth.recall) == (back.recall, back.precision)
    assert forth.f1 == back.f1
    assert forth.panoptic_quality == pytest.approx(back.panoptic_quality)


def test_a_volume_matches_itself_perfectly():
    _, truth = random_blobs(5)
    scores = match_instances(truth, truth, thresholds=[0.5, 1.0])
    assert scores.f1 == scores.panoptic_quality == scores.mean_matched_iou == (1, 1)


def test_two_empty_volumes_agree_and_one_empty_volume_scores_zero():
    both = match_instances(draw(), draw(), thresholds=[0.5])
    assert both.precision == both.recall == both.f1 == both.panoptic_quality == (1,)
    for pair in [(draw(cube(1, 0)), draw()), (draw(), draw(cube(1, 0)))]:
        one = match_instances(*pair, thresholds=[0.5])
        assert one.precision == one.recall == one.f1 == one.panoptic_quality == (0,)
        assert one.mean_matched_iou == (0,)


def test_thousands_of_touching_cells_each_find_their_partner():
    truth = np.arange(1, 4097).reshape(16, 16, 16).repeat(3, 0).repeat(3, 1).repeat(3, 2)
    prediction = np.roll(4097 - truth, 1, axis=2)  # IoU 18/36, and 9/45 beside it
    scores = match_instances(prediction, truth, thresholds=[0.1, 0.5, 0.51])
    assert scores.true_positives == (4096, 4096, 0)
    assert scores.mean_matched_iou == pytest.approx((0.5, 0.5, 0))


# --- Points --------------------------------------------------------------------------------------


def test_centroids_are_mean_voxel_positions_in_the_order_of_the_labels():
    labels = draw(cube(900, 0), cube(4, 20, size=3))
    assert centroids(labels) == pytest.approx(np.array([[4.5, 4.5, 21], [4.5, 4.5, 4.5]]))
    assert centroids(draw()).shape == (0, 3)


def test_the_radius_is_measured_in_micrometres_and_includes_its_end():
    prediction = draw((1, 4, 4, 4))
    above, beside = [[6, 4, 4]], [[4, 4, 6]]  # 2 voxels away: 8 µm in z, 1 µm in x
    size = (4.0, 0.5, 0.5)
    assert match_points(prediction, beside, radius_um=1, voxel_size_um=size).f1 == 1
    assert match_points(prediction, above, radius_um=7.9, voxel_size_um=size).f1 == 0
    scores = match_points(prediction, above, radius_um=8, voxel_size_um=size)
    assert (scores.true_positives, scores.mean_distance_um) == (1, pytest.approx(8.0))


def test_point_scores_of_three_cells_and_four_points():
    prediction = draw((1, 0, 0, 0), (2, 0, 0, 10), (3, 0, 0, 30))
    points = [[0, 0, 1], [0, 0, 2], [0, 0, 12], [0, 0, 20]]
    scores = match_points(prediction, points, radius_um=3, voxel_size_um=VOXEL)
    assert (scores.n_predicted, scores.n_true) == (3, 4)
    assert (scores.true_positives, scores.false_positives, scores.false_negatives) == (2, 1, 2)
    assert (scores.precision, scores.recall) == (pytest.approx(2 / 3), pytest.approx(2 / 4))
    assert scores.f1 == pytest.approx(4 / 7)
    assert scores.mean_distance_um == pytest.approx((1 + 2) / 2)


def test_a_point_leaves_its_nearest_cell_where_that_saves_a_match():
    # The point at 5 is nearest to the cell at 6, which the point at 8 needs.
    prediction = draw((1, 0, 0, 3), (2, 0, 0, 6))
    scores = match_points(prediction, [[0, 0, 5], [0, 0, 8]], radius_um=2, voxel_size_um=VOXEL)
    assert (scores.true_positives, scores.mean_distance_um) == (2, pytest.approx(2.0))


@pytest.mark.parametrize("seed", range(25))
def test_point_matching_agrees_with_trying_every_assignment(seed):
    rng = np.random.default_rng(seed)
    places, points = rng.permutation(400)[:6], rng.uniform(0, [4, 10, 10], (5, 3))
    prediction = np.zeros((4, 10, 10), dtype=np.uint16)
    prediction.flat[places] = np.arange(1, 7)
    size, radius = np.array([2.0, 1.0, 0.5]), rng.uniform(1, 5)
    cells = np.stack(np.unravel_index(places, prediction.shape), axis=1)
    distance = np.linalg.norm((cells[:, None] - points) * size, axis=-1)  # (6, 5)
    n_matched, total = best_by_trying_all(distance <= radius, -distance)
    scores = match_points(prediction, points, radius_um=radius, voxel_size_um=size)
    assert scores.true_positives == n_matched
    assert (scores.mean_distance_um or 0) * n_matched == pytest.approx(-total)


def test_points_on_every_one_of_thousands_of_cells_are_all_found():
    labels, n_cells = ndimage.label((np.indices((32, 48, 48)) % 3).max(axis=0) == 0)
    rng = np.random.default_rng(0)
    points = rng.permutation(np.argwhere(labels)) + rng.uniform(-0.2, 0.2, (n_cells, 3))
    scores = match_points(labels, points, radius_um=9, voxel_size_um=(2, 2, 2))
    assert n_cells > 2000
    assert scores.f1 == 1
    assert scores.mean_distance_um < 2 * 0.2 * np.sqrt(3)


def test_no_cells_and_no_points_agree_and_one_of_the_two_scores_zero():
    options = {"radius_um": 3, "voxel_size_um": VOXEL}
    cell, point, no_points = draw(cube(1, 0)), [[4, 4, 4]], np.empty((0, 3))
    assert match_points(draw(), no_points, **options).f1 == 1
    assert match_points(draw(), [], **options).precision == 1
    for pair in [(cell, no_points), (draw(), point)]:
        scores = match_points(*pair, **options)
        assert (scores.precision, scores.recall, scores.f1) == (0, 0, 0)
        assert scores.mean_distance_um is None


# --- Rows, JSON and text -------------------------------------------------------------------------


def test_rows_hold_one_threshold_each():
    rows = match_instances(draw(cube(1, 2)), draw(cube(1, 0)), thresholds=[0.6, 0.7]).as_rows()
    assert [row["threshold"] for row in rows] == [0.6, 0.7]
    assert [row["true_positives"] for row in rows] == [1, 0]
    assert [row["recall"] for row in rows] == [1.0, 0.0]


def test_scores_survive_json_unchanged():
    prediction, truth = random_blobs(1)
    points = centroids(truth)
    for scores in (
        match_instances(prediction, truth),
        match_instances(prediction, truth * 0),
        match_points(prediction, points, radius_um=2, voxel_size_um=VOXEL),
        match_points(prediction, [], radius_um=2, voxel_size_um=VOXEL),
    ):
        assert json.loads(json.dumps(scores.as_dict(), allow_nan=False)) == scores.as_dict()


def test_the_table_has_counts_titles_and_one_aligned_line_per_threshold():
    scores = match_instances(draw(cube(1, 2)), draw(cube(1, 0)), thresholds=[0.6, 0.7])
    counts, titles, *lines = format_table(scores).split("\n")
    assert counts == "1 cells predicted, 1 true"
    assert titles.split() == "IoU matched extra missed precision recall F1 PQ mean IoU".split()
    assert lines[0].split() == "0.600 1 0 0 1.000 1.000 1.000 0.667 0.667".split()
    assert lines[1].split() == "0.700 0 1 1 0.000 0.000 0.000 0.000 0.000".split()
    assert len({len(line) for line in (titles, *lines)}) == 1


def test_the_table_of_points_marks_a_missing_distance():
    scores = match_points(draw(cube(1, 0)), [], radius_um=3, voxel_size_um=VOXEL)
    assert format_table(scores).split("\n")[-1].split()[0] == "3.000"
    assert format_table(scores).split()[-1] == "-"


# --- Errors --------------------------------------------------------------------------------------


def test_a_point_outside_the_volume_is_named():
    points = [[1, 2, 3], [39, 5, 5]]
    with pytest.raises(ValueError, match=r"points\[1\] = \[39, 5, 5\] lies outside"):
        match_points(draw(), points, radius_um=3, voxel_size_um=VOXEL)
