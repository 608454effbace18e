import csv
import json
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

from tests.benchmarks.nuclei import make_nuclei
from wnet_nb import checkpoint, config
from wnet_nb.cells.scores import match_instances
from wnet_nb.cells.size import CellSize
from wnet_nb.cli.main import main
from wnet_nb.errors import UserError
from wnet_nb.files import run_files
from wnet_nb.files.volumes import read_volume
from wnet_nb.files.writing import write_volume
from wnet_nb.jobs import segment as prediction
from wnet_nb.jobs import stacks
from wnet_nb.jobs import train as pipeline
from wnet_nb.jobs.models import load_model, predict_classes
from wnet_nb.jobs.stacks import read_stacks
from wnet_nb.model import WNet3D

TINY = config.preset(
    "scratch", base_channels=4, patch_size=16, epochs=2, patches_per_volume=4, tile_size=32
)
FILES = ("baseline_labels.tif", "cells.csv", "foreground.tif", "labels.tif", "overlay.png")
FILES += ("projections.png",)


@pytest.fixture(autouse=True)
def _one_thread():  # two are slower on a network this small, and wait for each other
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    array, _ = make_nuclei(shape=(36, 40, 44), n_cells=10)
    path = tmp_path_factory.mktemp("data") / "a.tif"
    return write_volume(path, array, voxel_size_um=(1.0, 0.5, 0.5))


@pytest.fixture(scope="module")
def run(image, tmp_path_factory):
    torch.set_num_threads(1)  # before the fixture of the single test
    path = tmp_path_factory.mktemp("runs") / "run"
    pipeline.train(image, path, TINY)
    return path


def test_a_volume_leaves_everything_of_the_contract(run, image, tmp_path):
    (one,) = prediction.segment(run, image, out=tmp_path)
    assert one.folder == tmp_path / "a"
    assert sorted(p.name for p in one.folder.iterdir()) == sorted([*FILES, "result.json"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "cells.csv", "volumes.csv"]


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
    def stop(progress):
        if progress.tiles:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prediction.segment(run, image, out=tmp_path, observe=stop)
    assert list(tmp_path.iterdir()) == []


def test_a_wish_to_stop_ends_it_within_a_volume(run, image, tmp_path):
    found = prediction.segment(run, image, out=tmp_path, observe=lambda p: p.tiles == 1)
    assert found == [] and list(tmp_path.iterdir()) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from wnet_nb.files import tables, writing
from wnet_nb.files.result import Result
from wnet_nb.jobs.segment import segment

run, stacks, out, moment = sys.argv[1:]

def die(*arguments, **options):
    os.kill(os.getpid(), signal.SIGKILL)

def die_half_written(path, *arguments, **options):
    Path(path).write_bytes(b"II*\\0 half")
    die()

def observe(progress):
    if progress.number == 2 and progress.tiles == 1:
        if moment == "tile":
            die()
        elif moment == "labels":
            writing.tifffile.imwrite = die_half_written
        elif moment == "facts":
            Result.write_facts = die
        elif moment == "name":
            Path.rename = die
    if progress.number == 2 and progress.result and moment == "table":
        tables.csv.DictWriter.writerow = die

segment(run, stacks, out=out, observe=observe)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL there")
@pytest.mark.parametrize("moment", ["tile", "labels", "facts", "name", "table"])
def test_a_process_killed_in_the_middle_leaves_nothing_half_made_and_a_second_call_finishes(
    run, image, tmp_path, moment
):
    stacks, out = tmp_path / "in", tmp_path / "out"
    stacks.mkdir()
    for name in ("a.tif", "b.tif"):
        shutil.copy(image, stacks / name)
    words = [sys.executable, "-c", KILLED, run, stacks, out, moment]
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    whole = ["a", "b"] if moment == "table" else ["a"]
    assert sorted(p.name for p in out.glob("[!.]*")) == whole  # and no table that lacks cells
    for folder in whole:
        assert sorted(p.name for p in (out / folder).iterdir()) == sorted([*FILES, "result.json"])
    found = prediction.segment(run, stacks, out=out)
    assert [one.name for one in found] == ["a", "b"]
    for one in found:
        assert one.facts["count"] == len(one.cells()) == len(np.unique(one.labels())) - 1
    assert {"cells.csv", "volumes.csv"} <= {p.name for p in out.iterdir()}
    assert not list(out.glob(".*part")) and not list(out.rglob(".*.lock"))


def test_a_volume_that_the_disk_has_no_room_for_is_named_and_leaves_nothing(image, small_disk):
    free = shutil.disk_usage(small_disk).free
    (small_disk / "other").write_bytes(bytes(free - 4096))
    with pytest.raises(UserError, match=r"nothing was segmented: .*No space left"):
        prediction.segment("none", image, out=small_disk / "out")
    assert list((small_disk / "out").iterdir()) == []


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
    pipeline.train(bare, tmp_path / "run", settings)
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
    assert [p.name for p in (tmp_path / "out").iterdir() if p.is_dir()] == ["a"]


def test_the_verb_says_what_it_wrote(run, image, tmp_path, capsys):
    assert main(["segment", str(run), str(image), "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    for name in FILES:
        assert f"wrote {tmp_path / 'a' / name}" in out
    assert "the network changed" in out


def test_a_radius_that_is_given_decides_what_the_network_sees(run, image, tmp_path):
    model, (stack,) = load_model(run), read_stacks(image, TINY, check=False)
    for radius in (3.0, 6.0):
        (found,) = prediction.segment(run, image, out=tmp_path / f"{radius}", cell_radius_um=radius)
        assert found.facts["cell_radius_um"] == radius
        prepared = stack.prepared(model.settings.replace(cell_radius_um=radius))
        classes = predict_classes(prepared, model, model.settings)
        expected = classes[list(found.facts["classes"])].sum(0)
        foreground = read_volume(found.folder / "foreground.tif").array
        np.testing.assert_allclose(foreground, expected, atol=1e-3)


def test_the_starter_looks_again_where_the_image_misled_about_the_radius(tmp_path):
    image, labels = make_nuclei(0, shape=(48, 64, 64), n_cells=38)  # of 5 voxels
    path = write_volume(tmp_path / "a.tif", image, voxel_size_um=(1, 1, 1))
    stacks = read_stacks(path, config.preset("quick"), check=False)
    misled = CellSize(6.8, (6.8, 6.8, 6.8), 30, 0.1, "misled")
    stacks[0].cell_size = misled
    (seen,) = prediction.segment("starter", stacks, out=tmp_path / "seen")
    assert seen.facts["cell_radius_um"] == pytest.approx(5, rel=0.1)
    assert "found at first" in seen.facts["cell_size"]["reason"]
    (given,) = prediction.segment("starter", stacks, out=tmp_path / "given", cell_radius_um=6.8)
    assert given.facts["cell_radius_um"] == 6.8
    f1 = [match_instances(one.labels(), labels, thresholds=[0.5]).f1[0] for one in (seen, given)]
    assert f1[0] > max(0.95, f1[1])
    # What it is compared with does not profit from the network.
    (none,) = prediction.segment("none", stacks, out=tmp_path / "none")
    np.testing.assert_array_equal(seen.baseline_labels(), none.labels())


def test_the_count_says_what_is_cut_what_the_network_changed_and_what_to_do_about_none():
    added = {"count": 123, "without_network": 120, "same": 120}
    added |= {"only_with_network": 3, "only_without": 0}
    facts = {"count": 123, "cut_by_edge": 36, "network_added": added}
    assert prediction.count_in_words(facts) == (
        "123 cells, 36 of them cut by the edge of the volume; the network changed 3 of 123 (120 "
        "are the same)"
    )
    facts = {"count": 123, "cut_by_edge": 0, "network_added": added | {"only_without": 1}}
    assert prediction.count_in_words(facts).endswith(
        "3 of 123, and 1 of the 120 found without it are gone (120 are the same)"
    )
    one = {"count": 1, "cut_by_edge": 0, "network_added": None}
    assert prediction.count_in_words(one) == "1 cell"
    none = {"count": 0, "cut_by_edge": 0, "network_added": None}
    assert "minimum_size" in prediction.count_in_words(none)


def test_the_baseline_of_a_result_is_what_the_word_none_gives(run, image, tmp_path):
    (network,) = prediction.segment(run, image, out=tmp_path / "network")
    (plain,) = prediction.segment("none", image, out=tmp_path / "plain")
    np.testing.assert_array_equal(network.baseline_labels(), plain.labels())
    np.testing.assert_array_equal(plain.baseline_labels(), plain.labels())
    assert plain.facts["network_added"] is None and plain.facts["model"] == "none"
    added = network.facts["network_added"]
    assert added["count"] == network.facts["count"]
    assert added["without_network"] == plain.facts["count"] == network.facts["baseline_count"]
    assert added["same"] + added["only_without"] == added["without_network"]


def test_without_a_network_the_cells_of_an_easy_volume_are_found(tmp_path):
    array, labels = make_nuclei(3, shape=(48, 48, 48), n_cells=18, noise=0.5)
    write_volume(tmp_path / "a.tif", array, voxel_size_um=(1, 1, 1))
    write_volume(tmp_path / "a_labels.tif", labels, voxel_size_um=(1, 1, 1))
    (one,) = prediction.segment("none", tmp_path / "a.tif", out=tmp_path / "out")
    assert one.scores["scores"]["rows"][4]["f1"] > 0.8


def test_a_bad_volume_is_named_and_the_others_are_segmented(run, image, tmp_path):
    write_volume(tmp_path / "in" / "b.tif", read_volume(image).array, voxel_size_um=(1, 1, 1))
    flat = np.full((16, 16, 16), 7, np.uint8)
    write_volume(tmp_path / "in" / "a.tif", flat, voxel_size_um=(1, 1, 1))
    with pytest.warns(UserWarning, match="not segmented: 'a' has the same value"):
        found = prediction.segment(run, tmp_path / "in", out=tmp_path / "out")
    assert [one.name for one in found] == ["b"]
    with pytest.raises(UserError, match="nothing was segmented"):
        prediction.segment(run, tmp_path / "in" / "a.tif", out=tmp_path / "out")


def test_every_result_of_a_volume_with_a_known_truth_is_scored(run, image, tmp_path):
    _, labels = make_nuclei(shape=(36, 40, 44), n_cells=10)
    truth = write_volume(tmp_path / "true.tif", labels, voxel_size_um=(1, 0.5, 0.5))
    settings = run_files.read_record(run)["options"]
    told = read_stacks(image, config.Settings(**settings), labels=truth)
    first, later = (prediction.segment(run, data, out=tmp_path / "p")[0] for data in (told, image))
    assert first.scores["truth"] == later.scores["truth"] == str(truth)
    assert later.scores["scores"]["n_true"] == 10


def test_a_volume_that_the_training_knew_the_truth_of_is_scored(image, tmp_path):
    _, labels = make_nuclei(shape=(36, 40, 44), n_cells=10)
    truth = write_volume(tmp_path / "true.tif", labels, voxel_size_um=(1, 0.5, 0.5))
    pipeline.train(read_stacks(image, TINY, labels=truth), tmp_path / "run", TINY)
    (one,) = prediction.segment(tmp_path / "run", image)
    assert one.scores["truth"] == str(truth)


def test_one_table_holds_the_cells_of_all_volumes(run, image, tmp_path):
    for name in ("a.tif", "b.tif"):
        array, _ = make_nuclei(ord(name[0]), shape=(36, 40, 44), n_cells=10)
        write_volume(tmp_path / "in" / name, array, voxel_size_um=(1, 1, 1))
    found = prediction.segment("none", tmp_path / "in", out=tmp_path / "out")
    with (tmp_path / "out" / "cells.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = [row["volume"] for row in rows]
    assert {one.name: names.count(one.name) for one in found} == {
        one.name: one.facts["count"] for one in found
    }
    with (tmp_path / "out" / "volumes.csv").open(newline="") as file:
        table = {row["volume"]: row for row in csv.DictReader(file)}
    assert int(table["b"]["cells"]) == found[1].facts["count"]


def test_a_table_saved_again_by_a_spreadsheet_ends_no_job(image, tmp_path):
    (one,) = prediction.segment("none", image, out=tmp_path)
    table = one.folder / "cells.csv"
    table.write_text(table.read_text().replace(",", ";").replace(".", ","))
    before = (tmp_path / "cells.csv").read_text()
    other = write_volume(
        tmp_path / "b.tif", np.asarray(read_volume(image).array)[::-1], voxel_size_um=(1, 1, 1)
    )
    prediction.segment("none", other, out=tmp_path)
    assert before.splitlines()[1] in (tmp_path / "cells.csv").read_text()


def test_a_radius_that_is_given_helps_where_the_image_shows_no_cells(image, tmp_path, monkeypatch):
    def none(*arguments, **options):
        raise UserError("no blob stands out of the noise")

    monkeypatch.setattr(stacks, "estimate_cell_radius", none)
    found = read_stacks(image, TINY, check=False)
    (one,) = prediction.segment("none", found, out=tmp_path, cell_radius_um=4.0)
    assert one.facts["cell_radius_um"] == 4.0
    prepared = found[0].prepared(TINY.replace(cell_radius_um=4.0))
    assert prepared.cell_radius_um == 4.0 and found[0].prepared(TINY).cell_radius_um is None


def test_what_the_network_added_is_counted_by_overlap():
    labels = np.zeros((4, 4, 12), np.int32)
    baseline = labels.copy()
    labels[..., :4], labels[..., 8:] = 1, 2
    baseline[..., 1:4], baseline[..., 5:7] = 7, 9  # 3 of 4 voxels shared; nothing shared
    assert prediction.compare(labels, baseline) == {
        "count": 2,
        "without_network": 2,
        "same": 1,
        "only_with_network": 1,
        "only_without": 1,
    }
