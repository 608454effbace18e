"""From a model and a volume to a folder of results: labels, measurements, picture, and baseline.

A result never replaces an older one, and its folder appears only when everything is in it.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from wnet_nb import checkpoint
from wnet_nb.cells.classical import voronoi_otsu
from wnet_nb.cells.measure import measure_cells
from wnet_nb.cells.outlines import Instances, segment_instances
from wnet_nb.checkpoint import Checkpoint
from wnet_nb.config import OPTIONS, Settings
from wnet_nb.device import choose_device
from wnet_nb.errors import UserError
from wnet_nb.figures import plots, report
from wnet_nb.files.published import PUBLISHED, fetch_published
from wnet_nb.files.result import Result
from wnet_nb.files.run_files import PREDICTIONS, is_run
from wnet_nb.files.volumes import Volume
from wnet_nb.inference import predict_volume
from wnet_nb.jobs import check as advice
from wnet_nb.jobs import run_folder as runs
from wnet_nb.jobs.inputs import Inputs, read_inputs, require_volumes
from wnet_nb.jobs.prepare import prepare_volume

SEGMENT_OPTIONS = (
    *(name for name, option in OPTIONS.items() if option.group == "cells"),
    "channel",
    "time",
    "voxel_size_um",
    "precision",
)

IN_MEMORY_VALUES = 2**25  # class probabilities kept in memory (128 MB); more go through a file


def load_model(
    source: str | Path, *, progress: Callable[[int, int], None] | None = None
) -> Checkpoint:
    """Return the `Checkpoint` of a run folder, a weights file, or the word ``published``."""
    if str(source) == PUBLISHED and not Path(PUBLISHED).exists():
        source = fetch_published(progress=progress)
    model = checkpoint.load_checkpoint(source)
    device = choose_device()
    # Channels last is a quarter quicker on a CPU, and alike to the sixth digit.
    layout = torch.channels_last_3d if device == "cpu" else torch.preserve_format
    model.model.to(device, memory_format=layout)
    return model


def segment_settings(model: Checkpoint, changes: Mapping[str, Any]) -> Settings:
    """Return the model's settings with `changes`, which may only concern the segmentation."""
    other = [name for name in changes if name in OPTIONS and name not in SEGMENT_OPTIONS]
    if other:
        raise UserError(
            f"{other[0]} belongs to the training and cannot change afterwards; segmenting takes: "
            f"{', '.join(SEGMENT_OPTIONS)}"
        )
    return model.settings.replace(**changes)


def read_for_model(
    path: str | Path, model: Checkpoint, changes: Mapping[str, Any], *, slices: bool = False
) -> Inputs:
    """Read volumes to segment; a file without voxel size takes the one the model was trained with.

    A size in `changes` replaces what the files state.
    """
    settings = segment_settings(model, changes)
    trained = model.settings.voxel_size_um
    size = changes.get("voxel_size_um")
    settings = settings.replace(voxel_size_um=size)
    inputs = read_inputs(path, settings, slices=slices, check=False)
    if size or not trained:
        return inputs
    volumes = tuple(
        replace(
            volume,
            voxel_size_um=trained,
            voxel_size_source="option",
            remarks=(f"'{volume.name}' takes the voxel size given for the training",),
        )
        if volume.voxel_size_source == "assumed"
        else volume
        for volume in inputs.volumes
    )
    findings = tuple(tuple(advice.read_remarks(volume)) for volume in volumes)
    return replace(inputs, volumes=volumes, findings=findings)


def segment(
    source: str | Path,
    path: str | Path,
    *,
    out: str | Path | None = None,
    **changes: Any,
) -> list[Result]:
    """Segment every volume of a file or folder: cells, measurements, and the classical result.

    Parameters
    ----------
    source : str or Path
        A run folder, a weights file, or ``published``.
    path : str or Path
        A TIFF or a folder of TIFFs.
    out : str or Path, optional
        Where the folders of results go; the run's ``predictions`` if not given.
    **changes
        Options of the segmentation, such as ``cell_radius_um=4``.

    Returns
    -------
    list of Result
        One per volume.
    """
    model = load_model(source)
    inputs = read_for_model(path, model, changes)
    require_volumes(inputs, path)
    settings = segment_settings(model, changes)
    folder = Path(out) if out else default_out(source)
    found = [segment_volume(volume, model, settings, folder) for volume in inputs.volumes]
    report.renew(folder.parent)
    return found


def default_out(source: str | Path) -> Path:
    """Return ``predictions`` in a run folder, else in the current one."""
    run = Path(source)
    if not (run / checkpoint.WEIGHTS).exists():
        run = run.parent if is_run(run.parent) else Path()
    return run / PREDICTIONS


def segment_volume(
    volume: Volume,
    model: Checkpoint,
    settings: Settings,
    out: Path,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Result:
    """Segment one volume and write ``out/NAME`` (or NAME-2, NAME-3: nothing is overwritten).

    The folder appears when it is complete.

    Parameters
    ----------
    volume : Volume
    model : Checkpoint
        From `load_model`.
    settings : Settings
        From `segment_settings`.
    out : Path
        Folder of all results.
    progress : callable, optional
        Called with (tiles done, tiles in all).

    Raises
    ------
    UserError
        If the image is constant or not finite.
    ValueError
        If no cells can be looked for; says why.
    """
    began = time.perf_counter()
    # As the training had it: a cell radius given afterwards splits cells, and changes no class map.
    prepared, estimated = prepare_volume(
        volume, model.settings, otherwise_radius_um=settings.cell_radius_um
    )
    if prepared.normalisation.high <= prepared.normalisation.low:
        raise UserError(f"'{volume.name}' has the same value everywhere")
    with Result.write_new(out, volume.name) as found:
        with _scratch_file(found.folder, volume.array.size * settings.n_classes) as file:
            probabilities = predict_volume(
                model.model,
                prepared,
                tile_size=settings.tile_size,
                flips=settings.flips,
                precision=settings.precision,
                out=file,
                progress=progress,
            )
            known = settings.cell_radius_um or estimated or model.settings.cell_radius_um
            del prepared  # as large as the volume, and no longer needed
            cells = segment_instances(
                probabilities,
                volume.array,
                voxel_size_um=volume.voxel_size_um,
                cell_radius_um=known,
                foreground_classes=settings.foreground_classes,
                boundary=settings.boundary,
                minimum_size=settings.minimum_size,
            )
            del probabilities
        radius = cells.cell_size.radius_um
        size = volume.voxel_size_um
        found.write_labels(cells.labels, size)
        found.write_foreground(cells.foreground, size)
        table = measure_cells(cells.labels, volume.array, voxel_size_um=size)
        found.write_cells(table)
        facts = describe_cells(volume, cells, settings, model)
        facts["cut_by_edge"] = int(table["touches_border"].sum())
        labels = cells.labels
        del cells  # the foreground is written; the baseline needs the room
        classical = voronoi_otsu(volume.array, voxel_size_um=size, cell_radius_um=radius)
        found.write_baseline_labels(classical, size)
        figure = plots.plot_overlay(
            volume.array, labels, classical, voxel_size_um=size, name=volume.name
        )
        found.write_overlay(plots.figure_png(figure))
        facts["baseline_count"] = int(classical.max())
        facts["seconds"] = round(time.perf_counter() - began, 1)
        found.write_facts(facts)
    return found


def count_in_words(facts: Mapping[str, Any]) -> str:
    """Say how many cells a ``result.json`` counts, and what one should know of that number."""
    count, cut = facts["count"], facts["cut_by_edge"]
    words = f"{count} cell{'' if count == 1 else 's'}"
    if cut:
        words += f", {cut} of them cut by the edge of the volume"
    words += f" (classical method: {facts['baseline_count']})"
    if not count:
        words += "; nothing stood out enough: look at foreground.tif, lower minimum_size or "
        words += "cell_radius_um, or name the right class with foreground_classes"
    return words


@contextmanager
def _scratch_file(folder: Path, n_values: int) -> Iterator[Path | None]:
    """Yield where class probabilities go that memory should not hold; None if it may."""
    with tempfile.TemporaryDirectory(dir=folder, prefix=".") as scratch:
        yield Path(scratch) / "probabilities.npy" if n_values > IN_MEMORY_VALUES else None


def describe_cells(
    volume: Volume, cells: Instances, settings: Settings, model: Checkpoint
) -> dict[str, Any]:
    """Return what ``result.json`` says, as JSON values."""
    size = cells.cell_size
    return {
        **runs.describe_volume(volume),
        "made": datetime.now().astimezone().isoformat(timespec="seconds"),
        "model": str(model.source),
        "count": int(cells.count),
        "cell_radius_um": float(size.radius_um),
        "cell_size": asdict(size) | {"radius_voxels": list(size.radius_voxels)},
        "classes": [int(k) for k in cells.classes],
        "reason": cells.reason,
        "boundary": cells.boundary,
        "settings": {name: settings.as_dict()[name] for name in SEGMENT_OPTIONS},
        "versions": runs.versions(),
    }
