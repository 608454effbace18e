"""Sliders for how cells are cut out, live on a crop of the user's volumes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import ipywidgets as widgets
import numpy as np

from wnet_nb.cells.outlines import Instances, segment_instances
from wnet_nb.cells.scores import match_instances
from wnet_nb.data import Prepared
from wnet_nb.errors import UserError
from wnet_nb.figures import curves
from wnet_nb.jobs.models import load_model
from wnet_nb.jobs.segment import class_map
from wnet_nb.jobs.stacks import Stacks
from wnet_nb.widgets import remembered
from wnet_nb.widgets.option_field import OptionField
from wnet_nb.widgets.panel import RED, Panel, message
from wnet_nb.widgets.viewer import TRUTH, Viewer

CROP_VOXELS = 96  # edge of the crop: small enough to answer within a second or two
TUNED = ("cell_radius_um", "boundary", "minimum_size", "foreground_classes")


class CellTuner(Panel):
    """Sliders for cell radius, boundary and smallest cell, live on a crop.

    Parameters
    ----------
    network : ModelField, TrainingPanel, Trained, str or Path
        See `find_cells`.
    stacks : Stacks
        One can be chosen; the crop is where most happens in it.
    """

    def __init__(self, network: Any, stacks: Stacks) -> None:
        self._model, self._stacks = load_model(getattr(network, "source", network)), stacks
        self._settings = self._model.settings
        self._given = {"network": str(self._model.source), "stacks": str(stacks.path)}
        self.which = widgets.Dropdown(
            options=[(stack.name, n) for n, stack in enumerate(stacks)], description="volume"
        )
        self.which.layout.display = "" if len(stacks) > 1 else "none"
        self.which.observe(self._open, "value")
        self.count, self.sizes = widgets.HTML(), widgets.Image(format="png")
        self.sizes.layout = widgets.Layout(max_width="100%")
        self._box, self.viewer = widgets.VBox(), None
        self._take_crop()
        self._make_fields(self._segment({}))
        self.undo = widgets.Button(description="As found")
        self.undo.on_click(lambda _: self._undo())
        super().__init__(
            [self.which, self._box, *self.fields.values(), self.undo],
            lambda: self.viewer.picture.value,
        )
        self._show_crop()

    def _make_fields(self, cells: Instances) -> None:
        found = {"cell_radius_um": cells.cell_size.radius_um, "boundary": cells.boundary}
        self._found = {n: getattr(self._settings, n) for n in TUNED}
        self._found |= {n: float(f"{v:.3g}") for n, v in found.items() if self._found[n] is None}
        radius = self._found["cell_radius_um"]
        spans = {
            "cell_radius_um": (0.4 * radius, 2.5 * radius, 105, False),
            "boundary": (0.05, 0.95, 90, False),
            "minimum_size": (0.0, 1.0, 50, False),
        }
        self.fields = {
            n: OptionField(n, self._found[n], self._update, span=spans.get(n)) for n in TUNED
        }
        for name, value in remembered.recall("tuner", self._given).items():
            self.fields[name].value = value

    @property
    def changes(self) -> dict[str, Any]:
        """Options that were moved away from what was found, for `find_cells`."""
        return {n: f.value for n, f in self.fields.items() if f.value != self._found[n]}

    def _undo(self) -> None:
        for name, field in self.fields.items():
            field.value = self._found[name]
        self._update()

    def _open(self, _: object) -> None:
        self._take_crop()
        self._show_crop()

    def _take_crop(self) -> None:
        """Find the class probabilities of the liveliest part of the volume that is chosen."""
        stack = self._stacks[self.which.value]
        source = class_map(stack, self._model, self._settings)
        source.prepared, self._place = _crop(source.prepared, stack.array)
        self._image = np.asarray(stack.array[self._place])
        self._size, truth = stack.voxel_size_um, stack.truth
        self._truth = None if truth is None else truth[self._place]
        self._probabilities = source.predict(None)

    def _show_crop(self) -> None:
        overlays = {"cells": self._segment(self.changes).labels}
        if self._truth is not None:
            overlays[TRUTH] = self._truth
        below = [self.count, self.sizes]
        self.viewer = Viewer(self._image, voxel_size_um=self._size, overlays=overlays, below=below)
        self._box.children = [self.viewer]
        self._update()

    def _segment(self, changes: dict[str, Any]) -> Instances:
        settings, stack = self._settings.replace(**changes), self._stacks[self.which.value]
        source = class_map(stack, self._model, settings)
        return segment_instances(
            self._probabilities,
            self._image,
            voxel_size_um=self._size,
            cell_radius_um=settings.cell_radius_um or stack.cell_size,
            foreground_classes=source.foreground_classes,
            core_class=source.core_class,
            boundary=source.boundary,
            minimum_size=settings.minimum_size,
        )

    def _update(self) -> None:
        faults = [field.fault for field in self.fields.values() if field.fault]
        try:
            if faults:
                raise UserError(faults[0])
            cells = self._segment(self.changes)
        except UserError as error:
            self.count.value = message(f"{error}.", RED)
            return
        self.viewer.set_overlay("cells", cells.labels)
        self._show(cells)
        remembered.keep("tuner", self._given, self.changes)

    def _show(self, cells: Instances) -> None:
        voxel = float(np.prod(self._size))
        volumes = np.bincount(cells.labels.ravel())[1:] * voxel
        smallest = self.fields["minimum_size"].value * 4 / 3 * np.pi * cells.cell_size.radius_um**3
        self.sizes.value = curves.figure_png(curves.plot_sizes(volumes, smallest))
        edges = " × ".join(str(n) for n in self._image.shape)
        words = f"<b>{cells.count} cells</b> in a crop of {edges} voxels"
        if self._truth is not None:
            scores = match_instances(cells.labels, self._truth, thresholds=[0.5])
            words += f"; F1 {scores.f1[0]:.2f} at IoU 0.5 for {scores.n_true} true cells"
        self.count.value = words


def _crop(prepared: Prepared, image: np.ndarray) -> tuple[Prepared, tuple[slice, ...]]:
    """Return the liveliest part of a prepared volume, and where it lies in the image."""
    size = [max(1, CROP_VOXELS // f) for f in prepared.factors]
    array = prepared.array
    starts = [
        range(0, max(1, n - s + 1), max(1, s // 2)) for n, s in zip(array.shape, size, strict=True)
    ]
    corners = np.stack(np.meshgrid(*starts, indexing="ij"), -1).reshape(-1, 3)
    parts = [
        tuple(slice(c, c + s) for c, s in zip(corner, size, strict=True)) for corner in corners
    ]
    part = max(parts, key=lambda p: float(array[p][::2, ::2, ::2].std()))
    place = tuple(
        slice(s.start * f, min(s.stop * f, n))
        for s, f, n in zip(part, prepared.factors, image.shape, strict=True)
    )
    shape = tuple(p.stop - p.start for p in place)
    return replace(prepared, array=array[part], shape=shape), place
