import numpy as np
import pytest
import torch

from wnet_nb import config
from wnet_nb.files.writing import write_volume
from wnet_nb.jobs import estimate
from wnet_nb.jobs.example import make_example
from wnet_nb.jobs.stacks import read_stacks

TINY = config.preset("scratch", base_channels=4, patch_size=16, patches_per_volume=4, batch_size=2)


@pytest.fixture(scope="module")
def stacks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    array, _ = make_example(shape=(48, 48, 48), n_cells=16, cell_radius_um=8.0)
    write_volume(folder / "a.tif", array, voxel_size_um=(1, 1, 1))
    return read_stacks(folder, TINY)


def test_the_memory_is_that_of_the_plan_and_not_of_what_was_before(stacks):
    before = np.ones(2**27, np.float64)  # a gigabyte, which the process held once
    del before
    found = estimate.estimate_training(stacks, TINY)
    assert 0 < found.memory_gb < 0.9 < found.of_gb


def test_the_time_grows_with_the_epochs_and_counts_saving(stacks, monkeypatch):
    short, long = (
        estimate.estimate_training(stacks, TINY.replace(epochs=n)).seconds for n in (2, 200)
    )
    assert 20 < long / short < 500
    assert "saving included" in estimate.Estimate(100.0, 1.5, 16.0, 50, "CPU").words


def test_an_estimate_leaves_nothing_behind(stacks, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = torch.random.get_rng_state()
    estimate.estimate_training(stacks, TINY)
    assert list(tmp_path.iterdir()) == []
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_preview_patch_is_measured_as_the_network_sees_it(stacks):
    radius, size = estimate.measure_patch(stacks, TINY)
    assert radius == stacks[0].cell_size.radius_um
    assert size == tuple(float(factor) for factor in stacks[0].prepared(TINY).factors)
    assert estimate.measure_patch(stacks, TINY.replace(cell_radius_um=3.0))[0] == 3.0


@pytest.mark.parametrize("seconds, words", [(5, "5 s"), (600, "10 min"), (9000, "2.5 h")])
def test_a_time_is_said_in_words(seconds, words):
    assert estimate.duration(seconds) == words
