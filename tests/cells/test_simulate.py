import dataclasses

import numpy as np
import pytest
from scipy import ndimage

from wnet_nb.cells.simulate import BACKGROUND, CORE, RIM, Ranges, core_and_rim, simulate_cells

SHAPE = (40, 40, 40)
CLEAR = Ranges(
    filled=(0.1, 0.3),
    empty_share=0,
    brain_share=0,
    plain_share=1,
    specks_share=0,
    edge_share=0,
    eight_bit_share=0,
    hollow_share=0,
    background=(0.02, 0.05),
    uneven=(0, 0),
    haze=(0, 0),
    transmission=(1, 1),
    noise=(0.01, 0.02),
    texture=(0, 0.1),
)


def simulate(seed, **changes):
    return simulate_cells(seed, SHAPE, dataclasses.replace(CLEAR, **changes))


def test_the_same_seed_gives_the_same_volume_and_another_seed_another():
    first, again, other = (simulate_cells(seed, SHAPE, Ranges()) for seed in (3, 3, 4))
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.labels, again.labels)
    assert first.facts == again.facts
    assert not np.array_equal(first.image, other.image)


@pytest.mark.parametrize("seed", range(8))
def test_arrays_have_their_shape_and_type_and_the_image_is_finite(seed):
    simulated = simulate_cells(seed, (24, 32, 40), Ranges())
    assert simulated.image.shape == simulated.labels.shape == simulated.depth.shape == (24, 32, 40)
    assert simulated.image.dtype == simulated.depth.dtype == np.float32
    assert simulated.labels.dtype == np.uint16
    assert np.isfinite(simulated.image).all()


def test_what_is_drawn_stays_in_its_range():
    ranges = Ranges(brain_share=0, plain_share=0, empty_share=0)
    for seed in range(20):
        facts = simulate_cells(seed, (16, 16, 16), ranges).facts
        for name, value in vars(ranges).items():
            low, high = value if isinstance(value, tuple) else (0, 1)
            assert low - 1e-9 <= facts[name] <= high + 1e-9, name


@pytest.mark.parametrize("seed", range(6))
def test_labels_are_numbered_without_gaps_and_lie_where_depth_is_below_one(seed):
    simulated = simulate_cells(seed, SHAPE, Ranges())
    numbers = np.unique(simulated.labels)
    assert np.array_equal(numbers, np.arange(len(numbers)))
    assert np.array_equal(simulated.labels > 0, simulated.depth < 1)


def test_cells_have_the_radius_that_is_told():
    for anisotropy in (1.0, 3.0):
        simulated = simulate(
            0,
            radius=(4, 4),
            anisotropy=(anisotropy, anisotropy),
            warp=(0, 0),
            size_spread=(0, 0),
            filled=(0.1, 0.1),
            gap=(1.15, 1.15),
            mitotic_share=(0, 0),
        )
        inner = simulated.labels[2:-2, 6:-6, 6:-6]
        whole = np.setdiff1d(inner, np.concatenate([f.ravel() for f in _faces(simulated.labels)]))
        voxels = np.median(np.bincount(simulated.labels.ravel())[whole[whole > 0]])
        radius = (3 / (4 * np.pi) * voxels * simulated.voxel_size[0]) ** (1 / 3)
        assert abs(radius - 4) < 0.3


def _faces(array):
    return [np.moveaxis(array, axis, 0)[end] for axis in range(3) for end in (0, -1)]


def test_a_fading_cell_is_larger_than_its_bright_part():
    fading = dict(bright_part=(0.75, 0.75), fading_floor=(0.05, 0.1), radius=(6, 6))
    shares = []
    for share in (1, 0):
        simulated = simulate(1, fading_share=share, blur=(0.08, 0.08), **fading)
        cells = simulated.labels > 0
        level = np.percentile(simulated.image[cells], 95)
        shares.append((simulated.image[cells] > level / 2).mean())
    assert shares[0] < 0.75 * shares[1]


def test_volumes_without_cells_have_no_labels_but_an_image():
    simulated = simulate(0, empty_share=1, brain_share=0)
    assert simulated.labels.max() == 0
    assert simulated.image.std() > 0
    assert (core_and_rim(simulated.labels, simulated.depth) == BACKGROUND).all()


def test_dense_volumes_are_dense():
    simulated = simulate(0, filled=(0.6, 0.6), gap=(0.8, 0.8), clustered_share=0)
    assert (simulated.labels > 0).mean() > 0.35


@pytest.mark.parametrize("seed", range(6))
def test_every_cell_has_a_core_and_cores_of_neighbours_never_touch(seed):
    simulated = simulate(seed, filled=(0.4, 0.6), radius=(4, 6), anisotropy=(1, 1))
    classes = core_and_rim(simulated.labels, simulated.depth)
    assert set(np.unique(classes)) == {BACKGROUND, CORE, RIM}
    assert np.array_equal(classes > 0, simulated.labels > 0)
    with_core = np.unique(simulated.labels[classes == CORE])
    assert len(with_core) == simulated.labels.max()
    pieces, _ = ndimage.label(classes == CORE)
    sizes = np.bincount(pieces.ravel())
    several = 0
    for piece in range(1, len(sizes)):
        several += len(np.unique(simulated.labels[pieces == piece])) > 1
    assert several <= 0.02 * len(sizes)  # slivers at the border of the volume


def test_a_range_that_is_none_is_refused():
    with pytest.raises(ValueError, match="radius="):
        Ranges(radius=(5, 3))
    with pytest.raises(ValueError, match="empty_share"):
        Ranges(empty_share=2)
