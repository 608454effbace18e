"""What a training shows: curves, previews with the cells found, and what was changed on the way."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from html import escape
from typing import Any

import ipywidgets as widgets
import numpy as np

from wnet_nb.cells.outlines import segment_instances
from wnet_nb.config import Settings
from wnet_nb.errors import UserError
from wnet_nb.events import EpochEnd, Event, Preview, Started, StepEnd
from wnet_nb.figures import curves, overlay
from wnet_nb.jobs.estimate import duration
from wnet_nb.widgets.panel import ORANGE, Panel, message

DRAW_SHARE = 10  # the curves are redrawn at most for this part of the time
COLOURS = {"soft N-cut": "#1f5fa8", "reconstruction": "#b45309"}
PICTURE = {"width": "940px", "max_width": "calc(100% - 4px)"}


class TrainingView(Panel):
    """Draws a training from its events, and nothing else.

    Attributes
    ----------
    settings : Settings
        The options that hold now.
    changes : dict of int to str
        Options changed before a step.
    cell : tuple
        Cell radius in µm (0 if not known) and voxel size (z, y, x) in µm of the preview patch.
    dice : str
        How well the network's foreground fits the user's labels, in words, if there are any.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.steps: list[tuple[int, float, float, float]] = []
        self.history: list[dict[str, Any]] = []
        self.changes: dict[int, str] = {}
        self.previews: dict[int, bytes] = {}
        self.cell: tuple[float, tuple[float, ...]] = (0.0, (1.0, 1.0, 1.0))
        self._per_epoch, self.dice = 1, ""
        self._drawn, self._cost = 0.0, 0.0
        self.bar = widgets.FloatProgress(min=0, max=1, layout={"width": "98%"})
        self.status, self.facts, self.note, self.balance = (widgets.HTML() for _ in range(4))
        pictures = (widgets.Image(format="png", layout=dict(PICTURE)) for _ in range(2))
        self.curves, self.preview = pictures
        self.preview.layout.display = "none"  # until there is one
        self.epoch = widgets.IntSlider(
            0, 0, 0, description="epoch shown", layout={"width": "420px"}, disabled=True,
            style={"description_width": "90px"},
        )  # fmt: skip
        self.epoch.observe(self._show_preview, "value")
        details = widgets.Accordion(children=[self.balance])
        details.set_title(0, "Details")
        details.selected_index = None
        seen = [self.status, self.facts, self.curves, self.note, self.preview, self.epoch]
        super().__init__([self.bar, *seen, details], lambda: self.curves.value)
        self.curves.value = self._curves_png()

    @property
    def last_step(self) -> int:
        """The step that was taken last, from 1; 0 before the first."""
        return self.steps[-1][0] if self.steps else 0

    def take(self, event: Event) -> None:
        """Take in one event and show it."""
        self.show(event, self.draw(event))

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
                self._take_changes(event.step, dict(event.changes))
            elif time.perf_counter() - self._drawn < max(1.0, DRAW_SHARE * self._cost):
                return {}
        elif isinstance(event, EpochEnd):
            self.history.append(dict(event.row))
            self._mark_row(event.row)
            pictures["preview"] = self._preview_png(event.preview, event.epoch)
        return pictures | {"curves": self._curves_png()}

    def _take_changes(self, step: int, changed: Mapping[str, float]) -> None:
        self.settings = self.settings.replace(**changed)
        self.changes[step] = "; ".join(f"{name}={value:g}" for name, value in changed.items())

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
            epochs=self.settings.epochs,
            changes=list(self.changes),
        )
        png = curves.figure_png(figure)
        self._drawn = time.perf_counter()
        self._cost = self._drawn - began
        return png

    def _preview_png(self, preview: Preview, epoch: int) -> bytes:
        radius, size = self.cell
        cells, title = np.zeros(preview.image.shape, np.int32), f"one patch after epoch {epoch}"
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
        figure = overlay.plot_preview(preview, voxel_size_um=size, title=title, cells=cells)
        return curves.figure_png(figure)

    def show(self, event: Event, pictures: Mapping[str, bytes]) -> None:
        """Show an event and its pictures."""
        if "curves" in pictures:
            self.curves.value = pictures["curves"]
        if event.remarks:
            self.facts.value = message(". ".join(event.remarks) + ".", ORANGE)
        if isinstance(event, Started):
            self.bar.max = event.epochs * self._per_epoch
            size = " × ".join(map(str, event.patch_shape))
            words = f"{event.parameters:,} weights, patches of {size} voxels"
            self.facts.value = message(". ".join([words, *event.remarks]) + ".")
            self._list_changes()
        elif isinstance(event, StepEnd):
            self.bar.max = self.settings.epochs * self._per_epoch
            self.bar.value = event.step
            self.say(self._describe(event))
            self._show_balance(event)
            if event.changes:
                self._list_changes()
        elif isinstance(event, EpochEnd):
            if event.validation_dice is not None:
                self.dice = f" · Dice against your labels {event.validation_dice:.2f}"
            self._add_preview(event.epoch, pictures["preview"])

    def _describe(self, event: StepEnd) -> str:
        memory = self.history[-1]["peak_memory_mb"] / 1e3 if self.history else 0
        used = f" · {memory:.1f} GB memory" if memory else ""
        return (
            f"epoch {event.epoch} of {self.settings.epochs} · step {event.step} of "
            f"{self.bar.max:.0f} · {duration(event.seconds_left)} left{used} · "
            f"soft N-cut {event.soft_ncut:.3f}{self.dice}"
        )

    def _add_preview(self, epoch: int, picture: bytes) -> None:
        follow = not self.previews or self.epoch.value == max(self.previews)
        self.previews[epoch] = picture
        self.epoch.max, self.epoch.min = max(self.previews), min(self.previews)
        self.epoch.disabled = False
        if follow:
            self.epoch.value = epoch
        self._show_preview()

    def _show_preview(self, _: object = None) -> None:
        if self.epoch.value in self.previews:
            self.preview.value = self.previews[self.epoch.value]
            self.preview.layout.display = ""

    def _show_balance(self, event: StepEnd) -> None:
        parts = {
            "soft N-cut": self.settings.ncut_weight * event.soft_ncut,
            "reconstruction": self.settings.reconstruction_weight * event.reconstruction,
        }
        whole = max(sum(parts.values()), 1e-12)
        words = " · ".join(
            f'<span style="color:{COLOURS[name]}">■</span> {name} {part / whole:.0%}'
            for name, part in parts.items()
        )
        self.balance.value = (
            f"Share of the total loss: {words}. Reconstruction is counted in large numbers; that "
            "is a problem only if the soft N-cut does not fall."
        )

    def _list_changes(self) -> None:
        """List the options that were changed, numbered as on the curves."""
        lines = [
            f"{n}: from step {step}, {escape(words)}"
            for n, (step, words) in enumerate(self.changes.items(), start=1)
        ]
        self.note.value = "<br>".join(lines)

    def say(self, text: str, colour: str = "inherit") -> None:
        """Show one sentence where the user is looking."""
        self.status.value = message(text, colour)
