"""Tests of `wnet_nb.cells.seeds`: a floor counted by hand, and a background that no class bends."""

import numpy as np
import pytest
from scipy import ndimage

from wnet_nb.cells.seeds import SEED_SIGMA, SKEW, Ground, false_seed_floor, find_background
from wnet_nb.grid import difference_of_gaussians


def test_floor_is_where_one_dark_spot_comes_to_twenty_bright_ones():
    bright = np.arange(1.0, 101.0)
    dark = np.array([20.5, 40.5, 40.5, 40.5, 50.5, 90.5]) / SKEW
    assert false_seed_floor(bright, dark) == 41  # 60 bright ones, so 3 are allowed, and 2 dark
    assert false_seed_floor(bright, dark[1:]) == 1  # 5 of 100
    assert false_seed_floor(bright, dark[-1:].repeat(6)) == 91  # none of the 10 above
    assert false_seed_floor(bright, dark[:0]) == 1


def test_no_seed_is_left_where_dark_spots_are_as_strong_as_bright_ones():
    spots = np.random.default_rng(0).exponential(size=1000)
    assert false_seed_floor(spots, spots) == np.inf
    assert false_seed_floor(spots[:0], spots) == np.inf


@pytest.mark.parametrize("shift", [0.0, 500.0])
def test_class_of_the_brighter_half_does_not_darken_the_background(shift):
    texture = np.random.default_rng(0).normal(shift, 1, (30, 30, 30)).astype(np.float32)
    brighter_half = (texture > shift).astype(np.float32)
    found = find_background(texture, brighter_half, (1.0, 1.0, 1.0))
    assert abs(found.mean() - shift) < 0.15  # the darker half has its mean at -0.8


def test_crowded_cells_do_not_brighten_the_background():
    spots = np.random.default_rng(0).random((30, 30, 30)) < 0.02
    cells = ndimage.maximum_filter(spots, size=3)  # 40 % of the volume
    noise = np.random.default_rng(1).normal(0, 1, cells.shape)
    found = find_background((20.0 * cells + noise).astype(np.float32), cells, (1.0, 1.0, 1.0))
    assert 0.3 < cells.mean() < 0.5
    assert abs(found.mean()) < 0.15


def test_bright_spots_outside_the_class_map_do_not_refuse_every_cell_inside():
    points = np.zeros((64, 64, 64), np.float32)
    points[8::16, 8::16, 8::16] = 30
    points[:, :, 32:] *= 2 / 3  # spots that the network does not take for cells
    spots = ndimage.gaussian_filter(points, 2) * (2 * np.pi * 4) ** 1.5
    image = (10 + np.round(spots)).astype(np.float32)  # no noise: hardly any other spots
    foreground = (spots > 10).astype(np.float32)
    foreground[:, :, 32:] = 0
    radii = np.array([3.0, 3.0, 3.0])
    ground = Ground(image, foreground, radii)
    above = ground.above(image, [slice(0, n) for n in image.shape])
    strengths = difference_of_gaussians(above, SEED_SIGMA * radii)[8::16, 8::16, 8:32:16]
    assert 0 < ground.floor < strengths.min()
