"""The verbs of the command line: each does its job, says what it wrote, and returns its result."""

from __future__ import annotations

import contextlib
import math
import time
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import Field, fields, replace
from pathlib import Path
from typing import Any

from wnet_nb import checkpoint, config
from wnet_nb.cli.terminal import Speaker, stop_between_events
from wnet_nb.cli.view import mean_f1, segment_and_show, show_scores, show_stacks, view_training
from wnet_nb.config import Settings
from wnet_nb.device import choose_device
from wnet_nb.errors import UserError
from wnet_nb.events import Finished
from wnet_nb.figures.advice import read_losses
from wnet_nb.files import run_files
from wnet_nb.files.result import Result
from wnet_nb.jobs.check import check_cell_size
from wnet_nb.jobs.evaluate import evaluate as score_files
from wnet_nb.jobs.example import write_example
from wnet_nb.jobs.models import load_model
from wnet_nb.jobs.run_folder import check_free, describe_stack, free_run, take_folder
from wnet_nb.jobs.segment import read_for_model
from wnet_nb.jobs.stacks import Stacks, read_stacks
from wnet_nb.jobs.train import follow, train_events

Outcome = tuple[int, Any]
LARGE_NETWORK = 32  # base channels that want a GPU


def check(options: Namespace, speaker: Speaker) -> Outcome:
    """Say what is wrong with each volume; status 1 if none can be used."""
    settings = _settings(options)
    stacks = read_stacks(options.path, settings, slices=options.slices)
    seen = tuple(
        (*findings, check_cell_size(stack.cell_size, settings))
        for stack, findings in zip(stacks, stacks.findings, strict=True)
    )
    stacks = replace(stacks, findings=seen)
    show_stacks(stacks, speaker)
    speaker.say(f"{len(stacks)} usable, {len(stacks.skipped)} left aside")
    usable = [
        describe_stack(stack) | {"findings": [vars(finding) for finding in findings]}
        for stack, findings in zip(stacks, seen, strict=True)
    ]
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
    show_stacks(stacks.require(), speaker)
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
    with stop_between_events() as stopped, view_training(speaker, stopped) as observe:
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
    show_stacks(stacks.require(), speaker)
    began = time.time()
    results, failed = segment_and_show(model, stacks, changes, options.out, speaker)
    folder = results[0].folder.parent
    renewed = [folder / run_files.ALL_CELLS, folder / run_files.ALL_VOLUMES]
    renewed.append(folder.parent / run_files.REPORT)
    speaker.wrote(path for path in renewed if path.exists() and path.stat().st_mtime >= began)
    skipped = _as_json([*stacks.skipped, *failed])
    return 0, {"results": [_result_json(one) for one in results], "skipped": skipped}


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
        show_scores(one, speaker)
    if len(scored) > 1:
        mean = sum(map(mean_f1, scored)) / len(scored)
        speaker.say(f"mean over {len(scored)} volumes: F1 {mean:.3f}")
    return 0, {"volumes": [one.as_dict() for one in scored]}


def demo(options: Namespace, speaker: Speaker) -> Outcome:
    """Make the example, train on it, segment it, and compare with its truth."""
    began = time.perf_counter()
    settings = config.preset("quick", seed=options.seed)
    settings = settings.replace(**config.parse_assignments(options.set))
    out = take_folder(options.out or free_run(Path(), "wnet_demo"))
    speaker.say(f"1. example volume: nuclei of cleared tissue, made by the program, in '{out}'")
    stacks = read_stacks(write_example(out, options.seed), settings)
    speaker.say("2. data check")
    show_stacks(stacks, speaker)
    speaker.say("3. training, without any labels")
    run, options.preset = out / "run", "quick"
    status, trained = _train(stacks, run, settings, options, speaker)
    if status:
        return status, trained
    speaker.say("4. cells, and their scores against the truth, which the network has never seen")
    (result,), _ = segment_and_show(load_model(run), stacks, {}, None, speaker)
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

    ranges = Ranges(**_parse_ranges(options.set, fields(Ranges)))
    out, more = Path(options.out), {"steps": options.steps} if options.steps else {}
    bars: dict[str, Any] = {}
    for progress in make_starter(out, seed=options.seed, ranges=ranges, **more):
        if progress.phase not in bars:
            bars[progress.phase] = speaker.bar(progress.phase, "done")
        loss = f"loss {progress.loss:.3f}" if math.isfinite(progress.loss) else ""
        bars[progress.phase].show(progress.done, progress.total, loss)
    for bar in bars.values():
        bar.close()
    speaker.wrote([out])
    return 0, {"written": [str(out)]}


def _parse_ranges(assignments: list[str], known: Sequence[Field]) -> dict[str, Any]:
    """Turn words such as ``radius=3,5`` into ranges to simulate from."""
    defaults, ranges = {one.name: one.default for one in known}, {}
    for assignment in assignments:
        name, _, text = assignment.partition("=")
        if name not in defaults:
            raise UserError(f"there is no range '{name}'; there are: {', '.join(defaults)}")
        pair = isinstance(defaults[name], tuple)
        try:
            numbers = tuple(float(number) for number in text.split(","))
        except ValueError:
            numbers = ()
        if len(numbers) != (2 if pair else 1):
            form = "range=low,high" if pair else "range=number"
            raise UserError(f"'{assignment}' is not of the form {form}")
        ranges[name] = numbers if pair else numbers[0]
    return ranges


def _settings(options: Namespace, run: Path | None = None) -> Settings:
    """Return the settings that the command line asks for; those of `run` if it asks for none."""
    changes = config.parse_assignments(options.set)
    if options.settings:
        base = config.load_settings(options.settings)
    elif run is not None and run_files.is_run(run) and not options.preset:
        record = run_files.read_record(run)
        base, options.preset = Settings(**record["options"]), record.get("preset")
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


def _as_json(skipped) -> list[dict[str, str]]:
    return [{"path": str(path), "reason": reason} for path, reason in skipped]


def _result_json(result: Result) -> dict[str, Any]:
    written = [str(path) for path in result.files]
    return result.facts | {"folder": str(result.folder), "written": written}
