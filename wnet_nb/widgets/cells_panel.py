"""Cells in the notebook: find them in whole volumes, score them, look at them one by one."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from html import escape
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import numpy as np
from IPython.display import display

from wnet_nb.cells.scores import InstanceScores
from wnet_nb.figures import curves, report
from wnet_nb.files.result import Result
from wnet_nb.files.run_files import PREDICTIONS
from wnet_nb.files.volumes import Volume
from wnet_nb.jobs import evaluate as evaluation
from wnet_nb.jobs import segment as prediction
from wnet_nb.jobs import train as pipeline
from wnet_nb.widgets.busy_cell import StopInPlace, attend, explain
from wnet_nb.widgets.panel import RED, Panel, message
from wnet_nb.widgets.training_panel import Trained
from wnet_nb.widgets.viewer import Viewer


async def find_cells(
    trained: Trained,
    volumes: Sequence[Volume],
    changes: Mapping[str, Any] | None = None,
    folder: str | Path | None = None,
) -> list[Result]:
    """Find the cells of whole volumes and write them; shows a progress bar and what was written.

    Parameters
    ----------
    trained : Trained
    volumes : sequence of Volume
    changes : mapping, optional
        Options of the segmentation, such as `CellTuner.changes`.
    folder : str or Path, optional
        Where the results go, one folder each; the run's ``predictions`` if not given.

    Returns
    -------
    list of Result
        Of the volumes that worked; the panel names the others with the reason.

    Raises
    ------
    StopInPlace
        If none worked.
    """
    bar = widgets.FloatProgress(min=0, max=len(volumes), layout={"width": "98%"})
    status, lines = widgets.HTML(), widgets.HTML()
    display(Panel([bar, status, lines]))
    out = Path(folder) if folder else trained.run / PREDICTIONS
    settings = prediction.segment_settings(trained.model, dict(changes or {}))
    done, told, wishes = [], [], []
    progress: dict[str, float] = {"share": 0.0}

    def note(tiles: int, total: int) -> None:  # called from the thread: no widget here
        progress["share"] = tiles / max(1, total)

    async def work() -> None:
        with ThreadPoolExecutor(1) as pool:
            loop = asyncio.get_running_loop()
            for n, volume in enumerate(volumes):
                if wishes:
                    break
                progress["share"] = 0.0
                status.value = message(f"{n + 1} of {len(volumes)}: {volume.name} …")
                job = loop.run_in_executor(
                    pool,
                    lambda volume=volume: prediction.segment_volume(
                        volume, trained.model, settings, out, progress=note
                    ),
                )
                while not job.done():
                    await asyncio.wait([job], timeout=0.2)
                    bar.value = n + progress["share"]
                try:
                    done.append(job.result())
                    told.append(_describe(done[-1]))
                except Exception as error:
                    words = explain(error)
                    if words is None:
                        raise
                    told.append(message(f"{volume.name}: {words}", RED))
                lines.value = "<br>".join(told)
            if page := await loop.run_in_executor(pool, report.renew, out.parent):
                lines.value += f"<br>All on one page: <code>{escape(str(page))}</code>"

    await attend(asyncio.ensure_future(work()), lambda: wishes.append("stop"))
    status.value = message(f"{len(done)} of {len(volumes)} volumes are done.")
    if not done:
        raise StopInPlace("No cells were found; the reason stands above.")
    return done


def _describe(found: Result) -> str:
    result = found.facts
    files = ", ".join(path.name for path in found.files)
    return (
        f"<b>{escape(found.name)}:</b> {prediction.count_in_words(result)}; typical radius "
        f"{result['cell_radius_um']:.3g} µm. "
        f"In <code>{escape(str(found.folder))}</code>: {escape(files)}."
    )


def view_cells(found: Result, volume: Volume) -> Viewer:
    """Return a viewer with the network's cells left of a curtain, the classical ones right."""
    result = found.facts
    return Viewer(
        volume.array,
        voxel_size_um=volume.voxel_size_um,
        overlays={
            f"network, {result['count']} cells": np.asarray(found.labels()),
            f"classical, {result['baseline_count']} cells": np.asarray(found.baseline_labels()),
        },
    )


def show_scores(found: Sequence[Result], truth: str | Path | None) -> widgets.Widget:
    """Return F1 against overlap and Dice for each volume, or why there is none."""
    if truth is None:
        return widgets.HTML(
            "No labels were given, so nobody can say how right this is: compare with the classical "
            "result by eye."
        )
    parts = []
    for one in found:
        try:
            scored = pipeline.keep_scores(one, truth)
        except (ValueError, OSError) as error:
            parts.append(widgets.HTML(message(f"{one.name}: {error}.", RED)))
            continue
        parts.append(_scores_panel(scored))
    for run in {one.folder.parent.parent for one in found}:
        report.renew(run)
    return Panel(parts, lambda: next((p.value for p in _images(parts)), b""))


def _scores_panel(scored: evaluation.Evaluation) -> widgets.Widget:
    if not isinstance(scored.scores, InstanceScores):  # true points have no overlap to draw
        words = f"F1 against {scored.scores.n_true} true points: network {scored.scores.f1:.2f}"
        if scored.baseline:
            words += f", classical method {scored.baseline.f1:.2f}"
        return widgets.HTML(f"<b>{escape(scored.name)}</b> {words}")
    figure = curves.plot_scores(scored.scores, scored.baseline, title=scored.name)
    picture = widgets.Image(
        value=curves.figure_png(figure), format="png", layout={"max_width": "100%"}
    )
    dice = "" if scored.dice is None else f"Dice {scored.dice:.3f}"
    return widgets.VBox([widgets.HTML(f"<b>{escape(scored.name)}</b> {dice}"), picture])


def _images(parts: Sequence[widgets.Widget]) -> list[widgets.Image]:
    found = [child for part in parts for child in getattr(part, "children", ())]
    return [child for child in found if isinstance(child, widgets.Image)]


class CellTable(Panel):
    """The cells of a volume, sortable; the selected row moves a viewer's crosshair.

    Parameters
    ----------
    found : Result
    viewer : Viewer, optional
        From `view_cells`.
    """

    COLUMNS = (
        ("label", "cell", 6, "d"),
        ("volume_um3", "volume (µm³)", 14, ".1f"),
        ("sphericity", "sphericity", 12, ".2f"),
        ("mean_intensity", "brightness", 12, ".1f"),
        ("centroid_z_voxels", "z (voxel)", 11, ".1f"),
        ("centroid_y_voxels", "y (voxel)", 11, ".1f"),
        ("centroid_x_voxels", "x (voxel)", 11, ".1f"),
        ("touches_border", "cut by edge", 13, "d"),
    )

    def __init__(self, found: Result, viewer: Viewer | None = None) -> None:
        self.viewer = viewer
        self.rows = [{k: row[k] for k, *_ in self.COLUMNS} for row in found.cells()]
        self.by = widgets.Dropdown(
            options=[(title, name) for name, title, *_ in self.COLUMNS],
            description="sort by",
            layout={"width": "260px"},
        )
        self.down = widgets.Checkbox(description="largest first", indent=False)
        head = "".join(f"{title:>{width}}" for _, title, width, _ in self.COLUMNS)
        header = widgets.HTML(f'<pre class="wnet-table" style="margin:0">{head}</pre>')
        self.table = widgets.Select(rows=12, layout={"width": "98%", "max_width": "860px"})
        self.table.add_class("wnet-table")
        style = widgets.HTML(
            "<style>.wnet-table, .wnet-table select {font-family:monospace !important;"
            "font-size:12px !important; white-space:pre}</style>"
        )
        self.by.observe(lambda _: self._sort(), "value")
        self.down.observe(lambda _: self._sort(), "value")
        self.table.observe(self._move, "value")
        where = widgets.HTML(
            f"All columns are in <code>{escape(str(found.folder))}/cells.csv</code>"
        )
        top = widgets.HBox([self.by, self.down])
        super().__init__(
            [style, top, header, self.table, where],
            words=lambda: "<br>".join([head, *(line for line, _ in self.table.options[:20])]),
        )
        self._sort()

    def _sort(self) -> None:
        rows = sorted(self.rows, key=lambda row: row[self.by.value], reverse=self.down.value)
        self.table.options = [(self._line(row), int(row["label"])) for row in rows]

    def _line(self, row: Mapping[str, float]) -> str:
        words = (
            f"{format(int(row[name]) if form == 'd' else row[name], form):>{width}}"
            for name, _, width, form in self.COLUMNS
        )
        return "".join(words).replace(" ", "\u00a0")

    def _move(self, change: dict[str, Any]) -> None:
        row = next((r for r in self.rows if r["label"] == change["new"]), None)
        if row is not None and self.viewer is not None:
            self.viewer.point = [row[f"centroid_{axis}_voxels"] for axis in "zyx"]
