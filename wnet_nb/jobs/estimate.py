"""What a training would take, found out by taking two steps of it: time and memory."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from wnet_nb import training
from wnet_nb.config import Settings
from wnet_nb.device import choose_device
from wnet_nb.jobs.stacks import Stacks

SLOW_STEP_SECONDS = 15.0  # a step that takes longer says enough
SAVING_SHARE = 0.05  # of the time, at most, goes into saving


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

    The memory is that of this plan: what the process holds while it takes the steps, whatever it
    held before.
    """
    device = torch.device(choose_device())
    with tempfile.TemporaryDirectory() as scratch, _peak_memory_gb(device) as memory:
        volumes = [stack.prepared(settings) for stack in stacks]
        events = training.fit(volumes, settings, run=Path(scratch))
        try:
            started = next(events)
            steps = [next(events)]
            if steps[0].seconds < SLOW_STEP_SECONDS and started.steps_per_epoch > 1:
                steps.append(next(events))  # the first one also warms up
        finally:
            began = time.perf_counter()
            events.close()  # writes a state
            saving = time.perf_counter() - began
    seconds = steps[-1].seconds * started.steps_per_epoch * settings.epochs
    seconds += min(SAVING_SHARE * seconds, settings.epochs * saving) + saving
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory / 1e9
    else:
        total = psutil.virtual_memory().total / 1e9
    return Estimate(seconds, memory[0], total, settings.epochs, started.device)


def measure_patch(stacks: Stacks, settings: Settings) -> tuple[float, tuple[float, ...]]:
    """Return cell radius and voxel size (z, y, x) of the preview patch, in µm; radius 0 if none."""
    stack = stacks[0]
    factors = stack.prepared(settings).factors
    radius = settings.cell_radius_um or (stack.cell_size.radius_um if stack.cell_size else 0.0)
    return radius, tuple(s * f for s, f in zip(stack.voxel_size_um, factors, strict=True))


@contextmanager
def _peak_memory_gb(device: torch.device) -> Iterator[list[float]]:
    """Yield a list whose one number is, after the block, the most memory in use within it, in GB.

    The operating system tells a process only its peak since it began, so it is asked often.
    """
    peak, done = [0.0], threading.Event()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        yield peak
        peak[0] = torch.cuda.max_memory_allocated(device) / 1e9
        return

    def watch() -> None:
        process = psutil.Process()
        while not done.wait(0.02):
            peak[0] = max(peak[0], process.memory_info().rss / 1e9)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()
