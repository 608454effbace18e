"""What the verbs show while they work: volumes, a training, a segmentation, scores."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from wnet_nb.cells.scores import InstanceScores, format_table
from wnet_nb.checkpoint import Checkpoint
from wnet_nb.cli.terminal import Speaker
from wnet_nb.events import EpochEnd, Event, Started, StepEnd
from wnet_nb.files.result import Result
from wnet_nb.jobs.evaluate import Evaluation
from wnet_nb.jobs.segment import Progress, count_in_words, segment
from wnet_nb.jobs.stacks import Stacks


def show_stacks(stacks: Stacks, speaker: Speaker) -> None:
    """Print the volumes with what was found in them, and the files left aside with the reason."""
    for stack, findings in zip(stacks, stacks.findings, strict=True):
        speaker.say(stack.words)
        for finding in findings:
            speaker.say(f"  {finding.level}: {finding.text}")
    for path, reason in stacks.skipped:
        speaker.say(f"skipped {path.name}: {reason}")


@contextlib.contextmanager
def view_training(speaker: Speaker, stopped: threading.Event) -> Iterator[Callable[[Event], bool]]:
    """Yield what shows the events of a training; it returns whether the user wants to stop."""
    bar = speaker.bar("training", "steps")
    total = 0

    def observe(event: Event) -> bool:
        nonlocal total
        if isinstance(event, Started):
            total = event.epochs * event.steps_per_epoch
            _show_start(event, speaker)
            bar.show(event.epochs_done * event.steps_per_epoch, total)
        elif isinstance(event, StepEnd):
            bar.show(event.step, total, f"epoch {event.epoch}, soft N-cut {event.soft_ncut:.3f}")
        elif isinstance(event, EpochEnd) and event.validation_dice is not None:
            dice = event.validation_dice
            speaker.say(f"epoch {event.epoch}: Dice {dice:.3f} against the labels")
        for remark in getattr(event, "remarks", ()):
            speaker.remark(remark)
        return stopped.is_set()

    try:
        yield observe
    finally:
        bar.close()


def _show_start(started: Started, speaker: Speaker) -> None:
    patch = "×".join(map(str, started.patch_shape))
    speaker.say(
        f"network of {started.parameters:,} weights, patches of {patch} voxels, {started.device}, "
        f"{started.precision}"
    )
    if started.epochs_done:
        speaker.say(f"going on after epoch {started.epochs_done} of {started.epochs}")


def segment_and_show(
    model: Checkpoint,
    stacks: Stacks,
    changes: Mapping[str, Any],
    out: str | None,
    speaker: Speaker,
) -> tuple[list[Result], list[tuple[Path, str]]]:
    """Segment volumes with a bar and a few lines for each; return results and failures."""
    failed, bars = [], {}

    def observe(progress: Progress) -> None:
        if progress.number not in bars:
            bars[progress.number] = speaker.bar(f"segmenting {progress.name}", "tiles")
        bar = bars[progress.number]
        if progress.of_tiles:
            bar.show(progress.tiles, progress.of_tiles)
        if progress.result or progress.failed:
            bar.close()
        if progress.result:
            _show_result(progress.result, speaker)
        if progress.failed:
            failed.append((stacks[progress.number - 1].source, progress.failed))
            speaker.remark(f"'{progress.name}' was not segmented: {progress.failed}")

    try:
        return segment(model, stacks, out=out, observe=observe, **changes), failed
    finally:
        for bar in bars.values():
            bar.close()


def _show_result(result: Result, speaker: Speaker) -> None:
    facts, name = result.facts, result.folder.name
    speaker.say(
        f"{result.name}: {count_in_words(facts)}; typical radius {facts['cell_radius_um']:.3g} µm, "
        f"{facts['seconds']:g} s"
    )
    speaker.say(f"  taken as cells: {facts['reason']}")
    for remark in facts["remarks"]:
        speaker.say(f"  {remark}")
    if scores := result.scores:
        found = [one for one in (scores["scores"], scores["baseline"]) if one]
        rows = [row for one in found for row in one.get("rows", [one])]  # points have one F1
        f1 = [row["f1"] for row in rows if row.get("threshold", 0.5) == 0.5]
        which = "F1 at IoU 0.5" if "rows" in found[0] else "F1"
        plain = f", {f1[1]:.3f} without the network" if facts["network_added"] else ""
        speaker.say(f"  against '{scores['truth']}': {which} {f1[0]:.3f}{plain}")
    if name != result.name:
        speaker.say(f"  '{result.name}' was there before and is kept; this is '{name}'")
    speaker.wrote(result.files)


def show_scores(one: Evaluation, speaker: Speaker) -> None:
    """Print the scores of one volume, and those without the network beside them."""
    speaker.say(f"{one.name}: '{one.prediction}' against '{one.truth}'")
    if one.dice is not None:
        speaker.say(f"Dice {one.dice:.3f}")
    speaker.say(format_table(one.scores))
    if isinstance(one.scores, InstanceScores):
        speaker.say(f"mean F1 {one.scores.mean_f1:.3f}")
    if one.baseline is not None:
        of_labels = isinstance(one.baseline, InstanceScores)
        value = f"mean F1 {one.baseline.mean_f1:.3f}" if of_labels else f"F1 {one.baseline.f1:.3f}"
        speaker.say(f"without the network: {one.baseline.n_predicted} cells, {value}")


def mean_f1(one: Evaluation) -> float:
    """Return the F1 against points, or its mean over the overlaps."""
    return one.scores.mean_f1 if isinstance(one.scores, InstanceScores) else one.scores.f1
