"""What a training shows: curves, previews with the cells found, and what was changed on the way."""

import re
import time
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import ipywidgets as widgets
import numpy as np

from wnet_nb.cells.outlines import segment_instances
from wnet_nb.config import Settings
from wnet_nb.errors import UserError
from wnet_nb.events import EpochEnd, Event, Started, StepEnd
from wnet_nb.figures import curves, overlay
from wnet_nb.jobs.train import duration
from wnet_nb.widgets.panel import ORANGE, Panel, message

DRAW_SHARE = 10  # the curves are redrawn at most for this part of the time
PICTURE = {"width": "940px", "max_width": "calc(100% - 4px)"}


class TrainingView(Panel):
    """Draws a training from its events, and nothing else.

    `settings` are the options that hold now, `changes` those changed before a step, `cell` the cell
    radius in µm (0 if not known) and the voxel size (z, y, x) in µm of the preview patch.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings, self.cell = settings, (0.0, (1.0, 1.0, 1.0))
        self.steps: list[tuple[int, float, float, float]] = []
        self.history: list[dict[str, Any]] = []
        self.changes: dict[int, str] = {}
        self.dice, self._per_epoch, self._drawn, self._cost = "", 1, 0.0, 0.0
        self.bar = widgets.FloatProgress(min=0, max=1, layout={"width": "98%"})
        self.status, self.facts, self.note = (widgets.HTML() for _ in range(3))
        self.curves, self.preview = (widgets.Image(layout=PICTURE) for _ in range(2))
        self.preview.layout.display = "none"  # until there is one
        seen = [self.bar, self.status, self.facts, self.curves, self.note, self.preview]
        super().__init__(seen, lambda: self.curves.value)
        self.curves.value = self._curves_png()

    def draw(self, event: Event) -> dict[str, bytes]:
        """Return the pictures that an event asks for; touches no widget, so a thread may do it."""
        pictures = {}
        if isinstance(event, Started):
            self._per_epoch, self.history = event.steps_per_epoch, [dict(r) for r in event.history]
            for row in self.history:
                self._mark_row(row)
        elif isinstance(event, StepEnd):
            self.steps.append((event.step, event.soft_ncut, event.reconstruction, event.total))
            if event.changes:
                changed = dict(event.changes)
                self.settings = self.settings.replace(**changed)
                words = [f"{name}={value:g}" for name, value in changed.items()]
                self.changes[event.step] = "; ".join(words)
            elif time.perf_counter() - self._drawn < max(1.0, DRAW_SHARE * self._cost):
                return {}
        elif isinstance(event, EpochEnd):
            self.history.append(dict(event.row))
            self._mark_row(event.row)
            pictures["preview"] = self._preview_png(event)
        return pictures | {"curves": self._curves_png()}

    def _mark_row(self, row: Mapping[str, Any]) -> None:
        """Note the changes of an epoch, also of one before the training was resumed."""
        for step, words in re.findall(r"step (\d+): ([^|]+)", row["changes"] or ""):
            self.changes.setdefault(int(step), words.strip())
        self.changes = dict(sorted(self.changes.items()))

    def _curves_png(self) -> bytes:
        began = time.perf_counter()
        figure = curves.plot_losses(
            self.history,
            steps=self.steps,
            steps_per_epoch=self._per_epoch,
            changes=list(self.changes),
        )
        png = curves.figure_png(figure)
        self._drawn = time.perf_counter()
        self._cost = self._drawn - began
        return png

    def _preview_png(self, event: EpochEnd) -> bytes:
        (radius, size), preview = self.cell, event.preview
        cells = np.zeros(preview.image.shape, np.int32)
        title = f"one patch after epoch {event.epoch}"
        try:
            if not radius:
                raise UserError("the image shows no cell size")
            cells = segment_instances(
                preview.probabilities,
                preview.image,
                voxel_size_um=size,
                cell_radius_um=radius,
                foreground_classes=self.settings.foreground_classes,
                core_class=self.settings.core_class,
                boundary=self.settings.boundary,
            ).labels
        except UserError as error:
            title += f" (no cells yet: {error})"
        return overlay.preview_png(preview, voxel_size_um=size, title=title, cells=cells)

    def show(self, event: Event, pictures: Mapping[str, bytes]) -> None:
        """Show an event and its pictures."""
        if "curves" in pictures:
            self.curves.value = pictures["curves"]
        if isinstance(event, Started):
            size = " × ".join(map(str, event.patch_shape))
            words = f"{event.parameters:,} weights, patches of {size} voxels"
            self.facts.value = message(_sentences([words, *event.remarks]))
        elif event.remarks:
            self.facts.value = message(_sentences(event.remarks), ORANGE)
        self.bar.max = self.settings.epochs * self._per_epoch
        if isinstance(event, StepEnd):
            self.bar.value = event.step
            self.say(self._describe(event))
        elif isinstance(event, EpochEnd):
            if event.validation_dice is not None:
                self.dice = f" · Dice against your labels {event.validation_dice:.2f}"
            self.preview.value, self.preview.layout.display = pictures["preview"], ""
        changes = enumerate(self.changes.items(), start=1)  # as numbered on the curves
        lines = [f"{n}: from step {step}, {escape(words)}" for n, (step, words) in changes]
        self.note.value = "<br>".join(lines)

    def _describe(self, event: StepEnd) -> str:
        memory = self.history[-1]["peak_memory_mb"] / 1e3 if self.history else 0
        used = f" · {memory:.1f} GB memory" if memory else ""
        return (
            f"epoch {event.epoch} of {self.settings.epochs} · step {event.step} of "
            f"{self.bar.max:.0f} · {duration(event.seconds_left)} left{used} · "
            f"soft N-cut {event.soft_ncut:.3f}{self.dice}"
        )

    def say(self, text: str, colour: str = "inherit") -> None:
        """Show one sentence where the user is looking."""
        self.status.value = message(text, colour)


def _sentences(parts: Sequence[str]) -> str:
    return " ".join(f"{part[:1].upper()}{part[1:]}." for part in parts)
