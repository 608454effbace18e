"""What the network is worth: its cells against those of the same steps without it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from wnet_nb.cells.scores import match_instances

SAME_IOU = 0.5  # cells with and without the network are the same from this overlap


def compare(labels: np.ndarray, baseline: np.ndarray) -> dict[str, int]:
    """Return what the network added: counts, and how many cells are the same without it.

    Two cells are the same if their overlap (IoU) is at least 0.5.
    """
    scores = match_instances(labels, baseline, thresholds=[SAME_IOU])
    same = scores.true_positives[0]
    return {
        "count": scores.n_predicted,
        "without_network": scores.n_true,
        "same": same,
        "only_with_network": scores.n_predicted - same,
        "only_without": scores.n_true - same,
    }


def network_in_words(added: Mapping[str, int]) -> str:
    """Say in one line what the network changed against the same steps without it."""
    gained, lost = added["only_with_network"], added["only_without"]
    if not gained and not lost:
        return "the network changed none of them: the same steps find the same without it"
    words = f"the network changed {gained} of {added['count']}"
    if lost:
        words += f", and {lost} of the {added['without_network']} found without it are gone"
    return f"{words} ({added['same']} are the same)"
