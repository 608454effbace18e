import dask.array
import ngff_zarr
import numpy as np
import pytest
import tensorstore
import zarr

from wnet_nb import segment_large
from wnet_nb.scale.ome_zarr import create, level_boxes, make_level, pyramid


@pytest.fixture(scope="module")
def result(nuclei, address, tmp_path_factory):
    out = tmp_path_factory.mktemp("ome") / "cells.zarr"
    return segment_large("none", nuclei[0], out, scheduler=address, chunk=64)


@pytest.mark.parametrize("part", ["", "labels/cells"])
def test_a_reader_of_others_finds_the_result_valid_and_at_its_scale(result, part):
    image = ngff_zarr.from_ngff_zarr(str(result.folder / part), validate=True, version="0.4")
    finest = image.images[0]
    assert tuple(finest.dims) == ("z", "y", "x")
    assert finest.scale == {"z": 2.0, "y": 1.0, "x": 1.0}
    assert set(finest.axes_units.values()) == {"micrometer"}


def test_tensorstore_and_dask_read_what_was_written(result):
    labels = result.labels()[:]
    file = {"driver": "file", "path": str(result.folder / "labels/cells/0")}
    store = tensorstore.open({"driver": "zarr", "kvstore": file}).result()
    assert (store.read().result() == labels).all()
    assert (dask.array.from_zarr(str(result.folder / "labels/cells/0")).compute() == labels).all()
    assert labels.dtype == np.uint32 and labels.max() > 40


def test_labels_say_which_image_they_belong_to(result):
    root = zarr.open_group(result.folder, mode="r")
    assert root["labels"].attrs["labels"] == ["cells"]
    assert root["labels/cells"].attrs["image-label"]["source"] == {"image": "../../"}


def test_voxels_become_cubes_before_they_become_larger():
    assert pyramid((400, 2000, 1500), (4.0, 1.0, 1.0)) == [
        (1, 1, 1),
        (1, 2, 2),
        (1, 4, 4),
        (2, 8, 8),
    ]
    assert pyramid((100, 200, 256), (1.0, 1.0, 1.0)) == [(1, 1, 1)]


def test_levels_are_means_of_the_foreground_and_every_second_label(tmp_path):
    shape, size = (21, 300, 70), (4.0, 1.0, 1.0)
    create(tmp_path / "a.zarr", shape, voxel_size_um=size, chunk=32, name="a")
    root = zarr.open_group(tmp_path / "a.zarr", mode="r+")
    random = np.random.default_rng(0)
    foreground = random.integers(0, 256, shape, np.uint8)
    labels = random.integers(0, 9, shape, np.uint32)
    root["0"][:], root["labels/cells/0"][:] = foreground, labels
    assert root["1"].shape == (21, 150, 35)
    for number in range(len(level_boxes((21, 150, 35), 32))):
        make_level(root, 1, number, 32)
    means = foreground.reshape(21, 150, 2, 35, 2).mean((2, 4))
    assert abs(root["1"][:] - means).max() <= 0.5
    assert (root["labels/cells/1"][:] == labels[:, ::2, ::2]).all()


def test_a_level_lies_where_the_voxels_that_it_averages_lie(tmp_path):
    create(tmp_path / "a.zarr", (8, 300, 8), voxel_size_um=(4, 1, 1), chunk=32, name="a")
    root = zarr.open_group(tmp_path / "a.zarr", mode="r")
    for group, shift in ((root, [0, 0.5, 0.5]), (root["labels/cells"], None)):
        (entry,) = group.attrs["multiscales"]
        scale, *moved = entry["datasets"][1]["coordinateTransformations"]
        assert scale["scale"] == [4, 2, 2]
        assert [one["translation"] for one in moved] == ([shift] if shift else [])
