"""Tests of `wnet_nb.inference`: tiles that add up to what the whole volume gives."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from tests.benchmarks.nuclei import make_nuclei
from wnet_nb.checkpoint import build_model
from wnet_nb.config import Settings
from wnet_nb.data import Normalisation, Prepared, fit_normalisation, prepare
from wnet_nb.errors import UserError
from wnet_nb.inference import (
    _common_statistics,
    _sample_moments,
    _tile_axis,
    best_class_dice,
    measure_moments,
    predict_probabilities,
)
from wnet_nb.training import Finished, fit

PLAIN = Normalisation("minmax", 0.0, 100.0)


class Local(nn.Module):
    """A stand-in whose answer at a voxel depends on its surroundings only up to `reach`."""

    def __init__(self, reach):
        super().__init__()
        self.reach = reach
        self.conv = nn.Conv3d(1, 2, 2 * reach + 1, bias=False)

    def encode(self, image):
        edge = [self.reach] * 6
        return self.conv(nn.functional.pad(image / 100, edge, mode="replicate")).softmax(1)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)  # for networks this small a second one only costs


@pytest.fixture(scope="module")
def volume():
    return 100 * np.random.default_rng(0).random((40, 35, 51), np.float32)


@pytest.fixture(scope="module")
def wnet():
    return build_model(Settings(base_channels=4, dropout=0.5)).eval()


def whole(model, image):
    """Return the class probabilities of an image whose edges the network takes, in one piece."""
    with torch.inference_mode():
        return model.encode(torch.from_numpy(image)[None, None])[0].numpy()


@pytest.mark.parametrize("tile_size", [8, 16, 24, 32, 64])
@pytest.mark.parametrize("n", [3, 8, 9, 15, 16, 17, 31, 64, 65, 100, 257])
def test_weights_of_the_tiles_sum_to_one_at_every_voxel(n, tile_size):
    total = np.zeros(n)
    for start, stop, weight in _tile_axis(n, tile_size):
        assert 0 <= start < stop <= n and stop - start <= tile_size and start % 8 == 0
        assert len(weight) == stop - start and (weight >= 0).all() and np.isfinite(weight).all()
        total[start:stop] += weight
    np.testing.assert_allclose(total, 1, rtol=1e-6)


@pytest.mark.parametrize("tile_size", [32, 48, 96])
def test_edge_of_a_tile_does_not_count_where_a_neighbour_covers_it(tile_size):
    spans = _tile_axis(200, tile_size)
    for before, after in itertools.pairwise(spans):
        assert before[2][-1] == 0 and after[2][0] == 0
    assert spans[0][2][0] == 1 and spans[-1][2][-1] == 1


@pytest.mark.parametrize(("reach", "tile_size"), [(0, 8), (1, 32), (3, 32), (2, 24), (1, 16)])
def test_tiles_of_a_local_model_give_what_the_whole_volume_gives(volume, reach, tile_size):
    model, image = Local(reach), np.ascontiguousarray(volume[:, :32, :48])
    found = predict_probabilities(model, image, normalisation=PLAIN, tile_size=tile_size)
    np.testing.assert_allclose(found, whole(model, image), atol=1e-5)


@pytest.mark.parametrize("tile_size", [24, 64])
def test_a_shorter_number_format_moves_probabilities_only_little(wnet, volume, tile_size):
    exact = predict_probabilities(wnet, volume, tile_size=tile_size)
    found = predict_probabilities(wnet, volume, tile_size=tile_size, precision="bfloat16")
    assert found.dtype == np.float32
    assert 0 < np.abs(found - exact).max() < 0.03
    np.testing.assert_allclose(found.sum(0), 1, atol=0.02)


@pytest.mark.parametrize("tile_size", [24, 64])
def test_weights_with_their_channels_last_give_the_same(volume, tile_size):
    model = build_model(Settings(base_channels=16)).eval()  # fewer are computed in another way
    expected = predict_probabilities(model, volume, tile_size=tile_size)
    model.to(memory_format=torch.channels_last_3d)
    found = predict_probabilities(model, volume, tile_size=tile_size)
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("shape", [(16, 24, 8), (8, 8, 8)])
def test_volume_as_large_as_a_block_of_the_statistics_gives_what_the_network_gives(
    shape, wnet, volume
):
    image = volume[tuple(slice(n) for n in shape)]
    found = predict_probabilities(wnet, image, normalisation=PLAIN)
    np.testing.assert_allclose(found, whole(wnet, np.ascontiguousarray(image)), atol=1e-5)


@pytest.mark.parametrize("shape", [(8, 8, 8), (9, 17, 23), (30, 3, 33), (1, 50, 13)])
def test_volume_of_any_size_gives_probabilities_of_its_size(shape, wnet, volume):
    image = np.resize(volume, shape)
    found = predict_probabilities(wnet, image, tile_size=16)
    assert found.shape == (2, *shape) and found.dtype == np.float32
    np.testing.assert_allclose(found.sum(0), 1, atol=1e-5)
    assert found.min() >= 0 and found.max() <= 1 + 1e-6


@pytest.mark.parametrize("dtype", ["u1", ">u2", "i4", "f2", ">f8"])
def test_every_dtype_and_a_memory_map_give_the_same(dtype, wnet, volume, tmp_path):
    image = volume[:16, :16, :24].astype(dtype)
    np.save(tmp_path / "image.npy", image)
    mapped = np.load(tmp_path / "image.npy", mmap_mode="r")
    expected = predict_probabilities(wnet, image.astype(np.float64), tile_size=16)
    np.testing.assert_allclose(
        predict_probabilities(wnet, mapped, tile_size=16), expected, atol=1e-6
    )


def test_brightness_range_is_found_once_for_the_whole_volume(wnet, volume):
    image = volume[:16, :16, :32].copy()
    image[..., 20:] *= 30
    for method in ("percentile", "minmax"):
        found = predict_probabilities(wnet, image, normalisation=method, tile_size=16)
        mapped = fit_normalisation(image, method).apply(image)
        expected = predict_probabilities(wnet, mapped, normalisation=PLAIN, tile_size=16)
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_flips_are_the_mean_of_the_eight_mirrored_predictions(wnet, volume):
    image = np.ascontiguousarray(volume[:16, :8, :24])
    expected = np.zeros((2, *image.shape))
    for axes in itertools.chain.from_iterable(
        itertools.combinations((0, 1, 2), n) for n in range(4)
    ):
        with _common_statistics(wnet, _sample_moments(wnet, Prepared(image, PLAIN))):
            mirrored = whole(wnet, np.flip(image, axes).copy())
        expected += np.flip(mirrored, [a + 1 for a in axes]) / 8
    found = predict_probabilities(wnet, image, normalisation=PLAIN, flips=True)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("tile_size", [64, 32])
def test_statistics_that_are_handed_over_are_those_it_finds_itself(wnet, volume, tile_size):
    options = {"normalisation": PLAIN, "tile_size": tile_size}
    moments = measure_moments(wnet, Prepared(volume, PLAIN))
    handed = predict_probabilities(wnet, volume, moments=moments, **options)
    np.testing.assert_array_equal(handed, predict_probabilities(wnet, volume, **options))


def test_file_holds_what_memory_would(wnet, volume, tmp_path):
    expected = predict_probabilities(wnet, volume, tile_size=32)
    found = predict_probabilities(wnet, volume, tile_size=32, out=tmp_path / "p.npy")
    np.testing.assert_array_equal(found, expected)
    assert isinstance(found, np.memmap) and not found.flags.writeable
    np.testing.assert_array_equal(np.load(tmp_path / "p.npy"), expected)
    assert [p.name for p in tmp_path.iterdir()] == ["p.npy"]


def test_existing_file_is_not_overwritten(wnet, volume, tmp_path):
    (tmp_path / "p.npy").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"p\.npy.*never overwritten"):
        predict_probabilities(wnet, volume, out=tmp_path / "p.npy")
    assert (tmp_path / "p.npy").read_bytes() == b"mine"


def test_existing_file_is_not_overwritten_by_an_averaged_volume_either(wnet, volume, tmp_path):
    settings = Settings(match_cell_size=True, cell_radius_um=8.0)
    prepared = prepare(volume, settings)
    assert prepared.factors == (2, 2, 2)
    (tmp_path / "p.npy").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"p\.npy.*never overwritten"):
        predict_probabilities(wnet, prepared, out=tmp_path / "p.npy")
    assert (tmp_path / "p.npy").read_bytes() == b"mine"
    found = predict_probabilities(wnet, prepared, out=tmp_path / "q.npy")
    np.testing.assert_array_equal(found, predict_probabilities(wnet, prepared))
    assert found.shape == (2, *volume.shape) and isinstance(found, np.memmap)


class Greedy(Local):
    """One that asks torch for more memory than there is where a tile is larger than `edge`."""

    def __init__(self, reach, edge):
        super().__init__(reach)
        self.edge = edge

    def encode(self, image):
        if max(image.shape) > self.edge:
            torch.empty(2**60, dtype=torch.uint8)
        return super().encode(image)


def test_memory_that_runs_out_makes_the_tiles_smaller_and_is_told(volume, tmp_path):
    image = np.ascontiguousarray(volume[:, :32, :48])
    model = Greedy(1, edge=32)
    with pytest.warns(UserWarning, match="memory ran out; .* tiles of") as told:
        found = predict_probabilities(
            model, image, normalisation=PLAIN, tile_size=64, out=tmp_path / "p.npy"
        )
    assert [str(w.message).split()[-2] for w in told] == ["32"]
    model.edge = 48
    np.testing.assert_allclose(found, whole(model, image), atol=1e-5)
    assert [p.name for p in tmp_path.iterdir()] == ["p.npy"]


def test_memory_that_runs_out_with_the_smallest_tiles_is_an_error(volume):
    with pytest.warns(UserWarning, match="memory ran out"), pytest.raises(RuntimeError):
        predict_probabilities(Greedy(1, edge=8), volume, normalisation=PLAIN, tile_size=64)


@pytest.mark.parametrize("training", [True, False])
def test_interrupt_leaves_no_file_and_the_mode_as_it_was(training, wnet, volume, tmp_path):
    def interrupt(done, total):
        if done == 2:
            raise KeyboardInterrupt

    wnet.train(training)
    with pytest.raises(KeyboardInterrupt):
        predict_probabilities(
            wnet, volume, tile_size=32, out=tmp_path / "p.npy", progress=interrupt
        )
    assert wnet.training is training and not list(tmp_path.iterdir())
    wnet.eval()


def test_model_in_training_is_used_without_dropout_and_left_in_training(wnet, volume):
    image = volume[:16, :16, :16]
    expected = predict_probabilities(wnet, image)
    wnet.train()
    np.testing.assert_array_equal(predict_probabilities(wnet, image), expected)
    assert all(module.training for module in wnet.modules())
    wnet.eval()


def test_progress_counts_every_tile_to_the_end(wnet, volume):
    calls = []
    predict_probabilities(wnet, volume, tile_size=32, progress=lambda *c: calls.append(c))
    assert calls == [(i, len(calls)) for i in range(1, len(calls) + 1)] and len(calls) > 1


def test_default_overlap_fits_every_tile_size_of_the_options(wnet, volume):
    for tile_size in (16, 24, 40):
        found = predict_probabilities(wnet, volume[:16, :16, :48], tile_size=tile_size)
        assert np.isfinite(found).all()


@pytest.mark.parametrize("shape", [(0, 16, 16), (16, 16), (2, 16, 16, 16)])
def test_image_that_is_no_volume_is_refused_with_its_shape(shape, wnet):
    with pytest.raises(ValueError, match=str(shape)[1:-1]):
        predict_probabilities(wnet, np.zeros(shape))


@pytest.mark.parametrize("tile_size", [20, 4, 0, -8])
def test_tile_that_the_network_does_not_take_is_refused(tile_size, wnet, volume):
    with pytest.raises(ValueError, match=f"tile_size={tile_size} must be a multiple of 8"):
        predict_probabilities(wnet, volume, tile_size=tile_size)


def test_layout_of_the_tiles_hardly_shows_in_what_a_trained_network_says():
    image, _ = make_nuclei(shape=(48, 48, 48), n_cells=18)
    settings = Settings(
        base_channels=4,
        dropout=0.1,
        intensity_sigma=10,
        epochs=2,
        batch_size=2,
        learning_rate=3e-3,
        patch_size=32,
        patches_per_volume=20,
    )
    model = next(e.model for e in fit([image], settings) if isinstance(e, Finished))
    few, many = (predict_probabilities(model, image, tile_size=edge) for edge in (40, 24))
    assert few.std() > 0.05  # it does tell one voxel from another
    assert np.abs(few - many).mean() < 0.01


def test_best_class_is_the_one_whose_argmax_map_overlaps_most():
    truth = np.zeros((20, 20, 40), int)
    truth[:10, :10, :10] = 1
    probabilities = np.full((3, *truth.shape), 0.1, dtype=np.float32)
    probabilities[0] = 0.5
    probabilities[1, :10, :10, 30:] = 0.8
    probabilities[2, :10, :10, 2:12] = 0.7
    assert best_class_dice(probabilities, truth) == pytest.approx(0.8)


def test_best_class_gives_a_tie_to_the_lowest_class():
    truth = np.array([[[2, 1]]])
    assert best_class_dice(np.full((3, 1, 1, 2), 1 / 3), truth) == 1.0
    halves = np.array([[1, 0], [0, 1]], dtype=float)[:, None, None]  # each covers half of the truth
    assert best_class_dice(halves, truth) == pytest.approx(2 / 3)
