import csv
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tifffile
import torch

from tests.benchmarks.nuclei import make_nuclei
from wnet_nb import checkpoint, config, training
from wnet_nb.errors import UserError
from wnet_nb.events import EpochEnd, Preview, StepEnd
from wnet_nb.files import run_files
from wnet_nb.files.result import Result
from wnet_nb.files.writing import write_volume
from wnet_nb.jobs import models
from wnet_nb.jobs import run_folder as runs
from wnet_nb.jobs import train as pipeline
from wnet_nb.jobs.segment import segment
from wnet_nb.jobs.stacks import read_stacks
from wnet_nb.model import WNet3D
from wnet_nb.whole_file import sha256

TINY = config.preset(
    "scratch", base_channels=4, patch_size=16, epochs=2, patches_per_volume=3, batch_size=2
)


@pytest.fixture(autouse=True)
def _one_thread():  # two are slower on a network this small, and wait for each other
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def stacks(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("volumes")
    for seed, name in enumerate(("a.tif", "b.tif")):
        image, _ = make_nuclei(seed, shape=(24, 28, 32), n_cells=6)
        write_volume(tmp_path / "in" / name, image, voxel_size_um=(2.0, 1.0, 0.5))
    return read_stacks(tmp_path / "in", TINY)


@pytest.fixture
def run(tmp_path):
    return tmp_path / "run"


@pytest.fixture(scope="module")
def trained(stacks, tmp_path_factory):
    torch.set_num_threads(1)  # before the fixture of the single test
    run = tmp_path_factory.mktemp("runs") / "trained"
    train(stacks, run)
    return run


@pytest.fixture
def finished(trained, run):
    shutil.copytree(trained, run)
    return run


def train(stacks, run, settings=TINY, **options):
    return pipeline.train(stacks, run, settings, **options)


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


def test_the_settings_replay_the_run(stacks, finished, tmp_path):
    settings = config.load_settings(finished / "settings.json")
    assert settings == TINY
    train(stacks, tmp_path / "again", settings)
    first, second = (run_files.read_history(path) for path in (finished, tmp_path / "again"))
    assert [row["total"] for row in first] == [row["total"] for row in second]


def test_the_settings_name_inputs_with_their_hashes_versions_and_seed(stacks, finished):
    record = json.loads((finished / "settings.json").read_text(encoding="utf-8"))
    assert [item["file"] for item in record["inputs"]] == ["a.tif", "b.tif"]
    first = record["inputs"][0]
    assert first["sha256"] == sha256(stacks[0].source)
    assert first["shape"] == [24, 28, 32]
    assert first["voxel_size_um"] == pytest.approx([2.0, 1.0, 0.5])
    assert first["normalisation"]["low"] < first["normalisation"]["high"]
    assert re.fullmatch(r"\d+\.\d+.*", record["versions"]["torch"])
    assert record["seed"] == 0


def test_the_settings_say_how_each_volume_was_prepared(stacks, finished):
    inputs = json.loads((finished / "settings.json").read_text(encoding="utf-8"))["inputs"]
    for item, stack in zip(inputs, stacks, strict=True):
        prepared, size = stack.prepared(TINY), stack.cell_size
        assert item["averaged_voxels"] == list(prepared.factors)
        assert item["normalisation"] == vars(prepared.normalisation)
        assert item["cell_radius_um"] == pytest.approx(size.radius_um)


def test_a_cell_radius_that_was_given_is_recorded(stacks, run):
    train(stacks, run, TINY.replace(cell_radius_um=4.0, epochs=1))
    inputs = run_files.read_record(run)["inputs"]
    assert [item["cell_radius_um"] for item in inputs] == [4.0, 4.0]
    assert [item["averaged_voxels"] for item in inputs] == [[1, 1, 2], [1, 1, 2]]


@pytest.mark.parametrize("there", ["file in it", "a file"])
def test_a_used_place_is_refused_and_left_as_it_was(stacks, run, there):
    if there == "a file":
        run.write_text("mine")
    else:
        run.mkdir()
        (run / "mine.txt").write_text("mine")
    before = run.read_text() if run.is_file() else content(run)
    with pytest.raises(UserError, match="run"):
        train(stacks, run)
    assert (run.read_text() if run.is_file() else content(run)) == before


def test_a_finished_run_is_not_trained_over(stacks, finished):
    before = content(finished)
    with pytest.raises(UserError, match="resume"):
        train(stacks, finished)
    assert content(finished) == before


def test_a_stopped_run_goes_on_to_the_numbers_of_an_unbroken_one(stacks, run, trained):
    events = pipeline.train_events(stacks, run, TINY)
    for event in events:
        if isinstance(event, training.StepEnd) and event.step == 4:
            break
    events.close()
    assert len(run_files.read_history(run)) == 1
    train(stacks, run, resume=True)
    losses = [
        [(row["soft_ncut"], row["total"]) for row in run_files.read_history(path)]
        for path in (run, trained)
    ]
    assert losses[0] == losses[1]


def test_a_finished_run_can_be_given_more_epochs(stacks, finished):
    train(stacks, finished, TINY.replace(epochs=3), resume=True)
    assert [row["epoch"] for row in run_files.read_history(finished)] == [1, 2, 3]
    assert (finished / "previews" / "epoch-0003.png").exists()
    assert run_files.read_record(finished)["options"]["epochs"] == 3


def test_resuming_starts_where_there_is_nothing_yet(stacks, run):
    train(stacks, run, resume=True)
    assert len(run_files.read_history(run)) == 2


def test_resuming_with_other_options_names_them(stacks, finished):
    with pytest.raises(UserError, match=r"dropout was 0\.0 and is now 0\.3"):
        train(stacks, finished, TINY.replace(dropout=0.3), resume=True)


def test_resuming_with_another_cell_radius_is_refused(stacks, finished):
    with pytest.raises(UserError, match=r"cell_radius_um was None and is now 9\.0"):
        train(stacks, finished, TINY.replace(cell_radius_um=9.0), resume=True)


def test_options_that_may_change_live_may_change_when_resumed_and_are_recorded(stacks, finished):
    more = TINY.replace(epochs=3, radius=3, learning_rate=5e-4, tile_size=64)
    train(stacks, finished, more, resume=True)
    last = run_files.read_history(finished)[-1]
    assert "radius=3" in last["changes"] and last["learning_rate"] == 5e-4


def test_resuming_on_other_volumes_names_them(stacks, finished):
    fewer = read_stacks(stacks[0].source, TINY)
    with pytest.raises(UserError, match=r"'b\.tif' was added, removed or changed"):
        train(fewer, finished, resume=True)


def test_resuming_in_a_folder_of_something_else_is_refused(stacks, run):
    run.mkdir()
    (run / "photo.jpg").write_text("x")
    with pytest.raises(UserError, match="not a run folder"):
        train(stacks, run, resume=True)


def test_a_damaged_settings_file_is_named(stacks, finished):
    (finished / "settings.json").write_text("{")
    with pytest.raises(UserError, match=r"settings\.json"):
        train(stacks, finished, resume=True)


def test_changes_made_during_training_are_written_to_the_history(stacks, run):
    controls = training.Controls()
    for event in pipeline.train_events(stacks, run, TINY, controls=controls):
        if isinstance(event, StepEnd) and event.step == 4:
            controls.change(ncut_weight=0.9)
    changes = [row["changes"] for row in run_files.read_history(run)]
    assert changes == ["", "step 5: ncut_weight=0.9"]


def test_validation_against_labels_is_written_beside_the_history(stacks, run, tmp_path):
    for stack in stacks:
        labels = (stack.array > 300).astype(np.uint8)
        write_volume(tmp_path / "truth" / stack.source.name, labels, voxel_size_um=(2, 1, 0.5))
    told = read_stacks(stacks.path, TINY, labels=tmp_path / "truth")
    train(told, run)
    lines = (run / "validation.csv").read_text().splitlines()
    assert lines[0] == "epoch,dice" and len(lines) == 3
    inputs = run_files.read_record(run)["inputs"]
    assert inputs[0]["truth"] == str(tmp_path / "truth" / "a.tif")


@pytest.mark.parametrize("name", config.PRESETS)
def test_the_preset_is_recorded_also_where_nobody_names_it(name):
    settings = config.preset(name, epochs=3, channel=1)
    assert runs.nearest_preset(settings) == name


def test_a_notebooks_run_says_which_preset_it_was_made_with(finished):
    assert run_files.read_record(finished)["preset"] == "scratch"


def test_a_run_started_from_published_weights_goes_on_with_the_same_settings(
    stacks, run, tmp_path, monkeypatch
):
    weights = tmp_path / "wnet_latest.pth"
    checkpoint.save_cellseg3d_weights(weights, WNet3D(2, base_channels=4))
    monkeypatch.setattr(models, "fetch_published", lambda **_: weights)
    settings = TINY.replace(start_from="published", epochs=1)
    train(stacks, run, settings)
    assert config.load_settings(run / "settings.json").start_from == "published"
    weights.unlink()  # another computer, to which nothing was fetched
    train(stacks, run, settings.replace(epochs=2), resume=True)
    assert len(run_files.read_history(run)) == 2


def test_a_second_training_in_a_run_is_refused_and_leaves_it_alone(stacks, run):
    events = pipeline.train_events(stacks, run, TINY)
    next(events)
    for resume in (True, False):
        with pytest.raises(UserError, match=r"being trained|not empty"):
            pipeline.train_events(stacks, run, TINY, resume=resume)
    assert run_files.read_record(run)["preset"] == "scratch"  # to look at it is possible
    events.close()
    train(stacks, run, resume=True)


HOLDER = """
import sys, time
from wnet_nb.jobs.run_folder import lock_run
from pathlib import Path
lock = lock_run(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(600)
"""


def test_two_processes_cannot_train_one_run_and_a_dead_one_holds_nothing(stacks, finished):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(finished)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "held\n"
        before = content(finished)
        with pytest.raises(UserError, match="is being trained by another"):
            train(stacks, finished, TINY.replace(epochs=3), resume=True)
        assert content(finished) == before
        assert len(run_files.read_history(finished)) == 2
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    train(stacks, finished, TINY.replace(epochs=3), resume=True)
    assert len(run_files.read_history(finished)) == 3


def test_a_folder_of_something_else_gets_no_lock(stacks, run):
    run.mkdir()
    (run / "photo.jpg").write_text("x")
    for resume in (True, False):
        with pytest.raises(UserError):
            pipeline.train_events(stacks, run, TINY, resume=resume)
    assert [path.name for path in run.iterdir()] == ["photo.jpg"]


def test_a_run_goes_on_where_names_are_spelt_and_paths_are_written_otherwise(tmp_path):
    image, _ = make_nuclei(shape=(24, 28, 32), n_cells=6)
    there = write_volume(tmp_path / "in" / "Gr\u00f6\u00dfe.tif", image, voxel_size_um=(2, 1, 1))
    train(read_stacks(there, TINY), tmp_path / "run", TINY.replace(epochs=1))
    record = json.loads((tmp_path / "run" / "settings.json").read_text(encoding="utf-8"))
    windows = "C:\\Users\\me\\stacks\\Gr\u00f6\u00dfe"
    record["inputs"][0] |= {"path": windows + ".tif", "truth": windows + "_labels.tif"}
    words = json.dumps(record)
    (tmp_path / "run" / "settings.json").write_text(words, encoding="utf-8")
    here = there.rename(there.with_name("Gro\u0308\u00dfe.tif"))  # as macOS may spell it
    train(read_stacks(here, TINY), tmp_path / "run", resume=True)
    assert len(run_files.read_history(tmp_path / "run")) == 2
    (result,) = segment(tmp_path / "run", here)
    assert result.facts["count"] >= 0 and result.scores is None


def test_paths_in_the_files_of_a_run_lead_nowhere_outside_it(stacks, finished, tmp_path):
    (result,) = segment(finished, stacks[0].source)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "evil").write_text("mine")
    for file in (finished / "settings.json", result.folder / "result.json"):
        record = json.loads(file.read_text(encoding="utf-8"))
        hostile = {"name": "../../outside/evil", "path": str(outside / "evil"), "truth": "../evil"}
        for one in (record, *record.get("inputs", [])):
            one |= hostile
        record["model"] = str(outside / "evil")
        file.write_text(json.dumps(record), encoding="utf-8")
    before = sorted(path.name for path in tmp_path.rglob("*") if finished not in path.parents)
    train(stacks, finished, TINY.replace(epochs=3), resume=True)
    (second,) = segment(finished, stacks[0].source)
    assert second.folder.parent == finished / "predictions"
    assert Result(result.folder).name == "../../outside/evil"  # was read, and led nowhere
    after = sorted(path.name for path in tmp_path.rglob("*") if finished not in path.parents)
    assert before == after and (outside / "evil").read_text() == "mine"


def test_settings_write_nothing_outside_the_run(stacks, tmp_path):
    hostile = TINY.replace(start_from=str(tmp_path / "out" / "weights.safetensors"), epochs=1)
    with pytest.raises(UserError, match="there is no model"):
        train(stacks, tmp_path / "run", hostile)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


TABLE = {"label": [1, 2, 3], "volume_um3": [12.5, 7.0, 9.0]}


def make_result(folder, name, hour=1, **columns):
    facts = {"name": name, "made": f"2026-01-01T0{hour}:00:00+00:00", "count": 3, "sha256": name}
    with Result.write_new(folder, name) as result:
        result.write_cells(TABLE | columns)
        result.write_facts(facts | {"cell_radius_um": 5.123456, "baseline_count": 2})
    return result


def tables(folder):
    runs.write_tables(folder)
    found = []
    for name in ("cells.csv", "volumes.csv"):
        with (folder / name).open(newline="", encoding="utf-8") as file:
            found.append(list(csv.DictReader(file)))
    return found


def test_every_cell_has_its_volume_and_every_volume_a_row(tmp_path):
    make_result(tmp_path, "b")
    make_result(tmp_path, "a")
    cells, volumes = tables(tmp_path)
    assert [(row["volume"], row["label"]) for row in cells] == [
        (name, label) for name in "ab" for label in "123"
    ]
    assert volumes[0] == {
        "volume": "a",
        "folder": "a",
        "cells": "3",
        "cells_cut_by_edge": "",
        "cells_without_network": "2",
        "cell_radius_um": "5.123",
        "median_volume_um3": "9",
        "f1": "",
    }


def test_the_newest_result_of_a_volume_stands_for_it(tmp_path):
    make_result(tmp_path, "a", hour=1)
    make_result(tmp_path, "a", hour=2)
    (row,) = tables(tmp_path)[1]
    assert row["folder"] == "a-2"


def test_the_scores_of_a_volume_are_in_its_row(tmp_path):
    make_result(tmp_path, "a").write_scores({"scores": {"mean_f1": 0.75}, "truth": "t.tif"})
    assert tables(tmp_path)[1][0]["f1"] == "0.7500"


def test_a_table_with_decimal_commas_joins_with_points(tmp_path):
    table = make_result(tmp_path, "a").folder / "cells.csv"
    table.write_text(table.read_text().replace(",", ";").replace(".", ","))
    assert tables(tmp_path)[0][0]["volume_um3"] == "12.5"


def test_a_result_whose_table_is_gone_is_left_out_with_a_warning(tmp_path):
    make_result(tmp_path, "a")
    (make_result(tmp_path, "b").folder / "cells.csv").unlink()
    with pytest.warns(UserWarning, match="goes without 'b'"):
        cells, volumes = tables(tmp_path)
    assert {row["volume"] for row in cells} == {row["volume"] for row in volumes} == {"a"}


def test_results_with_other_columns_share_a_table(tmp_path):
    make_result(tmp_path, "a")
    make_result(tmp_path, "b", sphericity=[0.5, 0.6, 0.7])
    rows = tables(tmp_path)[0]
    assert [row["sphericity"] for row in rows] == ["", "", "", "0.5", "0.6", "0.7"]


def test_where_there_are_no_locks_a_training_goes_on_with_a_warning(tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise NotImplementedError

    monkeypatch.setattr(runs.FileLock, "acquire", refuse)
    with pytest.warns(UserWarning, match="cannot be locked here"):
        runs.lock_run(tmp_path)


def test_a_volume_without_a_voxel_size_is_recorded_as_such_and_drawn_in_voxels(run, tmp_path):
    image, _ = make_nuclei(shape=(24, 24, 24), n_cells=4)
    tifffile.imwrite(tmp_path / "bare.tif", image)
    train(read_stacks(tmp_path / "bare.tif", TINY), run, TINY.replace(epochs=1))
    (item,) = run_files.read_record(run)["inputs"]
    assert (item["voxel_size_um"], item["voxel_size_source"]) == ([1, 1, 1], "assumed")
    assert (run / "progress.png").stat().st_size > 0


def test_resuming_in_a_file_is_refused(stacks, run):
    run.write_text("mine")
    with pytest.raises(UserError, match="is a file"):
        train(stacks, run, resume=True)
    assert run.read_text() == "mine"


def test_a_resumed_run_keeps_when_it_began_and_says_when_it_went_on(stacks, finished):
    began = run_files.read_record(finished)["started"]
    train(stacks, finished, TINY.replace(epochs=3), resume=True)
    record = run_files.read_record(finished)
    assert record["started"] == began and record["resumed"] >= began


def test_a_resumed_run_keeps_the_scores_of_the_epochs_before(stacks, run):
    recorder = runs.RunRecorder(run, TINY, stacks.stacks)
    (run / "previews").mkdir(parents=True)
    preview = Preview(
        *(np.zeros(shape, np.float32) for shape in ((8,) * 3, (2, 8, 8, 8), (8,) * 3))
    )
    for epoch, dice in ((1, 0.5), (2, 0.6), (3, 0.7), (2, 0.8)):
        row = dict.fromkeys(run_files.HISTORY_COLUMNS, 1.0) | {"epoch": epoch, "changes": ""}
        recorder(EpochEnd(epoch, row, 0.0, preview, dice))
    assert run_files.read_validation(run) == [(1, 0.5), (2, 0.8)]
