import os
import sys
import types
import zipfile

import numpy as np
import pytest
import torch

from wnet_nb import checkpoint, colab, config
from wnet_nb.colab import drive as storage
from wnet_nb.colab import quality
from wnet_nb.errors import UserError
from wnet_nb.files.run_files import read_history
from wnet_nb.files.volumes import write_volume
from wnet_nb.jobs import train as pipeline
from wnet_nb.jobs.inputs import read_inputs
from wnet_nb.model import WNet3D
from wnet_nb.whole_file import sha256

TINY = config.preset(
    "quick", base_channels=4, epochs=2, batch_size=2, patch_size=16, patches_per_volume=4
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
    monkeypatch.setattr(colab, "on_colab", lambda: True)
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


def train(session, source, settings=TINY):
    """Train as the notebook does, without its widgets."""
    inputs = read_inputs(source, settings)
    events = pipeline.train_events(inputs, session.run, settings, resume=True)
    return [*session.guard(events)]


def test_elsewhere_than_on_colab_drive_is_left_aside(away):
    session = colab.Session(use_drive=True)
    assert (session.drive, session.home) == (None, away)
    assert "Drive is not used" in str(session)


def test_the_runtime_is_described_in_words(away, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "quick" in colab.describe_runtime()
    monkeypatch.setattr(colab, "on_colab", lambda: True)
    assert "Change runtime type" in colab.describe_runtime()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (15.2e9, 15.8e9))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    assert colab.describe_runtime() == "GPU: Tesla T4 with 16 GB of memory, 15 GB free."


def test_drive_is_mounted_where_colab_users_expect_it(on_colab):
    session = colab.Session(use_drive=True)
    assert session.my_drive == on_colab.disk / "drive" / "MyDrive"
    assert session.drive == session.my_drive / "wnet_nb"


def test_a_drive_that_was_not_allowed_is_told(on_colab, monkeypatch):
    monkeypatch.setattr(sys.modules["google.colab"].drive, "mount", lambda point: None)
    with pytest.raises(UserError, match="allow the access"):
        colab.Session(use_drive=True)


def test_the_example_is_the_same_file_on_every_runtime(tmp_path, monkeypatch):
    hashes = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        session = colab.Session()
        hashes.append(sha256(session.get_data(colab.EXAMPLE)))
        assert session.truth.is_dir()
    assert hashes[0] == hashes[1]


def test_a_folder_on_drive_is_copied_once_and_again_only_what_changed(on_colab):
    image = write_image(on_colab.drive / "mine" / "a.tif")
    (on_colab.drive / "mine" / "notes.docx").write_text("no image")
    session = colab.Session(use_drive=True)
    copy = session.get_data(colab.OWN, "mine")
    assert copy.is_relative_to(on_colab.disk / "data")
    assert [p.name for p in copy.iterdir()] == ["a.tif"]
    assert (copy / "a.tif").read_bytes() == image.read_bytes()
    first = (copy / "a.tif").stat().st_ino
    write_image(on_colab.drive / "mine" / "b.tif", seed=1)
    assert session.get_data(colab.OWN, "mine") == copy
    assert sorted(p.name for p in copy.iterdir()) == ["a.tif", "b.tif"]
    assert (copy / "a.tif").stat().st_ino == first


def test_files_on_the_local_disk_are_used_where_they_are(away):
    image = write_image(away / "images" / "a.tif")
    session = colab.Session()
    assert session.get_data(colab.OWN, "images") == image.parent
    assert session.get_data(colab.OWN, str(image), labels="images") == image
    assert session.truth == image.parent


@pytest.mark.parametrize("path", ["", "nowhere", "/nowhere"])
def test_a_path_that_is_not_there_is_explained(away, path):
    with pytest.raises(UserError, match="Copy path") as caught:
        colab.Session().get_data(colab.OWN, path)
    assert caught.value._render_traceback_() == [str(caught.value)]


@pytest.mark.parametrize("packed", [False, True])
def test_a_link_to_a_tiff_or_a_zip_gives_a_folder_of_volumes(away, serve, packed):
    content = write_image(away / "a.tif").read_bytes()
    if packed:
        with zipfile.ZipFile(away / "a.zip", "w") as archive:
            archive.write(away / "a.tif", "stacks/a.tif")
        content = (away / "a.zip").read_bytes()
    session, link = colab.Session(), serve(content)
    folder = session.get_data(colab.LINK, link=link)
    (found,) = folder.rglob("*.tif")
    assert found.read_bytes() == (away / "a.tif").read_bytes()
    assert session.get_data(colab.LINK, link=link) == folder
    assert len(serve.asked) == 1
    assert [p for p in (away / "data").iterdir()] == [folder.parent if packed else folder] or packed


def test_a_refused_link_leaves_nothing_and_is_told_in_one_sentence(away, serve):
    with pytest.raises(UserError, match="web page"):
        colab.Session().get_data(colab.LINK, link=serve(b"<html>quota"))
    assert not any((away / "data").iterdir())


def test_starting_from_weights_checks_them_and_slows_the_learning(away):
    checkpoint.save_cellseg3d_weights(away / "start.pth", WNet3D(2, base_channels=4))
    session = colab.Session()
    assert session.start_from(TINY, " ") is TINY
    started = session.start_from(TINY, "start.pth")
    assert started.start_from == str(away / "start.pth")
    assert started.learning_rate == pytest.approx(TINY.learning_rate / 10)
    with pytest.raises(UserError, match="does not fit"):
        session.start_from(TINY.replace(base_channels=8), "start.pth")


def test_a_run_never_takes_the_folder_of_another(away):
    session, names = colab.Session(), []
    for _ in range(3):
        assert session.open_run("mine", TINY) is TINY
        session.run.mkdir(parents=True)
        names.append(session.run.name)
    assert names == ["mine", "mine-2", "mine-3"]


def test_a_new_run_leaves_the_states_of_earlier_runs_on_drive_alone(on_colab, monkeypatch):
    states = on_colab.drive / "wnet_nb" / colab.STATES
    states.mkdir(parents=True)
    (states / "mine step 00000002.zip").write_text("of an earlier runtime")
    session = colab.Session(use_drive=True)
    session.open_run("mine", TINY)
    assert session.run.name == "mine-2"


def test_a_full_drive_does_not_end_a_training(on_colab, monkeypatch, capsys):
    session = colab.Session(use_drive=True)
    session.open_run("mine", TINY)

    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage.shutil, "copyfile", full)
    (session.run / checkpoint.STATES).mkdir(parents=True)
    (session.run / checkpoint.STATES / "step-00000001.pt").write_text("state")
    assert [*session.guard(event for event in (1, 2))] == [1, 2]
    assert "without a copy on Drive" in capsys.readouterr().err
    assert [p.name for p in on_colab.disk.iterdir() if p.suffix == ".zip"] == []


def test_without_a_run_there_is_nothing_to_go_on_with(away):
    with pytest.raises(UserError, match="no run to go on with"):
        colab.Session().open_run("mine", TINY, resume=True)


def test_the_newest_whole_copy_on_drive_is_gone_on_with(on_colab, tmp_path, monkeypatch):
    session = colab.Session(use_drive=True)
    source = write_image(on_colab.disk / "a.tif")
    session.open_run("mine", TINY)
    monkeypatch.setattr(colab, "BACKUP_SECONDS", 0)
    train(session, source)
    states = on_colab.drive / "wnet_nb" / colab.STATES
    assert sorted(p.name for p in states.iterdir()) == [
        "mine step 00000002.zip",
        "mine step 00000004.zip",
    ]
    newest = states / "mine step 00000004.zip"
    newest.write_bytes(newest.read_bytes()[:-500])  # a runtime that went while it wrote
    (tmp_path / "fresh").mkdir()
    monkeypatch.chdir(tmp_path / "fresh")
    session = colab.Session(use_drive=True)
    settings = session.open_run("other", TINY.replace(epochs=9), resume=True)
    assert session.run == tmp_path / "fresh" / "runs" / "mine"
    assert settings == TINY
    assert len(read_history(session.run)) == 1
    train(session, source, settings)
    assert [row["epoch"] for row in read_history(session.run)] == [1, 2]


def test_a_run_on_the_local_disk_is_gone_on_with_without_drive(away):
    session, source = colab.Session(), write_image(away / "a.tif")
    session.open_run("mine", TINY)
    inputs = read_inputs(source, TINY)
    events = session.guard(pipeline.train_events(inputs, session.run, TINY, resume=True))
    next(events), next(events)
    events.close()
    run = session.run
    again = colab.Session()
    assert again.open_run("other", TINY, resume=True) == TINY
    assert again.run == run
    assert train(again, source)[-1].epochs == 2


def test_only_the_last_two_states_stay_on_drive(on_colab):
    session = colab.Session(use_drive=True)
    session.open_run("mine", TINY)
    other = on_colab.drive / "wnet_nb" / colab.STATES / "mine-2 step 00000001.zip"
    other.parent.mkdir(parents=True)
    other.write_text("of another run")
    (session.run / checkpoint.STATES).mkdir(parents=True)
    for step in range(4):
        (session.run / checkpoint.STATES / f"step-{step:08d}.pt").write_text("state")
        session.back_up()
    names = sorted(p.name for p in other.parent.iterdir())
    assert names == ["mine step 00000002.zip", "mine step 00000003.zip", other.name]


def test_results_get_a_new_folder_on_drive_and_a_download(on_colab):
    session = colab.Session(use_drive=True)
    session.open_run("mine", TINY)
    (session.run / "predictions").mkdir(parents=True)
    (session.run / "predictions" / "cells.csv").write_text("label\n1\n")
    said = [session.save(download=True), session.save(download=False)]
    for name in ("mine", "mine-2"):
        copy = on_colab.drive / "wnet_nb" / name / "predictions" / "cells.csv"
        assert copy.read_text() == "label\n1\n"
    assert "mine-2" in said[1]
    assert on_colab.downloads == [str(on_colab.disk / "mine.zip")]


def test_a_copy_that_reads_differently_is_refused_and_removed(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("content")
    monkeypatch.setattr(storage.shutil, "copyfile", lambda a, b: b.write_text("conten"))
    with pytest.raises(OSError, match="reads differently"):
        storage.copy_verified(tmp_path / "a", tmp_path / "drive" / "a")
    assert list((tmp_path / "drive").iterdir()) == []


def test_a_model_on_drive_is_used_and_its_results_stay_local(on_colab):
    session = colab.Session(use_drive=True)
    with pytest.raises(UserError, match="fill in the model"):
        session.open_model()
    with pytest.raises(UserError, match="fill in the images"):
        session.get_images()
    model = on_colab.drive / "net.pth"
    checkpoint.save_cellseg3d_weights(model, WNet3D(2, base_channels=4))
    trained = session.open_model("net.pth")
    assert trained.run == on_colab.disk / "results" / "net"
    assert trained.model.settings.base_channels == 4
    write_image(on_colab.drive / "new" / "a.tif")
    assert session.get_images("new").is_relative_to(on_colab.disk)


def test_quality_control_has_curves_scores_and_versions(away):
    session, source = colab.Session(), write_image(away / "a.tif")
    session.open_run("mine", TINY)
    train(session, source, TINY.replace(epochs=1))
    found = pipeline.segment(session.run, source, cell_radius_um=3.0)
    folder = quality.write_quality(session.run, found)
    assert folder.name == "Quality Control"
    table = (folder / "quality_metrics.csv").read_text().splitlines()
    assert table[0] == "volume,method,cells,Dice,F1"
    assert [row.split(",")[1] for row in table[1:]] == ["network", "classical"]
    assert "wnet_nb" in (folder / "version_log.txt").read_text()
    truth = found[0].folder / "labels.tif"
    again = quality.write_quality(session.run, found, truth)
    assert again.name == "Quality Control-2"
    assert (again / "a_scores.png").exists()
