"""What is asked of a training while it goes on: other values of live options, and a state now."""

from __future__ import annotations

import threading

from wnet_nb.config import check_value, names_with
from wnet_nb.errors import UserError


class Controls:
    """Takes requests from any thread; the training asks for them before every step."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._changes: dict[str, float] = {}
        self._save = False

    def change(self, **changes: float) -> None:
        """Ask for other values of live options from the next step on; UserError if not allowed."""
        for name, value in changes.items():
            check_value(name, value)
        refused = [name for name in changes if name not in names_with("live")]
        if refused:
            raise UserError(
                f"{', '.join(refused)} cannot change during a training; what can: "
                f"{', '.join(names_with('live'))}"
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
