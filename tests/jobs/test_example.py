"""The example volume: what the generator makes, labelled as asked, not trivial or absurd."""

import numpy as np
import pytest
from scipy import ndimage
from skimage.filters import threshold_otsu

from tests.benchmarks.nuclei import make_nuclei
from wnet_nb.errors import UserError
from wnet_nb.files.volumes import read_volume
from wnet_nb.jobs.example import write_example


@pytest.fixture(scope="module")
def example():
    return make_nuclei()


def test_the_file_in_the_package_is_what_the_generator_makes_and_replaces_nothing(
    example, tmp_path
):
    path = write_example(tmp_path)
    labels = tmp_path / "example_labels.tif"
    for file, made in ((path, example[0]), (labels, example[1])):
        volume = read_volume(file)
        np.testing.assert_array_equal(volume.array, made)
        assert (volume.voxel_size_um, volume.voxel_size_source) == ((1, 1, 1), "metadata")
    labels.unlink()
    with pytest.raises(UserError, match="never overwritten"):
        write_example(tmp_path)


def test_another_seed_gives_another_volume():
    small = {"shape": (24, 24, 24), "n_cells": 4}
    assert not np.array_equal(make_nuclei(0, **small)[1], make_nuclei(1, **small)[1])


def test_shapes_and_types_are_as_promised(example):
    image, labels = example
    assert image.shape == labels.shape == (96, 96, 96)
    assert image.dtype == labels.dtype == np.uint16


def test_labels_run_from_one_to_the_number_of_cells(example):
    assert np.array_equal(np.unique(example[1]), np.arange(131))


def test_the_median_nucleus_has_the_radius_asked_for(example):
    volume = np.bincount(example[1].ravel())[1:]
    assert np.median(np.cbrt(3 * volume / (4 * np.pi))) == pytest.approx(5, rel=0.05)


def test_most_nuclei_are_one_piece(example):
    labels = example[1]
    boxes = enumerate(ndimage.find_objects(labels), start=1)
    pieces = [ndimage.label(labels[box] == label)[1] for label, box in boxes]
    assert np.mean(np.array(pieces) == 1) > 0.95


def test_the_touching_fraction_makes_nuclei_touch():
    def pieces_per_cell(touching_fraction):
        _, labels = make_nuclei(n_cells=60, touching_fraction=touching_fraction)
        return ndimage.label(labels > 0)[1] / labels.max()

    assert pieces_per_cell(0.8) < 0.7 < 0.85 < pieces_per_cell(0)


def test_otsu_misses_deep_nuclei_but_not_most(example):
    image, labels = example
    mask = image > threshold_otsu(image)
    share = ndimage.mean(mask, labels, np.arange(1, labels.max() + 1))
    assert 0.1 < np.mean(share < 0.5) < 0.5


def test_light_is_lost_with_depth(example):
    image = example[0]
    assert image[-20:].mean() < 0.8 * image[:20].mean()


def test_more_noise_lowers_the_contrast_to_noise_ratio():
    def roughness(noise):
        image, labels = make_nuclei(shape=(32, 32, 32), n_cells=8, noise=noise)
        return np.abs(np.diff(image[labels == 0].astype(float))).mean()

    assert roughness(0) < roughness(1) < roughness(3)


def test_the_voxel_size_scales_the_cells_in_voxels():
    _, labels = make_nuclei(
        shape=(10, 60, 60),
        voxel_size_um=(4, 1, 1),
        cell_radius_um=8,
        n_cells=1,
        touching_fraction=0,
    )
    z, y, _ = (np.ptp(axis) + 1 for axis in np.nonzero(labels))
    assert z < y / 2


def test_a_full_volume_holds_fewer_cells_than_asked():
    _, labels = make_nuclei(shape=(16, 16, 16), n_cells=200)
    assert 0 < labels.max() < 200
