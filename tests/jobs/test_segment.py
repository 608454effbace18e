import csv
import json

import numpy as np
import pytest
import torch

from wnet_nb import checkpoint, config
from wnet_nb.cli.main import main
from wnet_nb.errors import UserError
from wnet_nb.files.volumes import read_volume
from wnet_nb.files.writing import write_volume
from wnet_nb.jobs import segment as prediction
from wnet_nb.jobs import train as pipeline
from wnet_nb.jobs.example import make_example
from wnet_nb.model import WNet3D

TINY = config.preset(
    "scratch", base_channels=4, patch_size=16, epochs=2, patches_per_volume=4, tile_size=32
)
FILES = ("baseline_labels.tif", "cells.csv", "foreground.tif", "labels.tif", "overlay.png")


@pytest.fixture(autouse=True)
def _one_thread():  # two are slower on a network this small, and wait for each other
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    array, _ = make_example(shape=(36, 40, 44), n_cells=10)
    path = tmp_path_factory.mktemp("data") / "a.tif"
    return write_volume(path, array, voxel_size_um=(1.0, 0.5, 0.5))


@pytest.fixture(scope="module")
def run(image, tmp_path_factory):
    torch.set_num_threads(1)  # before the fixture of the single test
    path = tmp_path_factory.mktemp("runs") / "run"
    pipeline.train_run(image, path, TINY)
    return path


def test_a_volume_leaves_everything_of_the_contract(run, image, tmp_path):
    (one,) = prediction.segment(run, image, out=tmp_path)
    assert one.folder == tmp_path / "a"
    assert sorted(p.name for p in one.folder.iterdir()) == sorted([*FILES, "result.json"])
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_labels_keep_shape_and_voxel_size_and_agree_with_table_and_count(run, image, tmp_path):
    (one,) = prediction.segment(run, image, out=tmp_path)
    labels = read_volume(one.folder / "labels.tif")
    assert labels.array.dtype == np.uint16 and labels.shape == (36, 40, 44)
    assert labels.voxel_size_um == pytest.approx((1.0, 0.5, 0.5))
    foreground = read_volume(one.folder / "foreground.tif").array
    assert foreground.dtype == np.float32 and 0 <= foreground.min() <= foreground.max() <= 1
    with (one.folder / "cells.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    values = set(np.unique(labels.array)) - {0}
    assert {int(row["label"]) for row in rows} == values
    assert one.facts["count"] == len(values)
    baseline = read_volume(one.folder / "baseline_labels.tif").array
    assert one.facts["baseline_count"] == len(np.unique(baseline)) - 1


def test_the_result_says_how_it_was_made(run, image, tmp_path):
    (one,) = prediction.segment(run, image, out=tmp_path, cell_radius_um=3.0)
    result = json.loads((one.folder / "result.json").read_text(encoding="utf-8"))
    assert result == one.facts
    assert result["cell_radius_um"] == 3.0
    assert result["settings"]["cell_radius_um"] == 3.0
    assert result["reason"] and result["classes"] in ([0], [1])


def test_a_second_result_gets_a_folder_of_its_own(run, image, tmp_path):
    (first,) = prediction.segment(run, image, out=tmp_path)
    before = {p.name: p.read_bytes() for p in first.folder.iterdir()}
    (second,) = prediction.segment(run, image, out=tmp_path)
    assert second.folder.name == "a-2"
    assert {p.name: p.read_bytes() for p in first.folder.iterdir()} == before


def test_results_go_into_the_run_unless_another_place_is_given(run, image):
    (one,) = prediction.segment(run / "weights.safetensors", image)
    assert one.folder.parent == run / "predictions"


def test_a_break_leaves_no_half_made_result(run, image, tmp_path):
    model = prediction.load_model(run)

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prediction.segment_volume(
            read_volume(image), model, model.settings, tmp_path, progress=stop
        )
    assert list(tmp_path.iterdir()) == []


def test_large_probabilities_go_through_a_file_and_give_the_same_cells(
    run, image, tmp_path, monkeypatch
):
    (one,) = prediction.segment(run, image, out=tmp_path)
    monkeypatch.setattr(prediction, "IN_MEMORY_VALUES", 10)
    (two,) = prediction.segment(run, image, out=tmp_path)
    first, second = (read_volume(p.folder / "labels.tif").array for p in (one, two))
    assert np.array_equal(first, second)
    assert sorted(p.name for p in two.folder.iterdir()) == sorted([*FILES, "result.json"])


def test_a_file_without_voxel_size_takes_the_one_of_the_training(image, tmp_path):
    import tifffile

    bare = tmp_path / "bare.tif"
    tifffile.imwrite(bare, np.asarray(read_volume(image).array))
    settings = TINY.replace(voxel_size_um=(2.0, 1.0, 1.0), epochs=1)
    pipeline.train_run(bare, tmp_path / "run", settings)
    (one,) = prediction.segment(tmp_path / "run", bare)
    assert one.facts["voxel_size_um"] == [2.0, 1.0, 1.0]
    (two,) = prediction.segment(tmp_path / "run", image)
    assert two.facts["voxel_size_um"] == [1.0, 0.5, 0.5]
    (three,) = prediction.segment(tmp_path / "run", image, voxel_size_um=(3.0, 1.0, 1.0))
    assert three.facts["voxel_size_um"] == [3.0, 1.0, 1.0]


def test_options_of_the_training_cannot_change_afterwards(run, image):
    with pytest.raises(UserError, match="intensity_sigma belongs to the training"):
        prediction.segment(run, image, intensity_sigma=3.0)


def test_published_weights_segment_without_training(image, tmp_path):
    weights = tmp_path / "wnet_latest.pth"
    checkpoint.save_cellseg3d_weights(weights, WNet3D(2, base_channels=4))
    (one,) = prediction.segment(weights, image, out=tmp_path / "out", tile_size=32)
    assert (one.folder / "labels.tif").exists()


def test_the_verb_segments_a_folder_and_names_what_failed(run, image, tmp_path, capsys):
    folder = tmp_path / "in"
    write_volume(folder / "a.tif", read_volume(image).array, voxel_size_um=(1, 1, 1))
    write_volume(folder / "flat.tif", np.full((16, 16, 16), 7, np.uint8), voxel_size_um=(1, 1, 1))
    (folder / "cut.tif").write_bytes((folder / "a.tif").read_bytes()[:9000])
    status = main(["segment", str(run), str(folder), "--out", str(tmp_path / "out"), "--json"])
    told = capsys.readouterr()
    assert status == 0
    result = json.loads(told.out)
    assert [one["name"] for one in result["results"]] == ["a"]
    assert {item["path"].split("/")[-1] for item in result["skipped"]} == {"flat.tif", "cut.tif"}
    assert "'flat' was not segmented" in told.err and "left" in told.err
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a"]


def test_the_verb_says_what_it_wrote(run, image, tmp_path, capsys):
    assert main(["segment", str(run), str(image), "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    for name in FILES:
        assert f"wrote {tmp_path / 'a' / name}" in out
    assert "classical method:" in out


def test_a_radius_given_afterwards_splits_cells_and_leaves_the_class_map(run, image, tmp_path):
    maps = []
    for radius in (3.0, 6.0):
        (found,) = prediction.segment(run, image, out=tmp_path / f"{radius}", cell_radius_um=radius)
        assert found.facts["cell_radius_um"] == radius
        maps.append(read_volume(found.folder / "foreground.tif").array)
    np.testing.assert_array_equal(*maps)


def test_the_count_says_how_many_cells_are_cut_and_what_to_do_about_none():
    result = {"count": 48, "cut_by_edge": 36, "baseline_count": 50}
    words = prediction.count_in_words(result)
    assert words == "48 cells, 36 of them cut by the edge of the volume (classical method: 50)"
    none = prediction.count_in_words(result | {"count": 0, "cut_by_edge": 0})
    assert none.startswith("0 cells (classical method: 50); ") and "minimum_size" in none
