"""Cells in the notebook: find them in whole volumes, look at them, and score them."""

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from html import escape
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import ipywidgets as widgets
from IPython.display import display
from tqdm.auto import tqdm

from wnet_nb.cells.scores import f1_at_half
from wnet_nb.checkpoint import WEIGHTS
from wnet_nb.errors import UserError, explain
from wnet_nb.figures import napari_window
from wnet_nb.files.result import PROJECTIONS, Result
from wnet_nb.files.writing import write_rois
from wnet_nb.jobs.segment import Progress, count_in_words, segment
from wnet_nb.jobs.stacks import Stack, Stacks
from wnet_nb.widgets.busy_cell import attend, in_thread
from wnet_nb.widgets.cell_table import CellTable
from wnet_nb.widgets.panel import RED, Panel, message, paragraph
from wnet_nb.widgets.viewer import Chooser, Viewer, true_overlay


async def find_cells(
    network: Any,
    stacks: Stacks,
    changes: Mapping[str, Any] | None = None,
    *,
    folder: str | Path | None = None,
) -> list[Result]:
    """Find the cells of whole volumes and write them; shows a progress bar and what was written.

    `network` is a ModelField, TrainingPanel or Trained, or what `jobs.models.load_model` takes;
    `changes` are options of the segmentation, such as `CellTuner.changes`; the results go to
    `folder`, as in `jobs.segment.segment`. Returned are those of the volumes that worked; the panel
    names the others with the reason. Without any, a UserError stops the cell.
    """
    bar = widgets.FloatProgress(min=0, max=len(stacks), layout={"width": "98%"})
    status, lines = widgets.HTML(), widgets.HTML()
    shown = Panel([bar, status, lines], words=lambda: f"{status.value}<br>{lines.value}")
    display(shown._repr_mimebundle_(), raw=True)  # its still is left when it is done
    loop, stopping = asyncio.get_running_loop(), []

    def observe(progress: Progress) -> bool:  # in the thread, which touches no widget
        loop.call_soon_threadsafe(show, progress)
        return bool(stopping)

    def show(now: Progress) -> None:
        bar.value = now.number - 1 + now.tiles / max(1, now.of_tiles)
        status.value = message(f"{now.number} of {now.of_volumes}: {now.name} …")
        if now.result or now.failed:
            lines.value += paragraph(_describe(now))

    source = getattr(network, "source", network)
    work = partial(segment, source, stacks, out=folder, observe=observe, **(changes or {}))
    try:
        results = await attend(in_thread(work), partial(stopping.append, True))
    except Exception as error:
        words = explain(error)
        if words is None:
            raise
        status.value = message(f"{words}.", RED)
        raise UserError(words) from None
    finally:
        stopping.append(True)
    if not results:
        raise UserError("Interrupted before the first volume was done.")
    bar.value = bar.max
    status.value = message(f"{len(results)} of {len(stacks)} volumes are done.")
    shown.show_still()
    return results


class ChunkBar:
    """A bar for the chunks of each stage; give it to `segment_large` as `observe`."""

    def __init__(self) -> None:
        self.bar: Any = None

    def __call__(self, progress: Any) -> None:
        """Show a `ChunkProgress`."""
        if progress.note:
            print(progress.note)
            return
        if self.bar is None or self.bar.desc != progress.stage:
            facts = {"total": progress.total, "initial": progress.done, "unit": " chunks"}
            self.bar = tqdm(desc=progress.stage, **facts)
        self.bar.update(progress.done - self.bar.n)
        if progress.done == progress.total:
            self.bar.close()


def _describe(progress: Progress) -> str:
    if progress.failed:
        return message(f"{progress.name}: {progress.failed}.", RED)
    result = progress.result
    return (
        f"<b>{escape(result.name)}:</b> {escape(count_in_words(result.facts))}. "
        f"In <code>{escape(str(result.folder))}</code>."
    )


def network_name(result: Result) -> str:
    """Return what the cells of a result were found with, in a word or two."""
    source = Path(result.facts["model"])
    if source.name == WEIGHTS:
        return f"run {source.parent.name}"
    return "without network" if source.stem == "none" else source.stem


def view_cells(
    results: Sequence[Result],
    stacks: Stacks,
    *,
    beside: Sequence[Result] = (),
    table: bool = False,
) -> Chooser:
    """Return a viewer of the cells of each result, on its volume in `stacks`.

    Right of the curtain are the results of the same volumes that stand `beside`, else the cells
    that the same steps find without a network. A `table` of the cells is shown below if asked for.
    """

    def make(number: int) -> Panel:
        result = results[number]
        sha256, added = result.facts["sha256"], result.facts["network_added"]
        stack = next(stack for stack in stacks if stack.sha256 == sha256)
        shown = [result, *(other for other in beside if other.facts["sha256"] == sha256)]
        overlays = {
            f"{network_name(one)}, {one.facts['count']} cells": one.labels() for one in shown
        }
        if len(shown) == 1 and added:
            count = result.facts["baseline_count"]
            overlays[f"without network, {count} cells"] = result.baseline_labels()
        overlays |= true_overlay(stack)
        viewer = Viewer(stack.array, voxel_size_um=stack.voxel_size_um, overlays=overlays)
        below = [*_in_three_dimensions(result), _other_programs(result, stack)]
        viewer.children = [*viewer.children, *below]
        if not table:
            return viewer
        cells = CellTable(result, viewer, next(iter(overlays)))
        return Panel([viewer, cells], lambda: viewer.picture.value, cells._words)

    return Chooser([result.name for result in results], make)


def _in_three_dimensions(result: Result) -> list[widgets.Widget]:
    """Return the picture of the cells from three sides, folded away; nothing if it is not there."""
    path = result.folder / PROJECTIONS
    if not path.exists():
        return []
    picture = widgets.Image(value=path.read_bytes(), layout={"max_width": "calc(100% - 4px)"})
    fold = widgets.Accordion([picture], selected_index=None)
    fold.set_title(0, "the cells in three dimensions")
    return [fold]


def _other_programs(result: Result, stack: Stack) -> widgets.Widget:
    """Return a button for a window of napari, where it is installed, and one for ROIs for Fiji."""
    napari = widgets.Button(description="Open in napari")
    fiji, said = widgets.Button(description="ROIs for Fiji"), widgets.HTML()

    def open_napari(_: object) -> None:
        arguments = (stack.array, result.labels(), stack.voxel_size_um, result.name)
        get_context("spawn").Process(target=napari_window.show, args=arguments, daemon=True).start()
        said.value = message(
            "napari opens in a window of its own within a minute. If none comes, this computer has "
            f"no screen: copy '{result.folder}' to one that has, and open labels.tif there."
        )

    def write(_: object) -> None:
        try:
            path = result.rois if result.rois.exists() else write_rois(result.rois, result.labels())
            said.value = message(f"Open the stack in Fiji, then the ROIs: '{path}'.")
        except UserError as error:
            said.value = message(f"{error}.", RED)

    napari.on_click(open_napari)
    fiji.on_click(write)
    offered = [fiji] if find_spec("napari") is None else [napari, fiji]
    return widgets.HBox([*offered, said], layout={"flex_flow": "row wrap"})


def show_scores(results: Sequence[Result]) -> widgets.Widget:
    """Return the scores of each result whose volume has true labels, or why there are none."""
    parts, texts, pictures = [], [], []
    for result in results:
        if result.scores is None:
            continue
        words = f"<b>{escape(result.name)}</b>, {escape(network_name(result))}: "
        texts.append(paragraph(words + escape(_scores_in_words(result.scores))))
        parts.append(widgets.HTML(texts[-1]))
        if result.scores_picture.exists():
            pictures.append(result.scores_picture.read_bytes())
            layout = {"width": "600px", "max_width": "calc(100% - 4px)"}
            parts.append(widgets.Image(value=pictures[-1], layout=layout))
    if not parts:
        return widgets.HTML(
            "No labels were given, so nobody can say how right this is: compare with the result "
            "without a network by eye."
        )
    return Panel(parts, lambda: pictures[0] if pictures else b"", lambda: "".join(texts))


def _scores_in_words(scored: Mapping[str, Any]) -> str:
    scores, baseline = scored["scores"], scored["baseline"]
    what = "true cells with at least half of both covered by both (IoU 0.5)"
    if "rows" not in scores:  # true points have no overlap
        what = "true points"
    words = f"F1 {f1_at_half(scores):.2f} for {scores['n_true']} {what}"
    if baseline:
        words += f", without the network {f1_at_half(baseline):.2f}"
    return words + (f"; Dice {scored['dice']:.2f}" if scored["dice"] is not None else "")
