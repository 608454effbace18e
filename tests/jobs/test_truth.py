from pathlib import Path

import numpy as np
import pytest

from tests.benchmarks.nuclei import make_nuclei
from wnet_nb.config import preset
from wnet_nb.errors import UserError
from wnet_nb.files.writing import write_volume
from wnet_nb.jobs.stacks import read_stacks
from wnet_nb.jobs.truth import match_name

QUICK = preset("quick")


@pytest.fixture
def folder(tmp_path):
    """Two images; true labels beside the first."""
    for seed, name in enumerate("ab"):
        image, labels = make_nuclei(seed, shape=(24, 24, 24), n_cells=4)
        write_volume(tmp_path / f"{name}.tif", image, voxel_size_um=(1, 1, 1))
        if name == "a":
            write_volume(tmp_path / "a_labels.tif", labels, voxel_size_um=(1, 1, 1))
    return tmp_path


@pytest.mark.parametrize(
    "name",
    ["a.tif", "a_labels.tif", "a.ome.tif", "a_truth.tiff", "a_points_zyx.csv", "a_image.tif"],
)
def test_endings_that_say_what_a_file_is_do_not_count_for_its_name(name):
    assert match_name(Path("somewhere") / name) == "a"


def test_a_name_that_is_nothing_but_an_ending_stays():
    assert match_name(Path("labels_of_mine.tif")) == "labels_of_mine"
    assert match_name(Path("a_image") / "labels.tif") == "a"


def test_labels_beside_images_are_their_truth_and_are_not_trained_on(folder):
    found = read_stacks(folder, QUICK)
    assert [stack.name for stack in found] == ["a", "b"]
    assert found[0].truth_file == folder / "a_labels.tif" and found[1].truth_file is None
    assert found[0].truth.max() == 4 and found[1].truth is None
    assert "never trained on" in found[0].findings[-1].text
    assert found.skipped == ()
    assert read_stacks(folder / "a.tif", QUICK)[0].truth_file == folder / "a_labels.tif"


def test_points_beside_an_image_are_its_truth(folder):
    (folder / "b_points.csv").write_text("z,y,x\n1,2,3\n")
    stack = read_stacks(folder, QUICK)[1]
    assert stack.truth_file == folder / "b_points.csv" and stack.truth is None


def test_an_image_named_like_labels_is_an_image(folder):
    image, _ = make_nuclei(3, shape=(24, 24, 24), n_cells=4)
    write_volume(folder / "b_cells.tif", image, voxel_size_um=(1, 1, 1))
    assert [stack.name for stack in read_stacks(folder, QUICK)] == ["a", "b", "b_cells"]


def test_labels_beside_an_image_that_do_not_fit_are_left_aside_with_a_warning(folder):
    write_volume(folder / "b_labels.tif", np.ones((8, 24, 24), np.uint8), voxel_size_um=(1, 1, 1))
    found = read_stacks(folder, QUICK)
    assert found[1].truth_file is None
    assert found[1].findings[-1].level == "warning" and "left aside" in found[1].findings[-1].text


def test_labels_for_only_some_volumes_are_taken_for_those(folder, tmp_path):
    _, labels = make_nuclei(1, shape=(24, 24, 24), n_cells=4)
    write_volume(tmp_path / "truth" / "b.tif", labels, voxel_size_um=(1, 1, 1))
    found = read_stacks(folder, QUICK, labels=tmp_path / "truth")
    assert [stack.truth_file for stack in found][1] == tmp_path / "truth" / "b.tif"
    assert "a" in [stack.name for stack in found]


def test_a_single_file_of_labels_belongs_to_a_single_volume_whatever_its_name(folder):
    named = (folder / "a_labels.tif").rename(folder / "drawn by me.tif")
    (stack,) = read_stacks(folder / "a.tif", QUICK, labels=named)
    assert stack.truth_file == named


@pytest.mark.parametrize(
    "labels, said",
    [
        ("a.tif", "looks like an image and not like labels"),
        ("nowhere", "does not exist"),
        ("small.tif", "labels of the same volume"),
        ("empty", "have the name of a volume"),
    ],
)
def test_labels_given_that_do_not_fit_are_refused(folder, labels, said):
    write_volume(folder / "small.tif", np.ones((8, 8, 8), np.uint8), voxel_size_um=(1, 1, 1))
    (folder / "empty").mkdir()
    with pytest.raises(UserError, match=said):
        read_stacks(folder / "b.tif", QUICK, labels=folder / labels)
