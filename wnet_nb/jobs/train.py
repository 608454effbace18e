"""Whole jobs in one call: train a run, segment volumes, score a result, show it all on the example.

The command line and the notebooks both call these; nothing here prints or draws on a screen.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from pathlib import Path

import numpy as np

from wnet_nb import training
from wnet_nb.cells.scores import InstanceScores
from wnet_nb.config import Settings
from wnet_nb.errors import UserError
from wnet_nb.events import Event, Finished
from wnet_nb.figures import plots, report
from wnet_nb.files.published import PUBLISHED, fetch_published
from wnet_nb.files.result import Result
from wnet_nb.files.volumes import Volume, find_volumes
from wnet_nb.files.writing import write_volume
from wnet_nb.jobs import run_folder as runs
from wnet_nb.jobs.evaluate import Evaluation, evaluate, match_name, read_labels
from wnet_nb.jobs.example import make_example
from wnet_nb.jobs.inputs import Inputs, read_inputs, require_volumes
from wnet_nb.jobs.prepare import prepare_volume
from wnet_nb.jobs.segment import segment

__all__ = [
    "Evaluation",
    "evaluate",
    "keep_scores",
    "read_inputs",
    "read_validation",
    "score",
    "segment",
    "train_events",
    "train_run",
]

TrainingInput = str | Path | Inputs | Sequence[Volume]


def train_events(
    inputs: TrainingInput,
    run: str | Path,
    settings: Settings,
    *,
    resume: bool = False,
    preset: str | None = None,
    validation: Sequence[tuple[Volume, np.ndarray]] = (),
    controls: training.Controls | None = None,
) -> Generator[Event, None, None]:
    """Check the run folder and return the events of a training that records itself there.

    Parameters
    ----------
    inputs : path, Inputs or sequence of Volume
        What to train on: a TIFF or a folder of them, or what was read from it.
    run : str or Path
        A new or empty folder; with `resume`, one to go on with.
    settings : Settings
        What to train and how.
    resume : bool
        Go on from the newest state in `run`, or start if there is none.
    preset : str, optional
        Name of the preset, for the record.
    validation : sequence of (Volume, labels)
        Labelled volumes to follow the training with.
    controls : Controls, optional
        See `training.fit`.

    Returns
    -------
    generator of Event
        Closing it keeps the model of the last step.
    """
    volumes = _volumes_of(inputs, settings)
    run = runs.open_run(run, settings, volumes) if resume else runs.new_run(run)
    if settings.start_from == PUBLISHED:
        settings = settings.replace(start_from=str(fetch_published()))
    prepared = [prepare_volume(volume, settings)[0] for volume in volumes]
    pairs = [(prepare_volume(volume, settings)[0], labels) for volume, labels in validation]
    record = runs.RunRecorder(run, settings, volumes, prepared, preset=preset)
    events = training.fit(prepared, settings, run=run, validation=pairs, controls=controls)
    return _recorded(events, record)


def _volumes_of(inputs: TrainingInput, settings: Settings) -> tuple[Volume, ...]:
    if isinstance(inputs, str | Path):
        found = read_inputs(inputs, settings)
        require_volumes(found, inputs)
        return found.volumes
    return inputs.volumes if isinstance(inputs, Inputs) else tuple(inputs)


def _recorded(events, record) -> Generator[Event, None, None]:
    try:
        for event in events:
            record(event)
            yield event
    finally:
        events.close()  # the state of the last step is written here
        report.renew(record.run)


def train_run(
    inputs: TrainingInput,
    run: str | Path,
    settings: Settings,
    *,
    resume: bool = False,
    observe: Callable[[Event], None] | None = None,
    validation: Sequence[tuple[Volume, np.ndarray]] = (),
) -> Finished:
    """Train to the end; see `train_events`. `observe` is called with every event."""
    events = train_events(inputs, run, settings, resume=resume, validation=validation)
    for event in events:
        if observe:
            observe(event)
        if isinstance(event, Finished):
            return event
    raise UserError("the training ended without a model")


def read_validation(path: str | Path, volumes: Sequence[Volume]) -> list[tuple[Volume, np.ndarray]]:
    """Return (volume, labels) of those volumes that have labels of their name at `path`.

    Raises
    ------
    UserError
        If no labels belong to a volume, or their shape differs.
    """
    truths = {match_name(file): file for file in find_volumes(path)}
    if Path(path).is_file() and len(volumes) == 1:
        truths = {match_name(volumes[0].source): Path(path)}
    pairs = []
    for volume in volumes:
        file = truths.get(match_name(volume.source))
        if file is None:
            continue
        labels = read_labels(file).array
        if labels.shape != volume.shape:
            raise UserError(
                f"labels '{file.name}' are {labels.shape} and '{volume.name}' is {volume.shape}; "
                "give labels of the same volume"
            )
        pairs.append((volume, labels))
    if not pairs:
        raise UserError(
            f"no labels in '{path}' have the name of a volume; name them alike, such as "
            f"{volumes[0].name}_labels.tif"
        )
    return pairs


def demo_folder(out: str | Path | None) -> Path:
    """Make the folder of a demonstration: a new or empty one, `wnet_demo` (-2, -3) if not given."""
    if out is not None:
        return runs.new_run(out)
    folder, number = Path("wnet_demo"), 1
    while folder.exists():
        number += 1
        folder = Path(f"wnet_demo-{number}")
    return runs.new_run(folder)


def make_demo_files(out: Path, seed: int) -> tuple[Path, Path]:
    """Write the example volume and its true labels; return both paths."""
    image, labels = make_example(seed)
    size = (1.0, 1.0, 1.0)
    return (
        write_volume(out / "example.tif", image, voxel_size_um=size),
        write_volume(out / "truth" / "example_labels.tif", labels, voxel_size_um=size),
    )


def score(found: Result, truth: str | Path) -> Evaluation:
    """Score the cells of one volume (see `keep_scores`) and renew the report of its run."""
    scored = keep_scores(found, truth)
    report.renew(found.folder.parent.parent)
    return scored


def keep_scores(found: Result, truth: str | Path) -> Evaluation:
    """Score the cells of one volume and keep that beside them, for the report of the run.

    Parameters
    ----------
    found : Result
        ``scores.json`` and, for true labels, ``scores.png`` (F1 against overlap,
        network and classical) are written there, in place of earlier ones.
    truth : str or Path
        True labels or points; see `evaluate`.
    """
    (scored,) = evaluate(found.folder, truth)
    png = None
    if isinstance(scored.scores, InstanceScores):
        figure = plots.plot_scores(scored.scores, scored.baseline, title=scored.name)
        png = plots.figure_png(figure)
    found.write_scores(scored.as_dict(), png)
    return scored
