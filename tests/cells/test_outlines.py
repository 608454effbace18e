"""Tests of `wnet_nb.cells.outlines`: cells known by construction; what must not change them."""

import itertools

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.spatial import cKDTree
from torch import nn

from tests.benchmarks.nuclei import make_nuclei
from wnet_nb.cells.measure import measure_cells
from wnet_nb.cells.outlines import find_foreground, segment_instances
from wnet_nb.cells.regions import blocks
from wnet_nb.cells.scores import centroids, match_instances
from wnet_nb.cells.size import estimate_cell_radius
from wnet_nb.config import Settings
from wnet_nb.data import Normalisation, Prepared
from wnet_nb.grid import average_blocks
from wnet_nb.inference import _tile_axis, predict_probabilities
from wnet_nb.training import Finished, fit

UNIT = (1.0, 1.0, 1.0)
RADIUS = 4.0
LATTICE = np.array(list(itertools.product((10, 21, 32, 43, 54), repeat=3)))


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)  # for networks this small a second one only costs


def draw(shape, centres, radius, brightness=100.0, background=10.0):
    """Return the image of balls with soft edges, float32."""
    image = np.zeros(shape, np.float32)
    for centre, light in zip(centres, np.broadcast_to(brightness, len(centres)), strict=True):
        grid = [(np.arange(n) - c) ** 2 for n, c in zip(shape, centre, strict=True)]
        distance = np.sqrt(grid[0][:, None, None] + grid[1][:, None] + grid[2])
        image = np.maximum(image, light / (1 + np.exp(2 * (distance - radius))))
    noise = np.random.default_rng(0).normal(0, 1, shape)
    return (background + image + noise).astype(np.float32)


def two_classes(foreground):
    """Return (2, Z, Y, X) with the cells in class 1."""
    foreground = np.asarray(foreground, np.float32)
    return np.stack([1 - foreground, foreground])


def from_truth(labels):
    """Return what a good network would say of cells, as fuzzy as one says it."""
    return two_classes(ndimage.gaussian_filter((labels > 0).astype(np.float32), 0.8))


def segment(probabilities, image, radius=RADIUS, size=UNIT, **options):
    return segment_instances(
        probabilities, image, voxel_size_um=size, cell_radius_um=radius, **options
    )


def same_cells(found, expected, iou=0.9):
    return match_instances(found, expected, thresholds=[iou]).f1[0]


@pytest.fixture(scope="module")
def example():
    """Image and probabilities of a part of the example volume."""
    image, labels = make_nuclei(shape=(56, 60, 64), n_cells=40)
    return image, from_truth(labels)


@pytest.fixture(scope="module")
def cells(example):
    image, probabilities = example
    return segment(probabilities, image, 5.0)


@pytest.fixture(scope="module")
def lattice():
    """125 balls that do not touch."""
    return draw((64, 64, 64), LATTICE, RADIUS)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_two_touching_balls_are_two_cells_cut_in_the_middle(axis):
    shape, centres = [20, 20, 20], [[10, 10, 10], [10, 10, 10]]
    shape[axis], centres[0][axis], centres[1][axis] = 32, 11, 20
    image = draw(shape, centres, 5)
    found = segment(two_classes(image > 50), image, 5.0)
    assert found.count == 2
    along = np.moveaxis(found.labels, axis, 0)[:, 10, 10]
    assert set(along[8:15]) == {1} and set(along[17:24]) == {2}


def test_separate_balls_come_back_as_they_were_drawn(lattice):
    found = segment(two_classes(lattice > 50), lattice)
    assert found.count == len(LATTICE)
    sizes = np.bincount(found.labels.ravel())[1:]
    assert found.labels[tuple(LATTICE.T)].tolist() == list(range(1, len(LATTICE) + 1))
    assert np.median(sizes) == pytest.approx(4 / 3 * np.pi * RADIUS**3, rel=0.25)


def test_result_is_labels_and_foreground_of_the_shape_of_the_image(example, cells):
    image, probabilities = example
    assert cells.labels.dtype == np.int32 and cells.foreground.dtype == np.float32
    assert cells.labels.shape == cells.foreground.shape == image.shape
    np.testing.assert_array_equal(cells.foreground, probabilities[1])
    assert np.unique(cells.labels).tolist() == list(range(cells.count + 1))


def test_every_cell_is_one_piece_without_holes(cells):
    for label in range(1, cells.count + 1):
        mask = cells.labels == label
        assert ndimage.label(mask)[1] == 1
        # a hole may only be another cell
        assert not (ndimage.binary_fill_holes(mask) & (cells.labels == 0)).any()


@pytest.mark.parametrize("order", [(1, 0), (0, 1)])
def test_order_of_two_classes_changes_nothing(order, example, cells):
    image, probabilities = example
    found = segment(probabilities[list(order)], image, 5.0)
    np.testing.assert_array_equal(found.labels, cells.labels)
    assert found.classes == (order.index(1),)


def halo_and_cells():
    """Return image and three classes: background, the shell around cells, cells."""
    centres = LATTICE[::3]
    image = draw((64, 64, 64), centres, RADIUS) + 0.3 * draw((64, 64, 64), centres, 2 * RADIUS)
    inside, around = (draw((64, 64, 64), centres, r) > 50 for r in (RADIUS, RADIUS + 2))
    classes = np.stack([~around, around & ~inside, inside]).astype(np.float32)
    return image, ndimage.gaussian_filter(classes, (0, 0.7, 0.7, 0.7)), len(centres)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_class_of_halos_is_not_taken_for_cells_whatever_its_place(order):
    image, probabilities, n = halo_and_cells()
    found = segment(probabilities[list(order)], image)
    assert found.classes == (order.index(2),)
    assert found.count == n
    np.testing.assert_array_equal(found.labels, segment(probabilities, image).labels)


def test_bright_and_dim_cells_in_two_classes_are_both_taken():
    light = np.where(np.arange(len(LATTICE)) % 2, 100.0, 55.0)
    image = draw((64, 64, 64), LATTICE, RADIUS, light)
    bright = draw((64, 64, 64), LATTICE[1::2], RADIUS) > 50
    dim = draw((64, 64, 64), LATTICE[::2], RADIUS) > 50
    probabilities = np.stack([bright, ~(bright | dim), dim]).astype(np.float32)
    found = segment(probabilities, image)
    assert found.classes == (0, 2)
    assert found.count == len(LATTICE)
    for order in itertools.permutations(range(3)):
        again = segment(probabilities[list(order)], image)
        np.testing.assert_array_equal(again.labels, found.labels)


def test_reason_names_the_classes_and_their_share(example):
    classes, reason = find_foreground(example[1], example[0], np.full(3, 5.0))
    assert classes == (1,)
    assert "class 1 (mean brightness" in reason and "% of the volume" in reason


def test_classes_that_are_named_overrule_the_choice():
    image, probabilities, _ = halo_and_cells()
    found = segment(probabilities, image, foreground_classes=(1, 2))
    assert (found.classes, found.reason) == ((1, 2), "chosen by you")
    np.testing.assert_allclose(found.foreground, probabilities[1] + probabilities[2])
    assert segment(probabilities, image, foreground_classes=[1]).classes == (1,)


def test_radius_is_estimated_from_the_image_and_may_be_handed_over(example):
    image, probabilities = example
    found = segment(probabilities, image, None)
    known = estimate_cell_radius(image, voxel_size_um=UNIT)
    assert found.cell_size == known
    again = segment(probabilities, image, known)
    assert again.cell_size is known
    np.testing.assert_array_equal(again.labels, found.labels)


def test_higher_boundary_makes_every_cell_smaller(lattice):
    sizes = []
    for boundary in (0.2, 0.35, 0.5, 0.65, 0.8):
        found = segment(two_classes(lattice > 30), lattice, boundary=boundary)
        assert found.count == len(LATTICE) and found.boundary == boundary
        sizes.append(np.bincount(found.labels.ravel())[1:])
    assert (np.diff(sizes, axis=0) <= 0).all()
    assert np.median(sizes[0]) > 1.5 * np.median(sizes[-1])


@pytest.mark.parametrize("growth", [1, 2])
def test_class_map_that_is_too_fat_does_not_make_fat_cells(growth, lattice):
    fat = ndimage.binary_dilation(lattice > 50, iterations=growth)
    found = segment(two_classes(fat), lattice)
    size = np.median(np.bincount(found.labels.ravel())[1:])
    assert found.count == len(LATTICE)
    assert size == pytest.approx(4 / 3 * np.pi * RADIUS**3, rel=0.3)


def test_cells_below_the_minimum_size_are_left_out():
    radii = [5, 5, 5, 2.5]
    centres = [(14, 14, x) for x in (12, 28, 44, 60)]
    image = np.maximum.reduce(
        [draw((28, 28, 72), [c], r) for c, r in zip(centres, radii, strict=True)]
    )
    counts = [
        segment(two_classes(image > 50), image, 5.0, minimum_size=share).count
        for share in (0.0, 0.05, 0.3)
    ]
    assert counts == [4, 4, 3]


@pytest.mark.parametrize("core_class", [None, 1])
def test_cells_below_the_minimum_contrast_are_left_out(core_class):
    centres = [(14, 14, x) for x in (12, 34, 58)]
    image = draw((28, 28, 72), centres, 5.0, brightness=(100, 50, 25))
    options = {"core_class": core_class, "foreground_classes": (1,)}
    classes = two_classes(image > 20)
    counts = [
        segment(classes, image, 5.0, minimum_contrast=levels, **options).count
        for levels in (0, 12, 35, 75, 120)
    ]
    assert counts == [3, 3, 2, 1, 0]


def test_network_that_is_sure_of_a_whole_volume_is_one_cell_and_no_endless_search():
    image = draw((28, 28, 72), [(14, 14, 36)], 5.0)
    everything = two_classes(np.ones(image.shape))
    found = segment(everything, image, 5.0, core_class=1, foreground_classes=(1,))
    assert found.count == 1


def test_network_that_sees_no_cells_gives_none_and_no_error(example):
    image, _ = example
    nothing = two_classes(np.zeros(image.shape))
    for options in ({"foreground_classes": (1,)}, {}):
        found = segment(nothing, image, 5.0, **options)
        assert found.count == 0 and not found.labels.any()
    assert measure_cells(found.labels, image, voxel_size_um=UNIT)["label"].size == 0


@pytest.mark.parametrize("level", [0.0, 0.2, 1.0])
def test_network_that_tells_no_place_from_another_is_said_to_have_learned_nothing(level, example):
    image, _ = example
    found = segment(two_classes(np.full(image.shape, level)), image, 5.0)
    assert found.count == 0
    assert "learned nothing" in found.reason and "blobs" not in found.reason


def tissue(centres, seed):
    """Return cells in stripes and texture, and the class of a network that took those for cells."""
    rng = np.random.default_rng(seed)
    image = draw((64, 64, 64), centres, RADIUS, 80)
    for sigma in ((1, 2, 12), (3, 3, 3), (16, 16, 16)):
        texture = ndimage.gaussian_filter(rng.standard_normal(image.shape), sigma, mode="wrap")
        image += (10 * texture / texture.std()).astype(np.float32)
    brighter = image > ndimage.gaussian_filter(image, 4 * RADIUS)
    return image, two_classes(brighter)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_few_cells_in_texture_are_counted_though_the_class_holds_half_of_it(seed):
    centres = LATTICE[5::12]
    image, probabilities = tissue(centres, seed)
    assert 0.4 < probabilities[1].mean() < 0.6
    found = segment(probabilities, image)
    assert abs(found.count - len(centres)) <= 2  # the class alone gives some 280
    assert (found.labels[tuple(centres.T)] > 0).sum() >= len(centres) - 1


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_texture_without_cells_gives_hardly_any(seed):
    image, probabilities = tissue(LATTICE[:0], seed)
    assert segment(probabilities, image).count <= 1


def test_probabilities_from_a_file_give_what_those_in_memory_give(example, cells, tmp_path):
    image, probabilities = example
    np.save(tmp_path / "p.npy", probabilities)
    np.save(tmp_path / "i.npy", image)
    mapped = [np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in "pi"]
    np.testing.assert_array_equal(segment(*mapped, 5.0).labels, cells.labels)


@pytest.mark.parametrize(("scale", "offset"), [(3.7, 911.0), (1e-4, -3.0), (0.5, 0.0)])
def test_brightness_and_offset_of_the_image_change_no_cell(scale, offset, example, cells):
    image, probabilities = example
    found = segment(probabilities, scale * image.astype(np.float64) + offset, 5.0)
    assert found.boundary == cells.boundary
    assert same_cells(found.labels, cells.labels) == 1


def test_mirroring_the_volume_changes_hardly_anything(example, cells):
    image, probabilities = example
    for axis in range(3):
        found = segment(np.flip(probabilities, axis + 1), np.flip(image, axis), 5.0)
        assert same_cells(np.flip(found.labels, axis), cells.labels, iou=0.8) == 1


def balls_on(seams):
    """Return 64³ voxels with a ball on every crossing of `seams`, which are those of each axis.

    Balls on the planes and lines between them are there too.
    """
    places = sorted(seams) + [p for p in (9, 55) if min(abs(p - s) for s in seams) > 10]
    centres = np.array(list(itertools.product(places, repeat=3)))
    return draw((64, 64, 64), centres, RADIUS), len(centres)


def cut_cells(labels, seams):
    """Return for each axis and seam how many cells lie on both sides of it."""
    boxes = ndimage.find_objects(labels)
    return [
        sum(box[axis].start < seam < box[axis].stop for box in boxes)
        for axis in range(3)
        for seam in seams
    ]


@pytest.mark.parametrize("block_size", [22, 16, 32])
def test_cells_on_every_seam_of_blocks_are_those_of_the_whole(block_size):
    seams = sorted({block[0].start for block in blocks((64,) * 3, block_size)} - {0})
    image, n = balls_on(seams)
    probabilities = two_classes(image > 50)
    whole = segment(probabilities, image, block_size=64)
    assert min(cut_cells(whole.labels, seams)) >= 9
    found = segment(probabilities, image, block_size=block_size)
    assert found.boundary == whole.boundary
    assert found.count == whole.count == n
    assert same_cells(found.labels, whole.labels) == 1


@pytest.mark.parametrize("block_size", [20, 30])
def test_crowded_cells_in_blocks_are_those_of_the_whole(block_size, example, cells):
    image, probabilities = example
    found = segment(probabilities, image, 5.0, block_size=block_size)
    assert found.boundary == cells.boundary
    assert same_cells(found.labels, cells.labels) == 1


def seams_of_tiles(tile_size):
    """Return the places along 64 voxels where the tile that counts most changes."""
    spans = _tile_axis(64, tile_size)
    weights = np.zeros((len(spans), 64))
    for row, (start, stop, weight) in zip(weights, spans, strict=True):
        row[start:stop] = weight
    return (np.flatnonzero(np.diff(weights.argmax(0))) + 1).tolist()


def tiled_and_whole(model, image, tile_size):
    """Return the cells of an image predicted in tiles, and in one piece."""
    prepared = Prepared(image, Normalisation("minmax", 0.0, 110.0), shape=image.shape)
    return [
        segment(predict_probabilities(model, prepared, tile_size=edge), image)
        for edge in (tile_size, 64)
    ]


class Bright(nn.Module):
    """A stand-in that knows only a voxel's surroundings: bright ones are cells."""

    def encode(self, image):
        smooth = nn.functional.avg_pool3d(
            nn.functional.pad(image, [1] * 6, mode="replicate"), 3, stride=1
        )
        foreground = torch.sigmoid((smooth - 40) / 5)
        return torch.cat([1 - foreground, foreground], 1)


@pytest.mark.parametrize("tile_size", [24, 32, 40])
def test_cells_on_every_seam_of_tiles_are_those_of_the_whole(tile_size):
    seams = seams_of_tiles(tile_size)
    image, n = balls_on(seams)
    tiled, whole = tiled_and_whole(Bright(), image, tile_size)
    assert min(cut_cells(whole.labels, seams)) >= 9
    assert tiled.count == whole.count == n
    assert same_cells(tiled.labels, whole.labels) == 1


def test_cells_of_a_trained_network_on_every_seam_of_tiles_are_those_of_the_whole():
    seams = seams_of_tiles(32)
    image, n = balls_on(seams)
    settings = Settings(
        base_channels=4,
        dropout=0.0,
        intensity_sigma=10,
        epochs=4,
        batch_size=2,
        learning_rate=3e-3,
        patch_size=16,
        patches_per_volume=60,
    )
    model = next(e.model for e in fit([image], settings) if isinstance(e, Finished))
    tiled, whole = tiled_and_whole(model, image, 32)
    assert min(cut_cells(whole.labels, seams)) >= 9
    assert whole.count == n
    scores = match_instances(tiled.labels, whole.labels, thresholds=[0.5])
    assert scores.true_positives[0] == tiled.count == whole.count  # matching accuracy 1.0


@pytest.mark.parametrize("radius", [5.0, None])
def test_voxels_three_times_as_deep_give_the_same_cells_within_half_a_radius(radius):
    image, labels = make_nuclei()  # nuclei of radius 5 µm, 1 µm voxels
    probabilities = from_truth(labels)
    thick = np.stack([average_blocks(p, (3, 1, 1)) for p in probabilities])
    fine = segment(probabilities, image, radius)
    coarse = segment(thick, average_blocks(image, (3, 1, 1)), radius, size=(3.0, 1.0, 1.0))
    assert coarse.count == pytest.approx(fine.count, rel=0.05)
    here, there = centroids(fine.labels), centroids(coarse.labels) * (3, 1, 1) + (1, 0, 0)
    for one, other in ((here, there), (there, here)):
        distance, _ = cKDTree(one).query(other)
        assert np.median(distance) < 0.5  # µm
        assert np.mean(distance < 2.5) > 0.93  # the rest are split in only one of the two
    volumes = [
        np.median(np.bincount(found.labels.ravel())[1:]) * depth
        for found, depth in ((fine, 1), (coarse, 3))
    ]
    assert volumes[1] == pytest.approx(volumes[0], rel=0.2)
    up = np.repeat(coarse.labels, 3, axis=0)
    assert same_cells(up, fine.labels, iou=0.5) > 0.92
