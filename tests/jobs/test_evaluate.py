import json

import numpy as np
import pytest

from tests.benchmarks.nuclei import make_nuclei
from wnet_nb.errors import UserError
from wnet_nb.files.result import Result
from wnet_nb.files.writing import write_volume
from wnet_nb.jobs import evaluate as evaluation


def cubes(*starts, edge=6, shape=(20, 30, 30)):
    labels = np.zeros(shape, np.uint16)
    for n, (z, y, x) in enumerate(starts, start=1):
        labels[z : z + edge, y : y + edge, x : x + edge] = n
    return labels


def write(path, labels, size=(1.0, 1.0, 1.0)):
    return write_volume(path, labels, voxel_size_um=size)


TWO = cubes((2, 2, 2), (2, 16, 16))


def test_a_perfect_prediction_scores_one(tmp_path):
    file = write(tmp_path / "a.tif", TWO)
    (one,) = evaluation.evaluate(file, file)
    assert one.dice == 1 and one.scores.mean_f1 == 1


def test_a_shifted_cube_scores_what_is_computed_by_hand(tmp_path):
    found = write(tmp_path / "found.tif", cubes((2, 2, 3)))  # IoU 5/7, Dice 5/6
    true = write(tmp_path / "true.tif", cubes((2, 2, 2)))
    (one,) = evaluation.evaluate(found, true)
    assert one.dice == pytest.approx(5 / 6)
    assert one.scores.f1 == (1, 1, 1, 1, 1, 1, 1, 0, 0)


def test_folders_are_matched_by_name_and_images_beside_labels_are_left_aside(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / "found" / f"{name}_image" / "labels.tif", TWO)
        write(tmp_path / "true" / f"{name}_labels.tif", TWO)
        write(tmp_path / "true" / f"{name}_image.tif", TWO * 0)
    write(tmp_path / "true" / "c_labels.tif", TWO)
    scored = evaluation.evaluate(tmp_path / "found", tmp_path / "true")
    assert [(one.name, one.dice) for one in scored] == [("a", 1), ("b", 1)]


def test_of_a_run_the_newest_result_of_each_volume_is_scored(tmp_path):
    run = tmp_path / "run"
    for second, labels in enumerate((cubes((9, 9, 9)), TWO)):
        with Result.write_new(run / "predictions", "a") as result:
            result.write_labels(labels, (1.0, 1.0, 1.0))
            result.write_facts({"name": "a", "count": 1, "made": f"2026-01-01T00:00:0{second}"})
    true = write(tmp_path / "true" / "a_labels.tif", TWO)
    for place in (run, run / "predictions"):
        for truth in (true, true.parent):
            (one,) = evaluation.evaluate(place, truth)
            assert (one.dice, one.prediction.parent.name) == (1, "a-2")


def test_the_baseline_beside_a_prediction_is_scored_too(tmp_path):
    write(tmp_path / "a" / "labels.tif", TWO)
    write(tmp_path / "a" / "baseline_labels.tif", cubes((2, 2, 2)))
    true = write(tmp_path / "true.tif", TWO)
    (one,) = evaluation.evaluate(tmp_path / "a", true)
    assert (one.scores.mean_f1, one.baseline.n_predicted) == (1, 1)


def test_points_are_matched_within_the_radius_of_the_median_cell(tmp_path):
    found = write(tmp_path / "a.tif", TWO, size=(2.0, 1.0, 1.0))
    points = tmp_path / "a.csv"
    points.write_text("z,y,x\n4.5,4.5,4.5\n4.5,18.5,23\n15,5,5\n")
    (one,) = evaluation.evaluate(found, points)
    radius = (3 * 6**3 * 2 / (4 * np.pi)) ** (1 / 3)
    assert one.dice is None
    assert one.scores.radius_um == pytest.approx(radius)
    assert (one.scores.true_positives, one.scores.false_negatives) == (2, 1)
    (near,) = evaluation.evaluate(found, points, radius_um=1.0)
    assert near.scores.true_positives == 1


def test_whole_numbers_saved_as_float_are_labels(tmp_path):
    found = write(tmp_path / "a.tif", TWO.astype(np.float32))
    (one,) = evaluation.evaluate(found, write(tmp_path / "b.tif", TWO))
    assert one.scores.n_predicted == 2


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda d: (write(d / "a.tif", TWO / np.float32(2)), "a.tif"), "no labels"),
        (lambda d: (write(d / "a.tif", TWO), "nothing.tif"), "does not exist"),
        (lambda d: (write(d / "a.tif", TWO), write(d / "b.tif", TWO[1:]).name), "same volume"),
    ],
    ids=["not labels", "no truth", "other shape"],
)
def test_what_cannot_be_scored_is_named(tmp_path, make, words):
    found, true = make(tmp_path)
    with pytest.raises(UserError, match=words):
        evaluation.evaluate(found, tmp_path / true)


def test_an_image_given_as_labels_is_refused(tmp_path):
    image = write(tmp_path / "raw.tif", make_nuclei(shape=TWO.shape, n_cells=2)[0])
    found = write(tmp_path / "a.tif", TWO)
    for pair in ((found, image), (image, found)):
        with pytest.raises(UserError, match=r"raw\.tif' looks like an image and not like labels"):
            evaluation.evaluate(*pair)


def test_scores_are_kept_in_the_result(tmp_path):
    with Result.write_new(tmp_path, "a") as result:
        result.write_labels(TWO, (1, 1, 1))
        result.write_baseline_labels(cubes((2, 2, 2)), (1, 1, 1))
        result.write_facts({"name": "a", "made": "2026", "count": 2})
    scored = evaluation.score(result, write(tmp_path / "true.tif", TWO))
    assert result.scores["scores"]["mean_f1"] == scored.scores.mean_f1 == 1
    assert result.scores["baseline"]["n_predicted"] == 1
    assert result.scores_picture.exists()


def test_folders_without_a_common_name_say_what_they_hold(tmp_path):
    write(tmp_path / "found" / "a.tif", TWO)
    write(tmp_path / "true" / "b.tif", TWO)
    with pytest.raises(UserError, match=r"\(a\).*\(b\)"):
        evaluation.evaluate(tmp_path / "found", tmp_path / "true")


def test_scores_are_ready_for_json(tmp_path):
    file = write(tmp_path / "a.tif", TWO)
    text = json.dumps(evaluation.evaluate(file, file)[0].as_dict())
    assert json.loads(text)["scores"]["n_true"] == 2
