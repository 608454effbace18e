"""Tests of `wnet_nb.data`: brightness by hand, and what is drawn, how often and how turned."""

import math

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from scipy import ndimage

from wnet_nb.config import Settings
from wnet_nb.data import (
    Normalisation,
    PatchSampler,
    Prepared,
    augment,
    fit_normalisation,
    fit_patch_shape,
    prepare,
    subtract_background,
)
from wnet_nb.errors import UserError
from wnet_nb.grid import average_blocks

BOTH = Settings(match_cell_size=True, subtract_background=True)
UNIT = (1.0, 1.0, 1.0)
DTYPES = ["bool", "u1", "i1", ">u2", "<u2", "<i2", ">i4", "u4", "<u8", "i8", "f2", ">f4", "<f8"]


def normalise(array, method="percentile"):
    """Return a volume in 0-100 of its own range."""
    return fit_normalisation(array, method).apply(array)


def sampler_of(arrays, **options):
    """Return a sampler of the arrays as they are, 0-100 being 0-100."""
    ranges = [Normalisation("minmax", 0.0, 100.0)] * len(arrays)
    volumes = [Prepared(a, r) for a, r in zip(arrays, ranges, strict=True)]
    return PatchSampler(volumes, Settings(**options))


def ramp(shape):
    """Return a volume in which no two voxels are alike, float64 in 0-100."""
    return np.linspace(0, 100, math.prod(shape)).reshape(shape)


@pytest.mark.parametrize("dtype", DTYPES)
def test_minmax_maps_the_range_to_0_to_100_in_every_dtype(dtype):
    values = [0, 1, 1, 0] if dtype == "bool" else [7, 9, 57, 107]
    array = np.array(values).astype(dtype).reshape(1, 2, 2)
    result = normalise(array, "minmax")
    expected = [0, 100, 100, 0] if dtype == "bool" else [0, 2, 50, 100]
    assert result.dtype == np.float32
    np.testing.assert_allclose(result.ravel(), expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_percentile_range_runs_from_0_5_to_99_9_percent_in_every_dtype(dtype):
    if dtype == "bool":
        array, low, high = np.arange(1000).reshape(10, 10, 10) % 2 == 1, 0, 1
    else:
        array = (np.arange(1001) % 101).astype(dtype).reshape(7, 11, 13)  # 0-100 about ten times
        low, high = np.percentile(array.astype(float), (0.5, 99.9))
    found = fit_normalisation(array)
    assert (found.method, found.low, found.high) == ("percentile", low, high)
    result = found.apply(array)
    assert result.min() == 0 and result.max() == 100 and result.dtype == np.float32


def test_square_root_is_that_of_the_share_of_the_percentile_range():
    array = ramp((10, 20, 20))
    found, plain = fit_normalisation(array, "square_root"), fit_normalisation(array)
    assert (found.low, found.high) == (plain.low, plain.high)
    values = Normalisation("square_root", 10, 26).apply(np.array([[[3, 10, 11, 14, 19, 26, 99]]]))
    np.testing.assert_allclose(values.ravel(), [0, 0, 25, 50, 75, 100, 100], rtol=1e-6)


def test_unknown_normalisation_is_refused_with_what_there_is():
    with pytest.raises(UserError, match=r"log.*percentile, minmax or square_root"):
        fit_normalisation(ramp((2, 3, 4)), "log")


def test_hot_pixel_moves_minmax_but_not_the_percentile_range():
    array = ramp((10, 20, 20))
    hot = array.copy()
    hot[5, 5, 5] = 1e6
    assert fit_normalisation(hot).high == pytest.approx(fit_normalisation(array).high, abs=0.1)
    assert fit_normalisation(hot, "minmax").high == 1e6


def test_value_outside_the_range_is_clipped():
    result = Normalisation("minmax", 10, 20).apply(np.array([[[0, 10, 15, 20, 99]]], np.uint8))
    assert result.ravel().tolist() == [0, 0, 50, 100, 100]


def test_few_bright_voxels_on_a_flat_ground_are_not_lost():
    array = np.zeros((20, 20, 20), np.uint16)
    array[3, 4, 5] = 1000  # above the 99.9th percentile
    assert normalise(array)[3, 4, 5] == 100 and normalise(array).sum() == 100


@pytest.mark.parametrize("method", ["percentile", "minmax", "square_root"])
@pytest.mark.parametrize("value", [0, 41, -3.5])
def test_constant_volume_becomes_0(method, value):
    assert not normalise(np.full((4, 5, 6), value, np.float32), method).any()


@pytest.mark.parametrize("method", ["percentile", "minmax", "square_root"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_value_that_is_not_finite_is_refused_with_the_name_of_the_volume(method, value):
    array = np.zeros((4, 4, 4), np.float32)
    array[3, 2, 1] = value
    with pytest.raises(UserError, match=r"'brain\.tif'.*not finite"):
        fit_normalisation(array, method, name="brain.tif")


@pytest.mark.parametrize("low, high", [(0, 5e-324), (-1e30, 1e30), (0, 1e-310)])
def test_extreme_but_finite_range_gives_no_nan(low, high):
    array = np.full((4, 4, 4), low, np.float64)
    array[2:] = high
    result = normalise(array, "minmax")
    assert result[0, 0, 0] == 0 and result[3, 0, 0] == 100


def test_value_too_large_to_compute_with_is_refused_with_the_name_of_the_volume():
    array = np.full((4, 4, 4), -2e30)
    with pytest.raises(UserError, match=r"'brain\.tif'.*beyond 1e\+30"):
        fit_normalisation(array, "minmax", name="brain.tif")


def test_empty_volume_is_refused_with_its_name_and_shape():
    with pytest.raises(UserError, match=r"'brain\.tif'.*\(0, 4, 4\)"):
        fit_normalisation(np.zeros((0, 4, 4)), name="brain.tif")


@pytest.mark.parametrize("dtype", [">u2", "<f4"])
def test_memory_map_gives_the_same_numbers_as_memory(dtype, tmp_path):
    array = (ramp((16, 16, 24)) * 9).astype(dtype)
    np.save(tmp_path / "volume.npy", array)
    mapped = np.load(tmp_path / "volume.npy", mmap_mode="r")
    assert fit_normalisation(mapped) == fit_normalisation(array)
    drawn = [
        sampler_of([a], patch_size=8, radius=1).draw(0, np.random.default_rng(3))
        for a in (mapped, array)
    ]
    np.testing.assert_array_equal(*drawn)


@pytest.mark.parametrize(
    ("wanted", "shapes", "expected"),
    [
        ((64, 64, 64), [(96, 96, 96)], (64, 64, 64)),
        ((64, 64, 64), [(30, 96, 50)], (32, 64, 56)),
        ((64, 64, 64), [(30, 96, 50), (40, 20, 20)], (40, 64, 56)),
        ((16, 64, 64), [(64, 64, 8)], (16, 64, 8)),
    ],
)
def test_patch_is_cut_down_to_a_multiple_of_8_where_no_volume_is_that_large(
    wanted, shapes, expected
):
    assert fit_patch_shape(wanted, shapes) == expected


@pytest.mark.parametrize("shape", [(17, 30, 9), (64, 20, 33), (8, 8, 8), (5, 40, 40)])
def test_patches_of_odd_volumes_have_edges_the_network_takes(shape):
    sampler = sampler_of([ramp(shape)], patch_size=32)
    patch = sampler.draw(0, np.random.default_rng(0))
    assert patch.shape == sampler.shape and patch.dtype == np.float32
    assert not any(edge % 8 for edge in patch.shape)
    assert np.isin(patch, ramp(shape).astype(np.float32)).all()  # mirrored, nothing invented


def test_same_seed_gives_the_same_patches_and_another_seed_others():
    sampler = sampler_of([ramp((24, 24, 24))], patch_size=8, radius=1)

    def draw(seed):
        random = np.random.default_rng(seed)
        return np.stack([sampler.draw(0, random) for _ in range(5)])

    np.testing.assert_array_equal(draw(1), draw(1))
    assert not np.array_equal(draw(1), draw(2))


def test_unaugmented_patch_is_a_piece_of_the_volume():
    array = ramp((20, 20, 20))
    sampler = sampler_of([array], patch_size=8, radius=1, augmentation=False)
    patch = sampler.draw(0, np.random.default_rng(0))
    z, y, x = np.argwhere(array.astype(np.float32) == patch[0, 0, 0])[0]
    np.testing.assert_array_equal(patch, array[z : z + 8, y : y + 8, x : x + 8].astype(np.float32))


def test_crops_reach_every_corner_of_the_volume():
    sampler = sampler_of([ramp((9, 9, 9))], patch_size=8, radius=1, augmentation=False)
    random = np.random.default_rng(0)  # 8 places: one is missed in 200 draws with odds of 1e-11
    assert len({float(sampler.draw(0, random)[0, 0, 0]) for _ in range(200)}) == 8


def orientations(patch, count):
    """Return the set of orientations of a patch that `count` augmentations with seed 0 reach."""
    random = np.random.default_rng(0)
    return {augment(patch, random).tobytes() for _ in range(count)}


def test_augmentation_reaches_all_16_orientations_that_keep_z_an_axis_and_no_other():
    patch = ramp((4, 4, 4))
    allowed = {
        np.rot90(p, turns, axes=(1, 2)).tobytes()
        for p in (patch, patch[::-1], patch[:, ::-1], patch[::-1, ::-1])
        for turns in range(4)
    }
    assert len(allowed) == 16 and orientations(patch, 400) == allowed


def test_patch_that_is_not_square_in_yx_keeps_its_shape():
    random = np.random.default_rng(0)
    patch = ramp((2, 4, 6))
    assert {augment(patch, random).shape for _ in range(50)} == {(2, 4, 6)}
    assert len(orientations(patch, 200)) == 8


def test_weight_is_low_for_crops_without_content():
    array = np.zeros((16, 16, 16))
    array[:, :4, :4] = 100
    sampler = sampler_of([array], patch_size=16)
    empty, full, good = np.zeros((3, 16, 16, 16), np.float32)
    full[:10] = 100  # 62.5 %
    good[:9] = 100  # 56 %
    assert [sampler.weight(crop, 0) for crop in (empty, full, good)] == [0.05, 0.05, 1.0]
    empty[0, 0, :4] = 100  # 4 of 4096 voxels: still below 0.1 %
    assert sampler.weight(empty, 0) == 0.05


def test_crop_without_content_is_drawn_as_rarely_as_documented():
    # Left half empty, right half with content; crops are slabs of 8 with no mixture at 8, 16, ...
    # Four candidates, one kept in proportion to weight: for a share q of poor crops the odds of a
    # poor one are sum_j C(4, j) q^j (1-q)^(4-j) * 0.05 j / (0.05 j + 4 - j).
    array = np.zeros((8, 8, 407))
    array[3:5, 3:5, 203:] = 100
    sampler = sampler_of([array], patch_size=8, radius=1, augmentation=False)
    q = 196 / 400  # of 400 starts, 0 to 195 show nothing bright
    odds = sum(
        math.comb(4, j) * q**j * (1 - q) ** (4 - j) * 0.05 * j / (0.05 * j + 4 - j)
        for j in range(5)
    )
    random = np.random.default_rng(0)
    draws = 3000
    poor = sum(not sampler.draw(0, random).any() for _ in range(draws))
    assert odds < q / 4
    assert poor / draws == pytest.approx(odds, abs=4 * math.sqrt(odds * (1 - odds) / draws))


def test_volume_without_any_content_still_gives_patches():
    sampler = sampler_of([np.zeros((16, 16, 16))], patch_size=8, radius=1)
    assert not sampler.draw(0, np.random.default_rng(0)).any()


def test_preview_patch_is_the_richest_of_those_tried():
    array = np.zeros((8, 8, 80))
    array[2:6, 2:6, 44] = 100
    sampler = sampler_of([array], patch_size=8, radius=1)
    assert sampler.richest(np.random.default_rng(0), tries=64).any()


def test_epoch_takes_every_volume_equally_often_in_an_order_of_its_own():
    sampler = sampler_of([ramp((8, 8, 8))] * 3, patch_size=8, radius=1)
    order = sampler.epoch(5, np.random.default_rng(0))
    assert np.bincount(order).tolist() == [5, 5, 5]
    assert order == sampler.epoch(5, np.random.default_rng(0))
    assert order != sampler.epoch(5, np.random.default_rng(1))


def positions(shape, axis):
    """Return a volume whose values are the positions along an axis, float32."""
    return np.indices(shape, np.float32)[axis]


def ball(shape, radius, value=100.0):
    """Return a soft ball in the middle of a volume, float32."""
    grid = np.moveaxis(np.indices(shape), 0, -1) - (np.array(shape) - 1) / 2
    return value / (1 + np.exp(2 * (np.linalg.norm(grid, axis=-1) - radius))).astype(np.float32)


@pytest.fixture(scope="module")
def example():
    """Return a noisy volume with blobs about 8 voxels in radius, uint16."""
    random = np.random.default_rng(0)
    blobs = ndimage.gaussian_filter(random.random((48, 64, 64)), 6)
    return random.poisson(4000 * (blobs - blobs.min()) / np.ptp(blobs)).astype(np.uint16)


@pytest.mark.parametrize("dtype", ["u1", ">u2", "i4", "f4", ">f8"])
def test_memory_map_of_any_dtype_gives_what_the_array_gives(dtype, example, tmp_path):
    image = (example // 8).astype(dtype)
    np.save(tmp_path / "image.npy", image)
    mapped = np.load(tmp_path / "image.npy", mmap_mode="r")
    for function in (
        lambda a: average_blocks(a, (2, 3, 2)),
        lambda a: subtract_background(a, (4.0, 4.0, 4.0)),
        lambda a: prepare(a, BOTH).array,
    ):
        np.testing.assert_array_equal(function(mapped), function(image))


def test_background_that_rises_evenly_goes_away_and_a_cell_stays():
    cell = ball((40, 48, 56), 4)
    found = subtract_background(cell + 5 * positions(cell.shape, 2), (4, 4, 4))
    inner = (slice(8, -8),) * 3  # at the far ends a ramp is not told from a cell cut in half
    level = np.median(found[inner])
    assert np.abs((found - cell)[inner] - level).max() < 15  # of 100; the ramp spans 280
    assert found[20, 24, 28] - level > 85


def test_stripe_wider_than_cells_goes_away_and_a_narrow_one_stays():
    image = np.zeros((24, 24, 96), np.float32)
    image[..., 40:] = 100  # 56 voxels wide, cells 8
    found = subtract_background(image, (4, 4, 4))
    assert np.abs(found[..., 52:]).max() < 10
    image[..., 47:] = 0  # 7 voxels wide
    assert subtract_background(image, (4, 4, 4))[..., 42:45].min() > 80


def test_background_reach_follows_the_radius_of_each_axis():
    image = np.zeros((24, 24, 48), np.float32)
    image[..., 16:32] = 100
    assert subtract_background(image, (2, 2, 8))[..., 22:26].min() > 80
    assert subtract_background(image, (8, 8, 2))[..., 22:26].max() < 20


def test_offset_of_the_image_changes_nothing(example):
    plain, raised = (subtract_background(example + np.uint16(n), (8, 8, 8)) for n in (0, 500))
    np.testing.assert_allclose(raised, plain, atol=0.05)


def test_both_options_off_give_the_very_same_object(example):
    prepared = prepare(example, Settings())
    assert prepared.array is example
    assert (prepared.factors, prepared.shape) == ((1, 1, 1), example.shape)
    assert prepared.cell_radius_um is None
    assert prepared.normalisation == fit_normalisation(example)


@pytest.mark.parametrize("options", [{"match_cell_size": True}, {"subtract_background": True}])
@pytest.mark.parametrize("kind", ["constant", "ramp"])
def test_volume_without_anything_that_looks_like_a_cell_is_taken_as_it_is(options, kind):
    image = positions((16, 16, 16), 0) if kind == "ramp" else np.zeros((16, 16, 16), np.uint16)
    prepared = prepare(image, Settings(**options))
    assert prepared.array is image and prepared.factors == (1, 1, 1)
    assert prepared.cell_radius_um is None


@pytest.mark.parametrize(
    ("radius", "size", "factors"),
    [
        (4.0, UNIT, (1, 1, 1)),
        (5.9, UNIT, (1, 1, 1)),
        (6.1, UNIT, (2, 2, 2)),
        (12.0, UNIT, (3, 3, 3)),
        (1.0, UNIT, (1, 1, 1)),
        (8.0, (4.0, 1.0, 0.5), (1, 2, 4)),
    ],
)
def test_voxels_are_averaged_until_a_cell_is_about_four_in_radius(radius, size, factors, example):
    settings = Settings(match_cell_size=True, cell_radius_um=radius)
    prepared = prepare(example, settings, voxel_size_um=size)
    assert prepared.factors == factors
    assert prepared.shape == example.shape
    assert prepared.array.shape == tuple(
        -(-n // f) for n, f in zip(example.shape, factors, strict=True)
    )
    assert prepared.cell_radius_um == radius


def test_voxel_size_of_the_settings_holds_where_none_is_given(example):
    settings = Settings(match_cell_size=True, cell_radius_um=4.0, voxel_size_um=(1, 0.5, 0.25))
    assert prepare(example, settings).factors == (1, 2, 4)
    assert prepare(example, settings, voxel_size_um=UNIT).factors == (1, 1, 1)


def test_brightness_range_is_that_of_the_prepared_array(example):
    prepared = prepare(example, BOTH.replace(normalisation="square_root"), cell_radius_um=8)
    assert prepared.normalisation == fit_normalisation(prepared.array, "square_root")
    assert prepared.normalisation != fit_normalisation(example, "square_root")


def test_volume_that_is_not_finite_is_refused_with_its_name():
    with pytest.raises(UserError, match=r"'brain'.*not finite"):
        prepare(np.full((9, 9, 9), np.nan), BOTH, name="brain")


REAL = st.sampled_from([np.dtype(name) for name in DTYPES])
ODD = st.sampled_from([np.dtype(name) for name in ("c8", "U3", "O", "M8[s]")])


@given(
    array=hnp.arrays(REAL, hnp.array_shapes(min_dims=3, max_dims=3, min_side=0, max_side=12)),
    normalisation=st.sampled_from(("percentile", "minmax", "square_root")),
    match=st.booleans(),
    subtract=st.booleans(),
    radius=st.none() | st.floats(0.01, 1000.0),
    size=st.tuples(*[st.floats(0.01, 100.0)] * 3),
)
def test_any_volume_with_any_preparation_gives_finite_patches_or_one_clear_error(
    array, normalisation, match, subtract, radius, size
):
    settings = Settings(
        patch_size=8,
        radius=1,
        normalisation=normalisation,
        match_cell_size=match,
        subtract_background=subtract,
    )
    try:
        prepared = prepare(array, settings, cell_radius_um=radius, voxel_size_um=size, name="brain")
    except UserError as error:
        assert "'brain'" in str(error)
        return
    patch = PatchSampler([prepared], settings).draw(0, np.random.default_rng(0))
    assert patch.shape == (8, 8, 8) and patch.dtype == np.float32
    assert np.isfinite(patch).all() and patch.min() >= 0 and patch.max() <= 100
    assert prepared.shape == array.shape


@given(
    array=hnp.arrays(REAL, hnp.array_shapes(min_dims=0, max_dims=5, max_side=3))
    | ODD.map(lambda dtype: np.zeros((3, 3, 3), dtype)),
)
def test_array_that_is_no_volume_of_real_numbers_is_refused_by_name(array):
    if array.ndim == 3 and array.dtype.kind in "biuf":
        return
    with pytest.raises(UserError, match="'brain' is no volume"):
        prepare(array, BOTH, name="brain")
