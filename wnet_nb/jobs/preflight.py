"""What is found out before a training starts: does it fit, how long, how large is a cell."""

from __future__ import annotations

import psutil
import torch

from wnet_nb import training
from wnet_nb.cells.size import estimate_cell_radius
from wnet_nb.config import Settings
from wnet_nb.device import choose_device, peak_memory_mb
from wnet_nb.jobs.inputs import Inputs
from wnet_nb.jobs.prepare import prepare_volume

SLOW_STEP_SECONDS = 15.0  # a step that takes longer says enough


def duration(seconds: float) -> str:
    """Return a time in words."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def try_steps(inputs: Inputs, settings: Settings) -> str:
    """Take one or two steps of a training that is thrown away; say what the whole would take."""
    volumes = [prepare_volume(v, settings)[0] for v in inputs.volumes]
    events = training.fit(volumes, settings)
    try:
        started = next(events)
        steps = [next(events)]
        if steps[0].seconds < SLOW_STEP_SECONDS and started.steps_per_epoch > 1:
            steps.append(next(events))  # the first one also warms up
    finally:
        events.close()
    seconds = steps[-1].seconds * started.steps_per_epoch * settings.epochs
    used, total = _memory_gb()
    return (
        f"Fits: {used:.1f} of {total:.0f} GB, about {duration(seconds)} for {settings.epochs} "
        f"epochs ({started.device}). The next cell starts the training."
    )


def measure_patch(inputs: Inputs, settings: Settings) -> tuple[float, tuple[float, ...]]:
    """Return cell radius and voxel size (z, y, x) of the preview patch, in µm; radius 0 if none."""
    volume = inputs.volumes[0]
    size, radius = volume.voxel_size_um, settings.cell_radius_um
    prepared, cell = prepare_volume(volume, settings)
    if radius is None:
        try:
            cell = cell or estimate_cell_radius(volume.array, voxel_size_um=size)
            radius = cell.radius_um
        except ValueError:  # no cells stand out; the preview shows none
            radius = 0.0
    return radius, tuple(s * f for s, f in zip(size, prepared.factors, strict=True))


def _memory_gb() -> tuple[float, float]:
    """Return the most memory used so far and all there is, in GB: of the GPU or the process."""
    device = torch.device(choose_device())
    used = peak_memory_mb(device) / 1e3
    if device.type == "cuda":
        return used, torch.cuda.get_device_properties(device).total_memory / 1e9
    return used, psutil.virtual_memory().total / 1e9
