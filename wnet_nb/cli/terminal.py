"""What the command line shows: lines, a bar with the time left, and what comes of each verb."""

import contextlib
import io
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from wnet_nb import scale
from wnet_nb.cells.scores import f1_at_half, format_table
from wnet_nb.checkpoint import Checkpoint
from wnet_nb.events import EpochEnd, Event, Started, StepEnd
from wnet_nb.files.result import Result
from wnet_nb.jobs.evaluate import Evaluation
from wnet_nb.jobs.segment import Progress, count_in_words, segment
from wnet_nb.jobs.stacks import Stacks

SHOWN = "{desc} {percentage:3.0f}% |{bar:24}| {n_fmt}/{total_fmt} {unit}, {remaining} left{postfix}"
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


class Bar:
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
        form, file = (SHOWN, sys.stderr) if self._watched else (LINE, io.StringIO())
        facts = {"unit": self._unit, "unit_scale": self._unit == "B"}
        self._bar = tqdm(desc=title, bar_format=form, file=file, **facts)
        self._title, self._tenths = title, None

    def close(self) -> None:
        """End what is shown; what comes next begins anew."""
        self._bar.close()
        self._title = ""


@contextlib.contextmanager
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


def show_stacks(stacks: Stacks) -> None:
    """Print the volumes with what was found in them, and the files left aside with the reason."""
    for stack in stacks:
        say(stack.words)
        for finding in stack.findings:
            say(f"  {finding.level}: {finding.text}")
    for path, reason in stacks.skipped:
        say(f"skipped {path.name}: {reason}")


def show_event(event: Event, bar: Bar) -> None:
    """Show what an event of a training brings, and how far it is."""
    if isinstance(event, Started):
        patch = "×".join(map(str, event.patch_shape))
        say(
            f"network of {event.parameters:,} weights, patches of {patch} voxels, {event.device}, "
            f"{event.precision}"
        )
        if event.epochs_done:
            say(f"going on after epoch {event.epochs_done} of {event.epochs}")
        steps = event.steps_per_epoch
        bar.show("training", event.epochs_done * steps, event.epochs * steps)
    elif isinstance(event, StepEnd):
        note = f"epoch {event.epoch}, soft N-cut {event.soft_ncut:.3f}"
        bar.show("training", event.step, note=note)
    elif isinstance(event, EpochEnd) and event.validation_dice is not None:
        say(f"epoch {event.epoch}: Dice {event.validation_dice:.3f} against the labels")
    for text in getattr(event, "remarks", ()):
        remark(text)


def segment_and_show(
    model: Checkpoint, stacks: Stacks, changes: Mapping[str, Any], out: str | None
) -> tuple[list[Result], list[tuple[Path, str]]]:
    """Segment volumes with a bar and a few lines for each; return results and failures."""
    failed = []

    def observe(progress: Progress) -> None:
        if progress.result:
            bar.close()
            _show_result(progress.result)
        elif progress.failed:
            bar.close()
            failed.append((stacks[progress.number - 1].source, progress.failed))
            remark(f"'{progress.name}' was not segmented: {progress.failed}")
        else:
            bar.show(f"segmenting {progress.name}", progress.tiles, progress.of_tiles)

    with contextlib.closing(Bar("tiles")) as bar:
        return segment(model, stacks, out=out, observe=observe, **changes), failed


def segment_large_and_show(
    model: Checkpoint,
    path: str,
    out: str,
    cluster: Mapping[str, Any],
    changes: Mapping[str, Any],
) -> dict[str, Any]:
    """Segment a volume of any size with a bar for each stage; return what result.json says."""

    def observe(progress: Any) -> None:
        if progress.note:
            remark(progress.note)
        else:
            bar.show(progress.stage, progress.done, progress.total)

    with contextlib.closing(Bar("chunks")) as bar:
        result = scale.segment_large(model, path, out, observe=observe, **cluster, **changes)
    facts = result.facts
    say(f"{facts['name']}: {count_in_words(facts | {'network_added': None})}")
    if facts["cut_by_halo"]:
        remark(f"{facts['cut_by_halo']} cells were larger than a chunk can see, and are cut there")
    wrote([result.folder, *sorted(result.folder.glob("*.*"))])
    return facts | {"folder": str(result.folder)}


def _show_result(result: Result) -> None:
    facts, name = result.facts, result.folder.name
    say(
        f"{result.name}: {count_in_words(facts)}; typical radius {facts['cell_radius_um']:.3g} µm, "
        f"{facts['seconds']:g} s"
    )
    say(f"  taken as cells: {facts['reason']}")
    if scores := result.scores:
        ways = [scores["scores"], *([scores["baseline"]] if facts["network_added"] else [])]
        half, *plain = (f"{f1_at_half(one):.2f}" for one in ways)
        words = f"F1 {half}{' at IoU 0.5' if 'rows' in ways[0] else ''}"
        words += "".join(f", {one} without the network" for one in plain)
        if "rows" in ways[0]:
            means = " and ".join(f"{_f1(one)[1]:.3f}" for one in ways)
            words += f"; mean over IoU 0.1 to 0.9: {means}"
        say(f"  against '{scores['truth']}': {words}")
    if name != result.name:
        say(f"  '{result.name}' was there before and is kept; this is '{name}'")
    wrote(result.files)


def show_scores(one: Evaluation) -> float:
    """Print the scores of one volume, and those without the network; return its (mean) F1."""
    say(f"{one.name}: '{one.prediction}' against '{one.truth}'")
    if one.dice is not None:
        say(f"Dice {one.dice:.3f}")
    say(format_table(one.scores))
    which, f1 = _f1(one.scores.as_dict())
    say(f"{which} {f1:.3f}")
    if one.baseline is not None:
        plain = _f1(one.baseline.as_dict())[1]
        say(f"without the network: {one.baseline.n_predicted} cells, {which} {plain:.3f}")
    return f1


def _f1(scores: Mapping[str, Any]) -> tuple[str, float]:
    """Return what it is called and how high: the mean over overlaps, or that of points."""
    return ("mean F1", scores["mean_f1"]) if "mean_f1" in scores else ("F1", scores["f1"])
