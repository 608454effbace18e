"""Files that are none, each beside a good one: named, not fatal, and the good one goes on."""

import os

import numpy as np
import pytest
import tifffile

from tests.benchmarks.nuclei import make_nuclei
from wnet_nb import config
from wnet_nb.errors import UserError
from wnet_nb.files.writing import write_volume
from wnet_nb.jobs.segment import segment
from wnet_nb.jobs.stacks import read_stacks
from wnet_nb.jobs.train import train

QUICK = config.preset("quick")
PNG = b"\x89PNG\r\n\x1a\n" + bytes(200)


def good():
    return make_nuclei(shape=(24, 28, 32), n_cells=6)[0]


def tiff(array, **options):
    return lambda path: tifffile.imwrite(path, array, **options)


def cut(share):
    def make(path):
        write_volume(path, good(), voxel_size_um=(1, 1, 1))
        content = path.read_bytes()
        path.write_bytes(content[: max(4, int(share * len(content)))])

    return make


def huge(path):
    tifffile.imwrite(path, good(), metadata=None)
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tif:
        for page in tif.pages:
            for name in ("ImageWidth", "ImageLength"):
                place = page.tags[name].valueoffset
                content[place : place + 2] = (65_528).to_bytes(2, "little")
    path.write_bytes(content)


def unfinished(values, dtype=np.float32):
    array = good().astype(dtype)
    array[3, 4, 5:9] = values
    return tiff(array)


BAD = {
    "empty.tif": lambda path: path.write_bytes(b""),
    "header.tif": cut(0.0),
    "offsets.tif": cut(0.5),
    "data.tif": cut(0.98),
    "picture.tif": lambda path: path.write_bytes(PNG),
    "flat 2D.tif": tiff(np.zeros((64, 64), np.uint8)),
    "colours.tif": tiff(np.zeros((9, 32, 32, 3), np.uint8), photometric="rgb"),
    "four.tif": tiff(np.zeros((3, 9, 32, 32), np.uint8), imagej=True, metadata={"axes": "TZYX"}),
    "one slice.tif": tiff(np.zeros((1, 32, 32), np.uint16)),
    "nan.tif": unfinished(np.nan),
    "infinite.tif": unfinished(np.inf),
    "constant.tif": tiff(np.full((16, 16, 16), 7, np.uint16)),
    "zéro ß 核.tif": tiff(np.zeros((16, 16, 16), np.float32)),
    "huge.tif": huge,
    "dangling.tif": lambda path: path.symlink_to(path.with_name("nowhere.tif")),
    "folder.tif": lambda path: path.mkdir(),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("mixed")
    write_volume(path / "good.tif", good(), voxel_size_um=(1, 1, 1))
    for name, make in BAD.items():
        make(path / name)
    return path


def test_every_bad_file_of_a_folder_is_named_with_a_reason_and_the_good_one_is_used(folder):
    found = read_stacks(folder, QUICK)
    assert [stack.name for stack in found] == ["good"]
    reasons = {path.name: reason for path, reason in found.skipped}
    assert set(reasons) == set(BAD)
    assert all(reason and "\n" not in reason for reason in reasons.values())


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_alone_is_one_sentence_and_nothing_is_written(folder, tmp_path, name):
    before = sorted(os.listdir(folder))
    for work in (
        lambda: train(folder / name, tmp_path / "run", QUICK),
        lambda: segment("none", folder / name, out=tmp_path / "out"),
    ):
        with pytest.raises(UserError):
            work()
    assert not (tmp_path / "run").exists() and not list(tmp_path.glob("out/*"))
    assert sorted(os.listdir(folder)) == before


@pytest.mark.parametrize("dtype", ["bool", "int8", "int16", "float64", ">u2"])
def test_ordinary_types_of_voxels_are_used(tmp_path, dtype):
    image = good()
    array = image > image.mean() if dtype == "bool" else (image / 20).astype(dtype)
    tifffile.imwrite(tmp_path / "a b.tif", array)
    (stack,) = read_stacks(tmp_path, QUICK)
    assert stack.shape == image.shape and stack.name == "a b"


def test_a_file_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    write_volume(tmp_path / "locked.tif", good(), voxel_size_um=(1, 1, 1))

    def refuse(*arguments, **options):
        raise PermissionError(13, "Permission denied", str(tmp_path / "locked.tif"))

    monkeypatch.setattr("wnet_nb.files.tiff.TiffFile", refuse)
    ((path, reason),) = read_stacks(tmp_path, QUICK).skipped
    assert path.name == "locked.tif" and "may not be read" in reason
