"""What a training shows: curves, the balance of the losses, and previews with the cells found."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import ipywidgets as widgets
import numpy as np

from wnet_nb.cells.outlines import segment_instances
from wnet_nb.config import Settings
from wnet_nb.events import EpochEnd, Event, Started, StepEnd
from wnet_nb.figures import curves, overlay
from wnet_nb.jobs.preflight import duration
from wnet_nb.widgets.panel import Panel, message

DRAW_SHARE = 10  # the curves are redrawn at most for this part of the time
COLOURS = {"soft N-cut": "#1f5fa8", "reconstruction": "#b45309"}


class Monitor(Panel):
    """Shows a training from its events.

    Attributes
    ----------
    settings : Settings
        The options that hold now.
    changes : dict of int to str
        Options changed before a step.
    patch : tuple
        Cell radius in µm and voxel size (z, y, x) in µm of the preview patch.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.steps: list[tuple[int, float, float, float]] = []
        self.history: list[dict[str, Any]] = []
        self.changes: dict[int, str] = {}
        self.previews: dict[int, bytes] = {}
        self.patch: tuple[float, tuple[float, ...]] = (0.0, (1.0, 1.0, 1.0))
        self._started: Started | None = None
        self._drawn, self._cost = 0.0, 0.0
        self.bar = widgets.FloatProgress(min=0, max=1, layout={"width": "98%"})
        self.status, self.facts, self.note, self.balance = (widgets.HTML() for _ in range(4))
        self.curves, self.preview = (
            widgets.Image(format="png", layout={"width": "940px", "max_width": "calc(100% - 4px)"})
            for _ in range(2)
        )
        self.preview.layout.display = "none"  # until there is one
        self.logarithmic = widgets.Checkbox(description="logarithmic axes", indent=False)
        self.logarithmic.observe(lambda _: self.draw_curves(), "value")
        self.epoch = widgets.IntSlider(
            0, 0, 0, description="epoch shown", layout={"width": "420px"}, disabled=True,
            style={"description_width": "90px"},
        )  # fmt: skip
        self.epoch.observe(lambda _: self._show_preview(), "value")
        super().__init__(
            [
                self.bar,
                self.status,
                self.facts,
                self.curves,
                self.note,
                self.logarithmic,
                self.balance,
                self.preview,
                self.epoch,
            ],
            lambda: self.curves.value,
        )
        self.draw_curves()

    def take(self, event: Event) -> None:
        """Take in one event and show it."""
        self.show(event, self.draw(event))

    def draw(self, event: Event) -> dict[str, bytes]:
        """Return the pictures that an event asks for; touches no widget, so a thread may do it."""
        if isinstance(event, StepEnd):
            self.steps.append((event.step, event.soft_ncut, event.reconstruction, event.total))
            if event.changes:
                self.mark(event.step, dict(event.changes))
            if time.perf_counter() - self._drawn < max(1.0, DRAW_SHARE * self._cost):
                return {}
        pictures = {}
        if isinstance(event, Started):
            self._started, self.history = event, [dict(row) for row in event.history]
        if isinstance(event, EpochEnd):
            self.history.append(dict(event.row))
            pictures["preview"] = self._preview_png(event)
        return pictures | {"curves": self._curves_png()}

    @property
    def last_step(self) -> int:
        """The step that was taken last, from 1; 0 before the first."""
        return self.steps[-1][0] if self.steps else 0

    def _curves_png(self) -> bytes:
        began = time.perf_counter()
        figure = curves.plot_losses(
            self.history,
            steps=self.steps,
            steps_per_epoch=self._started.steps_per_epoch if self._started else 1,
            epochs=self.settings.epochs,
            changes=list(self.changes),
            log=self.logarithmic.value,
        )
        png = curves.figure_png(figure)
        self._drawn = time.perf_counter()
        self._cost = self._drawn - began
        return png

    def _preview_png(self, event: EpochEnd) -> bytes:
        radius, size = self.patch
        preview = event.preview
        cells = np.zeros(preview.image.shape, np.int32)
        try:
            cells = segment_instances(
                preview.probabilities, preview.image, voxel_size_um=size, cell_radius_um=radius
            ).labels
        except ValueError:  # no class looks like cells yet
            pass
        title = f"preview patch after epoch {event.epoch}"
        figure = overlay.plot_preview(preview, voxel_size_um=size, title=title, cells=cells)
        return curves.figure_png(figure)

    def show(self, event: Event, pictures: Mapping[str, bytes]) -> None:
        """Show an event and its pictures."""
        if "curves" in pictures:
            self.curves.value = pictures["curves"]
        if isinstance(event, Started):
            self.bar.max = event.epochs * event.steps_per_epoch
            words = f"{event.parameters:,} weights, patches of {times(event.patch_shape)} voxels"
            self.facts.value = message(". ".join([words, *event.remarks]) + ".")
        elif isinstance(event, StepEnd):
            self.bar.value = event.step
            self.say(self._describe(event))
            self._show_balance(event)
            self.show_changes()
        elif isinstance(event, EpochEnd):
            self._add_preview(event.epoch, pictures["preview"])

    def _describe(self, event: StepEnd) -> str:
        memory = self.history[-1]["peak_memory_mb"] / 1e3 if self.history else 0
        used = f" · {memory:.1f} GB memory" if memory else ""
        return (
            f"epoch {event.epoch} of {self.settings.epochs} · step {event.step} of "
            f"{self.bar.max:.0f} · {duration(event.seconds_left)} left{used} · "
            f"soft N-cut {event.soft_ncut:.3f}"
        )

    def _add_preview(self, epoch: int, picture: bytes) -> None:
        follow = not self.previews or self.epoch.value == max(self.previews)
        self.previews[epoch] = picture
        self.epoch.max, self.epoch.min = max(self.previews), min(self.previews)
        self.epoch.disabled = False
        if follow:
            self.epoch.value = epoch
        self._show_preview()

    def _show_preview(self) -> None:
        if self.epoch.value in self.previews:
            self.preview.value = self.previews[self.epoch.value]
            self.preview.layout.display = ""

    def draw_curves(self) -> None:
        """Draw the curves anew."""
        self.curves.value = self._curves_png()

    def _show_balance(self, event: StepEnd) -> None:
        parts = {
            "soft N-cut": self.settings.ncut_weight * event.soft_ncut,
            "reconstruction": self.settings.reconstruction_weight * event.reconstruction,
        }
        whole = max(sum(parts.values()), 1e-12)
        shares = {name: part / whole for name, part in parts.items()}
        pieces = "".join(
            f'<div style="width:{share:.1%};background:{COLOURS[name]};height:14px"></div>'
            for name, share in shares.items()
        )
        words = " · ".join(
            f'<span style="color:{COLOURS[name]}">■</span> {name} {share:.0%}'
            for name, share in shares.items()
        )
        self.balance.value = (
            f'<div style="max-width:700px">Share of the total loss: {words}'
            f'<div style="display:flex;overflow:hidden;border-radius:3px">{pieces}</div></div>'
        )

    def mark(self, step: int, moved: Mapping[str, float]) -> None:
        """Remember options that hold from a step on; touches no widget."""
        self.changes[step] = "; ".join(f"{name} = {value:g}" for name, value in moved.items())

    def show_changes(self) -> None:
        """List the options that were changed, numbered as on the curves."""
        lines = [
            f"{n}: from step {step}, {escape(words)}"
            for n, (step, words) in enumerate(self.changes.items(), start=1)
        ]
        self.note.value = "<br>".join(lines)

    def say(self, text: str, colour: str = "inherit") -> None:
        """Show one sentence where the user is looking."""
        self.status.value = message(text, colour)


def times(shape: Sequence[int]) -> str:
    """Return a size in words."""
    return " × ".join(map(str, shape))
