"""The one error that is the user's to mend; everything else that is raised is a bug of ours."""

from __future__ import annotations

import re


class UserError(ValueError):
    """Something cannot be done as asked: one sentence says what, where, and what to do."""

    def _render_traceback_(self) -> list[str]:  # how a notebook shows it
        return [str(self)]


def explain(error: BaseException) -> str | None:
    """Return an error that a user can do something about as one sentence, None for any other."""
    full = isinstance(error, RuntimeError) and re.search("out of memory|allocate", str(error))
    if full or isinstance(error, MemoryError):
        return "the memory is full; lower batch_size, patch_size or tile_size"
    if isinstance(error, OSError) and error.strerror:
        return f"'{error.filename}': {error.strerror}" if error.filename else error.strerror
    return str(error) if isinstance(error, UserError | OSError) else None
