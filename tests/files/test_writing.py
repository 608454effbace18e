"""Writing volumes and tables: what is written comes back, and nothing is ever replaced."""

import hashlib
import os

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wnet_nb.errors import UserError
from wnet_nb.files.volumes import read_volume
from wnet_nb.files.writing import (
    label_colours,
    write_labels,
    write_volume,
)
from wnet_nb.whole_file import sha256

STACK = np.arange(1, 211).reshape(7, 5, 6)
SIZE = (2.0, 0.65, 0.127)


@pytest.mark.parametrize(
    "dtype", ["uint8", "uint16", "uint32", "float32", "int8", "int16", "int32", "float64"]
)
def test_a_written_volume_comes_back_with_values_type_and_scale(tmp_path, dtype):
    stack = STACK.astype(dtype)
    path = write_volume(tmp_path / "a.tif", stack, voxel_size_um=SIZE)
    volume = read_volume(path)
    assert volume.array.dtype == dtype
    np.testing.assert_array_equal(volume.array, stack)
    assert (volume.voxel_size_um, volume.voxel_size_source) == (SIZE, "metadata")


@pytest.mark.parametrize(("dtype", "stored"), [("bool", "uint8"), ("float16", "float32")])
def test_types_that_fiji_cannot_show_are_stored_in_the_next_without_loss(tmp_path, dtype, stored):
    stack = (STACK % 2).astype(dtype)
    volume = read_volume(write_volume(tmp_path / "a.tif", stack, voxel_size_um=SIZE))
    assert volume.array.dtype == stored
    np.testing.assert_array_equal(volume.array, stack.astype(stored))


@pytest.mark.parametrize("dtype", ["int64", "uint64", "complex64"])
def test_types_that_would_lose_values_are_refused(tmp_path, dtype):
    with pytest.raises(UserError, match=f"{dtype} values cannot be written"):
        write_volume(tmp_path / "a.tif", STACK.astype(dtype), voxel_size_um=SIZE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "float32"])
def test_imagej_finds_slices_spacing_and_unit(tmp_path, dtype):
    write_volume(tmp_path / "a.tif", STACK.astype(dtype), voxel_size_um=SIZE)
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        stated = tif.imagej_metadata
        assert (stated["slices"], stated["spacing"], stated["unit"]) == (7, 2.0, "um")
        wide, high = (tif.pages.first.tags.valueof(code) for code in (282, 283))
        assert wide[0] / wide[1] == pytest.approx(1 / 0.127)
        assert high[0] / high[1] == pytest.approx(1 / 0.65)


def test_a_big_endian_map_of_a_file_can_be_written_again(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", STACK.astype("uint16"), byteorder=">")
    first = read_volume(tmp_path / "a.tif")
    again = read_volume(write_volume(tmp_path / "b.tif", first.array, voxel_size_um=SIZE))
    np.testing.assert_array_equal(again.array, STACK)


def test_labels_become_much_smaller_when_compressed(tmp_path):
    labels = np.zeros((20, 100, 100), "uint16")
    labels[5:15, 20:60, 20:60] = 7
    path = write_volume(tmp_path / "a.tif", labels, voxel_size_um=SIZE)
    assert path.stat().st_size < labels.nbytes / 20


@pytest.mark.parametrize(("largest", "dtype"), [(7, "uint16"), (70_000, "uint32"), (0, "uint16")])
def test_labels_have_colours_and_a_display_range_for_fiji(tmp_path, largest, dtype):
    labels = np.zeros((4, 6, 8), np.int64)
    labels[1, 2, 3] = largest
    write_labels(tmp_path / "a.tif", labels, voxel_size_um=SIZE)
    volume = read_volume(tmp_path / "a.tif")
    assert volume.array.dtype == dtype and volume.voxel_size_um == SIZE
    np.testing.assert_array_equal(volume.array, labels)
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        stated = tif.imagej_metadata
        assert (stated["min"], stated["max"]) == (0, max(1, largest))
        assert stated["Ranges"] == (0, max(1, largest))
        np.testing.assert_array_equal(stated["LUTs"], label_colours())


def test_the_background_is_black_and_neighbouring_labels_differ_in_colour():
    colours = label_colours().T.astype(int)
    assert colours.shape == (256, 3) and not colours[0].any()
    assert len({tuple(colour) for colour in colours}) == 256
    assert np.abs(np.diff(colours, axis=0)).sum(1).min() > 100


def test_a_result_over_the_limit_is_a_bigtiff_that_keeps_its_scale(tmp_path, monkeypatch):
    monkeypatch.setattr("wnet_nb.files.writing.CLASSIC_TIFF_LIMIT", 100)
    path = write_volume(tmp_path / "a.tif", STACK.astype("uint16"), voxel_size_um=SIZE)
    with tifffile.TiffFile(path) as tif:
        assert tif.is_bigtiff and tif.is_ome
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.array, STACK)
    assert volume.voxel_size_um == SIZE


def test_types_that_imagej_does_not_know_are_ome(tmp_path):
    path = write_volume(tmp_path / "a.tif", STACK.astype("float64"), voxel_size_um=SIZE)
    with tifffile.TiffFile(path) as tif:
        assert tif.is_ome and not tif.is_bigtiff


@pytest.mark.parametrize("shape", [(5, 6), (2, 7, 5, 6), (0, 5, 6)])
def test_an_array_that_is_no_filled_volume_is_refused(tmp_path, shape):
    with pytest.raises(UserError, match=r"cannot be written as 'a.tif'"):
        write_volume(tmp_path / "a.tif", np.ones(shape), voxel_size_um=SIZE)


def test_an_existing_file_is_never_replaced(tmp_path):
    path = tmp_path / "a.tif"
    path.write_bytes(b"precious")
    with pytest.raises(UserError, match=r"a.tif' exists and is never overwritten"):
        write_volume(path, STACK.astype("uint8"), voxel_size_um=SIZE)
    assert path.read_bytes() == b"precious"


def test_a_file_system_without_hard_links_is_served_too(tmp_path, monkeypatch):
    def refuse(source, target):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    write_volume(tmp_path / "a.tif", STACK.astype("uint8"), voxel_size_um=SIZE)
    before = (tmp_path / "a.tif").read_bytes()
    with pytest.raises(UserError, match="never overwritten"):
        write_volume(tmp_path / "a.tif", STACK.astype("uint16"), voxel_size_um=SIZE)
    assert [path.name for path in tmp_path.iterdir()] == ["a.tif"]
    assert (tmp_path / "a.tif").read_bytes() == before


def test_a_failed_write_leaves_nothing_behind(tmp_path):
    class Broken(np.ndarray):
        def __iter__(self):
            yield np.asarray(self)[0]
            raise RuntimeError("disk on fire")

    with pytest.raises(RuntimeError, match="disk on fire"):
        stack = STACK.astype("uint8").view(Broken)
        write_volume(tmp_path / "a.tif", stack, voxel_size_um=SIZE)
    assert list(tmp_path.iterdir()) == []


def test_missing_folders_are_made(tmp_path):
    path = tmp_path / "predictions" / "a" / "labels.tif"
    write_volume(path, STACK.astype("uint16"), voxel_size_um=SIZE)
    assert [file.name for file in path.parent.iterdir()] == ["labels.tif"]


def test_the_hash_is_the_sha256_of_the_content(tmp_path):
    (tmp_path / "a").write_bytes(b"abc" * 10**6)
    assert sha256(tmp_path / "a") == hashlib.sha256(b"abc" * 10**6).hexdigest()


VOLUMES = st.sampled_from(
    ["bool", "uint8", "uint16", "uint32", "int8", "int16", "int32", "float16", "float32", "float64"]
).flatmap(lambda d: hnp.arrays(d, hnp.array_shapes(min_dims=3, max_dims=3, max_side=9)))
ANYWHERE = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
LENGTHS = st.floats(1e-3, 1e4)


@settings(ANYWHERE, max_examples=150)
@given(array=VOLUMES, size=st.tuples(LENGTHS, LENGTHS, LENGTHS))
def test_any_volume_comes_back_or_is_refused_in_one_sentence(tmp_path, array, size):
    path = tmp_path / f"{len(list(tmp_path.iterdir()))}.tif"
    write_volume(path, array, voxel_size_um=size)
    try:
        volume = read_volume(path)
    except UserError as error:  # one slice is no volume
        assert array.shape[0] == 1 and "one 2D image" in str(error)
        return
    np.testing.assert_array_equal(volume.array, array)
    np.testing.assert_allclose(volume.voxel_size_um, size, rtol=1e-5)


@settings(ANYWHERE, max_examples=60)
@given(
    array=hnp.arrays(
        hnp.array_dtypes(hnp.scalar_dtypes(), max_size=1) | hnp.scalar_dtypes(),
        hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=3),
    )
)
def test_what_is_no_volume_is_refused_and_leaves_nothing(tmp_path, array):
    path = tmp_path / f"{len(list(tmp_path.iterdir()))}.tif"
    before = sorted(tmp_path.iterdir())
    try:
        write_volume(path, array, voxel_size_um=(1, 1, 1))
    except UserError as error:
        assert "\n" not in str(error)
        assert sorted(tmp_path.iterdir()) == before
    else:
        assert path.exists() and array.ndim == 3


TIFFS = hnp.arrays(
    hnp.boolean_dtypes() | hnp.integer_dtypes() | hnp.floating_dtypes(sizes=(16, 32, 64)),
    hnp.array_shapes(min_dims=2, max_dims=6, max_side=4),
)


@settings(ANYWHERE, max_examples=150)
@given(
    array=TIFFS,
    options=st.sampled_from(
        [{}, {"metadata": None}, {"imagej": True}, {"ome": True}, {"compression": "zlib"}]
    ),
)
def test_whatever_tifffile_writes_is_a_volume_or_one_sentence(tmp_path, array, options):
    path = tmp_path / f"{len(list(tmp_path.iterdir()))}.tif"
    try:
        tifffile.imwrite(path, array, photometric="minisblack", **options)
    except Exception:  # no TIFF of this dialect can hold it
        return
    try:
        volume = read_volume(path)
    except UserError as error:
        assert path.name in str(error) and "\n" not in str(error)
    else:
        assert volume.array.ndim == 3 and volume.array.dtype.kind in "buif"
        np.testing.assert_array_equal(volume.array.ravel(), array.ravel())
