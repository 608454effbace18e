import ngff_zarr
import numpy as np
import pytest
import tifffile
import zarr

from wnet_nb.config import Settings
from wnet_nb.errors import UserError
from wnet_nb.scale.sources import open_source

BOX = (slice(3, 9), slice(10, 30), slice(5, 21))
SIZE = (2.0, 0.5, 0.5)


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).integers(0, 60_000, (12, 40, 50), np.uint16)


def write_tiff(path, image, **options):
    metadata = {"axes": "ZYX", "PhysicalSizeZ": 2.0, "PhysicalSizeY": 0.5, "PhysicalSizeX": 0.5}
    tifffile.imwrite(path, image, bigtiff=True, ome=True, metadata=metadata, **options)
    return path


def write_zarr(path, image, version, dims=("z", "y", "x"), size=SIZE):
    scale = dict(zip("zyx", size, strict=True)) | {d: 1.0 for d in dims if d not in "zyx"}
    units = {d: "micrometer" for d in "zyx"}
    picture = ngff_zarr.to_ngff_image(image, dims=dims, scale=scale, axes_units=units)
    scales = ngff_zarr.to_multiscales(picture, scale_factors=[], chunks=16)
    ngff_zarr.to_ngff_zarr(str(path), scales, version=version)
    return path


@pytest.mark.parametrize(
    "options", [{}, {"compression": "zlib"}, {"tile": (16, 16), "compression": "zlib"}]
)
def test_box_of_a_bigtiff(tmp_path, image, options):
    source = open_source(write_tiff(tmp_path / "brain.ome.tif", image, **options), Settings())
    assert (source.name, source.shape, source.dtype) == ("brain", image.shape, np.uint16)
    assert source.voxel_size_um == SIZE
    assert (source.read(BOX) == image[BOX]).all()


@pytest.mark.parametrize("options", [{}, {"compression": "zlib", "rowsperstrip": 4}])
def test_box_of_a_folder_of_slices_in_natural_order(tmp_path, image, options):
    for number, plane in enumerate(image, start=1):
        tifffile.imwrite(tmp_path / f"slice {number}.tif", plane, **options)
    source = open_source(tmp_path, Settings(voxel_size_um=SIZE))
    assert source.shape == image.shape and source.voxel_size_um == SIZE
    assert (source.read(BOX) == image[BOX]).all()


def test_a_slice_of_another_size_is_named(tmp_path, image):
    for number, plane in enumerate(image, start=1):
        tifffile.imwrite(tmp_path / f"{number}.tif", plane if number != 5 else plane[:30])
    with pytest.raises(UserError, match=r"slice '5.tif' is \(30, 50\) uint16 but '1.tif' is"):
        open_source(tmp_path, Settings()).read(BOX)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_box_of_an_ome_zarr(tmp_path, image, version):
    path = write_zarr(tmp_path / "brain.ome.zarr", image, version)
    source = open_source(path, Settings())
    assert (source.name, source.shape, source.dtype) == ("brain", image.shape, np.uint16)
    assert source.voxel_size_um == SIZE and source.voxel_size_source == "metadata"
    assert (source.read(BOX) == image[BOX]).all()


def test_a_channel_of_an_ome_zarr_must_be_chosen(tmp_path, image):
    two = np.stack([image, image[::-1]])
    path = write_zarr(tmp_path / "a.zarr", two, "0.4", dims=("c", "z", "y", "x"))
    with pytest.raises(UserError, match="has 2 channels; choose one"):
        open_source(path, Settings())
    source = open_source(path, Settings(channel=1))
    assert (source.read(BOX) == image[::-1][BOX]).all()


def test_a_zarr_without_an_image_is_a_sentence(tmp_path):
    zarr.create_array(tmp_path / "a.zarr", shape=(4, 4, 4), dtype="u2")
    zarr.create_group(tmp_path / "b.zarr")
    for name in ("a.zarr", "b.zarr"):
        with pytest.raises(UserError, match="its attributes have no multiscales"):
            open_source(tmp_path / name, Settings())


def test_an_ome_zarr_in_nanometres_has_its_size_in_micrometres(tmp_path, image):
    path = write_zarr(tmp_path / "a.zarr", image, "0.5", size=(2000, 500, 500))
    for name in ("zarr.json",):
        text = (path / name).read_text().replace("micrometer", "nanometer")
        (path / name).write_text(text)
    assert open_source(path, Settings()).voxel_size_um == SIZE


def test_an_empty_folder_is_a_sentence(tmp_path):
    with pytest.raises(UserError, match="holds 0 TIFF files; give a folder that holds the slices"):
        open_source(tmp_path, Settings())
