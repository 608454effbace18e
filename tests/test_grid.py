"""Tests of `wnet_nb.grid`: block means by hand, and no drift on the way back."""

import numpy as np
import pytest
from scipy import ndimage

from wnet_nb.grid import average_blocks, block_means, enlarge, pad_to


def positions(shape, axis):
    """Return a volume whose values are the positions along an axis, float32."""
    return np.indices(shape, np.float32)[axis]


@pytest.fixture(scope="module")
def example():
    """Return a noisy volume with blobs about 8 voxels in radius, uint16."""
    random = np.random.default_rng(0)
    blobs = ndimage.gaussian_filter(random.random((48, 64, 64)), 6)
    return random.poisson(4000 * (blobs - blobs.min()) / np.ptp(blobs)).astype(np.uint16)


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


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(("n", "factor"), [(24, 2), (25, 2), (24, 3), (26, 3), (31, 4), (29, 7)])
def test_ramp_comes_back_exactly_up_to_the_last_whole_block(n, factor, axis):
    shape, factors = [4, 4, 4], [1, 1, 1]
    shape[axis], factors[axis] = n, factor
    image = positions(shape, axis)
    found = enlarge(average_blocks(image, factors), shape, factors)
    assert found.dtype == np.float32 and found.shape == tuple(shape)
    first, last = (factor - 1) / 2, (n // factor - 0.5) * factor - 0.5  # middle of a whole block
    inside = (image >= first) & (image <= last)
    np.testing.assert_allclose(found[inside], image[inside], atol=1e-4)
    assert np.abs(found - image).max() <= (factor - 1) / 2 + 1e-4  # no drift at the far end


def test_broken_steps_do_not_drift_either():
    for step in (1.3, 2.5, 3.7):
        image = positions((211, 1, 1), 0)
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


def test_padding_mirrors_the_volume_at_its_far_ends():
    array = np.arange(6).reshape(1, 2, 3)
    padded = pad_to(array, (3, 2, 5))
    assert padded.shape == (3, 2, 5)
    np.testing.assert_array_equal(padded[:, :, :3], np.repeat(array, 3, axis=0))
    np.testing.assert_array_equal(padded[0, 0], [0, 1, 2, 2, 1])


def test_volume_as_large_as_the_shape_is_not_copied():
    array = np.zeros((4, 5, 6))
    assert pad_to(array, (4, 2, 6)) is array
