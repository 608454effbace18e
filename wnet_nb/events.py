"""What a training tells while it goes on, in plain numbers and CPU arrays, and what is asked of it.

`remarks` are sentences for the user: what was done otherwise than asked, and why.
"""

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np

from wnet_nb.config import Settings, check_value, names_with
from wnet_nb.errors import UserError


@dataclass(frozen=True)
class Preview:
    """The fixed preview patch as the network sees it now."""

    image: np.ndarray  # (Z, Y, X) float32 in 0-100
    probabilities: np.ndarray  # (K, Z, Y, X) float32 in 0-1
    reconstruction: np.ndarray  # (Z, Y, X) float32 in 0-100


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
    """One step was taken; losses are those of its batch, before the step."""

    step: int
    epoch: int
    soft_ncut: float
    reconstruction: float
    total: float
    seconds: float
    seconds_left: float
    changes: tuple[tuple[str, float], ...] = ()  # of live options, from this step on
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


class Controls:
    """Takes requests from any thread; the training asks for them before every step."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._changes: dict[str, float] = {}
        self._save = False

    def change(self, **changes: float) -> None:
        """Ask for other values of live options from the next step on; UserError if not allowed."""
        live = names_with("live")
        for name, value in changes.items():
            check_value(name, value)
            if name not in live:
                raise UserError(
                    f"{name} cannot change during a training; what can: {', '.join(live)}"
                )
        with self._lock:
            self._changes |= changes

    def save_now(self) -> None:
        """Ask for a full state and the weights on disk before the next step."""
        with self._lock:
            self._save = True

    def take(self) -> tuple[dict[str, float], bool]:
        """Return the changes and whether to save, as asked since the last call."""
        with self._lock:
            asked = self._changes, self._save
            self._changes, self._save = {}, False
        return asked
