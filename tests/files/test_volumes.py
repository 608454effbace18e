"""Reading volumes, slices and folders: values, names, and what a user is told."""

from pathlib import Path

import numpy as np
import pytest
import tifffile

from wnet_nb.errors import UserError
from wnet_nb.files.tables import read_points
from wnet_nb.files.volumes import Volume, find_volumes, read_slices, read_volume


def counting(shape, dtype="uint16"):
    """Every voxel different and none zero, so that any shuffled or lost voxel shows."""
    return np.arange(1, 1 + np.prod(shape)).reshape(shape).astype(dtype)


@pytest.mark.parametrize(
    "dtype", ["bool", "uint8", "int16", "uint16", "uint32", "int64", "float16", "float64"]
)
def test_every_real_dtype_comes_back_as_it_was_stored(tmp_path, dtype):
    stack = counting((7, 5, 6), dtype)
    stack[0, 0] = 0
    tifffile.imwrite(tmp_path / "a.tif", stack)
    volume = read_volume(tmp_path / "a.tif")
    assert volume.array.dtype == dtype
    np.testing.assert_array_equal(volume.array, stack)


@pytest.mark.parametrize(
    "options",
    [
        {"bigtiff": True},
        {"byteorder": ">"},
        {"metadata": None},
        {"metadata": None, "photometric": "minisblack", "byteorder": ">"},
        {"imagej": True, "metadata": {"axes": "ZYX"}},
        {"ome": True, "metadata": {"axes": "ZYX"}},
        {"compression": "zlib"},
        {"compression": "lzw"},
        {"tile": (16, 16)},
        {"rowsperstrip": 2},
    ],
)
def test_every_dialect_of_tiff_gives_the_same_volume(tmp_path, options):
    stack = counting((7, 32, 48))
    tifffile.imwrite(tmp_path / "a.tif", stack, **options)
    np.testing.assert_array_equal(read_volume(tmp_path / "a.tif").array, stack)


def test_pages_written_one_by_one_are_slices(tmp_path):
    stack = counting((7, 5, 6))
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for plane in stack:
            writer.write(plane)
    np.testing.assert_array_equal(read_volume(tmp_path / "a.tif").array, stack)


@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_an_uncompressed_file_is_mapped_and_not_read(tmp_path, byteorder):
    stack = counting((7, 5, 6))
    tifffile.imwrite(tmp_path / "a.tif", stack, byteorder=byteorder)
    volume = read_volume(tmp_path / "a.tif")
    assert isinstance(volume.array, np.memmap)
    assert not volume.array.flags.writeable
    np.testing.assert_array_equal(volume.array.astype("float32"), stack)


def test_one_channel_of_a_hyperstack_is_a_view_of_the_mapped_file(tmp_path):
    stack = counting((2, 3, 2, 5, 6))
    tifffile.imwrite(tmp_path / "a.tif", stack, imagej=True, metadata={"axes": "TZCYX"})
    volume = read_volume(tmp_path / "a.tif", channel=1, time=0)
    assert isinstance(volume.array, np.memmap)
    np.testing.assert_array_equal(volume.array, stack[0, :, 1])


def test_one_channel_of_a_compressed_hyperstack_is_read(tmp_path):
    stack = counting((2, 3, 2, 5, 6))
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, stack, ome=True, compression="zlib", metadata={"axes": "TZCYX"})
    volume = read_volume(path, channel=0, time=1)
    np.testing.assert_array_equal(volume.array, stack[1, :, 0])


@pytest.mark.parametrize(
    ("file", "name"),
    [("a.tif", "a"), ("b.TIFF", "b"), ("c.ome.tif", "c"), ("d.v2.tif", "d.v2"), ("e.1", "e.1")],
)
def test_the_name_of_a_volume_is_the_file_without_its_tiff_ending(file, name):
    volume = Volume(np.zeros((2, 2, 2)), (1.0, 1.0, 1.0), "assumed", Path("folder") / file)
    assert volume.name == name


def test_a_folder_gives_its_tiffs_in_natural_order(tmp_path):
    for name in ("t10.tif", "t2.TIF", "t1.ome.tif", "T3.tiff"):
        (tmp_path / name).touch()
    found = find_volumes(str(tmp_path))
    assert [path.name for path in found.paths] == ["t1.ome.tif", "t2.TIF", "T3.tiff", "t10.tif"]


def test_everything_else_in_a_folder_is_reported_with_a_reason(tmp_path):
    for name in ("a.tif", "._a.tif", ".a.tif.part", "notes.txt"):
        (tmp_path / name).touch()
    for name in (".ipynb_checkpoints", "checkpoints", "labels.tif"):
        (tmp_path / name).mkdir()
    found = find_volumes(tmp_path)
    assert found.paths == (tmp_path / "a.tif",)
    assert {path.name: reason for path, reason in found.skipped} == {
        "._a.tif": "macOS metadata, not an image",
        ".a.tif.part": "hidden",
        ".ipynb_checkpoints": "hidden",
        "checkpoints": "a subfolder; subfolders are not searched",
        "labels.tif": "a subfolder; subfolders are not searched",
        "notes.txt": "not a TIFF",
    }


def test_a_file_given_by_name_is_found_whatever_its_ending(tmp_path):
    (tmp_path / "stack.lsm").touch()
    assert find_volumes(tmp_path / "stack.lsm").paths == (tmp_path / "stack.lsm",)


def test_an_empty_folder_gives_nothing_and_a_missing_one_an_error(tmp_path):
    assert find_volumes(tmp_path).paths == ()
    with pytest.raises(UserError, match=r"missing' does not exist"):
        find_volumes(tmp_path / "missing")


def write_slices(folder, stack):
    folder.mkdir()
    for number, plane in enumerate(stack, start=1):
        tifffile.imwrite(folder / f"slice_{number}.tif", plane)


def test_slices_are_stacked_in_natural_order(tmp_path):
    stack = counting((11, 5, 6))
    write_slices(tmp_path / "embryo", stack)
    volume = read_slices(tmp_path / "embryo", voxel_size_um=(2, 1, 1))
    np.testing.assert_array_equal(volume.array, stack)
    assert (volume.name, volume.voxel_size_um) == ("embryo", (2.0, 1.0, 1.0))


def test_a_slice_of_another_shape_is_named(tmp_path):
    write_slices(tmp_path / "s", counting((3, 5, 6)))
    tifffile.imwrite(tmp_path / "s" / "slice_2.tif", counting((5, 7)))
    with pytest.raises(UserError, match=r"slice 'slice_2.tif' is \(5, 7\)"):
        read_slices(tmp_path / "s")


def test_a_slice_of_another_type_is_named(tmp_path):
    write_slices(tmp_path / "s", counting((3, 5, 6)))
    tifffile.imwrite(tmp_path / "s" / "slice_3.tif", counting((5, 6), "uint8"))
    with pytest.raises(UserError, match=r"slice 'slice_3.tif' is \(5, 6\) uint8"):
        read_slices(tmp_path / "s")


def test_a_volume_among_slices_is_named(tmp_path):
    write_slices(tmp_path / "s", counting((3, 5, 6)))
    tifffile.imwrite(tmp_path / "s" / "slice_9.tif", counting((5, 5, 6)))
    with pytest.raises(UserError, match=r"slice 'slice_9.tif' holds 5 planes"):
        read_slices(tmp_path / "s")


def test_slices_know_their_scale_in_the_plane_only(tmp_path):
    (tmp_path / "s").mkdir()
    for name in "ab":
        path = tmp_path / "s" / f"{name}.tif"
        tifffile.imwrite(
            path, counting((5, 6)), imagej=True, resolution=(4, 2), metadata={"unit": "um"}
        )
    volume = read_slices(tmp_path / "s")
    assert volume.voxel_size_um == (0.25, 0.5, 0.25)
    assert volume.voxel_size_source == "assumed"
    assert "no voxel size along z" in volume.remarks[0]


def test_a_folder_without_slices_and_a_file_are_refused(tmp_path):
    with pytest.raises(UserError, match="holds 0 TIFF files"):
        read_slices(tmp_path)
    tifffile.imwrite(tmp_path / "a.tif", counting((5, 6)))
    with pytest.raises(UserError, match="give a folder that holds the slices"):
        read_slices(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("name", "shape", "dtype"),
    [
        ("mesospim_brain_nuclei.tif", (124, 86, 94), "float32"),
        ("celegans_t110_image.tif", (30, 224, 320), "uint8"),
        ("gonuclear_1135_labels.tif", (100, 100, 100), "uint16"),
    ],
)
def test_real_volumes_are_read_with_the_shape_of_their_list(shared, name, shape, dtype):
    volume = read_volume(shared(f"data/{name}"))
    assert (volume.shape, volume.array.dtype) == (shape, dtype)
    assert volume.voxel_size_source == "assumed"


def test_the_real_centroids_lie_inside_their_volume(shared):
    points = read_points(shared("data/celegans_t110_points_zyx.csv"))
    shape = read_volume(shared("data/celegans_t110_image.tif")).shape
    assert points.shape == (114, 3)
    assert (points >= 0).all() and (points < shape).all()
