import asyncio
import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from wnet_nb import config, training, widgets
from wnet_nb.figures.planes import Layout
from wnet_nb.files.run_files import read_history
from wnet_nb.files.volumes import Volume
from wnet_nb.files.writing import write_volume
from wnet_nb.jobs import segment as prediction
from wnet_nb.jobs.example import make_example
from wnet_nb.widgets.affinity import AffinityPicture
from wnet_nb.widgets.option_form import OptionField
from wnet_nb.widgets.training_view import Monitor

TINY = {
    "base_channels": 4,
    "patch_size": 16,
    "epochs": 2,
    "patches_per_volume": 6,
    "batch_size": 2,
    "tile_size": 32,
    "match_cell_size": False,
    "cell_radius_um": 3.0,
}
SIZE = (2.0, 1.0, 1.0)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def example():
    return make_example(0, shape=(24, 32, 40), n_cells=10, cell_radius_um=4.0)


def example_volume(image):
    return Volume(image, SIZE, "option", Path("a.tif"))


@pytest.fixture(scope="module")
def folder(example, tmp_path_factory):
    path = tmp_path_factory.mktemp("data")
    image, labels = example
    write_volume(path / "in" / "a.tif", image, voxel_size_um=SIZE)
    write_volume(path / "truth" / "a.tif", labels, voxel_size_um=SIZE)
    (path / "in" / "notes.txt").write_text("not an image")
    return path


@pytest.fixture
def inputs(folder):
    return widgets.DataField(folder / "in").inputs


@pytest.fixture
def settings():
    return config.preset("quick", **TINY)


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    torch.set_num_threads(1)
    data = widgets.DataField(folder / "in")
    run = tmp_path_factory.mktemp("runs")
    return asyncio.run(train(data.inputs, config.preset("quick", **TINY), run))[1]


async def train(inputs, settings, folder, act=None):
    """Train to the end; `act(panel)` is a coroutine that plays the user meanwhile."""
    panel = widgets.Dashboard(inputs, settings, folder=folder)
    user = asyncio.ensure_future(act(panel)) if act else None
    result = await panel.train()
    if user:
        await user
    return panel, result


async def until(true, seconds=30.0):
    for _ in range(int(seconds / 0.005)):
        if true():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("waited in vain")


# ---------------------------------------------------------------- the data field


def test_the_data_field_says_what_it_found_and_what_it_skipped(folder):
    data = widgets.DataField(folder / "in")
    assert "24 × 32 × 40 voxels" in data.found.value
    assert "skipped notes.txt" in data.found.value
    assert data.volume.voxel_size_um == SIZE


def test_the_data_field_answers_at_once_when_its_path_changes(folder):
    data = widgets.DataField(folder / "in")
    data.path.value = str(folder / "nowhere")
    assert "nowhere" in data.found.value and "not exist" in data.found.value
    with pytest.raises(widgets.StopInPlace, match="nowhere"):
        data.inputs  # noqa: B018


def test_the_voxel_size_of_the_data_field_reaches_volume_and_settings(folder):
    data = widgets.DataField(folder / "in")
    data.fields["voxel_size_um"].control.value = "3,2,2"
    assert data.volume.voxel_size_um == (3.0, 2.0, 2.0)
    assert config.preset("quick", **data.options).voxel_size_um == (3.0, 2.0, 2.0)


def test_the_example_is_there_without_a_file(tmp_path):
    data = widgets.DataField("example", example_folder=tmp_path / "example")
    assert data.volume.shape == (96, 96, 96)
    assert data.truth == tmp_path / "example" / "truth"


# ---------------------------------------------------------------- the viewer


def test_a_slider_of_the_viewer_changes_its_picture(example):
    viewer = widgets.Viewer(example[0], voxel_size_um=SIZE)
    for slider in (viewer.z, viewer.y, viewer.x):
        before = viewer.picture.value
        slider.value += 3
        assert viewer.picture.value != before


def test_contrast_opacity_and_curtain_change_the_picture(example):
    image, labels = example
    maps = {"cells": labels, "map": (labels > 0).astype(np.float32)}
    viewer = widgets.Viewer(image, voxel_size_um=SIZE, overlays=maps)
    viewer.point = np.argwhere(labels == 1)[0]
    for control, value in ((viewer.opacity, 0.9), (viewer.curtain, 0.1), (viewer.left, "map")):
        before = viewer.picture.value
        control.value = value
        assert viewer.picture.value != before, control.description
    before = viewer.picture.value
    viewer.contrast.value = (viewer.contrast.value[0], viewer.contrast.value[1] * 0.5)
    assert viewer.picture.value != before


def test_the_planes_have_true_proportions():
    rows, columns = Layout.of((10, 40, 40), (4.0, 1.0, 1.0)).places[2]
    assert abs((rows.stop - rows.start) - (columns.stop - columns.start)) <= 1


def test_a_panel_shows_a_picture_where_widgets_are_not_drawn(example):
    bundle = widgets.Viewer(example[0], voxel_size_um=SIZE)._repr_mimebundle_()
    assert bundle["image/png"].startswith("iVBOR")
    assert "application/vnd.jupyter.widget-view+json" in bundle


# ---------------------------------------------------------------- the form


def test_settings_go_through_the_form_unchanged(settings):
    assert widgets.SettingsForm(settings).settings == settings
    form = widgets.SettingsForm(config.preset("published"))
    form.settings = settings
    assert form.settings == settings


@pytest.mark.parametrize(
    ("name", "shown", "value"),
    [
        ("radius", 4, 4),
        ("ncut_weight", 0.75, 0.75),
        ("reconstruction_weight", 0.1, 0.1),
        ("affinity", "pairwise", "pairwise"),
        ("patch_size", "16,24,24", (16, 24, 24)),
        ("learning_rate", "0.003", 0.003),
        ("augmentation", False, False),
        ("foreground_classes", "1", (1,)),
    ],
)
def test_what_is_set_in_a_field_is_in_the_settings(settings, name, shown, value):
    form = widgets.SettingsForm(settings)
    form.fields[name].control.value = shown
    assert getattr(form.settings, name) == value


def test_every_option_has_a_field_with_its_help(settings):
    form = widgets.SettingsForm(settings)
    elsewhere = {"channel", "time", "voxel_size_um"}  # of the data field
    assert set(form.fields) == set(config.OPTIONS) - elsewhere


def test_a_value_out_of_its_limits_is_refused_beside_its_field(settings):
    form = widgets.SettingsForm(settings)
    form.fields["patch_size"].control.value = "17"
    assert "multiple of 8" in form.fields["patch_size"].problem.value
    assert form.settings.patch_size == settings.patch_size


def test_a_wrong_combination_is_said_before_training(settings):
    form = widgets.SettingsForm(settings)
    form.fields["radius"].control.value = 9
    assert "radius=9 does not fit patch_size=16" in form.problem.value
    assert form.settings.radius == settings.radius


def test_a_sigma_below_the_noise_is_said(settings, example):
    volume = example_volume(example[0])
    form = widgets.SettingsForm(settings.replace(subtract_background=False), volume)
    form.fields["intensity_sigma"].control.value = 0.1
    assert "noise" in form.problem.value


def test_a_preset_fills_the_fields(settings):
    form = widgets.SettingsForm(settings)
    form.preset.value = "published"
    assert form.settings == config.preset("published")


def test_settings_are_saved_and_read_back(settings, tmp_path):
    form = widgets.SettingsForm(settings)
    form.path.value = str(tmp_path / "mine.json")
    form.save.click()
    assert json.loads((tmp_path / "mine.json").read_text())["epochs"] == 2
    other = widgets.SettingsForm(config.preset("published"))
    other.path.value = form.path.value
    other.load.click()
    assert other.settings == settings
    form.save.click()
    assert "never overwritten" in form.file_note.value


def test_the_affinity_picture_follows_a_slider(settings, example):
    form = widgets.SettingsForm(settings, example_volume(example[0]))
    before = form.affinity.picture.value
    form.fields["spatial_sigma"].control.value = 1.0
    assert form.affinity.picture.value != before


def test_the_affinity_picture_follows_its_voxel(settings, example):
    picture = AffinityPicture(example_volume(example[0]), settings)
    before = picture.picture.value
    picture.x.value = 3
    assert picture.picture.value != before


@pytest.mark.parametrize("name, value", [("reconstruction_weight", 0.005), ("ncut_weight", 0.5)])
def test_a_value_that_the_browser_moves_to_its_grid_is_no_change(name, value):
    told = []
    field = OptionField(name, value, lambda: told.append(field.value))
    assert field.control.value == pytest.approx(value, rel=1e-9)
    if name == "reconstruction_weight":
        field.control.value = 0.00505  # as a slider's own grid would have it
    assert (told, field.value) == ([], value)
    field.control.value *= 1.05  # the next step of the grid
    assert told == [field.value] != [value]


def test_a_field_tells_of_a_change_once(settings):
    told = []
    field = OptionField("radius", 2, lambda: told.append(field.value))
    field.control.value = 3
    field.value = 5
    assert told == [3] and field.control.value == 5


def test_running_a_cell_again_keeps_what_was_filled_in(folder, settings):
    first = widgets.DataField("example", example_folder=folder / "example")
    first.path.value = str(folder / "in")
    first.fields["voxel_size_um"].control.value = "3; 0,5; 0,5"
    again = widgets.DataField("example", like=first)
    assert again.inputs.volumes[0].name == "a"
    assert again.options["voxel_size_um"] == (3.0, 0.5, 0.5)
    assert widgets.DataField(folder / "truth", like=first).path.value == str(folder / "truth")
    form = widgets.SettingsForm(settings)
    form.fields["radius"].control.value = 5
    sized = settings.replace(voxel_size_um=(3.0, 1.0, 1.0))
    assert widgets.SettingsForm(sized, like=form).settings == sized.replace(radius=5)
    other = settings.replace(epochs=9)
    assert widgets.SettingsForm(other, like=form).settings == other


def test_the_preset_that_the_fields_are_is_named():
    form = widgets.SettingsForm(config.preset("quick"))
    assert form.preset.value == "quick" and not form.file_note.value
    form.fields["radius"].control.value = 5
    assert form.preset.value == "(choose)"
    form.preset.value = "published"
    assert form.settings == config.preset("published")


# ---------------------------------------------------------------- the dashboard


def test_the_monitor_shows_recorded_events(settings, inputs):
    monitor = Monitor(settings)
    empty = monitor.curves.value
    for event in training.fit([v.array for v in inputs.volumes], settings):
        monitor.take(event)
    assert monitor.curves.value != empty
    assert sorted(monitor.previews) == [1, 2]
    assert monitor.preview.value == monitor.previews[2]
    monitor.epoch.value = 1
    assert monitor.preview.value == monitor.previews[1]
    assert "step 6 of 6" in monitor.status.value
    assert "soft N-cut" in monitor.balance.value


def test_logarithmic_axes_change_the_curves(settings, inputs):
    monitor = Monitor(settings)
    for event in training.fit([v.array for v in inputs.volumes], settings):
        monitor.take(event)
    before = monitor.curves.value
    monitor.logarithmic.value = True
    assert monitor.curves.value != before


def test_training_returns_the_model_and_leaves_its_folder(trained):
    assert trained.finished and len(trained.history) == 2
    assert prediction.load_model(trained.run).settings == trained.model.settings
    assert trained.advice


def test_the_check_says_what_the_training_will_take(inputs, settings, tmp_path):
    panel = widgets.Dashboard(inputs, settings, folder=tmp_path)
    asyncio.run(panel.check())
    assert "GB, about" in panel.monitor.status.value
    assert list(tmp_path.iterdir()) == []


def test_a_live_change_reaches_the_trainer_and_its_history(inputs, settings, tmp_path):
    async def user(panel):
        await until(lambda: panel.monitor.last_step >= 1)
        panel.live["reconstruction_weight"].control.value = 0.1
        panel.live["radius"].control.value = 3

    more = settings.replace(epochs=1, patches_per_volume=60)
    panel, result = asyncio.run(train(inputs, more, tmp_path, user))
    changes = " ".join(row["changes"] for row in read_history(result.run))
    assert "reconstruction_weight=0.1" in changes and "radius=3" in changes
    marked = " ".join(f"step {step}: {words}" for step, words in panel.monitor.changes.items())
    assert "reconstruction_weight = 0.1" in marked
    told = {int(part.split(":")[0].split()[-1]) for part in changes.split(" | ")}
    assert set(panel.monitor.changes) <= told | {s + 1 for s in told}
    assert result.model.settings.radius == 3


def test_stop_keeps_a_model_that_segments(inputs, settings, tmp_path):
    async def user(panel):
        await until(lambda: panel.monitor.last_step >= 3)
        panel.stop.click()

    panel, result = asyncio.run(train(inputs, settings.replace(epochs=5000), tmp_path, user))
    assert not result.finished
    assert "Stopped" in panel.monitor.status.value
    found = prediction.segment(result.run, inputs.volumes[0].source)
    assert (found[0].folder / "labels.tif").exists()


def test_pause_and_start_continue_with_the_same_numbers(inputs, settings, tmp_path, trained):
    async def user(panel):
        await until(lambda: panel.monitor.last_step >= 2)
        panel.pause.click()
        await until(lambda: "Paused" in panel.monitor.status.value)
        step = panel.monitor.last_step
        await asyncio.sleep(0.3)
        assert panel.monitor.last_step == step
        panel.start.click()

    _, result = asyncio.run(train(inputs, settings, tmp_path, user))
    assert [r["total"] for r in result.history] == [r["total"] for r in trained.history]


def test_a_snapshot_is_kept_and_changes_nothing(inputs, settings, tmp_path, trained):
    async def user(panel):
        await until(lambda: panel.monitor.last_step >= 2)
        panel.snapshot.click()

    _, result = asyncio.run(train(inputs, settings, tmp_path, user))
    (kept,) = (result.run / "snapshots").iterdir()
    assert prediction.load_model(kept).settings.base_channels == 4
    assert [r["total"] for r in result.history] == [r["total"] for r in trained.history]


def test_extend_goes_on_after_the_end(inputs, settings, tmp_path):
    async def go():
        panel = widgets.Dashboard(inputs, settings, folder=tmp_path)
        first = await panel.train()
        panel.more.value = 1
        panel.extend.click()
        await until(lambda: panel.is_training)
        return first, await panel.train()

    first, second = asyncio.run(go())
    assert (len(first.history), len(second.history)) == (2, 3)
    assert second.run == first.run and second.finished
    assert second.history[:2] == first.history


def test_a_second_training_takes_a_second_folder(inputs, settings, tmp_path):
    names = [asyncio.run(train(inputs, settings, tmp_path))[1].run.name for _ in range(2)]
    assert names == ["a", "a-2"]


def test_an_error_stands_in_the_panel_in_one_sentence(inputs, settings, tmp_path):
    (tmp_path / "file").write_text("in the way")
    panel = widgets.Dashboard(inputs, settings, folder=tmp_path / "file")
    with pytest.raises(widgets.StopInPlace) as stopped:
        asyncio.run(panel.train())
    assert str(stopped.value) in panel.monitor.status.value.replace("&#x27;", "'")
    assert stopped.value._render_traceback_() == [str(stopped.value)]


# ---------------------------------------------------------------- cells


def test_cells_are_found_viewed_and_scored(trained, inputs, folder, capsys):
    volume = inputs.volumes[0]
    (found,) = asyncio.run(widgets.find_cells(trained, inputs.volumes))
    capsys.readouterr()  # outside a notebook, the panel is printed
    viewer = widgets.view_cells(found, volume)
    assert [name.split(",")[0] for name in viewer.overlays] == ["network", "classical"]
    assert "image/png" in widgets.show_scores([found], folder / "truth")._repr_mimebundle_()
    assert "No labels" in widgets.show_scores([found], None).value


def test_scores_against_points_are_said_in_words(trained, inputs, example, tmp_path, capsys):
    (found,) = asyncio.run(widgets.find_cells(trained, inputs.volumes, folder=tmp_path / "cells"))
    capsys.readouterr()
    points = np.array([np.argwhere(example[1] == n).mean(0) for n in range(1, 11)])
    np.savetxt(tmp_path / "a.csv", points, delimiter=",", header="z,y,x", comments="")
    panel = widgets.show_scores([found], tmp_path / "a.csv")
    assert "10 true points" in panel.children[0].value


def test_cells_of_a_model_from_elsewhere_go_into_the_folder_of_its_results(
    trained, inputs, tmp_path, capsys
):
    elsewhere = dataclasses.replace(trained, run=tmp_path / "results" / "net")
    (found,) = asyncio.run(widgets.find_cells(elsewhere, inputs.volumes))
    capsys.readouterr()
    assert found.folder.parent == tmp_path / "results" / "net" / "predictions"


def test_the_tuner_moves_count_sizes_and_changes(trained, inputs):
    tuner = widgets.CellTuner(trained, inputs.volumes[0])
    assert tuner.changes == {}
    before = tuner.sizes.value
    tuner.controls["minimum_size"].value = 0.9
    assert tuner.sizes.value != before
    assert tuner.changes == {"minimum_size": 0.9}
    settings = prediction.segment_settings(trained.model, tuner.changes)
    assert settings.minimum_size == 0.9


def test_the_table_sorts_and_its_row_moves_the_crosshair(trained, inputs, tmp_path, capsys):
    volume = inputs.volumes[0]
    (found,) = asyncio.run(widgets.find_cells(trained, inputs.volumes, folder=tmp_path))
    capsys.readouterr()
    viewer = widgets.view_cells(found, volume)
    table = widgets.CellTable(found, viewer)
    with (found.folder / "cells.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    table.by.value, table.down.value = "volume_um3", True
    largest = max(rows, key=lambda row: float(row["volume_um3"]))
    assert table.table.options[0][1] == int(largest["label"])
    table.table.index = len(rows) - 1
    chosen = next(row for row in rows if int(row["label"]) == table.table.value)
    assert float(chosen["volume_um3"]) == min(float(row["volume_um3"]) for row in rows)
    middle = tuple(round(float(chosen[f"centroid_{a}_voxels"])) for a in "zyx")
    assert viewer.point == middle
