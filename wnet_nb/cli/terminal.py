"""What the command line shows: lines, progress with the time left, one-line errors."""

from __future__ import annotations

import re
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from wnet_nb.errors import UserError

BAR = "{desc} {percentage:3.0f}% |{bar:24}| {n_fmt}/{total_fmt} {unit}, {remaining} left{postfix}"


class Speaker:
    """Says things to the user: results on stdout (none when quiet), all else on stderr."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet

    def say(self, text: str = "") -> None:
        """Print a line of the result."""
        if not self.quiet:
            tqdm.write(text, file=sys.stdout)

    def remark(self, text: str) -> None:
        """Print what the user should know but is no result."""
        tqdm.write(text, file=sys.stderr)

    def wrote(self, paths: Iterable[Path]) -> None:
        """Print the files that were written."""
        for path in paths:
            self.say(f"  wrote {path}")

    def bar(self, title: str, unit: str) -> Bar:
        """Return progress with the time left: a bar, or lines where nobody watches a terminal."""
        return Bar(title, unit) if sys.stderr.isatty() else Lines(title, unit)


class Bar:
    """Progress on a terminal, redrawn in place."""

    def __init__(self, title: str, unit: str) -> None:
        self._bar = tqdm(desc=title, unit=unit, bar_format=BAR, mininterval=0.2, file=sys.stderr)

    def show(self, done: int, total: int, note: str = "") -> None:
        """Show how much is done; `total` is 0 while it is not known."""
        if self._bar.total is None:
            self._bar.initial = done  # what was done before this command says nothing of its speed
            self._bar.n = done
        self._bar.total = total or None
        self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()


class Lines:
    """Progress in a file or pipe: one line for every ten percent."""

    def __init__(self, title: str, unit: str) -> None:
        self._title, self._unit = title, unit
        self._first = self._began = self._tenths = None

    def show(self, done: int, total: int, note: str = "") -> None:
        """Print a line if another ten percent are done."""
        tenths = 10 * done // total if total else 0
        if self._first is None:  # what was done before says nothing of the speed
            self._first, self._began = done, time.monotonic()
            self._tenths = tenths if done < total else 0
        if tenths <= self._tenths:
            return
        self._tenths = tenths
        seconds = time.monotonic() - self._began
        left = seconds / max(1, done - self._first) * (total - done)
        clock = tqdm.format_interval(left)
        words = f"{self._title} {10 * tenths} %: {done}/{total} {self._unit}, {clock} left"
        print(f"{words}, {note}" if note else words, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Do nothing: the lines are there."""


def explain(error: Exception) -> str | None:
    """Return an error that a user can do something about as one line, None for any other."""
    full = isinstance(error, RuntimeError) and re.search("out of memory|allocate", str(error))
    if full or isinstance(error, MemoryError):
        return "the memory is full; lower batch_size, patch_size or tile_size with --set"
    if isinstance(error, OSError) and error.strerror:
        return f"'{error.filename}': {error.strerror}" if error.filename else error.strerror
    return str(error) if isinstance(error, UserError | OSError) else None


@contextmanager
def stop_between_events() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C into a wish to stop; the second one raises KeyboardInterrupt."""
    stopped = threading.Event()

    def wish(number: int, frame: Any) -> None:
        if stopped.is_set():
            raise KeyboardInterrupt
        stopped.set()
        print("\nstopping after this step", file=sys.stderr)

    before = signal.getsignal(signal.SIGINT)
    main_thread = threading.current_thread() is threading.main_thread()
    if main_thread:
        signal.signal(signal.SIGINT, wish)
    try:
        yield stopped
    finally:
        if main_thread:
            signal.signal(signal.SIGINT, before)
