"""From a model and volumes to folders of results: cells, measurements, picture, comparison, scores.

One volume is in memory at a time. A volume that fails is named and the others are done.
"""

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from wnet_nb.cells.measure import measure_cells
from wnet_nb.cells.outlines import Instances
from wnet_nb.cells.scores import match_instances
from wnet_nb.cells.size import CellSize
from wnet_nb.checkpoint import Checkpoint
from wnet_nb.config import OPTIONS, Settings, names_with
from wnet_nb.errors import UserError
from wnet_nb.figures import overlay, report
from wnet_nb.files.result import Result
from wnet_nb.files.run_files import PREDICTIONS, is_run
from wnet_nb.files.volumes import is_zarr
from wnet_nb.jobs.evaluate import score
from wnet_nb.jobs.models import (
    find_cells,
    for_cells,
    load_model,
    no_network,
    predict_classes,
    size_to_look_again,
)
from wnet_nb.jobs.run_folder import describe_stack, versions, write_tables
from wnet_nb.jobs.stacks import Stack, Stacks, read_stacks
from wnet_nb.jobs.truth import known_truth

IN_MEMORY_VALUES = 2**25  # class probabilities kept in memory (128 MB); more go through a file
SAME_IOU = 0.5  # cells with and without the network are the same from this overlap


@dataclass(frozen=True)
class Progress:
    """Where a segmentation stands; the last one of a volume has its result, or why it has none."""

    name: str  # of the volume
    number: int  # of the volume, from 1
    of_volumes: int
    tiles: int = 0  # done of this volume
    of_tiles: int = 0  # 0 as long as it is not known
    result: Result | None = None
    failed: str = ""


class _StoppedError(Exception):
    """The observer wants the segmentation to end."""


def segment(
    model: str | Path | Checkpoint,
    data: str | Path | Stacks,
    *,
    out: str | Path | None = None,
    observe: Callable[[Progress], bool | None] | None = None,
    **changes: Any,
) -> list[Result]:
    """Segment every volume of a file or folder.

    Parameters
    ----------
    model : str, Path or Checkpoint
        A run folder, a weights file, or ``starter``, ``published`` or ``none``; or one loaded.
    data : path or Stacks
        A TIFF or a folder of TIFFs, or what `read_stacks` made of it.
    out : str or Path, optional
        Where the folders of results go; ``predictions`` in the run, or else here, if not given.
    observe : callable, optional
        Called with every `Progress`; ends the segmentation by returning True.
    **changes
        Options of the segmentation, such as ``cell_radius_um=4``.

    Returns
    -------
    list of Result
        Of the volumes that worked; the others are told to `observe`, or are a warning. UserError if
        there is none, or an option belongs to the training.
    """
    loaded = load_model(model)
    settings = segment_settings(loaded, changes)
    stacks = data if isinstance(data, Stacks) else read_for_model(data, loaded, changes)
    run = loaded.source.parent
    folder = Path(out) if out else (run if is_run(run) else Path()) / PREDICTIONS
    done, failures = [], []
    try:
        for number, stack in enumerate(stacks.require(), start=1):
            tell = partial(_tell, observe, Progress(stack.name, number, len(stacks)))
            try:
                tell()
                done.append(_segment_one(stack, loaded, settings, folder, tell))
                tell(result=done[-1])
            except (UserError, OSError) as error:
                failures.append(str(error))
                tell(failed=str(error))
    except _StoppedError:
        return done
    finally:  # also after an interrupt
        if done:
            write_tables(folder)
            report.renew(folder.parent)
    if not done:
        raise UserError(f"nothing was segmented: {failures[0]}")
    if observe is None:
        for reason in failures:
            warnings.warn(f"a volume was not segmented: {reason}", stacklevel=2)
    return done


def _tell(
    observe: Callable[[Progress], bool | None] | None, progress: Progress, **news: Any
) -> None:
    progress = replace(progress, **news)
    if observe is not None and observe(progress) and progress.result is None:
        raise _StoppedError


def segment_settings(model: Checkpoint, changes: Mapping[str, Any]) -> Settings:
    """Return the model's settings with `changes`, which may only concern the segmentation."""
    allowed = names_with("segmenting")
    other = [name for name in changes if name in OPTIONS and name not in allowed]
    if other:
        raise UserError(
            f"{other[0]} belongs to the training and cannot change afterwards; segmenting takes: "
            f"{', '.join(allowed)}"
        )
    return model.settings.replace(**changes)


def read_for_model(
    path: str | Path,
    model: Checkpoint,
    changes: Mapping[str, Any],
    *,
    labels: str | Path | None = None,
    slices: bool = False,
) -> Stacks:
    """Read volumes to segment; a file without voxel size takes the one of the training.

    A size in `changes` replaces what the files state.
    """
    settings = segment_settings(model, changes)
    if is_zarr(path):
        raise UserError(
            f"'{path}' is an OME-Zarr, which is segmented to another: give --out NAME.zarr (in "
            "Python: wnet_nb.segment_large)"
        )
    return read_stacks(
        path,
        settings.replace(voxel_size_um=changes.get("voxel_size_um")),
        labels=labels,
        slices=slices,
        check=False,
        trained_size_um=model.settings.voxel_size_um,
    )


def _segment_one(
    stack: Stack,
    model: Checkpoint,
    settings: Settings,
    out: Path,
    tell: Callable[..., None],
) -> Result:
    """Write one result; its folder appears when it is complete, and is scored if truth is known."""
    began, size = time.perf_counter(), stack.voxel_size_um
    with Result.write_new(out, stack.name) as result:
        cells = _find_cells(stack, model, settings, result.folder, tell)
        result.write_labels(cells.labels, size)
        result.write_foreground(cells.foreground, size)
        table = measure_cells(cells.labels, stack.array, voxel_size_um=size)
        result.write_cells(table)
        facts = _describe(stack, cells, settings, model)
        facts["cut_by_edge"] = int(table["touches_border"].sum())
        labels = cells.labels
        del cells, table  # the foreground is written; the comparison needs the room
        baseline, without, facts["network_added"] = labels, None, None
        if model.model is not None:
            baseline = _find_cells(stack, no_network(), settings, result.folder).labels
            without, facts["network_added"] = baseline, compare(labels, baseline)
        result.write_baseline_labels(baseline, size)
        facts["baseline_count"] = int(baseline.max(initial=0))
        png = overlay.overlay_png(stack.array, labels, without, voxel_size_um=size, name=stack.name)
        result.write_overlay(png)
        result.write_projections(overlay.projections_png(labels, size))
        facts["seconds"] = round(time.perf_counter() - began, 1)
        result.write_facts(facts)
    truth = stack.truth_file or known_truth(out, stack.sha256)
    if truth is not None:
        try:
            score(result, truth)
        except UserError as error:
            warnings.warn(f"'{stack.name}' has no scores: {error}", stacklevel=2)
    return result


def _find_cells(
    stack: Stack,
    model: Checkpoint,
    settings: Settings,
    folder: Path,
    tell: Callable[..., None] = lambda **_: None,
    size: CellSize | None = None,
) -> Instances:
    """Return the cells of a whole volume, of a given `size` after a second look at them.

    Large probabilities go through a file in `folder`.
    """
    radius = size or settings.cell_radius_um or stack.cell_size
    prepared = stack.prepared(for_cells(model.settings, radius))
    if prepared.normalisation.high <= prepared.normalisation.low:
        raise UserError(f"'{stack.name}' has the same value everywhere")
    large = stack.array.size * settings.n_classes > IN_MEMORY_VALUES
    file = folder / "probabilities.npy"
    probabilities = predict_classes(
        prepared,
        model,
        settings,
        out=file if large else None,
        progress=lambda done, total: tell(tiles=done, of_tiles=total),
    )
    del prepared  # as large as the volume, and no longer needed
    cells = find_cells(probabilities, stack.array, stack, model, settings, cell_radius_um=radius)
    del probabilities  # before its file goes, which Windows would refuse
    file.unlink(missing_ok=True)
    if size is None and (seen := size_to_look_again(cells, stack, model, settings)):
        return _find_cells(stack, model, settings, folder, tell, seen)
    return cells


def _describe(
    stack: Stack, cells: Instances, settings: Settings, model: Checkpoint
) -> dict[str, Any]:
    """Return what ``result.json`` says, as JSON values."""
    return {
        **describe_stack(stack),
        "made": datetime.now().astimezone().isoformat(timespec="seconds"),
        "model": str(model.source),
        "count": cells.count,
        "cell_radius_um": cells.cell_size.radius_um,
        "cell_size": asdict(cells.cell_size),
        "classes": cells.classes,
        "reason": cells.reason,
        "boundary": cells.boundary,
        "settings": {name: settings.as_dict()[name] for name in names_with("segmenting")},
        "versions": versions(),
    }


def compare(labels: np.ndarray, baseline: np.ndarray) -> dict[str, int]:
    """Return how many cells there are with and without the network, and how many are the same."""
    scores = match_instances(labels, baseline, thresholds=[SAME_IOU])
    same = scores.true_positives[0]
    return {
        "count": scores.n_predicted,
        "without_network": scores.n_true,
        "same": same,
        "only_with_network": scores.n_predicted - same,
        "only_without": scores.n_true - same,
    }


def count_in_words(facts: Mapping[str, Any]) -> str:
    """Say how many cells a ``result.json`` counts, and what one should know of that number."""
    count, cut, added = facts["count"], facts["cut_by_edge"], facts["network_added"]
    words = f"{count} cell{'' if count == 1 else 's'}"
    if cut:
        words += f", {cut} of them cut by the edge of the volume"
    if added:
        words += f"; the network changed {added['only_with_network']} of {added['count']}"
        if lost := added["only_without"]:
            words += f", and {lost} of the {added['without_network']} found without it are gone"
        words += f" ({added['same']} are the same)"
    if not count:
        words += "; nothing stood out enough: look at foreground.tif, lower minimum_size or "
        words += "cell_radius_um, or name the right class with foreground_classes"
    return words
