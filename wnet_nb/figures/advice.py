"""What the loss curves say, in words: one sentence each, with what to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from wnet_nb.config import Settings

STILL_FALLING, COLLAPSED, POOR_NCUT, SETTLED = 0.02, 0.93, 0.3, 0.1
ONE_SIDED = 0.9


def read_losses(history: Sequence[Mapping[str, Any]], settings: Settings) -> list[str]:
    """Say what the loss curves mean and what to do, one sentence each.

    Parameters
    ----------
    history : sequence of mapping
        Rows of ``history.csv``, at least one.
    settings : Settings
        The weights of the losses and the number of classes.
    """
    if len(history) < 3:
        return ["There are too few epochs to read the curves; train for at least three."]
    ncut = np.array([row["soft_ncut"] for row in history])
    reconstruction = np.array([row["reconstruction"] for row in history])
    # Of one class only, and of classes that are all alike; core and rim are cut as one.
    worst = 1 if settings.core_class is not None else settings.n_classes - 1
    sentences = [_read_trend(ncut, worst)]
    if ncut[-1] > COLLAPSED * worst:
        sentences.append(
            f"The soft N-cut is {ncut[-1]:.2f}, near {worst}, its value without any separation: "
            "all voxels share one class or none is sure; raise learning_rate, intensity_sigma or "
            "ncut_weight, or train longer."
        )
    if reconstruction[-3:].mean() > 1.05 * reconstruction[:2].mean():
        sentences.append(
            "The reconstruction got worse during training; raise reconstruction_weight or lower "
            "learning_rate."
        )
    cut = settings.ncut_weight * ncut[-1]
    share = cut / max(cut + settings.reconstruction_weight * reconstruction[-1], 1e-12)
    if share > ONE_SIDED and settings.reconstruction_weight > 0:
        sentences.append(
            f"The soft N-cut makes up {share:.0%} of the total; if the classes follow the "
            "image badly, raise reconstruction_weight."
        )
    if share < 1 - ONE_SIDED and settings.ncut_weight > 0 and ncut[-1] > POOR_NCUT * worst:
        sentences.append(
            f"The reconstruction makes up {1 - share:.0%} of the total and the classes are "
            "not well apart; lower reconstruction_weight."
        )
    return sentences


def _read_trend(values: np.ndarray, worst: float) -> str:
    tail = max(2, len(values) // 4)
    before, after = np.mean(values[-2 * tail : -tail]), np.mean(values[-tail:])
    change = (before - after) / max(np.ptp(values), 1e-12)  # as a share of the whole descent
    if change > STILL_FALLING and values[-1] < SETTLED * worst:
        return (
            f"The soft N-cut has come down to {values[-1]:.3f}, where 0 is best: the classes are "
            "well apart. More epochs would make the cells narrower rather than better."
        )
    if change > STILL_FALLING:
        return "The soft N-cut still falls; more epochs may give clearer classes (raise epochs)."
    if change < -STILL_FALLING:
        return "The soft N-cut rises at the end; lower learning_rate."
    return "The soft N-cut is flat at the end; more epochs would change little."
