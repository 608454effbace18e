"""The folder Quality Control is whole or absent, whatever labels there are."""

import csv
import shutil

import numpy as np
import pytest

from wnet_nb import config
from wnet_nb.colab import quality
from wnet_nb.files.writing import write_volume
from wnet_nb.jobs.segment import segment
from wnet_nb.jobs.train import train

TINY = config.preset(
    "scratch", base_channels=4, epochs=1, batch_size=2, patch_size=16, patches_per_volume=4
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run over two volumes, and the cells of both."""
    folder = tmp_path_factory.mktemp("quality")
    random = np.random.default_rng(0)
    for name in "ab":
        image = random.integers(0, 200, (20, 24, 28)).astype(np.uint16)
        image[5:10, 5:12, 6:14] += 500
        write_volume(folder / "images" / f"{name}.tif", image, voxel_size_um=(1, 1, 1))
    train(folder / "images", folder / "run", TINY)
    return folder / "run", segment(folder / "run", folder / "images", cell_radius_um=3.0)


def rows(folder):
    with (folder / "quality_metrics.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_without_labels_there_are_curves_counts_and_versions(trained):
    run, found = trained
    folder = quality.write_quality(run, found)
    assert {p.name for p in folder.iterdir()} == {
        "training_losses.png",
        "training_evaluation.csv",
        "quality_metrics.csv",
        "version_log.txt",
    }
    assert [(row["volume"], row["method"]) for row in rows(folder)] == [
        (name, method) for name in "ab" for method in ("network", "classical")
    ]
    assert "wnet_nb" in (folder / "version_log.txt").read_text()


def test_labels_score_their_volume_and_an_earlier_folder_stays(trained, tmp_path):
    run, found = trained
    before = quality.write_quality(run, found[:1])
    folder = quality.write_quality(run, found[:1], found[0].folder / "labels.tif")
    assert folder != before and before.exists()
    assert (folder / "a_scores.png").exists()
    assert float(rows(folder)[0]["Dice"]) == 1


def test_labels_for_only_some_stacks_score_those_and_say_so_of_the_others(trained, tmp_path):
    run, found = trained
    shutil.copyfile(found[0].folder / "labels.tif", tmp_path / "a_labels.tif")
    folder = quality.write_quality(run, found, tmp_path)
    scored, other = rows(folder)[0], rows(folder)[2]
    assert (scored["volume"], float(scored["F1"])) == ("a", 1)
    assert (other["volume"], other["F1"]) == ("b", "")
    assert "name them alike" in other["remark"]
    assert [p.name for p in run.iterdir() if p.name.startswith(".")] == []


def test_a_failure_leaves_no_half_made_folder(trained, monkeypatch):
    run, found = trained
    before = sorted(run.iterdir())
    monkeypatch.setattr(quality, "version_log", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        quality.write_quality(run, found)
    assert sorted(run.iterdir()) == before
