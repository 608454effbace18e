"""What is brought is what the source holds now; what is copied away is read back."""

import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from wnet_nb.checkpoint import STATES
from wnet_nb.colab import drive
from wnet_nb.colab.drive import STATES_FOLDER, Backups
from wnet_nb.errors import UserError
from wnet_nb.events import EpochEnd
from wnet_nb.files.volumes import find_volumes
from wnet_nb.files.writing import write_volume

EPOCH = EpochEnd(1, {}, 0.0, None, None)


def note(done, total):
    pass


@pytest.fixture
def stack(tmp_path):
    image = np.arange(210, dtype=np.uint8).reshape(7, 5, 6)
    return write_volume(tmp_path / "mine" / "a.tif", image, voxel_size_um=(1, 1, 1))


def zipped(folder, **files):
    with zipfile.ZipFile(folder / "made.zip", "w") as archive:
        for name, content in files.items():
            archive.writestr(name.replace("__", "/") + ".tif", content)
    return (folder / "made.zip").read_bytes()


@pytest.mark.parametrize(
    "names", [["a"], ["mine__a"], ["deep__er__mine__a"], ["mine__a", "mine__labels__a"]]
)
def test_a_link_to_a_zip_of_a_folder_gives_the_folder_with_the_stacks(
    tmp_path, stack, serve, names
):
    content = stack.read_bytes()
    link = serve(zipped(tmp_path, **dict.fromkeys(names, content)))
    folder = drive.fetch_volumes(link, tmp_path / "data", note)
    (found,) = find_volumes(folder).paths
    assert found.read_bytes() == content
    assert drive.fetch_volumes(link, tmp_path / "data", note) == folder
    assert len(serve.asked) == 1


def test_a_link_to_a_tiff_or_a_tar_gives_a_folder_with_it(tmp_path, stack, serve):
    content = stack.read_bytes()
    (tmp_path / "a").mkdir()
    folder = drive.fetch_volumes(serve(content), tmp_path / "a", note)
    assert [p.read_bytes() for p in folder.iterdir()] == [content]
    assert list((tmp_path / "a").iterdir()) == [folder]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        archive.add(stack.parent, "mine")
    folder = drive.fetch_volumes(serve(buffer.getvalue()), tmp_path / "b", note)
    assert [p.name for p in folder.iterdir()] == ["a.tif"]


def test_an_archive_with_two_folders_of_stacks_asks_which_one(tmp_path, stack, serve):
    content = stack.read_bytes()
    link = serve(zipped(tmp_path, images__a=content, labels__a=content))
    for _ in range(2):
        with pytest.raises(UserError, match=r"several folders \(images, labels\).*own folder"):
            drive.fetch_volumes(link, tmp_path / "data", note)


def test_a_refused_link_leaves_nothing(tmp_path, serve):
    with pytest.raises(UserError, match="web page"):
        drive.fetch_volumes(serve(b"<html>quota"), tmp_path / "data", note)
    with pytest.raises(UserError, match="damaged"):
        drive.fetch_volumes(serve(b"PK\x03\x04 and no more"), tmp_path / "data", note)
    assert not any((tmp_path / "data").iterdir())


def test_a_stack_removed_from_the_source_leaves_the_copy_too(tmp_path, stack):
    write_volume(stack.with_name("b.tif"), np.ones((2, 3, 4), np.uint8), voxel_size_um=(1, 1, 1))
    copy = drive.bring(stack.parent, tmp_path / "data", note)
    assert sorted(p.name for p in copy.iterdir()) == ["a.tif", "b.tif"]
    stack.unlink()
    assert drive.bring(stack.parent, tmp_path / "data", note) == copy
    assert [p.name for p in copy.iterdir()] == ["b.tif"]


def test_what_was_copied_already_needs_no_room(tmp_path, stack, monkeypatch):
    copy = drive.bring(stack.parent, tmp_path / "data", note)
    full = drive.shutil.disk_usage(tmp_path)._replace(free=stack.stat().st_size - 1)
    monkeypatch.setattr(drive.shutil, "disk_usage", lambda path: full)
    assert drive.bring(stack.parent, tmp_path / "data", note) == copy
    stack.write_bytes(stack.read_bytes() + b"longer")
    with pytest.raises(UserError, match="more than this disk has free"):
        drive.bring(stack.parent, tmp_path / "data", note)


def test_a_single_file_is_copied_whatever_its_ending(tmp_path):
    (tmp_path / "stack.lsm").write_bytes(b"II*\0")
    copy = drive.bring(tmp_path / "stack.lsm", tmp_path / "data", note)
    assert (copy.name, copy.read_bytes()) == ("stack.lsm", b"II*\0")


def test_a_copy_that_breaks_off_is_told_and_leaves_no_half_file(tmp_path, stack, monkeypatch):
    def breaks(source, target):
        target.write_bytes(b"half")
        raise OSError(107, "Transport endpoint is not connected")

    monkeypatch.setattr(drive.shutil, "copy2", breaks)
    with pytest.raises(UserError, match="cannot be copied"):
        drive.bring(stack.parent, tmp_path / "data", note)
    assert [p for p in (tmp_path / "data").rglob("*") if p.is_file()] == []


def test_a_copy_that_reads_differently_is_refused_and_removed(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("content")
    monkeypatch.setattr(drive.shutil, "copyfile", lambda a, b: b.write_text("conten"))
    with pytest.raises(UserError, match="reads differently"):
        drive.copy_verified(tmp_path / "a", tmp_path / "drive" / "a")
    assert list((tmp_path / "drive").iterdir()) == []


def test_a_kill_between_the_copy_and_its_check_loses_nothing(tmp_path):
    (tmp_path / "a").write_text("content")
    code = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom wnet_nb.colab import drive\n"
        "drive._sha256_on_disk = lambda path: os.kill(os.getpid(), signal.SIGKILL)\n"
        "drive.copy_verified(Path(sys.argv[1]), Path(sys.argv[2]))"
    )
    source, target = tmp_path / "a", tmp_path / "drive" / "a"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code, source, target], cwd=root)
    assert done.returncode == -signal.SIGKILL
    assert not target.exists() and source.read_text() == "content"
    drive.copy_verified(source, target)
    assert target.read_text() == "content"


@pytest.fixture
def run(tmp_path):
    """A run folder with one state; `tmp_path / "drive"` plays Drive."""
    return write_state(tmp_path / "disk" / "runs" / "mine", 1)


def write_state(run, step):
    (run / STATES).mkdir(parents=True, exist_ok=True)
    (run / "settings.json").write_text("{}")
    (run / STATES / f"step-{step:08d}.pt").write_text(f"state {step}")
    return run


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_only_the_last_two_states_stay_on_drive_and_those_of_other_runs(run, tmp_path):
    other = tmp_path / "drive" / STATES_FOLDER / "mine-2 step 00000001.zip"
    other.parent.mkdir(parents=True)
    other.write_text("of another run")
    copies = Backups(tmp_path / "drive")
    for step in range(4):
        copies.copy(write_state(run, step))
    assert names(other.parent) == [
        "mine step 00000002.zip",
        "mine step 00000003.zip",
        other.name,
    ]
    assert names(run.parent) == ["mine"]


def test_without_drive_nothing_is_copied(run):
    copies = Backups(None)
    copies.copy(run)
    assert copies.of("mine") == [] and names(run.parent) == ["mine"]


def test_a_state_is_copied_at_epochs_when_it_is_due_and_at_the_end(run, tmp_path, monkeypatch):
    copies, seen = Backups(tmp_path / "drive"), []
    monkeypatch.setattr(copies, "copy", lambda run: seen.append(run))
    monkeypatch.setattr(drive, "BACKUP_SECONDS", 0)
    events = copies.guard((event for event in ("step", EPOCH, "step")), run)
    assert [(event, len(seen)) for event in events] == [("step", 0), (EPOCH, 1), ("step", 1)]
    assert seen == [run, run]
    monkeypatch.setattr(drive, "BACKUP_SECONDS", 300)
    assert [*copies.guard((event for event in (EPOCH, EPOCH)), run)] == [EPOCH, EPOCH]
    assert len(seen) == 3  # at the end only


def test_a_full_drive_does_not_end_a_training(run, tmp_path, monkeypatch, capsys):
    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    copies = Backups(tmp_path / "drive")
    assert [*copies.guard((event for event in (1, 2)), run)] == [1, 2]
    said = capsys.readouterr()
    assert "without a copy on Drive" in said.out and said.err == ""
    assert copies.of("mine") == [] and names(run.parent) == ["mine"]


def test_the_newest_whole_copy_is_gone_on_with_on_another_runtime(run, tmp_path, capsys):
    copies = Backups(tmp_path / "drive")
    for step in (1, 2):
        copies.copy(write_state(run, step))
        copy = copies.of("mine")[-1]
        os.utime(copy, (step, step))
    copy.write_bytes(copy.read_bytes()[:-50])  # a runtime that went while it wrote
    os.utime(copy, (9, 9))
    found = copies.newest_run(tmp_path / "fresh" / "runs")
    assert found == tmp_path / "fresh" / "runs" / "mine"
    assert (found / STATES / "step-00000001.pt").read_text() == "state 1"
    assert (found / "settings.json").exists()
    assert "the copy before it is taken" in capsys.readouterr().out


def test_the_newest_run_is_taken_wherever_it_is(run, tmp_path):
    copies = Backups(tmp_path / "drive")
    copies.copy(run)
    os.utime(copies.of("mine")[0], (1, 1))
    assert copies.newest_run(run.parent) == run
    os.utime(run / STATES / "step-00000001.pt", (0, 0))
    assert copies.newest_run(run.parent) == run.with_name("mine-2")


@pytest.mark.parametrize("drive", [True, False])
def test_without_a_run_there_is_nothing_to_go_on_with(tmp_path, drive):
    with pytest.raises(UserError, match="no run to go on with"):
        Backups(tmp_path / "drive" if drive else None).newest_run(tmp_path / "runs")
