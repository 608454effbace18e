"""The verbs of the command line: each does its job, says what it wrote, and returns its result."""

from __future__ import annotations

import time
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

from wnet_nb import checkpoint, config
from wnet_nb.cli.terminal import Speaker, follow, show_inputs, show_scores, show_written
from wnet_nb.config import Settings
from wnet_nb.device import choose_device
from wnet_nb.errors import UserError
from wnet_nb.events import Finished
from wnet_nb.figures import report
from wnet_nb.figures.advice import read_losses
from wnet_nb.files import run_files
from wnet_nb.files.result import Result
from wnet_nb.jobs import check as advice
from wnet_nb.jobs import inputs
from wnet_nb.jobs import run_folder as runs
from wnet_nb.jobs import segment as prediction
from wnet_nb.jobs import train as pipeline

Outcome = tuple[int, Any]
LARGE_NETWORK = 32  # base channels that want a GPU


def check(options: Namespace, speaker: Speaker) -> Outcome:
    """Say what is wrong with each volume; status 1 if none can be used."""
    settings = _settings(options)
    found = inputs.read_inputs(options.path, settings, slices=options.slices)
    seen = [
        (*findings, advice.check_cell_size(volume, settings))
        for volume, findings in zip(found.volumes, found.findings, strict=True)
    ]
    found = replace(found, findings=tuple(seen))
    show_inputs(found, speaker)
    usable, left = len(found.volumes), len(found.skipped)
    speaker.say(f"{usable} usable, {left} left aside")
    result = {
        "usable": [
            {
                **runs.describe_volume(volume),
                "findings": [vars(finding) for finding in findings],
            }
            for volume, findings in zip(found.volumes, found.findings, strict=True)
        ],
        "skipped": _as_json(found.skipped),
    }
    return (0 if usable else 1), result


def train(options: Namespace, speaker: Speaker) -> Outcome:
    """Train a run from beginning to end, or go on with one."""
    if not options.resume:
        runs.check_free(options.run)  # before the work of reading
    elif not (Path(options.run) / run_files.SETTINGS).exists():
        speaker.remark(f"there is nothing to go on with in '{options.run}': a new training begins")
    settings = _settings(options, run=Path(options.run) if options.resume else None)
    if settings.base_channels >= LARGE_NETWORK and choose_device() == "cpu":
        speaker.remark(
            "without a GPU the published network takes many hours; --preset quick takes minutes"
        )
    found = inputs.read_inputs(options.path, settings, slices=options.slices)
    inputs.require_volumes(found, options.path)
    show_inputs(found, speaker)
    truth = []
    if options.labels:
        truth = pipeline.read_validation(options.labels, found.volumes)
    events = pipeline.train_events(
        found,
        options.run,
        settings,
        resume=options.resume,
        preset=options.preset,
        validation=truth,
    )
    status, result = _finish_training(events, Path(options.run), settings, speaker)
    names = [volume.source.name for volume in found.volumes]
    return status, result | {"inputs": names, "skipped": _as_json(found.skipped)}


def _finish_training(events, run: Path, settings: Settings, speaker: Speaker) -> Outcome:
    seen = follow(events, speaker)
    history = run_files.read_history(run) if (run / run_files.HISTORY).exists() else []
    if not isinstance(seen, Finished):
        speaker.remark(
            f"stopped after {len(history)} of {settings.epochs} epochs; the model and a report are "
            f"kept in '{run}': go on with the same command and --resume"
        )
        return 130, {"run": str(run), "finished": False, "epochs": len(history)}
    sentences = read_losses(history, settings)
    for sentence in sentences:
        speaker.say(sentence)
    written = _written(run)
    show_written(written, speaker)
    last = history[-1]
    result = {
        "run": str(run),
        "finished": True,
        "epochs": seen.epochs,
        "steps": seen.steps,
        "seconds": round(seen.seconds, 1),
        "soft_ncut": last["soft_ncut"],
        "reconstruction": last["reconstruction"],
        "total": last["total"],
        "advice": sentences,
        "written": [str(path) for path in written],
    }
    return 0, result


def segment(options: Namespace, speaker: Speaker) -> Outcome:
    """Segment volumes with a model; those that fail are named and the others done."""
    changes = config.parse_assignments(options.set)
    if options.model == prediction.PUBLISHED:
        model = _fetch(speaker)
    else:
        model = prediction.load_model(options.model)
    settings = prediction.segment_settings(model, changes)
    found = prediction.read_for_model(options.path, model, changes, slices=options.slices)
    inputs.require_volumes(found, options.path)
    show_inputs(found, speaker)
    out = Path(options.out) if options.out else prediction.default_out(options.model)
    done, failed = [], []
    try:
        for volume in found.volumes:
            try:
                done.append(_segment_one(volume, model, settings, out, speaker))
            except ValueError as error:
                failed.append((volume.source, str(error)))
                speaker.remark(f"'{volume.name}' was not segmented: {error}")
    finally:  # also after Ctrl-C
        page = report.renew(out.parent)
    if not done:
        raise UserError(f"nothing was segmented: {failed[0][1]}")
    if page:
        show_written([page], speaker)
    skipped = _as_json([*found.skipped, *failed])
    return 0, {"results": [_result_json(one) for one in done], "skipped": skipped}


def _fetch(speaker: Speaker) -> checkpoint.Checkpoint:
    bar = speaker.bar("fetching the published weights", 0, "MB")

    def progress(received: int, promised: int) -> None:
        bar.total = round(promised / 1e6) or None
        bar.update(round(received / 1e6) - bar.n)

    try:
        return prediction.load_model(prediction.PUBLISHED, progress=progress)
    finally:
        bar.close()


def _segment_one(volume, model, settings, out: Path, speaker: Speaker) -> Result:
    bar = speaker.bar(f"segmenting {volume.name}", 0, "tiles")

    def progress(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    try:
        found = prediction.segment_volume(volume, model, settings, out, progress=progress)
    finally:
        bar.close()
    result = found.facts
    speaker.say(
        f"{found.name}: {prediction.count_in_words(result)}; "
        f"typical radius {result['cell_radius_um']:.3g} µm, {result['seconds']:g} s"
    )
    speaker.say(f"  cells are {_classes(result['classes'])}: {result['reason']}")
    if found.folder.name != found.name:
        speaker.say(f"  '{found.name}' was there before and is kept; this is '{found.folder.name}'")
    show_written(found.files, speaker)
    return found


def evaluate(options: Namespace, speaker: Speaker) -> Outcome:
    """Print scores against the truth, volume by volume."""
    changes = config.parse_assignments(options.set)
    other = set(changes) - {"voxel_size_um"}
    if other:
        raise UserError(f"evaluate takes no option {min(other)}, only voxel_size_um")
    scored = pipeline.evaluate(
        options.prediction,
        options.truth,
        radius_um=options.radius_um,
        voxel_size_um=changes.get("voxel_size_um"),
    )
    for one in scored:
        show_scores(one, speaker)
    if len(scored) > 1:
        means = [getattr(one.scores, "mean_f1", None) or one.scores.f1 for one in scored]
        speaker.say(f"mean over {len(scored)} volumes: F1 {sum(means) / len(means):.3f}")
    return 0, {"volumes": [one.as_dict() for one in scored]}


def demo(options: Namespace, speaker: Speaker) -> Outcome:
    """Make the example, train on it, segment it, and compare with its truth."""
    began = time.perf_counter()
    settings = config.preset("quick", seed=options.seed)
    settings = settings.replace(**config.parse_assignments(options.set))
    out = pipeline.demo_folder(options.out)
    speaker.say(f"1. example volume: nuclei of cleared tissue, made by the program, in '{out}'")
    image, truth = pipeline.make_demo_files(out, options.seed)
    found = inputs.read_inputs(image, settings)
    speaker.say("2. data check")
    show_inputs(found, speaker)
    speaker.say("3. training, without any labels")
    run = out / "run"
    events = pipeline.train_events(found, run, settings, preset="quick")
    status, trained = _finish_training(events, run, settings, speaker)
    if status:
        return status, trained
    speaker.say("4. cells")
    model = prediction.load_model(run)
    cells = _segment_one(found.volumes[0], model, settings, run / run_files.PREDICTIONS, speaker)
    speaker.say("5. against the truth, which the network has never seen")
    scored = pipeline.score(cells, truth)
    show_scores(scored, speaker)
    seconds = time.perf_counter() - began
    speaker.say(f"everything is in '{out}', made in {seconds:.0f} s; look at these first:")
    pictures = [cells.overlay, cells.scores_picture]
    show_written([run / run_files.REPORT, run / run_files.PROGRESS, *pictures], speaker)
    result = {"out": str(out), "seconds": round(seconds, 1), "training": trained}
    return 0, result | {"cells": _result_json(cells), "scores": scored.as_dict()}


def _settings(options: Namespace, run: Path | None = None) -> Settings:
    """Return the settings that the command line asks for; those of `run` if it asks for none."""
    changes = config.parse_assignments(options.set)
    if options.settings:
        base = config.load_settings(options.settings)
    elif run is not None and not options.preset and (run / run_files.SETTINGS).exists():
        base = config.from_mapping(run_files.read_record(run)["options"])
        options.preset = run_files.read_record(run).get("preset")
    else:
        base = config.preset(options.preset or "published")
    return base.replace(**changes)


def _written(run: Path) -> list[Path]:
    names = (
        run_files.REPORT,
        run_files.SETTINGS,
        run_files.HISTORY,
        run_files.PROGRESS,
        run_files.PREVIEWS,
    )
    names += (run_files.VALIDATION, checkpoint.STATES, checkpoint.WEIGHTS)
    return [run / name for name in names if (run / name).exists()]


def _classes(classes: list[int]) -> str:
    return ("class " if len(classes) == 1 else "classes ") + " and ".join(map(str, classes))


def _as_json(skipped) -> list[dict[str, str]]:
    return [{"path": str(path), "reason": reason} for path, reason in skipped]


def _result_json(one: Result) -> dict[str, Any]:
    files = [str(path) for path in one.files]
    return one.facts | {"folder": str(one.folder), "written": files}
