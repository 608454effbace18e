import numpy as np
import pytest

from wnet_nb.config import preset
from wnet_nb.figures import advice

QUICK = preset("scratch")


def rows(ncut, reconstruction):
    return [
        {"soft_ncut": a, "reconstruction": b} for a, b in zip(ncut, reconstruction, strict=True)
    ]


def test_falling_curves_ask_for_more_epochs():
    said = advice.read_losses(rows(np.linspace(1, 0.2, 20), np.linspace(300, 100, 20)), QUICK)
    assert "still falls" in said[0]


def test_a_soft_ncut_near_its_best_asks_for_nothing_though_it_still_falls():
    said = advice.read_losses(rows([0.37, 0.1, 0.05, 0.04, 0.034, 0.027], np.full(6, 500)), QUICK)
    assert len(said) == 1 and "come down to 0.027" in said[0]


def test_flat_curves_say_so():
    said = advice.read_losses(rows(np.full(20, 0.2), np.full(20, 100.0)), QUICK)
    assert "flat" in said[0] and len(said) == 1


def test_classes_that_never_parted_are_noticed():
    said = " ".join(advice.read_losses(rows(np.full(20, 0.99), np.full(20, 100.0)), QUICK))
    assert "without any separation" in said
    three = QUICK.replace(n_classes=3)
    said = " ".join(advice.read_losses(rows(np.full(20, 0.99), np.full(20, 100.0)), three))
    assert "without any separation" not in said


def test_a_reconstruction_that_got_worse_is_noticed():
    said = advice.read_losses(rows(np.full(20, 0.2), np.linspace(100, 300, 20)), QUICK)
    assert any("got worse" in sentence for sentence in said)


@pytest.mark.parametrize("reconstruction, word", [(0.5, "raise"), (900.0, "lower")])
def test_one_loss_that_rules_the_total_is_noticed(reconstruction, word):
    said = advice.read_losses(rows(np.full(20, 0.5), np.full(20, reconstruction)), QUICK)
    assert any(f"{word} reconstruction_weight" in sentence for sentence in said)


def test_the_curves_of_a_good_run_ask_for_nothing():
    ncut = 0.02 + 0.6 * np.exp(-np.arange(15) / 2) + 0.003 * (-1.0) ** np.arange(15)
    said = advice.read_losses(rows(ncut, np.linspace(200, 118, 15)), QUICK)
    assert len(said) == 1 and "flat" in said[0]


def test_two_epochs_are_too_few_to_read():
    assert "too few" in advice.read_losses(rows([1, 1], [1, 1]), QUICK)[0]
