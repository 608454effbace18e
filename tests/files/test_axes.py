"""Axes and voxel size: from the metadata or the user's choice; what is assumed is said."""

import numpy as np
import pytest
import tifffile

from wnet_nb.errors import UserError
from wnet_nb.files.volumes import read_volume

STACK = np.ones((7, 5, 6), "uint8")


def counting(shape):
    return np.arange(1, 1 + np.prod(shape), dtype="uint16").reshape(shape)


def write(path, shape, axes, **options):
    """Write a counted hyperstack; with OME every order of the axes is possible."""
    stack = counting(shape)
    tifffile.imwrite(path, stack, metadata={"axes": axes}, **(options or {"ome": True}))
    return stack


def test_several_channels_ask_for_a_choice_and_say_how_many(tmp_path):
    write(tmp_path / "a.tif", (7, 3, 5, 6), "ZCYX", imagej=True)
    with pytest.raises(UserError) as caught:
        read_volume(tmp_path / "a.tif")
    assert str(caught.value) == (
        "'a.tif' has 3 channels; choose one with channel=0..2 (command line: --set channel=0)"
    )


def test_several_time_points_ask_for_a_choice_and_say_how_many(tmp_path):
    write(tmp_path / "a.tif", (2, 7, 5, 6), "TZYX", imagej=True)
    with pytest.raises(UserError) as caught:
        read_volume(tmp_path / "a.tif")
    assert str(caught.value) == (
        "'a.tif' has 2 time points; choose one with time=0..1 (command line: --set time=0)"
    )


@pytest.mark.parametrize("choice", [-1, 3, "0", 1.0])
def test_a_channel_that_is_not_there_is_refused(tmp_path, choice):
    write(tmp_path / "a.tif", (7, 3, 5, 6), "ZCYX", imagej=True)
    with pytest.raises(UserError, match=r"does not exist in 'a.tif', which has 3 channels"):
        read_volume(tmp_path / "a.tif", channel=choice)


def test_a_choice_in_a_file_with_nothing_to_choose_may_only_be_the_first(tmp_path):
    stack = write(tmp_path / "a.tif", (7, 5, 6), "ZYX", imagej=True)
    np.testing.assert_array_equal(read_volume(tmp_path / "a.tif", channel=0, time=0).array, stack)
    with pytest.raises(UserError, match=r"time 1 does not exist.*leave time unset"):
        read_volume(tmp_path / "a.tif", time=1)


@pytest.mark.parametrize("axes", ["TZCYX", "TCZYX", "CTZYX", "ZCTYX", "CZTYX", "ZTCYX"])
def test_the_order_of_the_axes_comes_from_the_file(tmp_path, axes):
    sizes = {"T": 2, "Z": 4, "C": 3, "Y": 5, "X": 6}
    stack = write(tmp_path / "a.tif", [sizes[axis] for axis in axes], axes)
    expected = np.moveaxis(stack, [axes.index(axis) for axis in "TCZ"], [0, 1, 2])[1, 2]
    np.testing.assert_array_equal(
        read_volume(tmp_path / "a.tif", time=1, channel=2).array, expected
    )


def test_a_file_that_states_x_first_is_turned(tmp_path):
    stack = counting((7, 5, 6))
    tifffile.imwrite(tmp_path / "a.tif", stack, metadata={"axes": "XYZ"})
    np.testing.assert_array_equal(read_volume(tmp_path / "a.tif").array, stack.transpose(2, 1, 0))


@pytest.mark.parametrize(("axes", "stated"), [("TYX", "7 time points"), ("CYX", "7 channels")])
def test_images_without_z_are_not_taken_for_slices(tmp_path, axes, stated):
    write(tmp_path / "a.tif", (7, 5, 6), axes, imagej=True)
    with pytest.raises(UserError, match=rf"'a.tif' has {stated} but no z.*Image > Properties"):
        read_volume(tmp_path / "a.tif", time=0)


@pytest.mark.parametrize("shape", [(5, 6), (1, 5, 6)])
def test_a_2d_image_is_refused_and_points_to_slices(tmp_path, shape):
    tifffile.imwrite(tmp_path / "a.tif", counting(shape))
    with pytest.raises(UserError, match=r"'a.tif' is one 2D image \(5×6\).*--slices"):
        read_volume(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("shape", "planar"),
    [((5, 6, 3), "contig"), ((7, 5, 6, 3), "contig"), ((4, 3, 5, 6), "separate")],
)
def test_a_colour_image_is_refused_and_points_to_splitting(tmp_path, shape, planar):
    stack = counting(shape).astype("uint8")
    tifffile.imwrite(tmp_path / "a.tif", stack, photometric="rgb", planarconfig=planar)
    with pytest.raises(UserError, match=r"colour \(RGB\) image with 3 .*Split Channels"):
        read_volume(tmp_path / "a.tif")


def test_a_colour_stack_of_imagej_is_refused_as_colour(tmp_path):
    stack = counting((7, 5, 6, 3)).astype("uint8")
    tifffile.imwrite(tmp_path / "a.tif", stack, imagej=True, metadata={"axes": "ZYXS"})
    with pytest.raises(UserError, match="colour"):
        read_volume(tmp_path / "a.tif")


def test_complex_values_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.ones((7, 5, 6), "complex64"))
    with pytest.raises(UserError, match=r"'a.tif' holds complex64 values"):
        read_volume(tmp_path / "a.tif")


def test_two_unnamed_axes_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", counting((2, 7, 5, 6)))
    with pytest.raises(UserError, match="axes without a known meaning"):
        read_volume(tmp_path / "a.tif")


def test_several_volumes_in_one_file_are_refused(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif", ome=True) as writer:
        for _ in range(2):
            writer.write(counting((7, 5, 6)), metadata={"axes": "ZYX"})
    with pytest.raises(UserError, match=r"holds 2 separate images \(7×5×6, 7×5×6\)"):
        read_volume(tmp_path / "a.tif")


def test_pages_of_two_sizes_are_refused(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for shape in ((5, 6), (5, 7), (5, 6), (5, 7)):
            writer.write(counting(shape), metadata=None)
    with pytest.raises(UserError, match="holds 2 separate images"):
        read_volume(tmp_path / "a.tif")


def test_a_volume_beside_a_thumbnail_is_read(tmp_path):
    stack = counting((7, 5, 6))
    with tifffile.TiffWriter(tmp_path / "a.tif", ome=True) as writer:
        writer.write(counting((3, 3)), metadata={"axes": "YX", "PhysicalSizeX": 9})
        writer.write(stack, metadata={"axes": "ZYX", "PhysicalSizeX": 0.5})
    volume = read_volume(tmp_path / "a.tif")
    np.testing.assert_array_equal(volume.array, stack)
    assert volume.voxel_size_um[2] == 0.5
    assert "'a.tif' also holds 2D images of another size (3×3), left aside" in volume.remarks


@pytest.mark.parametrize("first", [(5, 7), (3, 3)])
def test_a_first_page_of_another_size_is_named(tmp_path, first):
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(counting(first), metadata=None)
        for plane in STACK:
            writer.write(plane, contiguous=False, metadata=None)
    volume = read_volume(tmp_path / "a.tif")
    np.testing.assert_array_equal(volume.array, STACK)
    (remark,) = [one for one in volume.remarks if "another size" in one]
    assert f"({first[0]}×{first[1]})" in remark


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
        "set voxel_size_um (z,y,x)",
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
    assert len(volume.remarks) == 1 and "set voxel_size_um (z,y,x)" in volume.remarks[0]


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
    with pytest.raises(UserError, match="is not a voxel size; give three positive numbers"):
        read_volume(tmp_path / "a.tif", voxel_size_um=option)
