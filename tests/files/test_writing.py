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
    CLASSIC_TIFF_LIMIT,
    choose_format,
    read_points,
    write_table,
    write_volume,
)
from wnet_nb.whole_file import new_file, sha256

STACK = np.arange(1, 211).reshape(7, 5, 6)
SIZE = (2.0, 0.65, 0.127)


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize(
    "dtype", ["uint8", "uint16", "uint32", "float32", "int8", "int16", "int32", "float64"]
)
def test_a_written_volume_comes_back_with_values_type_and_scale(tmp_path, dtype, compress):
    stack = STACK.astype(dtype)
    path = write_volume(tmp_path / "a.tif", stack, voxel_size_um=SIZE, compress=compress)
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


def test_an_uncompressed_result_can_be_mapped(tmp_path):
    stack = STACK.astype("float32")
    path = write_volume(tmp_path / "a.tif", stack, voxel_size_um=SIZE, compress=False)
    assert isinstance(read_volume(path).array, np.memmap)


def test_labels_become_much_smaller_when_compressed(tmp_path):
    labels = np.zeros((20, 100, 100), "uint16")
    labels[5:15, 20:60, 20:60] = 7
    path = write_volume(tmp_path / "a.tif", labels, voxel_size_um=SIZE)
    assert path.stat().st_size < labels.nbytes / 20


@pytest.mark.parametrize(
    ("dtype", "n_bytes", "form"),
    [
        ("uint16", 10**6, "imagej"),
        ("uint32", CLASSIC_TIFF_LIMIT, "imagej"),
        ("uint16", CLASSIC_TIFF_LIMIT + 1, "ome-bigtiff"),
        ("float64", 10**6, "ome"),
        ("float64", 5 * 10**9, "ome-bigtiff"),
    ],
)
def test_the_kind_of_tiff_follows_type_and_size(dtype, n_bytes, form):
    assert choose_format(np.dtype(dtype), n_bytes) == form
    assert CLASSIC_TIFF_LIMIT < 2**32


def test_a_result_over_the_limit_is_a_bigtiff_that_keeps_its_scale(tmp_path, monkeypatch):
    monkeypatch.setattr("wnet_nb.files.writing.CLASSIC_TIFF_LIMIT", 100)
    path = write_volume(tmp_path / "a.tif", STACK.astype("uint16"), voxel_size_um=SIZE)
    with tifffile.TiffFile(path) as tif:
        assert tif.is_bigtiff and tif.is_ome
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.array, STACK)
    assert volume.voxel_size_um == SIZE


@pytest.mark.parametrize("shape", [(5, 6), (2, 7, 5, 6), (0, 5, 6)])
def test_an_array_that_is_no_filled_volume_is_refused(tmp_path, shape):
    with pytest.raises(UserError, match=r"cannot be written as 'a.tif'"):
        write_volume(tmp_path / "a.tif", np.ones(shape), voxel_size_um=SIZE)


def test_an_existing_file_is_never_replaced(tmp_path):
    path = tmp_path / "a.tif"
    path.write_bytes(b"precious")
    for write in (
        lambda: write_volume(path, STACK.astype("uint8"), voxel_size_um=SIZE),
        lambda: write_table(path, {"a": [1]}),
    ):
        with pytest.raises(UserError, match=r"a.tif' exists and is never overwritten"):
            write()
    assert path.read_bytes() == b"precious"


def test_a_file_that_appears_during_the_writing_is_not_replaced(tmp_path):
    path = tmp_path / "a.txt"
    with pytest.raises(UserError, match="never overwritten"), new_file(path) as partial:
        partial.write_bytes(b"mine")
        path.write_bytes(b"theirs")
    assert path.read_bytes() == b"theirs"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_system_without_hard_links_is_served_too(tmp_path, monkeypatch):
    def refuse(source, target):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    write_table(tmp_path / "a.csv", {"a": [1]})
    with pytest.raises(UserError, match="never overwritten"):
        write_table(tmp_path / "a.csv", {"a": [2]})
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]
    assert (tmp_path / "a.csv").read_text() == "a\n1\n"


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


def test_a_table_is_plain_csv(tmp_path):
    columns = {
        "label": np.array([1, 2], "uint16"),
        "volume_um3": [0.5, np.float32(0.1)],
        "remark": ["a, b", None],
        "z": np.array([np.nan, 1.25]),
    }
    write_table(tmp_path / "a.csv", columns)
    assert (tmp_path / "a.csv").read_bytes() == (
        b'label,volume_um3,remark,z\n1,0.5,"a, b",\n2,0.1,,1.25\n'
    )


def test_columns_of_different_length_are_refused(tmp_path):
    with pytest.raises(UserError, match="differ in length"):
        write_table(tmp_path / "a.csv", {"a": [1, 2], "b": [1]})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text",
    [
        "z,y,x,cell\n1,2,3,a\n4,5.5,6,b\n",
        "cell, X ,y,Z\na,3,2,1\nb,6,5.5,4\n",
        "\ufeffz;y;x\r\n1;2;3\r\n\r\n4;5.5;6\r\n",
        "index,axis-0,axis-1,axis-2\n0,1,2,3\n1,4,5.5,6\n",
    ],
)
def test_points_are_z_y_x_whatever_the_order_of_the_columns(tmp_path, text):
    (tmp_path / "a.csv").write_text(text, encoding="utf-8", newline="")
    np.testing.assert_array_equal(read_points(tmp_path / "a.csv"), [[1, 2, 3], [4, 5.5, 6]])


def test_a_written_table_of_points_is_read_again(tmp_path):
    write_table(tmp_path / "a.csv", {"x": [3.0], "y": [2.0], "z": [1.0]})
    np.testing.assert_array_equal(read_points(tmp_path / "a.csv"), [[1, 2, 3]])


def test_no_points_are_an_empty_array(tmp_path):
    (tmp_path / "a.csv").write_text("z,y,x\n")
    assert read_points(tmp_path / "a.csv").shape == (0, 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no columns z, y and x"),
        ("a,b,c\n1,2,3\n", "no columns z, y and x"),
        ("z,y,x\n1,2,3\n1,,3\n", "line 3 of 'a.csv'"),
        ("z,y,x\n1,2\n", "line 2 of 'a.csv'"),
        ("z,y,x\n1,nan,3\n", "line 2 of 'a.csv'"),
    ],
)
def test_a_table_without_points_says_where(tmp_path, text, message):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        read_points(tmp_path / "a.csv")


def test_missing_files_are_refused_by_name(tmp_path):
    for read in (read_points, sha256):
        with pytest.raises(UserError, match=r"missing' cannot be read"):
            read(tmp_path / "missing")


def test_the_hash_is_the_sha256_of_the_content(tmp_path):
    (tmp_path / "a").write_bytes(b"abc" * 10**6)
    assert sha256(tmp_path / "a") == hashlib.sha256(b"abc" * 10**6).hexdigest()


VOLUMES = st.sampled_from(
    ["bool", "uint8", "uint16", "uint32", "int8", "int16", "int32", "float16", "float32", "float64"]
).flatmap(lambda d: hnp.arrays(d, hnp.array_shapes(min_dims=3, max_dims=3, max_side=9)))
ANYWHERE = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
LENGTHS = st.floats(1e-3, 1e4)


@settings(ANYWHERE, max_examples=150)
@given(array=VOLUMES, size=st.tuples(LENGTHS, LENGTHS, LENGTHS), compress=st.booleans())
def test_any_volume_comes_back_or_is_refused_in_one_sentence(tmp_path, array, size, compress):
    path = tmp_path / f"{len(list(tmp_path.iterdir()))}.tif"
    write_volume(path, array, voxel_size_um=size, compress=compress)
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


@given(text=st.text(max_size=200))
@settings(ANYWHERE, max_examples=100)
def test_any_text_is_points_or_one_sentence(tmp_path, text):
    (tmp_path / "a.csv").write_text("z,y,x\n" + text, encoding="utf-8")
    try:
        points = read_points(tmp_path / "a.csv")
    except UserError as error:
        assert "'a.csv'" in str(error) and "\n" not in str(error)
    else:
        assert points.shape[1] == 3 and np.isfinite(points).all()
