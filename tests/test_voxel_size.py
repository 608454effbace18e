"""The voxel size: from the option, from the metadata, or assumed and said so."""

import numpy as np
import pytest
import tifffile

from wnet_nb.io import VolumeError, read_volume

STACK = np.ones((7, 5, 6), "uint8")


def write_imagej(path, resolution=(4, 2), **metadata):
    tifffile.imwrite(
        path, STACK, imagej=True, resolution=resolution, metadata={"axes": "ZYX", **metadata}
    )
    return read_volume(path)


def write_ome(path, **metadata):
    tifffile.imwrite(path, STACK, ome=True, metadata={"axes": "ZYX", **metadata})
    return read_volume(path)


def test_imagej_spacing_and_resolution_give_z_y_x(tmp_path):
    volume = write_imagej(tmp_path / "a.tif", spacing=1.5, unit="um")
    assert volume.voxel_size_um == (1.5, 0.5, 0.25)
    assert (volume.voxel_size_source, volume.remarks) == ("metadata", ())


@pytest.mark.parametrize(
    ("unit", "um"),
    [
        ("micron", 1.0),
        ("um", 1.0),
        ("\\u00B5m", 1.0),
        ("nm", 1e-3),
        ("mm", 1e3),
        ("cm", 1e4),
        ("m", 1e6),
        ("inch", 25400.0),
    ],
)
def test_imagej_units_are_converted_to_um(tmp_path, unit, um):
    volume = write_imagej(tmp_path / "a.tif", spacing=2.0, unit=unit)
    np.testing.assert_allclose(volume.voxel_size_um, np.array([2.0, 0.5, 0.25]) * um, rtol=1e-6)


@pytest.mark.parametrize("metadata", [{"unit": "pixel"}, {}, {"unit": "furlong"}])
def test_imagej_without_a_unit_of_length_is_assumed(tmp_path, metadata):
    volume = write_imagej(tmp_path / "a.tif", spacing=2.0, **metadata)
    assert (volume.voxel_size_um, volume.voxel_size_source) == ((1.0, 1.0, 1.0), "assumed")


def test_a_missing_imagej_spacing_is_one_unit_as_in_fiji_and_said(tmp_path):
    volume = write_imagej(tmp_path / "a.tif", unit="um")
    assert (volume.voxel_size_um, volume.voxel_size_source) == ((1.0, 0.5, 0.25), "metadata")
    assert volume.remarks == ("no slice spacing in 'a.tif': 1 µm is taken, as Fiji does",)


def test_a_negative_imagej_spacing_counts_as_positive(tmp_path):
    assert write_imagej(tmp_path / "a.tif", spacing=-3.0, unit="um").voxel_size_um[0] == 3.0


def test_units_of_single_imagej_axes_are_respected(tmp_path):
    volume = write_imagej(tmp_path / "a.tif", spacing=300, unit="um", zunit="nm")
    assert volume.voxel_size_um == (0.3, 0.5, 0.25)


def test_ome_sizes_are_um_unless_they_say_otherwise(tmp_path):
    volume = write_ome(
        tmp_path / "a.tif",
        PhysicalSizeX=250,
        PhysicalSizeXUnit="nm",
        PhysicalSizeY=0.5,
        PhysicalSizeZ=0.002,
        PhysicalSizeZUnit="mm",
    )
    assert volume.voxel_size_um == (2.0, 0.5, 0.25)
    assert (volume.voxel_size_source, volume.remarks) == ("metadata", ())


@pytest.mark.parametrize(
    ("unit", "um"),
    [
        ("µm", 1.0),
        ("μm", 1.0),
        ("um", 1.0),
        ("Å", 1e-4),
        ("cm", 1e4),
        ("in", 25400.0),
        ("pm", 1e-6),
    ],
)
def test_ome_units_are_converted_to_um(tmp_path, unit, um):
    sizes = {f"PhysicalSize{axis}": 2.0 for axis in "XYZ"}
    units = {f"PhysicalSize{axis}Unit": unit for axis in "XYZ"}
    volume = write_ome(tmp_path / "a.tif", **sizes, **units)
    np.testing.assert_allclose(volume.voxel_size_um, np.full(3, 2.0 * um), rtol=1e-6)


def test_a_missing_ome_spacing_is_taken_from_the_plane_and_said(tmp_path):
    volume = write_ome(tmp_path / "a.tif", PhysicalSizeX=0.25, PhysicalSizeY=0.5)
    assert (volume.voxel_size_um, volume.voxel_size_source) == ((0.25, 0.5, 0.25), "assumed")
    assert volume.remarks == (
        "no voxel size along z in 'a.tif': 0.25 × 0.5 × 0.25 µm (z, y, x) is assumed; "
        "give voxel_size_um=z,y,x",
    )


@pytest.mark.parametrize("size", [0.0, -1.0, "NaN", "INF"])
def test_an_impossible_size_in_the_metadata_counts_as_not_stated(tmp_path, size):
    volume = write_ome(tmp_path / "a.tif", **{f"PhysicalSize{axis}": size for axis in "XYZ"})
    assert (volume.voxel_size_um, volume.voxel_size_source) == ((1.0, 1.0, 1.0), "assumed")


def test_a_print_resolution_is_no_voxel_size(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, STACK, metadata=None, resolution=(72, 72), resolutionunit="INCH")
    assert read_volume(path).voxel_size_source == "assumed"


def test_nothing_stated_is_one_um_and_says_which_option_helps(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", STACK)
    volume = read_volume(tmp_path / "a.tif")
    assert (volume.voxel_size_um, volume.voxel_size_source) == ((1.0, 1.0, 1.0), "assumed")
    assert len(volume.remarks) == 1 and "give voxel_size_um=z,y,x" in volume.remarks[0]


def test_the_option_comes_before_the_metadata_and_says_what_it_replaced(tmp_path):
    write_imagej(tmp_path / "a.tif", spacing=1.5, unit="um")
    volume = read_volume(tmp_path / "a.tif", voxel_size_um=[4, 1, 2])
    assert (volume.voxel_size_um, volume.voxel_size_source) == ((4.0, 1.0, 2.0), "option")
    assert volume.remarks == ("voxel_size_um replaces 1.5 × 0.5 × 0.25 µm (z, y, x) of 'a.tif'",)


@pytest.mark.parametrize(
    "option", [(1, 1), (1, 1, 0), (1, -1, 1), (1, np.nan, 1), (np.inf, 1, 1), "111", 2.0, "a,b,c"]
)
def test_an_option_that_is_no_voxel_size_is_refused(tmp_path, option):
    tifffile.imwrite(tmp_path / "a.tif", STACK)
    with pytest.raises(VolumeError, match="is not a voxel size; give three positive numbers"):
        read_volume(tmp_path / "a.tif", voxel_size_um=option)
