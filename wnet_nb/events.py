"""What a training tells while it goes on: frozen events of plain numbers and CPU arrays.

`remarks` are sentences for the user: what was done otherwise than asked, and why.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from wnet_nb.config import Settings


@dataclass(frozen=True)
class Preview:
    """The fixed preview patch as the network sees it now.

    Attributes
    ----------
    image : ndarray
        (Z, Y, X) float32 in 0-100.
    probabilities : ndarray
        (K, Z, Y, X) float32 in 0-1.
    reconstruction : ndarray
        (Z, Y, X) float32 in 0-100.
    """

    image: np.ndarray
    probabilities: np.ndarray
    reconstruction: np.ndarray


@dataclass(frozen=True)
class Started:
    """Training is about to begin (or to go on after `epochs_done` epochs)."""

    epochs: int
    epochs_done: int
    steps_per_epoch: int
    parameters: int
    patch_shape: tuple[int, int, int]
    device: str
    precision: str
    remarks: tuple[str, ...]
    history: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class StepEnd:
    """One step was taken; losses are those of its batch, before the step.

    `changes` are the live options that other values were given before this step.
    """

    step: int
    epoch: int
    soft_ncut: float
    reconstruction: float
    total: float
    seconds: float
    seconds_left: float
    changes: tuple[tuple[str, float], ...] = ()
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class EpochEnd:
    """One epoch is over; `row` is its row of ``history.csv``."""

    epoch: int
    row: dict[str, Any]
    seconds_left: float
    preview: Preview
    validation_dice: float | None
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Finished:
    """Training is over; `model` is in evaluation mode."""

    epochs: int
    steps: int
    seconds: float
    model: Any  # the WNet3D; not named here, so that figures need no torch
    settings: Settings
    history: tuple[dict[str, Any], ...]
    remarks: tuple[str, ...] = ()


Event = Started | StepEnd | EpochEnd | Finished
