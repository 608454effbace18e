"""What the command line shows: lines, progress bars with the time left, one-line errors."""

from __future__ import annotations

import re
import signal
import sys
import threading
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from wnet_nb.cells import scores as metrics
from wnet_nb.errors import UserError
from wnet_nb.events import EpochEnd, Event, Started, StepEnd
from wnet_nb.files.volumes import describe
from wnet_nb.jobs import inputs
from wnet_nb.jobs.evaluate import Evaluation

BAR = "{desc} {percentage:3.0f}% |{bar:24}| {n_fmt}/{total_fmt} {unit}, {remaining} left{postfix}"


class Speaker:
    """Says things to the user: lines on stdout (none when quiet), bars and remarks on stderr."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet

    def say(self, text: str = "") -> None:
        """Print a line of the result."""
        if not self.quiet:
            tqdm.write(text, file=sys.stdout)

    def remark(self, text: str) -> None:
        """Print what the user should know but is no result."""
        tqdm.write(text, file=sys.stderr)

    def bar(self, title: str, total: int, unit: str, done: int = 0) -> tqdm:
        """Return a progress bar with the time left."""
        seldom = 0.2 if sys.stderr.isatty() else 5.0
        count = {"total": total, "initial": done, "unit": unit}
        return tqdm(desc=title, **count, bar_format=BAR, mininterval=seldom, file=sys.stderr)


def explain(error: Exception) -> str | None:
    """Return an error that a user can do something about as one line, None for any other."""
    full = isinstance(error, RuntimeError) and re.search("out of memory|allocate", str(error))
    if full or isinstance(error, MemoryError):
        return "the memory is full; lower batch_size, patch_size or tile_size with --set"
    if isinstance(error, OSError) and error.strerror:
        return f"'{error.filename}': {error.strerror}" if error.filename else error.strerror
    return str(error) if isinstance(error, ValueError | UserError | OSError) else None


def show_inputs(found: inputs.Inputs, speaker: Speaker) -> None:
    """Print the volumes with what was found in them, and the files left aside with the reason."""
    for volume, findings in zip(found.volumes, found.findings, strict=True):
        speaker.say(describe(volume))
        for finding in findings:
            speaker.say(f"  {finding.level}: {finding.text}")
    for path, reason in found.skipped:
        speaker.say(f"skipped {path.name}: {reason}")


def show_start(started: Started, speaker: Speaker) -> None:
    """Print what is about to be trained."""
    patch = "×".join(map(str, started.patch_shape))
    speaker.say(
        f"network of {started.parameters:,} weights, patches of {patch} voxels, {started.device}, "
        f"{started.precision}"
    )
    if started.epochs_done:
        speaker.say(f"going on after epoch {started.epochs_done} of {started.epochs}")
    for remark in started.remarks:
        speaker.say(remark)


def show_written(paths: Iterable[Path], speaker: Speaker) -> None:
    """Print the files that were written."""
    for path in paths:
        speaker.say(f"  wrote {path}")


def show_scores(one: Evaluation, speaker: Speaker) -> None:
    """Print the scores of one volume, and those of the classical method beside them."""
    speaker.say(f"{one.name}: '{one.prediction}' against '{one.truth}'")
    if one.dice is not None:
        speaker.say(f"Dice {one.dice:.3f}")
    speaker.say(metrics.format_table(one.scores))
    if isinstance(one.scores, metrics.InstanceScores):
        speaker.say(f"mean F1 {one.scores.mean_f1:.3f}")
    if one.baseline is not None:
        value = getattr(one.baseline, "mean_f1", one.baseline.f1)
        speaker.say(f"classical method: {one.baseline.n_predicted} cells, F1 {value:.3f}")


def follow(events: Generator[Event, None, None], speaker: Speaker) -> Event | None:
    """Show a training's events until it ends or the user stops it; return the last event.

    The first Ctrl-C stops after the step that is being taken, so the state that is kept is whole.
    """
    bar = event = None
    with _stop_between_events() as stopped:
        try:
            for event in events:
                if isinstance(event, Started):
                    show_start(event, speaker)
                    steps = event.steps_per_epoch
                    total, done = event.epochs * steps, event.epochs_done * steps
                    bar = speaker.bar("training", total, "steps", done)
                elif isinstance(event, StepEnd):
                    bar.update(event.step - bar.n)
                    bar.set_postfix_str(f"epoch {event.epoch}, soft N-cut {event.soft_ncut:.3f}")
                elif isinstance(event, EpochEnd) and event.validation_dice is not None:
                    dice = event.validation_dice
                    speaker.say(f"epoch {event.epoch}: Dice {dice:.3f} against the labels")
                if stopped.is_set():
                    break
        except KeyboardInterrupt:  # the second one
            speaker.remark("broken off within a step")
        finally:
            if bar is not None:
                bar.close()
            events.close()  # the state of the last step is written here
    return event


@contextmanager
def _stop_between_events() -> Iterator[threading.Event]:
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
