"""Tests of `wnet_nb.cells.evidence`: cells of a network that knows core and rim."""

import numpy as np
import pytest
from scipy import ndimage

from wnet_nb.cells.outlines import segment_instances

SIZE = (1.0, 1.0, 1.0)
RADIUS = 5.0


def probabilities_of(centres, radius=RADIUS, shape=(32, 40, 40)):
    """Return (3, Z, Y, X): background, core and rim of balls, soft as a network's."""
    grid = np.moveaxis(np.indices(shape, np.float32), 0, -1)
    depth = np.min([np.linalg.norm(grid - c, axis=-1) for c in centres], axis=0) / radius
    cell = 1 / (1 + np.exp((depth - 1) * 12))
    core = cell / (1 + np.exp((depth - 0.6) * 12))
    return np.stack([1 - cell, core, cell - core]).astype(np.float32)


def segment(probabilities, **options):
    image = options.pop("image", None)
    if image is None:  # in which cells stand out
        image = (1000 * (1 - probabilities[0])).astype(np.uint16)
    return segment_instances(
        probabilities,
        image,
        voxel_size_um=SIZE,
        cell_radius_um=RADIUS,
        foreground_classes=(1, 2),
        core_class=1,
        **options,
    )


def test_touching_balls_are_two_cells_of_the_size_they_have():
    found = segment(probabilities_of([(16, 15, 14), (16, 15, 24)]))
    assert found.count == 2
    ball = 4 / 3 * np.pi * RADIUS**3
    sizes = np.bincount(found.labels.ravel())[1:]
    np.testing.assert_allclose(sizes, ball, rtol=0.12)


def test_one_long_cell_stays_one():
    centres = [(16, 20, x) for x in np.linspace(12, 28, 17)]
    assert segment(probabilities_of(centres)).count == 1


@pytest.mark.parametrize("levels", [(0.65, 0.5), (0.5, 0.35)])
def test_a_lower_boundary_makes_larger_cells_and_no_other_number(levels):
    maps = probabilities_of([(10, 12, 12), (20, 26, 27)])
    image = 1000 * (0.6 * (1 - maps[0]) + 0.4 * maps[1])  # the border is dim
    tight, generous = (segment(maps, image=image, boundary=level) for level in levels)
    assert tight.count == generous.count == 2
    assert (generous.labels > 0).sum() > 1.04 * (tight.labels > 0).sum()
    assert not ((tight.labels > 0) & (generous.labels == 0)).any()


@pytest.mark.parametrize(("blur", "boundary"), [(0.5, 0.5), (2.5, 0.3)])
def test_where_edges_are_soft_cells_reach_further_out(blur, boundary):
    maps = probabilities_of([(10, 12, 12), (20, 26, 27)])
    image = ndimage.gaussian_filter(1000 * (maps[0] < 0.5).astype(np.float32), blur)
    assert segment(maps, image=image).boundary == boundary


@pytest.mark.parametrize("block_size", [16, 20])
def test_cells_in_blocks_are_those_of_the_whole(block_size):
    rng = np.random.default_rng(0)
    maps = probabilities_of(rng.uniform(4, 60, (40, 3)), radius=4, shape=(64, 64, 64))
    whole, parts = (segment(maps, block_size=size) for size in (256, block_size))
    assert parts.count == whole.count > 15
    assert np.array_equal(parts.labels > 0, whole.labels > 0)


def test_no_core_is_no_cell():
    maps = probabilities_of([(16, 20, 20)])
    maps[2] += maps[1]
    maps[1] = 0
    assert segment(maps).count == 0


def test_what_does_not_stand_out_of_the_texture_is_no_cell():
    maps = probabilities_of([(16, 15, 14), (16, 15, 28)])
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=maps.shape[1:]), 1.5)
    cells = np.where(np.arange(maps.shape[3]) < 21, 1 - maps[0], 0)
    image = 100 + 20 * noise / noise.std()
    assert segment(maps, image=image + 200 * cells).count == 1
