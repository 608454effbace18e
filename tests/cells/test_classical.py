"""Otsu and Voronoi-Otsu on volumes whose cells are known by construction."""

import numpy as np
import pytest
from scipy import ndimage

from wnet_nb.cells.classical import otsu_foreground, voronoi_otsu

UNIT = (1.0, 1.0, 1.0)


def draw_balls(shape, centres, radius, spacing=UNIT):
    """Balls of 100 on 10; centres and radius in µm."""
    grid = np.moveaxis(np.indices(shape), 0, -1) * np.array(spacing)
    inside = [np.linalg.norm(grid - np.array(centre), axis=-1) <= radius for centre in centres]
    return np.where(np.any(inside, axis=0), 100.0, 10.0)


TWO_APART = draw_balls((24, 24, 48), [(12, 12, 12), (12, 12, 36)], 6)
TWO_TOUCHING = draw_balls((24, 24, 40), [(12, 12, 13), (12, 12, 25)], 6.5)


def label(image, spacing=UNIT, radius=6):
    return voronoi_otsu(image, voxel_size_um=spacing, cell_radius_um=radius)


def mask(image, spacing=UNIT, radius=6):
    return otsu_foreground(image, voxel_size_um=spacing, cell_radius_um=radius)


def test_otsu_finds_exactly_the_balls():
    assert np.mean(mask(TWO_APART) == (TWO_APART > 50)) > 0.99


def test_separate_balls_are_two_cells():
    assert label(TWO_APART).max() == 2


def test_touching_balls_are_cut_at_the_middle():
    labels = label(TWO_TOUCHING)
    assert labels.max() == 2
    assert np.unique(labels[12, 12, 8:19]).tolist() == [labels[12, 12, 13]]
    assert np.unique(labels[12, 12, 20:30]).tolist() == [labels[12, 12, 25]]


def test_labels_fill_the_foreground_where_every_piece_has_a_seed():
    assert np.array_equal(label(TWO_APART) > 0, mask(TWO_APART))


def test_a_cell_never_spans_two_pieces():
    labels = label(TWO_APART)
    assert all(ndimage.label(labels == cell)[1] == 1 for cell in (1, 2))


def test_a_piece_without_a_seed_is_left_out():
    image = TWO_APART.copy()
    image[12, 12, 19:21] = 60  # a shoulder of the left ball that has no maximum of its own
    image[0:2] = 10
    assert label(image).max() == 2


def test_labels_are_int32_from_one_upwards():
    labels = label(TWO_TOUCHING)
    assert labels.dtype == np.int32
    assert np.array_equal(np.unique(labels), [0, 1, 2])


@pytest.mark.parametrize(("scale", "offset"), [(3.0, 0.0), (1.0, 500.0), (0.01, -2.0)])
def test_brightness_and_offset_change_nothing(scale, offset):
    assert np.array_equal(label(TWO_TOUCHING), label(scale * TWO_TOUCHING + offset))


def test_the_unit_of_length_changes_nothing():
    # A quarter is exact in binary: ties between seeds fall the same way.
    quarter = label(TWO_TOUCHING, (0.25, 0.25, 0.25), 1.5)
    assert np.array_equal(label(TWO_TOUCHING), quarter)


def test_an_anisotropic_stack_gives_the_same_cells():
    spacing = (3.0, 1.0, 1.0)
    image = draw_balls((8, 24, 40), [(12, 12, 13), (12, 12, 25)], 6.5, spacing)
    labels = label(image, spacing)
    assert labels.max() == 2
    volume = np.bincount(labels.ravel())[1:] * 3
    assert volume == pytest.approx(np.bincount(label(TWO_TOUCHING).ravel())[1:], rel=0.15)


def test_a_constant_image_has_no_cells():
    constant = np.full((8, 8, 8), 7, dtype=np.uint16)
    assert not mask(constant).any() and not label(constant).any()


def test_integer_and_float_images_agree():
    assert np.array_equal(label(TWO_TOUCHING.astype(np.uint8)), label(TWO_TOUCHING))


@pytest.mark.parametrize(
    ("image", "spacing", "radius", "message"),
    [
        (np.zeros((4, 4)), UNIT, 2, "volume"),
        (np.full((4, 4, 4), np.nan), UNIT, 2, "finite"),
        (np.zeros((4, 4, 4)), (0, 1, 1), 2, "voxel_size_um"),
        (np.zeros((4, 4, 4)), UNIT, 0, "cell_radius_um"),
    ],
)
def test_unusable_arguments_are_refused(image, spacing, radius, message):
    with pytest.raises(ValueError, match=message):
        label(image, spacing, radius)
