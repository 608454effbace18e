"""One training from volumes to a run folder, and what it would take: two steps of it tell."""

import contextlib
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import torch

from wnet_nb import training
from wnet_nb.checkpoint import STATES
from wnet_nb.config import Settings
from wnet_nb.device import choose_device
from wnet_nb.events import Controls, Event, Started
from wnet_nb.figures import report
from wnet_nb.jobs.models import with_weights
from wnet_nb.jobs.run_folder import RunRecorder, check_same, lock_run, take_folder
from wnet_nb.jobs.stacks import Stacks, read_stacks

SLOW_STEP_SECONDS = 15.0  # a step that takes longer says enough
SAVING_SHARE = 0.05  # of the time, at most, goes into saving
Events = Generator[Event, None, None]


def train(
    data: str | Path | Stacks,
    run: str | Path,
    settings: Settings,
    *,
    resume: bool = False,
    observe: Callable[[Event], bool | None] | None = None,
) -> Event | None:
    """Train a network on volumes, without labels.

    UserError if there is nothing to train on, or the folder is taken, in use, or of another run.

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
        Called with every event; stops the training by returning True.

    Returns
    -------
    Finished
        Or the last event, where it was stopped: the model of the last step is in the run.
    """
    event = None
    with contextlib.closing(train_events(data, run, settings, resume=resume)) as events:
        for event in events:
            if observe is not None and observe(event):
                break
    return event


def train_events(
    data: str | Path | Stacks,
    run: str | Path,
    settings: Settings,
    *,
    resume: bool = False,
    controls: Controls | None = None,
) -> Events:
    """Check the run folder and return the events of a training that records itself there.

    Parameters and errors are those of `train`; `controls` change or save something while it goes
    on. Closing the events keeps the model of the last step; the run is locked until then. Volumes
    whose true labels are known are followed against them (`EpochEnd.validation_dice`).
    """
    if not isinstance(data, Stacks):
        data = read_stacks(data, settings)
    data.require()
    run = take_folder(run, resume=resume)
    lock = lock_run(run)
    try:
        if resume:
            check_same(run, settings, data.stacks)
        volumes = [stack.prepared(settings) for stack in data]
        truths = [stack.truth for stack in data]
        pairs = [(v, t) for v, t in zip(volumes, truths, strict=True) if t is not None]
        begun = any((run / STATES).glob("step-*.pt"))  # then the weights lie in the state
        begin = settings if begun else with_weights(settings)
        events = training.fit(volumes, begin, run=run, validation=pairs, controls=controls)
        record = RunRecorder(run, settings, data.stacks)
    except BaseException:
        lock.release()
        raise
    return _recorded(events, record, lock, data)


def _recorded(events: Events, record: RunRecorder, lock, stacks: Stacks) -> Events:
    said = tuple(filter(None, (s.remark_on_preparation(record.settings) for s in stacks)))
    try:
        for event in events:
            if isinstance(event, Started):
                event = replace(event, remarks=(*event.remarks, *said))
            try:
                record(event)
            except OSError as error:  # a full disk; the next epoch writes all rows again
                if isinstance(event, Started):
                    raise
                told = f"epoch {event.epoch} is not recorded yet: {error}; the training goes on"
                event = replace(event, remarks=(*event.remarks, told))
            yield event
    finally:
        try:
            events.close()  # the state of the last step is written here
            report.renew(record.run)
        finally:
            lock.release()


@dataclass(frozen=True)
class Estimate:
    """What a whole training would take."""

    seconds: float  # with saving
    memory_gb: float  # the most that is in use while it trains
    of_gb: float  # all there is, of the GPU or of the computer
    epochs: int
    device: str

    @property
    def words(self) -> str:
        """The estimate in one sentence."""
        return (
            f"Fits: {self.memory_gb:.1f} of {self.of_gb:.0f} GB, about {duration(self.seconds)} "
            f"for {self.epochs} epochs, saving included ({self.device})."
        )


def duration(seconds: float) -> str:
    """Return a time in words."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def estimate_training(stacks: Stacks, settings: Settings) -> Estimate:
    """Take one or two steps of a training that is thrown away; say what the whole would take.

    The memory is what the process holds while it takes the steps, whatever it held before.
    """
    device = torch.device(choose_device())
    with tempfile.TemporaryDirectory() as scratch, _peak_memory_gb(device) as memory:
        volumes = [stack.prepared(settings) for stack in stacks]
        events = training.fit(volumes, with_weights(settings), run=Path(scratch))
        try:
            started, step = next(events), next(events)
            if step.seconds < SLOW_STEP_SECONDS and started.steps_per_epoch > 1:
                step = next(events)  # the first one also warms up
        finally:
            began = time.perf_counter()
            events.close()  # writes a state
            saving = time.perf_counter() - began
    seconds = step.seconds * started.steps_per_epoch * settings.epochs
    seconds += min(SAVING_SHARE * seconds, settings.epochs * saving) + saving
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory / 1e9
    else:
        total = psutil.virtual_memory().total / 1e9
    return Estimate(seconds, memory[0], total, settings.epochs, started.device)


def measure_patch(stacks: Stacks, settings: Settings) -> tuple[float, tuple[float, ...]]:
    """Return cell radius and voxel size (z, y, x) of the preview patch, in µm; radius 0 if none."""
    stack = stacks[0]
    radius = settings.cell_radius_um or (stack.cell_size.radius_um if stack.cell_size else 0.0)
    return radius, stack.prepared_voxel_size(settings)


@contextlib.contextmanager
def _peak_memory_gb(device: torch.device) -> Iterator[list[float]]:
    """Yield a list whose one number is, after the block, the most memory in use within it."""
    peak, done = [0.0], threading.Event()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        yield peak
        peak[0] = torch.cuda.max_memory_allocated(device) / 1e9
        return

    def watch() -> None:  # the system only tells the peak since the process began
        while not done.wait(0.02):
            peak[0] = max(peak[0], psutil.Process().memory_info().rss / 1e9)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()
