"""Tests of `wnet_nb.data`: block means by hand, no drift, and backgrounds that go away."""

import numpy as np
import pytest

from wnet_nb.config import Settings
from wnet_nb.data import fit_normalisation, prepare, subtract_background
from wnet_nb.errors import UserError
from wnet_nb.grid import average_blocks, block_means, enlarge
from wnet_nb.jobs.example import make_example

BOTH = Settings(match_cell_size=True, subtract_background=True)
UNIT = (1.0, 1.0, 1.0)


def ramp(shape, axis):
    """Return a volume whose values are the positions along an axis, float32."""
    return np.indices(shape, np.float32)[axis]


def ball(shape, radius, value=100.0):
    """Return a soft ball in the middle of a volume, float32."""
    grid = np.moveaxis(np.indices(shape), 0, -1) - (np.array(shape) - 1) / 2
    return value / (1 + np.exp(2 * (np.linalg.norm(grid, axis=-1) - radius))).astype(np.float32)


@pytest.fixture(scope="module")
def example():
    return make_example(shape=(48, 64, 64), cell_radius_um=8, n_cells=14)[0]


def test_mean_of_a_block_is_that_of_its_voxels():
    image = np.arange(4 * 6 * 8, dtype=np.uint16).reshape(4, 6, 8)
    expected = image.reshape(2, 2, 2, 3, 2, 4).mean((1, 3, 5))
    found = average_blocks(image, (2, 3, 4))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_last_block_is_the_mean_of_the_voxels_that_are_left():
    image = np.arange(5.0).reshape(1, 1, 5) * np.ones((3, 5, 1))
    found = average_blocks(image, (2, 3, 2))
    assert found.shape == (2, 2, 3)
    np.testing.assert_allclose(found[1, 1], [0.5, 2.5, 4.0])


def test_factors_of_one_give_the_image_itself(example):
    assert average_blocks(example, (1, 1, 1)) is example


def test_block_means_of_whole_steps_are_those_of_average_blocks(example):
    for factors in ((2, 2, 2), (1, 3, 5)):
        np.testing.assert_allclose(
            block_means(example, factors), average_blocks(example, factors), rtol=1e-5
        )


@pytest.mark.parametrize("step", [1.0, 1.3, 2.5, 3.7, 40.0])
def test_blocks_of_broken_steps_hold_every_voxel_once(step):
    line = np.random.default_rng(0).random((23, 1, 1), np.float32)
    starts = [int(k * step) for k in range(23) if k * step < 23]
    parts = np.split(line[:, 0, 0], starts[1:])
    found = block_means(line, (step, 1, 1))[:, 0, 0]
    np.testing.assert_allclose(found, [part.mean() for part in parts], rtol=1e-5)


def test_step_that_rounding_makes_fit_once_too_often_is_no_error():
    assert int(np.ceil(21 / 1.4)) == 16  # though 15 blocks of 1.4 are 21 voxels
    assert block_means(np.ones((21, 1, 1)), (1.4, 1, 1)).shape == (15, 1, 1)


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


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(("n", "factor"), [(24, 2), (25, 2), (24, 3), (26, 3), (31, 4), (29, 7)])
def test_ramp_comes_back_exactly_up_to_the_last_whole_block(n, factor, axis):
    shape, factors = [4, 4, 4], [1, 1, 1]
    shape[axis], factors[axis] = n, factor
    image = ramp(shape, axis)
    found = enlarge(average_blocks(image, factors), shape, factors)
    assert found.dtype == np.float32 and found.shape == tuple(shape)
    first, last = (factor - 1) / 2, (n // factor - 0.5) * factor - 0.5  # middle of a whole block
    inside = (image >= first) & (image <= last)
    np.testing.assert_allclose(found[inside], image[inside], atol=1e-4)
    assert np.abs(found - image).max() <= (factor - 1) / 2 + 1e-4  # no drift at the far end


def test_broken_steps_do_not_drift_either():
    for step in (1.3, 2.5, 3.7):
        image = ramp((211, 1, 1), 0)
        found = enlarge(block_means(image, (step, 1, 1)), image.shape, (step, 1, 1))
        assert np.abs(found - image).max() <= step / 2 + 0.5


@pytest.mark.parametrize("start", [(0, 0, 0), (3, 5, 7), (8, 1, 12)])
def test_enlarging_from_a_start_gives_that_part_of_the_whole(start):
    small = np.random.default_rng(0).random((6, 7, 8), np.float32)
    steps = (2.0, 1.5, 2.5)
    whole = enlarge(small, (12, 10, 20), steps)
    part = enlarge(small, (4, 5, 6), steps, start=start)
    place = tuple(slice(s, s + n) for s, n in zip(start, (4, 5, 6), strict=True))
    np.testing.assert_array_equal(part, whole[place])


def test_one_block_is_enlarged_to_a_constant():
    assert (enlarge(np.full((1, 1, 1), 3.0), (4, 5, 6), (4, 5, 6)) == 3).all()


def test_background_that_rises_evenly_goes_away_and_a_cell_stays():
    cell = ball((40, 48, 56), 4)
    found = subtract_background(cell + 5 * ramp(cell.shape, 2), (4, 4, 4))
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
    image = ramp((16, 16, 16), 0) if kind == "ramp" else np.zeros((16, 16, 16), np.uint16)
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
