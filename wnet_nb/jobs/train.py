"""One training from volumes to a run folder, for command line and notebooks alike.

It records itself in the run folder; nothing here prints or draws on a screen.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from pathlib import Path

from wnet_nb import training
from wnet_nb.checkpoint import STATES
from wnet_nb.config import Settings
from wnet_nb.errors import UserError
from wnet_nb.events import Controls, Event, Finished, Started
from wnet_nb.figures import report
from wnet_nb.jobs.models import find_weights, is_word
from wnet_nb.jobs.run_folder import RunRecorder, check_same, lock_run, take_folder
from wnet_nb.jobs.stacks import Stack, Stacks, read_stacks

Data = str | Path | Stacks


def train(
    data: Data,
    run: str | Path,
    settings: Settings,
    *,
    resume: bool = False,
    observe: Callable[[Event], bool | None] | None = None,
) -> Finished:
    """Train a network on volumes, without labels, to the end.

    Parameters
    ----------
    data : path or Stacks
        A TIFF or a folder of TIFFs, or what `read_stacks` made of it.
    run : str or Path
        A new or empty folder; with `resume`, one to go on with.
    settings : Settings
        What to train and how, such as ``wnet_nb.preset("quick")``.
    resume : bool
        Go on from the newest state in `run`, or start if there is none.
    observe : callable, optional
        Called with every event; see `follow`.

    Raises
    ------
    UserError
        If there is nothing to train on, the folder is taken, or the training was stopped before
        its end.
    """
    last = follow(train_events(data, run, settings, resume=resume), observe)
    if not isinstance(last, Finished):
        raise UserError(f"the training was stopped before its end; '{run}' keeps what was learned")
    return last


def follow(
    events: Generator[Event, None, None], observe: Callable[[Event], bool | None] | None = None
) -> Event | None:
    """Hand the events of a training to `observe` until it ends, or until that returns True.

    Returns
    -------
    Event or None
        The last one: `Finished`, unless it was stopped. The state of the last step is on disk.
    """
    event = None
    with contextlib.closing(events):
        for event in events:
            if observe is not None and observe(event):
                break
    return event


def train_events(
    data: Data,
    run: str | Path,
    settings: Settings,
    *,
    resume: bool = False,
    preset: str | None = None,
    controls: Controls | None = None,
) -> Generator[Event, None, None]:
    """Check the run folder and return the events of a training that records itself there.

    Volumes whose true labels are known are followed against them (`EpochEnd.validation_dice`).

    Parameters
    ----------
    data, run, settings, resume
        As in `train`.
    preset : str, optional
        Name of the preset, for the record; the nearest one if not given.
    controls : Controls, optional
        What to change or save while it goes on, see `training.fit`.

    Returns
    -------
    generator of Event
        Closing it keeps the model of the last step. The run is locked until then.

    Raises
    ------
    UserError
        If there is nothing to train on, or the folder is taken, in use, or of another training.
    """
    if not isinstance(data, Stacks):
        data = read_stacks(data, settings)
    stacks, run = data.require().stacks, Path(run)
    lock = lock_run(take_folder(run, resume=resume))
    try:
        if resume:
            check_same(run, settings, stacks)
        prepared = [stack.prepared(settings) for stack in stacks]
        record = RunRecorder(run, settings, stacks, preset=preset)
        pairs = [(s.prepared(settings), truth) for s in stacks if (truth := s.truth) is not None]
        events = training.fit(
            prepared,
            _with_weights(settings, run),
            run=run,
            validation=pairs,
            controls=controls,
        )
    except BaseException:
        lock.release()
        raise
    return _recorded(events, record, lock, stacks)


def _with_weights(settings: Settings, run: Path) -> Settings:
    """Return settings that name the file to start from, where they name it by a word."""
    begun = any((run / STATES).glob("step-*.pt"))  # then the weights lie in the state
    if begun or settings.start_from is None or not is_word(settings.start_from):
        return settings
    return settings.replace(start_from=str(find_weights(settings.start_from)))


def _recorded(
    events: Generator[Event, None, None], record: RunRecorder, lock, stacks: Sequence[Stack]
) -> Generator[Event, None, None]:
    said = tuple(filter(None, (s.remark_on_preparation(record.settings) for s in stacks)))
    try:
        for event in events:
            if isinstance(event, Started):
                event = replace(event, remarks=(*event.remarks, *said))
            record(event)
            yield event
    finally:
        try:
            events.close()  # the state of the last step is written here
            report.renew(record.run)
        finally:
            lock.release()
