"""What is brought is what the source holds now; what is copied away is read back."""

import io
import signal
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from wnet_nb.colab import drive
from wnet_nb.errors import UserError
from wnet_nb.files.volumes import find_volumes
from wnet_nb.files.writing import write_volume


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
