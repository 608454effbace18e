"""Tests of `wnet_nb.learner`: a step is that of the plain network and loss, and can be undone."""

import copy

import numpy as np
import pytest
import torch

from tests.benchmarks.oracle import dense_ncut, make_plain
from wnet_nb.config import Settings
from wnet_nb.errors import UserError
from wnet_nb.learner import Learner, NotFiniteError

CPU = torch.device("cpu")
SETTINGS = Settings(base_channels=8, dropout=0.0, intensity_sigma=10, patch_size=16)


def patches(seed, n=2):
    return 100 * np.random.default_rng(seed).random((n, 1, 16, 16, 16), np.float32)


def test_ten_float32_steps_have_the_losses_of_plain_layers_and_a_dense_cut():
    learner = Learner(SETTINGS, CPU, torch.float32)
    plain = make_plain(copy.deepcopy(learner.model)).train()
    adam = torch.optim.Adam(plain.parameters(), SETTINGS.learning_rate, weight_decay=0.01)
    sizes = {"intensity_sigma": 10, "spatial_sigma": 4, "radius": 2}
    for step in range(10):
        found = learner.step(patches(step), SETTINGS, seed=step)
        image = torch.from_numpy(patches(step))
        probabilities, reconstruction = plain(image)
        cut = dense_ncut(probabilities, image, **sizes)
        rebuilt = (reconstruction - image).square().mean()
        total = 0.5 * cut + 5e-3 * rebuilt
        adam.zero_grad()
        total.backward()
        adam.step()
        expected = [float(term.detach()) for term in (cut, rebuilt, total)]
        assert found == pytest.approx(expected, rel=1e-5)


def test_random_numbers_of_the_caller_stay_as_they_were_and_the_seed_rules_the_dropout():
    settings = SETTINGS.replace(dropout=0.5)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    runs = [Learner(settings, CPU, torch.float32).step(patches(0), settings, s) for s in (1, 1, 2)]
    assert torch.equal(torch.random.get_rng_state(), before)
    assert runs[0] == runs[1] != runs[2]


def test_a_step_that_is_not_finite_leaves_the_weights_and_names_the_terms():
    learner = Learner(SETTINGS, CPU, torch.float32)
    before = copy.deepcopy(learner.model.state_dict())
    with pytest.raises(NotFiniteError) as caught:
        learner.step(patches(0) * np.float32(1e30), SETTINGS, seed=0)
    assert caught.value.args[0] == "a loss"
    assert "reconstruction nan" in caught.value.args[1]
    assert all(torch.equal(before[name], t) for name, t in learner.model.state_dict().items())


def test_going_back_to_a_state_repeats_the_steps_bit_for_bit():
    learner = Learner(SETTINGS, CPU, torch.float32)
    learner.step(patches(0), SETTINGS, seed=0)
    kept = learner.copy_of_state()
    first = [learner.step(patches(n), SETTINGS, seed=n) for n in (1, 2)]
    learner.take_state(kept, "the state in memory")
    assert [learner.step(patches(n), SETTINGS, seed=n) for n in (1, 2)] == first


def test_a_state_of_another_network_is_refused_by_name():
    learner = Learner(SETTINGS, CPU, torch.float32)
    other = Learner(SETTINGS.replace(base_channels=4), CPU, torch.float32)
    with pytest.raises(UserError, match="elsewhere"):
        learner.take_state(other.copy_of_state(), "elsewhere")
