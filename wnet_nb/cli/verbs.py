"""The verbs of the command line: each does its job, says what it wrote, and returns its result."""

from __future__ import annotations

import contextlib
import threading
import time
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from wnet_nb import checkpoint, config
from wnet_nb.cells.scores import InstanceScores, format_table
from wnet_nb.cli.terminal import Speaker, stop_between_events
from wnet_nb.config import Settings
from wnet_nb.device import choose_device
from wnet_nb.errors import UserError
from wnet_nb.events import EpochEnd, Event, Finished, Started, StepEnd
from wnet_nb.figures.advice import read_losses
from wnet_nb.files import run_files
from wnet_nb.files.result import Result
from wnet_nb.jobs.check import Finding, check_cell_size
from wnet_nb.jobs.evaluate import Evaluation
from wnet_nb.jobs.evaluate import evaluate as score_files
from wnet_nb.jobs.example import write_example
from wnet_nb.jobs.models import load_model
from wnet_nb.jobs.run_folder import check_free, describe_stack, free_run, take_folder
from wnet_nb.jobs.segment import Progress, count_in_words, read_for_model
from wnet_nb.jobs.segment import segment as segment_stacks
from wnet_nb.jobs.stacks import Stacks, read_stacks
from wnet_nb.jobs.train import follow, train_events

Outcome = tuple[int, Any]
LARGE_NETWORK = 32  # base channels that want a GPU


def check(options: Namespace, speaker: Speaker) -> Outcome:
    """Say what is wrong with each volume; status 1 if none can be used."""
    settings = _settings(options)
    stacks = read_stacks(options.path, settings, slices=options.slices)
    usable = []
    for stack, findings in zip(stacks, stacks.findings, strict=True):
        seen = (*findings, check_cell_size(stack, settings))
        _show(stack.words, seen, speaker)
        usable.append(describe_stack(stack) | {"findings": [vars(finding) for finding in seen]})
    _show_skipped(stacks, speaker)
    speaker.say(f"{len(usable)} usable, {len(stacks.skipped)} left aside")
    return (0 if usable else 1), {"usable": usable, "skipped": _as_json(stacks.skipped)}


def train(options: Namespace, speaker: Speaker) -> Outcome:
    """Train a run from beginning to end, or go on with one."""
    run = Path(options.run)
    if not options.resume:
        check_free(run)  # before the work of reading
    settings = _settings(options, run=run if options.resume else None)
    if options.cellseg3d and Path(options.cellseg3d).exists():
        raise UserError(f"'{options.cellseg3d}' exists and is not overwritten; choose another name")
    if settings.base_channels >= LARGE_NETWORK and choose_device() == "cpu":
        speaker.remark(
            "without a GPU the published network takes many hours; --preset quick takes minutes"
        )
    stacks = read_stacks(options.path, settings, labels=options.labels, slices=options.slices)
    _show_stacks(stacks.require(), speaker)
    status, result = _train(stacks, run, settings, options, speaker)
    if options.cellseg3d and (run / checkpoint.WEIGHTS).exists():
        model = checkpoint.load_checkpoint(run).model
        checkpoint.save_cellseg3d_weights(options.cellseg3d, model)
        speaker.wrote([Path(options.cellseg3d)])
    names = [stack.source.name for stack in stacks]
    return status, result | {"inputs": names, "skipped": _as_json(stacks.skipped)}


def _train(
    stacks: Stacks, run: Path, settings: Settings, options: Namespace, speaker: Speaker
) -> Outcome:
    resume = getattr(options, "resume", False)
    events = train_events(stacks, run, settings, resume=resume, preset=options.preset)
    with stop_between_events() as stopped, _view_training(speaker, stopped) as observe:
        try:
            last = follow(events, observe)
        except KeyboardInterrupt:  # the second one
            speaker.remark("broken off within a step")
            last = None
    history = run_files.read_history(run) if (run / run_files.HISTORY).exists() else []
    if not isinstance(last, Finished):
        speaker.remark(
            f"stopped after {len(history)} of {settings.epochs} epochs; the model and a report are "
            f"kept in '{run}': go on with the same command and --resume"
        )
        return 130, {"run": str(run), "finished": False, "epochs": len(history)}
    sentences = read_losses(history, settings)
    for sentence in sentences:
        speaker.say(sentence)
    names = (run_files.REPORT, run_files.SETTINGS, run_files.HISTORY, run_files.PROGRESS)
    names += (run_files.PREVIEWS, run_files.VALIDATION, checkpoint.STATES, checkpoint.WEIGHTS)
    written = [run / name for name in names if (run / name).exists()]
    speaker.wrote(written)
    losses = {name: history[-1][name] for name in ("soft_ncut", "reconstruction", "total")}
    result = {"run": str(run), "finished": True, "epochs": last.epochs, "steps": last.steps}
    result |= {"seconds": round(last.seconds, 1), **losses, "advice": sentences}
    return 0, result | {"written": [str(path) for path in written]}


@contextlib.contextmanager
def _view_training(speaker: Speaker, stopped: threading.Event) -> Iterator[Any]:
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


def segment(options: Namespace, speaker: Speaker) -> Outcome:
    """Segment volumes with a model; those that fail are named and the others done."""
    changes = config.parse_assignments(options.set)
    with contextlib.closing(speaker.bar("fetching the published weights", "MB")) as bar:
        model = load_model(
            options.model,
            progress=lambda done, total: bar.show(round(done / 1e6), round(total / 1e6)),
        )
    stacks = read_for_model(
        options.path, model, changes, labels=options.labels, slices=options.slices
    )
    _show_stacks(stacks.require(), speaker)
    began = time.time()
    results, failed = _segment(model, stacks, changes, options.out, speaker)
    folder = results[0].folder.parent
    renewed = [folder / run_files.ALL_CELLS, folder / run_files.ALL_VOLUMES]
    renewed.append(folder.parent / run_files.REPORT)
    speaker.wrote(path for path in renewed if path.exists() and path.stat().st_mtime >= began)
    skipped = _as_json([*stacks.skipped, *failed])
    return 0, {"results": [_result_json(one) for one in results], "skipped": skipped}


def _segment(model, stacks: Stacks, changes, out, speaker: Speaker) -> tuple[list[Result], list]:
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
        return segment_stacks(model, stacks, out=out, observe=observe, **changes), failed
    finally:
        for bar in bars.values():
            bar.close()


def _show_result(result: Result, speaker: Speaker) -> None:
    facts, name = result.facts, result.folder.name
    speaker.say(
        f"{result.name}: {count_in_words(facts)}; typical radius {facts['cell_radius_um']:.3g} µm, "
        f"{facts['seconds']:g} s"
    )
    classes = facts["classes"]
    noun = "class" if len(classes) == 1 else "classes"
    speaker.say(f"  cells are {noun} {' and '.join(map(str, classes))}: {facts['reason']}")
    for remark in facts["remarks"]:
        speaker.say(f"  {remark}")
    if scores := result.scores:
        both = scores["scores"], scores["baseline"]
        f1 = [one.get("mean_f1", one.get("f1")) for one in both if one]
        plain = f", {f1[1]:.3f} without the network" if facts["network_added"] else ""
        speaker.say(f"  against '{scores['truth']}': F1 {f1[0]:.3f}{plain}")
    if name != result.name:
        speaker.say(f"  '{result.name}' was there before and is kept; this is '{name}'")
    speaker.wrote(result.files)


def evaluate(options: Namespace, speaker: Speaker) -> Outcome:
    """Print scores against the truth, volume by volume."""
    changes = config.parse_assignments(options.set)
    other = set(changes) - {"voxel_size_um"}
    if other:
        raise UserError(f"evaluate takes no option {min(other)}, only voxel_size_um")
    scored = score_files(
        options.prediction,
        options.truth,
        radius_um=options.radius_um,
        voxel_size_um=changes.get("voxel_size_um"),
    )
    for one in scored:
        _show_scores(one, speaker)
    if len(scored) > 1:
        mean = sum(map(_f1, scored)) / len(scored)
        speaker.say(f"mean over {len(scored)} volumes: F1 {mean:.3f}")
    return 0, {"volumes": [one.as_dict() for one in scored]}


def _show_scores(one: Evaluation, speaker: Speaker) -> None:
    speaker.say(f"{one.name}: '{one.prediction}' against '{one.truth}'")
    if one.dice is not None:
        speaker.say(f"Dice {one.dice:.3f}")
    speaker.say(format_table(one.scores))
    if isinstance(one.scores, InstanceScores):
        speaker.say(f"mean F1 {one.scores.mean_f1:.3f}")
    if one.baseline is not None:
        value = getattr(one.baseline, "mean_f1", one.baseline.f1)
        speaker.say(f"without the network: {one.baseline.n_predicted} cells, F1 {value:.3f}")


def _f1(one: Evaluation) -> float:
    return one.scores.mean_f1 if isinstance(one.scores, InstanceScores) else one.scores.f1


def demo(options: Namespace, speaker: Speaker) -> Outcome:
    """Make the example, train on it, segment it, and compare with its truth."""
    began = time.perf_counter()
    settings = config.preset("quick", seed=options.seed)
    settings = settings.replace(**config.parse_assignments(options.set))
    out = take_folder(options.out or free_run(Path(), "wnet_demo"))
    speaker.say(f"1. example volume: nuclei of cleared tissue, made by the program, in '{out}'")
    stacks = read_stacks(write_example(out, options.seed), settings)
    speaker.say("2. data check")
    _show_stacks(stacks, speaker)
    speaker.say("3. training, without any labels")
    run, options.preset = out / "run", "quick"
    status, trained = _train(stacks, run, settings, options, speaker)
    if status:
        return status, trained
    speaker.say("4. cells, and their scores against the truth, which the network has never seen")
    (result,), _ = _segment(load_model(run), stacks, {}, None, speaker)
    seconds = time.perf_counter() - began
    speaker.say(f"everything is in '{out}', made in {seconds:.0f} s; look at these first:")
    pictures = [run / run_files.REPORT, run / run_files.PROGRESS]
    speaker.wrote([*pictures, result.overlay, result.scores_picture])
    found = {"out": str(out), "seconds": round(seconds, 1), "training": trained}
    return 0, found | {"cells": _result_json(result), "scores": result.scores}


def starter(options: Namespace, speaker: Speaker) -> Outcome:
    """Make starter weights from simulated cells."""
    from wnet_nb.cells.simulate import Ranges
    from wnet_nb.jobs.starter import make_starter

    ranges, known = {}, {field.name: field for field in fields(Ranges)}
    for assignment in options.set:
        name, _, text = assignment.partition("=")
        if name not in known:
            raise UserError(f"there is no range '{name}'; there are: {', '.join(known)}")
        try:
            numbers = tuple(float(number) for number in text.split(","))
        except ValueError:
            raise UserError(f"'{assignment}' is not of the form range=low,high") from None
        ranges[name] = numbers if isinstance(known[name].default, tuple) else numbers[0]
    out, more = Path(options.out), {"steps": options.steps} if options.steps else {}
    bars: dict[str, Any] = {}
    progress = None
    for progress in make_starter(out, seed=options.seed, ranges=Ranges(**ranges), **more):
        bar = bars.setdefault(progress.phase, speaker.bar(progress.phase, "done"))
        bar.show(progress.done, progress.total, f"loss {progress.loss:.3f}")
    speaker.wrote([out])
    return 0, {"written": [str(out)], "steps": progress.total if progress else 0}


def _settings(options: Namespace, run: Path | None = None) -> Settings:
    """Return the settings that the command line asks for; those of `run` if it asks for none."""
    changes = config.parse_assignments(options.set)
    if options.settings:
        base = config.load_settings(options.settings)
    elif run is not None and run_files.is_run(run) and not options.preset:
        record = run_files.read_record(run)
        base, options.preset = config.from_mapping(record["options"]), record.get("preset")
    elif run is not None and not options.preset and not run.exists():
        raise UserError(_ask_for_run(run))
    else:
        base = config.preset(options.preset or "published")
    return base.replace(**changes)


def _ask_for_run(run: Path) -> str:
    folder = run.parent
    there = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    runs = [name for name in there if run_files.is_run(folder / name)]
    listed = f"the runs in '{folder}' are: {', '.join(runs)}" if runs else "no run lies beside it"
    return (
        f"there is no run '{run}' to go on with; {listed} (to start a new one under this name, "
        "give --preset or --settings)"
    )


def _show_stacks(stacks: Stacks, speaker: Speaker) -> None:
    for stack, findings in zip(stacks, stacks.findings, strict=True):
        _show(stack.words, findings, speaker)
    _show_skipped(stacks, speaker)


def _show(words: str, findings: tuple[Finding, ...], speaker: Speaker) -> None:
    speaker.say(words)
    for finding in findings:
        speaker.say(f"  {finding.level}: {finding.text}")


def _show_skipped(stacks: Stacks, speaker: Speaker) -> None:
    for path, reason in stacks.skipped:
        speaker.say(f"skipped {path.name}: {reason}")


def _as_json(skipped) -> list[dict[str, str]]:
    return [{"path": str(path), "reason": reason} for path, reason in skipped]


def _result_json(result: Result) -> dict[str, Any]:
    written = [str(path) for path in result.files]
    return result.facts | {"folder": str(result.folder), "written": written}
