"""From a model and volumes to folders of results: cells, measurements, picture, comparison, scores.

One volume is in memory at a time. A volume that fails is named and the others are done.
"""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from wnet_nb.cells.measure import measure_cells
from wnet_nb.cells.outlines import Instances, segment_instances
from wnet_nb.cells.size import CellSize
from wnet_nb.checkpoint import Checkpoint
from wnet_nb.config import OPTIONS, Settings, names_with
from wnet_nb.errors import UserError
from wnet_nb.figures import overlay, report
from wnet_nb.files.result import Result
from wnet_nb.files.run_files import PREDICTIONS, is_run
from wnet_nb.jobs.class_map import NetworkMap, OtsuMap, class_map
from wnet_nb.jobs.evaluate import score
from wnet_nb.jobs.models import load_model
from wnet_nb.jobs.network_added import compare, network_in_words
from wnet_nb.jobs.run_folder import describe_stack, versions
from wnet_nb.jobs.stacks import Stack, Stacks, read_stacks
from wnet_nb.jobs.tables import write_tables
from wnet_nb.jobs.truth import known_truth

IN_MEMORY_VALUES = 2**25  # class probabilities kept in memory (128 MB); more go through a file


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


Observer = Callable[[Progress], bool | None]


class _StoppedError(Exception):
    """The observer wants the segmentation to end."""


def segment(
    model: str | Path | Checkpoint,
    data: str | Path | Stacks,
    *,
    out: str | Path | None = None,
    observe: Observer | None = None,
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
        Where the folders of results go; the run's ``predictions`` if not given.
    observe : callable, optional
        Called with every `Progress`; ends the segmentation by returning True.
    **changes
        Options of the segmentation, such as ``cell_radius_um=4``.

    Returns
    -------
    list of Result
        Of the volumes that worked; the others are told to `observe`, or are a warning.

    Raises
    ------
    UserError
        If an option belongs to the training, or no volume could be segmented.
    """
    loaded = load_model(model)
    settings = segment_settings(loaded, changes)
    stacks = data if isinstance(data, Stacks) else read_for_model(data, loaded, changes)
    folder = Path(out) if out else default_out(loaded)
    done, failures = [], []
    try:
        for number, stack in enumerate(stacks.require(), start=1):
            place = {"name": stack.name, "number": number, "of_volumes": len(stacks)}
            tell = _teller(observe, place)
            try:
                tell()
                done.append(_segment_one(stack, loaded, settings, folder, tell))
                tell(result=done[-1])
            except UserError as error:
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


def _teller(observe: Observer | None, place: Mapping[str, Any]) -> Callable[..., None]:
    def tell(**news: Any) -> None:
        progress = Progress(**place, **news)
        if observe is not None and observe(progress) and progress.result is None:
            raise _StoppedError

    return tell


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
    """Read volumes to segment; a file without voxel size takes the one the model was trained with.

    A size in `changes` replaces what the files state.
    """
    size = changes.get("voxel_size_um")
    settings = segment_settings(model, changes).replace(voxel_size_um=size)
    stacks = read_stacks(path, settings, labels=labels, slices=slices, check=False)
    return stacks if size else stacks.assume_voxel_size(model.settings.voxel_size_um)


def default_out(model: Checkpoint) -> Path:
    """Return ``predictions`` in the run that a model lies in, else in the current folder."""
    run = model.source.parent
    return (run if is_run(run) else Path()) / PREDICTIONS


def _segment_one(
    stack: Stack,
    model: Checkpoint,
    settings: Settings,
    out: Path,
    tell: Callable[..., None],
) -> Result:
    """Write one result; its folder appears when it is complete, and is scored if truth is known."""
    began, size = time.perf_counter(), stack.voxel_size_um
    radius = settings.cell_radius_um or stack.cell_size or model.settings.cell_radius_um
    with Result.write_new(out, stack.name) as result:
        source = class_map(stack, model, settings, tell)
        cells = _find_cells(stack, settings, radius, source, result.folder)
        result.write_labels(cells.labels, size)
        result.write_foreground(cells.foreground, size)
        table = measure_cells(cells.labels, stack.array, voxel_size_um=size)
        result.write_cells(table)
        facts = _describe(stack, cells, settings, model)
        facts["cut_by_edge"] = int(table["touches_border"].sum())
        labels, radius = cells.labels, cells.cell_size
        del cells, table  # the foreground is written; the comparison needs the room
        if model.model is None:
            baseline, facts["network_added"] = labels, None
        else:
            source = OtsuMap(stack, model, settings)
            baseline = _find_cells(stack, settings, radius, source, result.folder).labels
            facts["network_added"] = compare(labels, baseline)
        result.write_baseline_labels(baseline, size)
        facts["baseline_count"] = int(baseline.max(initial=0))
        without = None if model.model is None else baseline
        png = overlay.overlay_png(stack.array, labels, without, voxel_size_um=size, name=stack.name)
        result.write_overlay(png)
        result.write_projections(overlay.projections_png(labels, size))
        facts["seconds"] = round(time.perf_counter() - began, 1)
        result.write_facts(facts)
    _score(result, stack)
    return result


def _find_cells(
    stack: Stack,
    settings: Settings,
    radius: float | CellSize | None,
    source: NetworkMap | OtsuMap,
    folder: Path,
) -> Instances:
    """Return the cells that one source of class probabilities leads to; the steps are the same."""
    ranges = source.prepared.normalisation
    if ranges.high <= ranges.low:
        raise UserError(f"'{stack.name}' has the same value everywhere")
    large = stack.array.size * settings.n_classes > IN_MEMORY_VALUES
    with tempfile.TemporaryDirectory(dir=folder, prefix=".") as scratch:
        probabilities = source.predict(Path(scratch) / "probabilities.npy" if large else None)
        source.prepared = None  # as large as the volume, and no longer needed
        cells = segment_instances(
            probabilities,
            stack.array,
            voxel_size_um=stack.voxel_size_um,
            cell_radius_um=radius,
            foreground_classes=source.foreground_classes,
            core_class=source.core_class,
            boundary=source.boundary,
            minimum_size=settings.minimum_size,
        )
        del probabilities  # before its file goes, which Windows would refuse
    return replace(cells, reason=source.reason) if source.reason else cells


def _score(result: Result, stack: Stack) -> None:
    truth = stack.truth_file or known_truth(result.folder.parent, stack.sha256)
    if truth is None:
        return
    try:
        score(result, truth)
    except UserError as error:
        warnings.warn(f"'{stack.name}' has no scores: {error}", stacklevel=2)


def _describe(
    stack: Stack, cells: Instances, settings: Settings, model: Checkpoint
) -> dict[str, Any]:
    """Return what ``result.json`` says, as JSON values."""
    size = cells.cell_size
    remark = stack.remark_on_preparation(model.settings)
    return {
        **describe_stack(stack),
        "made": datetime.now().astimezone().isoformat(timespec="seconds"),
        "model": str(model.source),
        "count": int(cells.count),
        "cell_radius_um": float(size.radius_um),
        "cell_size": asdict(size) | {"radius_voxels": list(size.radius_voxels)},
        "classes": [int(k) for k in cells.classes],
        "reason": cells.reason,
        "boundary": cells.boundary,
        "remarks": [remark] if remark else [],
        "settings": {name: settings.as_dict()[name] for name in names_with("segmenting")},
        "versions": versions(),
    }


def count_in_words(facts: Mapping[str, Any]) -> str:
    """Say how many cells a ``result.json`` counts, and what one should know of that number."""
    count, cut = facts["count"], facts["cut_by_edge"]
    words = f"{count} cell{'' if count == 1 else 's'}"
    if cut:
        words += f", {cut} of them cut by the edge of the volume"
    if facts["network_added"]:
        words += f"; {network_in_words(facts['network_added'])}"
    if not count:
        words += "; nothing stood out enough: look at foreground.tif, lower minimum_size or "
        words += "cell_radius_um, or name the right class with foreground_classes"
    return words
