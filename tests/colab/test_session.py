import json
import os
import sys
import types

import ipywidgets
import numpy as np
import pytest
import tifffile
import torch

from wnet_nb import checkpoint, config
from wnet_nb.colab.drive import STATES_FOLDER
from wnet_nb.colab.session import EXAMPLE, LINK, OWN, Session, describe_runtime
from wnet_nb.errors import UserError
from wnet_nb.files.writing import write_volume
from wnet_nb.model import WNet3D

TINY = config.preset(
    "scratch", base_channels=4, epochs=2, batch_size=2, patch_size=16, patches_per_volume=4
)


@pytest.fixture
def on_colab(tmp_path, monkeypatch):
    """Stand in for `google.colab`; return the folder that plays My Drive and the downloads."""
    my_drive, downloads = tmp_path / "my drive", []
    my_drive.mkdir()
    disk = tmp_path / "disk"
    disk.mkdir()
    monkeypatch.chdir(disk)

    def mount(point):
        os.makedirs(point)
        os.symlink(my_drive, os.path.join(point, "MyDrive"))

    package = types.ModuleType("google.colab")
    package.drive = types.SimpleNamespace(mount=mount)
    package.files = types.SimpleNamespace(download=downloads.append)
    monkeypatch.setitem(sys.modules, "google.colab", package)
    monkeypatch.setattr("wnet_nb.colab.session.on_colab", lambda: True)
    return types.SimpleNamespace(drive=my_drive, disk=disk, downloads=downloads)


@pytest.fixture
def away(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_image(path, seed=0):
    random = np.random.default_rng(seed)
    image = random.integers(0, 200, (20, 24, 28)).astype(np.uint16)
    image[5:10, 5:12, 6:14] += 500
    return write_volume(path, image, voxel_size_um=(1, 1, 1))


def test_elsewhere_than_on_colab_drive_is_left_aside(away):
    session = Session(use_drive=True)
    assert (session.drive, session.home) == (None, away)
    assert "Drive is not used" in str(session)


def test_the_runtime_is_described_in_words(away, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "quick" in describe_runtime()
    monkeypatch.setattr("wnet_nb.colab.session.on_colab", lambda: True)
    assert "Change runtime type" in describe_runtime()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (15.2e9, 15.8e9))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    assert describe_runtime() == "GPU: Tesla T4 with 16 GB of memory, 15 GB free."


def test_drive_is_mounted_where_colab_users_expect_it(on_colab):
    session = Session(use_drive=True)
    assert session.my_drive == on_colab.disk / "drive" / "MyDrive"
    assert session.drive == session.my_drive / "wnet_nb"


def test_a_drive_that_was_not_allowed_is_told(on_colab, monkeypatch):
    monkeypatch.setattr(sys.modules["google.colab"].drive, "mount", lambda point: None)
    with pytest.raises(UserError, match="allow the access"):
        Session(use_drive=True)


def test_the_example_is_the_same_file_on_every_runtime(tmp_path, monkeypatch):
    hashes = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        session = Session()
        (stack,) = session.choose_data(EXAMPLE).stacks
        hashes.append(stack.sha256)
        assert stack.truth.max() > 100
    assert hashes[0] == hashes[1]


def test_a_folder_on_drive_is_copied_once_and_again_only_what_changed(on_colab):
    image = write_image(on_colab.drive / "mine" / "a.tif")
    (on_colab.drive / "mine" / "notes.docx").write_text("no image")
    session = Session(use_drive=True)
    session.choose_data(OWN, "mine")
    copy = session.source
    assert copy.is_relative_to(on_colab.disk / "data")
    assert [p.name for p in copy.iterdir()] == ["a.tif"]
    assert (copy / "a.tif").read_bytes() == image.read_bytes()
    first = (copy / "a.tif").stat().st_ino
    write_image(on_colab.drive / "mine" / "b.tif", seed=1)
    session.choose_data(OWN, "mine")
    assert session.source == copy
    assert sorted(p.name for p in copy.iterdir()) == ["a.tif", "b.tif"]
    assert (copy / "a.tif").stat().st_ino == first


def test_files_on_the_local_disk_are_used_where_they_are(away):
    image = write_image(away / "images" / "a.tif")
    session = Session()
    session.choose_data(OWN, "images")
    assert (session.source, session.truth) == (image.parent, None)
    session.choose_data(OWN, str(image), labels="images")
    assert (session.source, session.truth) == (image, image.parent)


@pytest.mark.parametrize("path", ["", "nowhere", "/nowhere"])
def test_a_path_that_is_not_there_is_explained(away, path):
    with pytest.raises(UserError, match="Copy path") as caught:
        Session().choose_data(OWN, path)
    assert caught.value._render_traceback_() == [str(caught.value)]


def test_a_refused_link_leaves_nothing_and_is_told_in_one_sentence(away, serve):
    with pytest.raises(UserError, match="web page"):
        Session().choose_data(LINK, link=serve(b"<html>quota"))
    assert not any((away / "data").iterdir())


def test_starting_from_weights_checks_them_and_slows_the_learning(away):
    checkpoint.save_cellseg3d_weights(away / "start.pth", WNet3D(2, base_channels=4))
    session = Session()
    assert session.start_from(TINY, " ") is TINY
    started = session.start_from(TINY, "start.pth")
    assert started.start_from == str(away / "start.pth")
    assert started.learning_rate == pytest.approx(TINY.learning_rate / 10)
    with pytest.raises(UserError, match="does not fit"):
        session.start_from(TINY.replace(base_channels=8), "start.pth")


def test_asking_again_to_start_from_weights_changes_nothing_more(away):
    checkpoint.save_cellseg3d_weights(away / "start.pth", WNet3D(2, base_channels=4))
    session = Session()
    once = session.start_from(TINY, "start.pth")
    assert session.start_from(once, "start.pth") == once


def test_a_run_never_takes_the_folder_of_another(away):
    session, names = Session(), []
    for _ in range(3):
        assert session.open_run("mine", TINY) is TINY
        session.run.mkdir(parents=True)
        names.append(session.run.name)
    assert names == ["mine", "mine-2", "mine-3"]


def test_a_new_run_leaves_the_states_of_earlier_runs_on_drive_alone(on_colab, monkeypatch):
    states = on_colab.drive / "wnet_nb" / STATES_FOLDER
    states.mkdir(parents=True)
    (states / "mine step 00000002.zip").write_text("of an earlier runtime")
    session = Session(use_drive=True)
    session.open_run("mine", TINY)
    assert session.run.name == "mine-2"


def test_without_a_run_there_is_nothing_to_go_on_with(away):
    with pytest.raises(UserError, match="no run to go on with"):
        Session().open_run("mine", TINY, resume=True)


def test_a_run_on_the_local_disk_is_gone_on_with_by_its_own_settings(away):
    run = away / "runs" / "mine"
    write_text(run / checkpoint.STATES / "step-00000001.pt")
    record = json.dumps({"options": TINY.as_dict()})
    (run / "settings.json").write_text(record)
    session = Session()
    assert session.open_run("other", TINY.replace(epochs=9), resume=True) == TINY
    assert session.run == run


def test_results_get_a_new_folder_on_drive_and_a_download(on_colab):
    session = Session(use_drive=True)
    session.open_run("mine", TINY)
    (session.run / "predictions").mkdir(parents=True)
    (session.run / "predictions" / "cells.csv").write_text("label\n1\n")
    said = [session.save(download=True), session.save(download=False)]
    for name in ("mine", "mine-2"):
        copy = on_colab.drive / "wnet_nb" / name / "predictions" / "cells.csv"
        assert copy.read_text() == "label\n1\n"
    assert "mine-2" in said[1]
    assert on_colab.downloads == [str(on_colab.disk / "mine.zip")]


def test_a_model_on_drive_is_used_and_its_results_stay_local(on_colab):
    session = Session(use_drive=True)
    with pytest.raises(UserError, match="fill in the model"):
        session.open_model()
    with pytest.raises(UserError, match="fill in the images"):
        session.choose_images()
    model = on_colab.drive / "net.pth"
    checkpoint.save_cellseg3d_weights(model, WNet3D(2, base_channels=4))
    trained = session.open_model("net.pth")
    assert trained.run == on_colab.disk / "results" / "net"
    assert trained.source.settings.base_channels == 4
    write_image(on_colab.drive / "new" / "a.tif")
    assert session.choose_images("new").stack.source.is_relative_to(on_colab.disk)


def test_looking_at_another_model_leaves_the_run_that_was_trained(on_colab):
    session = Session(use_drive=True)
    session.open_run("mine", TINY)
    write_text(session.run / "history.csv")
    checkpoint.save_cellseg3d_weights(on_colab.disk / "net.pth", WNet3D(2, base_channels=4))
    trained = session.run
    for _ in range(2):  # running the cell again
        other = session.open_model("net.pth").run
        assert session.run == trained
    write_text(other / "predictions" / "a" / "cells.csv")
    session.save(download=True)
    saved = on_colab.drive / "wnet_nb"
    assert (saved / "mine" / "history.csv").exists()
    assert (saved / "net" / "predictions" / "a" / "cells.csv").exists()
    assert sorted(p.name for p in saved.iterdir()) == ["mine", "net"]
    assert on_colab.downloads == [str(on_colab.disk / f"{name}.zip") for name in ("mine", "net")]


def write_text(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("content")


def options_are_seen(field):
    (more,) = (part for part in field.children if isinstance(part, ipywidgets.Accordion))
    return more.selected_index == 0


def test_what_was_said_of_the_data_holds_for_the_images_until_it_is_changed(away):
    write_image(away / "images" / "a.tif")
    write_image(away / "others" / "b.tif")
    session = Session()
    data = session.choose_data(OWN, "images")
    assert not options_are_seen(data)
    data.fields["voxel_size_um"].control.value = "2,1,0.5"
    for path in ("", "others"):
        images = session.choose_images(path)
        assert images.stack.voxel_size_um == (2.0, 1.0, 0.5)
        assert "2 × 1 × 0.5 µm (z, y, x) as given" in images.found.value
        assert images.fields["voxel_size_um"].control.value == "2.0,1.0,0.5"
        assert options_are_seen(images)
    images.fields["voxel_size_um"].control.value = "3,1,0.5"
    assert session.choose_images("others").stack.voxel_size_um == (3.0, 1.0, 0.5)
    assert data.options["voxel_size_um"] == (2.0, 1.0, 0.5)
    data.fields["voxel_size_um"].control.value = "4,1,0.5"
    assert session.choose_images("others").stack.voxel_size_um == (4.0, 1.0, 0.5)


def test_slices_and_labels_of_the_data_hold_for_the_images_too(away):
    for number in range(9):
        plane = np.random.default_rng(number).integers(0, 99, (16, 16)).astype(np.uint8)
        tifffile.imwrite(away / f"slice{number}.tif", plane)
    session = Session()
    session.choose_data(OWN, str(away)).slices.value = True
    assert session.choose_images().stack.shape == (9, 16, 16)
    write_image(away / "images" / "a.tif")
    (away / "truth").mkdir()
    session.choose_data(OWN, "images", labels="truth")
    assert session.choose_images().labels.value == str(session.truth)
    session.choose_data(EXAMPLE)
    assert session.choose_images().stack.truth is not None


def test_the_progress_of_a_copy_is_not_shown_as_an_error(on_colab, capsys):
    write_image(on_colab.drive / "mine" / "a.tif")
    Session(use_drive=True).choose_data(OWN, "mine")
    said = capsys.readouterr()
    assert said.err == ""
    assert "copying from Drive" in said.out
