"""The cell radius, on volumes whose cells are known by construction."""

import numpy as np
import pytest
from scipy import ndimage

from tests.benchmarks.nuclei import make_nuclei
from wnet_nb.cells.size import estimate_cell_radius

UNIT = (1.0, 1.0, 1.0)


def radius_of(image, spacing=UNIT):
    return estimate_cell_radius(image, voxel_size_um=spacing).radius_um


@pytest.fixture(scope="module")
def small():
    return make_nuclei(shape=(56, 64, 64), n_cells=40)


@pytest.mark.parametrize("radius", [2.5, 4, 7, 12])
def test_the_radius_is_found_within_a_fifth(radius):
    side = max(48, round(7 * radius))
    image, _ = make_nuclei(
        1,
        shape=(side, side, side),
        cell_radius_um=radius,
        n_cells=round(0.02 * (side / radius) ** 3),
    )
    assert radius_of(image) == pytest.approx(radius, rel=0.2)


def test_nuclei_as_thick_as_the_stack_are_measured():
    image, _ = make_nuclei(shape=(44, 150, 150), cell_radius_um=18, n_cells=20)
    assert radius_of(image) == pytest.approx(18, rel=0.25)


def test_noise_is_not_taken_for_small_cells():
    image, _ = make_nuclei(shape=(72, 72, 72), cell_radius_um=7, n_cells=40, noise=5)
    assert radius_of(image) == pytest.approx(7, rel=0.2)


def test_the_grain_of_one_large_nucleus_is_not_taken_for_cells():
    image, _ = make_nuclei(shape=(64, 64, 64), cell_radius_um=12, n_cells=3, noise=2)
    assert radius_of(image) == pytest.approx(12, rel=0.25)


@pytest.mark.parametrize(("scale", "offset"), [(7.0, 0.0), (1.0, 5000.0), (1e-4, -3.0)])
def test_brightness_and_offset_change_nothing(small, scale, offset):
    image = small[0].astype(np.float64)
    assert radius_of(scale * image + offset) == pytest.approx(radius_of(image), rel=1e-3)


def test_the_radius_scales_with_the_voxel_size(small):
    image = small[0]
    assert radius_of(image, (0.25, 0.25, 0.25)) == pytest.approx(radius_of(image) / 4, rel=1e-6)


def test_mirroring_changes_nothing(small):
    image = small[0]
    assert radius_of(image[::-1, :, ::-1]) == pytest.approx(radius_of(image), rel=0.03)


def test_exchanging_axes_changes_nothing(small):
    image = small[0]
    turned = np.ascontiguousarray(image.transpose(2, 0, 1))
    assert radius_of(turned) == pytest.approx(radius_of(image), rel=0.03)


@pytest.mark.parametrize("step", [2, 3, 4])
def test_coarser_planes_give_the_same_micrometres(small, step):
    image = small[0][: 56 // step * step].astype(float)
    coarse = image.reshape(-1, step, 64, 64).mean(axis=1)
    assert radius_of(coarse, (step, 1.0, 1.0)) == pytest.approx(radius_of(image), rel=0.12)


def test_a_resampled_volume_gives_the_same_micrometres(small):
    image = small[0].astype(float)
    double = ndimage.zoom(image, 1.5, order=1, grid_mode=True, mode="nearest")
    assert radius_of(double, (2 / 3,) * 3) == pytest.approx(radius_of(image), rel=0.12)


def test_radius_in_voxels_is_the_radius_over_the_voxel_size(small):
    size = estimate_cell_radius(small[0][::2], voxel_size_um=(2.0, 1.0, 1.0))
    assert np.multiply(size.radius_voxels, (2, 1, 1)) == pytest.approx([size.radius_um] * 3)


def test_the_result_is_finite_and_says_how_it_came_about(small):
    size = estimate_cell_radius(small[0], voxel_size_um=UNIT)
    assert np.isfinite([size.radius_um, size.spread, *size.radius_voxels]).all()
    assert size.n_cells > 10 and str(size.n_cells) in size.reason


def test_mixed_sizes_spread_more_than_equal_ones(small):
    mixed, _ = make_nuclei(3, shape=(56, 64, 64), n_cells=6, cell_radius_um=11)
    both = np.concatenate([small[0], mixed], axis=2)
    even = estimate_cell_radius(small[0], voxel_size_um=UNIT)
    assert estimate_cell_radius(both, voxel_size_um=UNIT).spread > even.spread


def test_a_memory_mapped_image_is_accepted(small, tmp_path):
    np.save(tmp_path / "image.npy", small[0])
    mapped = np.load(tmp_path / "image.npy", mmap_mode="r")
    assert radius_of(mapped) == radius_of(small[0])


@pytest.mark.parametrize(
    ("image", "message"),
    [(np.full((9, 9, 9), 4), "constant"), (np.full((9, 9, 9), np.nan), "finite")],
)
def test_unusable_images_are_refused(image, message):
    with pytest.raises(ValueError, match=message):
        radius_of(image)


@pytest.mark.parametrize("shape", [(8, 8, 8), (8, 64, 64), (1, 32, 32)])
def test_small_volumes_give_a_number_or_a_clear_error(shape):
    image = np.random.default_rng(0).normal(size=shape)
    try:
        assert np.isfinite(radius_of(image))
    except ValueError as error:
        assert "cell radius" in str(error)
