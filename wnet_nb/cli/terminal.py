"""What the command line shows: lines, and progress with the time left."""

from __future__ import annotations

import io
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

BAR = "{desc} {percentage:3.0f}% |{bar:24}| {n_fmt}/{total_fmt} {unit}, {remaining} left{postfix}"
LINE = "{desc} {percentage:.0f} %: {n_fmt}/{total_fmt} {unit}, {remaining} left{postfix}"


def say(text: str) -> None:
    """Print a line of the result."""
    tqdm.write(text, file=sys.stdout)


def remark(text: str) -> None:
    """Print what the user should know but is no result."""
    tqdm.write(text, file=sys.stderr)


def wrote(paths: Iterable[Path]) -> None:
    """Print the files that were written."""
    for path in paths:
        say(f"  wrote {path}")


class Progress:
    """Work after work with the time left: a bar on a terminal, elsewhere a line for each tenth."""

    def __init__(self, unit: str) -> None:
        self._unit, self._title, self._tenths = unit, "", None
        self._watched = sys.stderr.isatty()
        self._bar = tqdm(disable=True)

    def show(self, title: str, done: int, total: int = 0, note: str = "") -> None:
        """Show how much is done; `total` is 0 while it is not known, or as it was."""
        if title != self._title:
            self._begin(title)
        bar = self._bar
        bar.total = total or bar.total
        tenths = 10 * done // bar.total if bar.total else 0
        if self._tenths is None:  # what was done before says nothing of the speed
            bar.initial = bar.n = bar.last_print_n = done
            self._tenths = tenths if tenths < 10 else 0
        bar.set_postfix_str(note, refresh=False)
        bar.update(done - bar.n)
        if tenths > self._tenths and not self._watched:
            print(bar, file=sys.stderr, flush=True)
        self._tenths = tenths

    def _begin(self, title: str) -> None:
        self.close()
        form, file = (BAR, sys.stderr) if self._watched else (LINE, io.StringIO())
        unit, scale = self._unit, self._unit == "B"
        self._bar = tqdm(desc=title, unit=unit, unit_scale=scale, bar_format=form, file=file)
        self._title, self._tenths = title, None

    def close(self) -> None:
        """End what is shown; what comes next begins anew."""
        self._bar.close()
        self._title = ""


@contextmanager
def stop_between_events() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C into a wish to stop; the second one raises KeyboardInterrupt."""
    stopped = threading.Event()

    def wish(number: int, frame: Any) -> None:
        if stopped.is_set():
            raise KeyboardInterrupt
        stopped.set()
        print("\nstopping after this step", file=sys.stderr)

    before = signal.signal(signal.SIGINT, wish)
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGINT, before)
