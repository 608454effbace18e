"""Which network to segment with or to start from: a run, a weights file, or one of three words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from wnet_nb import checkpoint
from wnet_nb.checkpoint import STARTER, STARTER_FILE, Checkpoint
from wnet_nb.config import preset
from wnet_nb.device import choose_device
from wnet_nb.errors import UserError
from wnet_nb.files.published import PUBLISHED, fetch_published

NONE = "none"
NONE_PRESET = "scratch"  # how a volume is prepared where there is no network

Progress = Callable[[int, int], None]


def is_word(source: str | Path) -> bool:
    """Return whether a model is named by a word, and no file or folder of that name is there."""
    return str(source) in (STARTER, PUBLISHED, NONE) and not Path(source).exists()


def find_weights(source: str | Path, *, progress: Progress | None = None) -> Path:
    """Return the weights file that ``starter`` or ``published`` stands for; any path as it is.

    Raises
    ------
    UserError
        If there are no such weights, or they cannot be fetched.
    """
    if not is_word(source):
        return Path(source)
    if str(source) == PUBLISHED:
        return fetch_published(progress=progress)
    if str(source) == STARTER:
        return STARTER_FILE
    raise UserError("the word none stands for no network, so there are no weights to start from")


def load_model(source: str | Path | Checkpoint, *, progress: Progress | None = None) -> Checkpoint:
    """Return a model that is ready to segment.

    Parameters
    ----------
    source : str, Path or Checkpoint
        A run folder, a weights file, or a word: ``starter`` (the weights in the package),
        ``published`` (CellSeg3D's, fetched once), ``none`` (no network: `model` is None, and the
        image alone decides, prepared as for the small networks).
    progress : callable, optional
        Called with (bytes received, bytes in all) while weights are fetched.
    """
    if isinstance(source, Checkpoint):
        return source
    if str(source) == NONE and is_word(source):
        return Checkpoint(None, preset(NONE_PRESET), source=Path(NONE))
    model = checkpoint.load_checkpoint(find_weights(source, progress=progress))
    if is_word(source):
        model = replace(model, source=Path(source))  # the word means the same on any computer
    device = choose_device()
    # Channels last is a quarter quicker on a CPU, and alike to the sixth digit.
    layout = torch.channels_last_3d if device == "cpu" else torch.preserve_format
    model.model.to(device, memory_format=layout)
    return model
