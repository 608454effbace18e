"""The verbs of the command line: each does its job, says what it wrote, and returns its result."""

import contextlib
import math
import time
from argparse import Namespace
from functools import partial
from pathlib import Path
from typing import Any

from wnet_nb import checkpoint, config
from wnet_nb.cli.terminal import (
    Bar,
    remark,
    say,
    segment_and_show,
    segment_large_and_show,
    show_event,
    show_scores,
    show_stacks,
    stop_between_events,
    wrote,
)
from wnet_nb.config import Settings
from wnet_nb.device import choose_device
from wnet_nb.errors import UserError
from wnet_nb.events import Event, Finished
from wnet_nb.figures.curves import read_losses
from wnet_nb.files import run_files
from wnet_nb.files.result import Result
from wnet_nb.jobs.check import check_cell_size
from wnet_nb.jobs.evaluate import evaluate as score_files
from wnet_nb.jobs.example import write_example
from wnet_nb.jobs.models import load_model
from wnet_nb.jobs.run_folder import check_free, describe_stack, take_folder
from wnet_nb.jobs.segment import read_for_model
from wnet_nb.jobs.stacks import Stacks, read_stacks
from wnet_nb.jobs.train import train as train_run
from wnet_nb.whole_file import free_name

Outcome = tuple[int, Any]  # exit status, and what --json prints
LARGE_NETWORK = 32  # base channels that want a GPU
INTERRUPTED = 130


def check(options: Namespace) -> Outcome:
    """Say what is wrong with each volume; status 1 if none can be used."""
    settings = _settings(options)
    stacks = read_stacks(options.path, settings, slices=options.slices)
    for stack in stacks:
        stack.findings += (check_cell_size(stack.cell_size, settings),)
    show_stacks(stacks)
    if not stacks.stacks + stacks.skipped:
        remark(stacks.without_tiff)
    say(f"{len(stacks)} usable, {len(stacks.skipped)} left aside")
    usable = [
        describe_stack(stack) | {"findings": [vars(finding) for finding in stack.findings]}
        for stack in stacks
    ]
    return (0 if usable else 1), {"usable": usable, "skipped": _as_json(stacks.skipped)}


def train(options: Namespace) -> Outcome:
    """Train a run from beginning to end, or go on with one."""
    run = Path(options.run)
    if not options.resume:
        check_free(run)  # before the work of reading
    settings = _settings(options, run=run if options.resume else None)
    if options.cellseg3d and Path(options.cellseg3d).exists():
        raise UserError(f"'{options.cellseg3d}' exists and is not overwritten; choose another name")
    if settings.base_channels >= LARGE_NETWORK and choose_device() == "cpu":
        remark("without a GPU the published network takes many hours; --preset quick takes minutes")
    stacks = read_stacks(options.path, settings, labels=options.labels, slices=options.slices)
    show_stacks(stacks.require())
    status, result = _train(stacks, run, settings, resume=options.resume)
    if options.cellseg3d and (run / checkpoint.WEIGHTS).exists():
        model = checkpoint.load_checkpoint(run).model
        checkpoint.save_cellseg3d_weights(options.cellseg3d, model)
        wrote([Path(options.cellseg3d)])
    names = [stack.source.name for stack in stacks]
    return status, result | {"inputs": names, "skipped": _as_json(stacks.skipped)}


def _train(stacks: Stacks, run: Path, settings: Settings, *, resume: bool = False) -> Outcome:
    with stop_between_events() as stopped, contextlib.closing(Bar("steps")) as bar:

        def observe(event: Event) -> bool:
            show_event(event, bar)
            return stopped.is_set()

        try:
            last = train_run(stacks, run, settings, resume=resume, observe=observe)
        except KeyboardInterrupt:  # the second one
            remark("broken off within a step")
            last = None
    history = run_files.read_history(run) if (run / run_files.HISTORY).exists() else []
    finished = isinstance(last, Finished)
    result = {"run": str(run), "finished": finished, "epochs": len(history)}
    if not finished:
        remark(
            f"stopped after {len(history)} of {settings.epochs} epochs; the model and a report are "
            f"kept in '{run}': go on with the same command and --resume"
        )
        return INTERRUPTED, result
    advice = read_losses(history, settings)
    say("\n".join(advice))
    kept = (path for path in sorted(run.iterdir()) if path.name != run_files.PREDICTIONS)
    written = [path for path in kept if not path.name.startswith(".")]
    wrote(written)
    losses = {name: history[-1][name] for name in ("soft_ncut", "reconstruction", "total")}
    result |= {"steps": last.steps, "seconds": round(last.seconds, 1), **losses, "advice": advice}
    return 0, result | {"written": [str(path) for path in written]}


def segment(options: Namespace) -> Outcome:
    """Segment volumes with a model; those that fail are named and the others done."""
    changes = config.parse_assignments(options.set)
    with contextlib.closing(Bar("B")) as bar:
        fetching = partial(bar.show, "fetching the published weights")
        model = load_model(options.model, progress=fetching)
    large = {name: getattr(options, name) for name in ("scheduler", "workers", "chunk")}
    if (options.out or "").rstrip("/").endswith(".zarr"):
        facts = segment_large_and_show(model, options.path, options.out, large, changes)
        return 0, facts
    if any(large.values()):
        raise UserError("--scheduler, --workers and --chunk go with --out NAME.zarr")
    stacks = read_for_model(
        options.path, model, changes, labels=options.labels, slices=options.slices
    )
    show_stacks(stacks.require())
    began = time.time()
    results, failed = segment_and_show(model, stacks, changes, options.out)
    folder = results[0].folder.parent
    renewed = [folder / run_files.ALL_CELLS, folder / run_files.ALL_VOLUMES]
    renewed.append(folder.parent / run_files.REPORT)
    wrote([path for path in renewed if path.exists() and path.stat().st_mtime >= began])
    skipped = _as_json([*stacks.skipped, *failed])
    return 0, {"results": [_result_json(one) for one in results], "skipped": skipped}


def evaluate(options: Namespace) -> Outcome:
    """Print scores against the truth, volume by volume."""
    changes = config.parse_assignments(options.set)
    if other := set(changes) - {"voxel_size_um"}:
        raise UserError(f"evaluate takes no option {min(other)}, only voxel_size_um")
    scored = score_files(options.prediction, options.truth, radius_um=options.radius_um, **changes)
    f1 = [show_scores(one) for one in scored]
    if len(scored) > 1:
        say(f"mean over {len(scored)} volumes: F1 {sum(f1) / len(f1):.3f}")
    return 0, {"volumes": [one.as_dict() for one in scored]}


def demo(options: Namespace) -> Outcome:
    """Write the example, train on it, segment it, and compare with its truth."""
    began = time.perf_counter()
    settings = config.preset("quick", seed=options.seed)
    settings = settings.replace(**config.parse_assignments(options.set))
    out = take_folder(options.out or free_name(Path("wnet_demo")))
    run = out / "run"
    say(f"1. example volume: simulated nuclei of cleared tissue, in '{out}'")
    stacks = read_stacks(write_example(out), settings)
    say("2. data check")
    show_stacks(stacks)
    say("3. training, without any labels")
    status, trained = _train(stacks, run, settings)
    if status:
        return status, trained
    say("4. cells, and their scores against the truth, which the network has never seen")
    (result,), _ = segment_and_show(load_model(run), stacks, {}, None)
    seconds = time.perf_counter() - began
    say(f"everything is in '{out}', made in {seconds:.0f} s; look at these first:")
    wrote([run / run_files.REPORT, run / run_files.PROGRESS, result.overlay, result.scores_picture])
    found = {"out": str(out), "seconds": round(seconds, 1), "training": trained}
    return 0, found | {"cells": _result_json(result), "scores": result.scores}


def starter(options: Namespace) -> Outcome:
    """Make starter weights from simulated cells."""
    from wnet_nb.cells.simulate import Ranges
    from wnet_nb.jobs.starter import make_starter

    ranges = Ranges(**_parse_ranges(options.set, vars(Ranges())))
    out, more = Path(options.out), {"steps": options.steps} if options.steps else {}
    with contextlib.closing(Bar("done")) as bar:
        for progress in make_starter(out, ranges, seed=options.seed, **more):
            loss = f"loss {progress.loss:.3f}" if math.isfinite(progress.loss) else ""
            bar.show(progress.phase, progress.done, progress.total, loss)
    wrote([out])
    return 0, {"written": [str(out)]}


def _parse_ranges(assignments: list[str], defaults: dict[str, Any]) -> dict[str, Any]:
    """Turn words such as ``radius=3,5`` into ranges to simulate from."""
    ranges = {}
    for assignment in assignments:
        name, _, text = assignment.partition("=")
        if name not in defaults:
            raise UserError(f"there is no range '{name}'; there are: {', '.join(defaults)}")
        try:
            numbers = tuple(float(number) for number in text.split(","))
        except ValueError:
            numbers = ()
        pair = isinstance(defaults[name], tuple)
        if len(numbers) != (2 if pair else 1):
            form = "range=low,high" if pair else "range=number"
            raise UserError(f"'{assignment}' is not of the form {form}")
        ranges[name] = numbers if pair else numbers[0]
    return ranges


def _settings(options: Namespace, run: Path | None = None) -> Settings:
    """Return the settings that the command line asks for; those of `run` if it asks for none."""
    changes = config.parse_assignments(options.set)
    if options.settings and options.preset:
        raise UserError("--preset and --settings exclude each other; give one of them")
    if options.settings:
        base = config.load_settings(options.settings)
    elif run is not None and not options.preset and run_files.is_run(run):
        base = Settings(**run_files.read_record(run)["options"])
    elif run is not None and not options.preset and not run.exists():
        runs = sorted(path.name for path in run.parent.glob("*") if run_files.is_run(path))
        raise UserError(
            f"there is no run '{run}' to go on with; the runs in '{run.parent}' are: "
            f"{', '.join(runs) or 'none'} (to start a new one under this name, give --preset or "
            "--settings)"
        )
    else:
        base = config.preset(options.preset or "published")
    return base.replace(**changes)


def _as_json(skipped) -> list[dict[str, str]]:
    return [{"path": str(path), "reason": reason} for path, reason in skipped]


def _result_json(result: Result) -> dict[str, Any]:
    written = [str(path) for path in result.files]
    return result.facts | {"folder": str(result.folder), "written": written}
