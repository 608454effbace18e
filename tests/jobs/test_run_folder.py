import csv
import json
import re
import shutil

import numpy as np
import pytest
import torch

from wnet_nb import checkpoint, config, training
from wnet_nb.errors import UserError
from wnet_nb.events import StepEnd
from wnet_nb.files import run_files
from wnet_nb.files.volumes import find_volumes, read_volume
from wnet_nb.files.writing import write_volume
from wnet_nb.jobs import run_folder as runs
from wnet_nb.jobs import train as pipeline
from wnet_nb.jobs.example import make_example
from wnet_nb.jobs.prepare import prepare_volume
from wnet_nb.whole_file import sha256

TINY = config.preset(
    "scratch", base_channels=4, patch_size=16, epochs=2, patches_per_volume=3, batch_size=2
)


@pytest.fixture(autouse=True)
def _one_thread():  # two are slower on a network this small, and wait for each other
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("volumes")
    for seed, name in enumerate(("a.tif", "b.tif")):
        image, _ = make_example(seed, shape=(24, 28, 32), n_cells=6)
        write_volume(tmp_path / "in" / name, image, voxel_size_um=(2.0, 1.0, 0.5))
    return [read_volume(path) for path in find_volumes(tmp_path / "in")]


@pytest.fixture
def run(tmp_path):
    return tmp_path / "run"


@pytest.fixture(scope="module")
def trained(volumes, tmp_path_factory):
    torch.set_num_threads(1)  # before the fixture of the single test
    run = tmp_path_factory.mktemp("runs") / "trained"
    train(volumes, run)
    return run


@pytest.fixture
def finished(trained, run):
    shutil.copytree(trained, run)
    return run


def train(volumes, run, settings=TINY, **options):
    return pipeline.train_run(volumes, run, settings, **options)


def content(run):
    return {p.name: p.read_bytes() for p in run.rglob("*") if p.is_file()}


def test_a_run_leaves_everything_of_the_contract(finished):
    names = {str(path.relative_to(finished)) for path in finished.rglob("*") if path.is_file()}
    assert {"settings.json", "history.csv", "progress.png", "weights.safetensors"} <= names
    assert "report.html" in names
    assert {"previews/epoch-0001.png", "previews/epoch-0002.png"} <= names
    assert [name for name in names if name.startswith("checkpoints/step-")]
    assert not [name for name in names if name.endswith(".part")]


def test_the_history_has_the_columns_of_the_contract_and_a_row_per_epoch(finished):
    with (finished / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        "epoch",
        "step",
        "soft_ncut",
        "reconstruction",
        "total",
        "learning_rate",
        "seconds",
        "peak_memory_mb",
        "changes",
    ]
    assert [(row["epoch"], row["step"]) for row in rows] == [("1", "3"), ("2", "6")]
    assert run_files.read_history(finished) == checkpoint.load_checkpoint(finished).history


def test_the_settings_replay_the_run(volumes, finished, tmp_path):
    settings = config.load_settings(finished / "settings.json")
    assert settings == TINY
    train(volumes, tmp_path / "again", settings)
    first, second = (run_files.read_history(path) for path in (finished, tmp_path / "again"))
    assert [row["total"] for row in first] == [row["total"] for row in second]


def test_the_settings_name_inputs_with_their_hashes_versions_and_seed(volumes, finished):
    record = json.loads((finished / "settings.json").read_text(encoding="utf-8"))
    assert [item["file"] for item in record["inputs"]] == ["a.tif", "b.tif"]
    first = record["inputs"][0]
    assert first["sha256"] == sha256(volumes[0].source)
    assert first["shape"] == [24, 28, 32]
    assert first["voxel_size_um"] == pytest.approx([2.0, 1.0, 0.5])
    assert first["normalisation"]["low"] < first["normalisation"]["high"]
    assert re.fullmatch(r"\d+\.\d+.*", record["versions"]["torch"])
    assert record["seed"] == 0


def test_the_settings_say_how_each_volume_was_prepared(volumes, finished):
    inputs = json.loads((finished / "settings.json").read_text(encoding="utf-8"))["inputs"]
    for item, volume in zip(inputs, volumes, strict=True):
        prepared, size = prepare_volume(volume, TINY)
        assert item["averaged_voxels"] == list(prepared.factors)
        assert item["normalisation"] == prepared.normalisation.as_dict()
        assert item["cell_radius_um"] == pytest.approx(size.radius_um)


def test_a_cell_radius_that_was_given_is_recorded(volumes, run):
    train(volumes, run, TINY.replace(cell_radius_um=4.0, epochs=1))
    inputs = run_files.read_record(run)["inputs"]
    assert [item["cell_radius_um"] for item in inputs] == [4.0, 4.0]
    assert [item["averaged_voxels"] for item in inputs] == [[1, 1, 2], [1, 1, 2]]


@pytest.mark.parametrize("there", ["file in it", "a file"])
def test_a_used_place_is_refused_and_left_as_it_was(volumes, run, there):
    if there == "a file":
        run.write_text("mine")
    else:
        run.mkdir()
        (run / "mine.txt").write_text("mine")
    before = run.read_text() if run.is_file() else content(run)
    with pytest.raises(UserError, match="run"):
        train(volumes, run)
    assert (run.read_text() if run.is_file() else content(run)) == before


def test_a_finished_run_is_not_trained_over(volumes, finished):
    before = content(finished)
    with pytest.raises(UserError, match="resume"):
        train(volumes, finished)
    assert content(finished) == before


def test_a_stopped_run_goes_on_to_the_numbers_of_an_unbroken_one(volumes, run, trained):
    events = pipeline.train_events(volumes, run, TINY)
    for event in events:
        if isinstance(event, training.StepEnd) and event.step == 4:
            break
    events.close()
    assert len(run_files.read_history(run)) == 1
    train(volumes, run, resume=True)
    losses = [
        [(row["soft_ncut"], row["total"]) for row in run_files.read_history(path)]
        for path in (run, trained)
    ]
    assert losses[0] == losses[1]


def test_a_finished_run_can_be_given_more_epochs(volumes, finished):
    train(volumes, finished, TINY.replace(epochs=3), resume=True)
    assert [row["epoch"] for row in run_files.read_history(finished)] == [1, 2, 3]
    assert (finished / "previews" / "epoch-0003.png").exists()
    assert run_files.read_record(finished)["options"]["epochs"] == 3


def test_resuming_starts_where_there_is_nothing_yet(volumes, run):
    train(volumes, run, resume=True)
    assert len(run_files.read_history(run)) == 2


def test_resuming_with_other_options_names_them(volumes, finished):
    with pytest.raises(UserError, match="radius was 2 and is now 3"):
        train(volumes, finished, TINY.replace(radius=3), resume=True)


def test_resuming_on_other_volumes_names_them(volumes, finished):
    with pytest.raises(UserError, match=r"'b\.tif' was added, removed or changed"):
        train(volumes[:1], finished, resume=True)


def test_resuming_in_a_folder_of_something_else_is_refused(volumes, run):
    run.mkdir()
    (run / "photo.jpg").write_text("x")
    with pytest.raises(UserError, match="not a run folder"):
        train(volumes, run, resume=True)


def test_a_damaged_settings_file_is_named(volumes, finished):
    (finished / "settings.json").write_text("{")
    with pytest.raises(UserError, match=r"settings\.json"):
        train(volumes, finished, resume=True)


def test_changes_made_during_training_are_written_to_the_history(volumes, run):
    controls = training.Controls()
    for event in pipeline.train_events(volumes, run, TINY, controls=controls):
        if isinstance(event, StepEnd) and event.step == 4:
            controls.change(ncut_weight=0.9)
    changes = [row["changes"] for row in run_files.read_history(run)]
    assert changes == ["", "step 5: ncut_weight=0.9"]


def test_validation_against_labels_is_written_beside_the_history(volumes, run):
    pairs = [(v, np.asarray(v.array) > 300) for v in volumes]
    train(volumes, run, validation=pairs)
    lines = (run / "validation.csv").read_text().splitlines()
    assert lines[0] == "epoch,dice" and len(lines) == 3


def test_a_volume_without_a_file_is_known_by_its_voxels(volumes):
    from dataclasses import replace
    from pathlib import Path

    first, second = (replace(v, source=Path("in memory")) for v in volumes)
    assert runs.hash_source(first) == runs.hash_source(first) != runs.hash_source(second)
