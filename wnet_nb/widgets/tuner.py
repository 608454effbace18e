"""Sliders for how cells are cut out, live on a crop of the user's volumes."""

from dataclasses import replace
from typing import Any

import ipywidgets as widgets
import numpy as np
from scipy import ndimage

from wnet_nb.cells.outlines import Instances
from wnet_nb.cells.scores import match_instances
from wnet_nb.cells.size import CellSize
from wnet_nb.config import Settings
from wnet_nb.data import Prepared
from wnet_nb.errors import UserError
from wnet_nb.figures import curves, planes
from wnet_nb.jobs.models import (
    find_cells,
    for_cells,
    load_model,
    predict_classes,
    size_to_look_again,
)
from wnet_nb.jobs.stacks import Stacks
from wnet_nb.widgets import remembered
from wnet_nb.widgets.option_field import LINEAR, OptionField
from wnet_nb.widgets.panel import RED, Panel, message, paragraph
from wnet_nb.widgets.viewer import TRUTH, Chooser, Viewer

CROP_VOXELS = 96  # edge of the crop: small enough to answer within a second or two
WHOLE_VOXELS = 2**20  # a volume up to this size is shown whole
BUTTONS = {  # what each sets; of the first, all that was found
    "As found": {},
    "Tight outlines": {"boundary": 0.5},
    "Generous outlines": {"boundary": 0.3},
}
TUNED = ("cell_radius_um", "boundary", "minimum_size", "minimum_contrast", "foreground_classes")


class CellTuner(Panel):
    """Sliders for radius, boundary, smallest and dimmest cell, live on a volume's liveliest part.

    `network` and `stacks` are as for `find_cells`, and `changes` are the options for it.
    """

    def __init__(self, network: Any, stacks: Stacks) -> None:
        self._model, self._stacks = load_model(getattr(network, "source", network)), stacks
        self._settings = self._model.settings
        self._given = {"network": str(self._model.source), "stacks": str(stacks.path)}
        self.count, self.sizes = widgets.HTML(), widgets.Image(layout={"max_width": "100%"})
        self.fields: dict[str, OptionField] = {}
        self.chooser = Chooser([stack.name for stack in stacks], self._open)
        self.buttons = [widgets.Button(description=words) for words in BUTTONS]
        for button in self.buttons:
            button.on_click(self._press)
        buttons = widgets.HBox(self.buttons, layout={"flex_flow": "row wrap"})
        super().__init__(
            [self.chooser, *self.fields.values(), buttons], lambda: self.viewer.picture.value
        )

    @property
    def viewer(self) -> Viewer:
        """Of the crop that is shown."""
        return self.chooser.shown

    @property
    def changes(self) -> dict[str, Any]:
        """Options that were moved away from what was found, for `find_cells`, or UserError."""
        return {n: f.value for n, f in self.fields.items() if f.value != self._found[n]}

    def _open(self, number: int) -> Viewer:
        """Find the class probabilities in a crop of a volume, and show its cells."""
        self._stack = stack = self._stacks[number]
        self._place = _liveliest(stack.array)
        self._image = np.asarray(stack.array[self._place])
        self._truth = None if stack.truth is None else stack.truth[self._place]
        self._probabilities: dict[float | None, np.ndarray] = {}  # by the radius prepared for
        if not self.fields:
            self._make_fields(self._segment())
        cells = self._segment()
        overlays = {"cells": cells.labels}
        if self._truth is not None:
            overlays[TRUTH] = self._truth
        self._describe(cells)
        below = [self.count, self.sizes]
        size = stack.voxel_size_um
        return Viewer(self._image, voxel_size_um=size, overlays=overlays, below=below)

    def _make_fields(self, cells: Instances) -> None:
        found = {"cell_radius_um": cells.cell_size.radius_um, "boundary": cells.boundary}
        self._found = {n: getattr(self._settings, n) for n in TUNED}
        self._found |= {n: float(f"{v:.3g}") for n, v in found.items() if self._found[n] is None}
        radius = self._found["cell_radius_um"]
        middle, high = np.percentile(self._image, (50, 99.9)).tolist()
        brightest = max(float(f"{high - middle:.2g}"), 1e-3)
        spans = {
            "cell_radius_um": (LINEAR, 0.4 * radius, 2.5 * radius, 0.02 * radius),
            "boundary": (LINEAR, 0.05, 0.95, 0.01),
            "minimum_size": (LINEAR, 0, 1, 0.02),
            "minimum_contrast": (LINEAR, 0, brightest, brightest / 100),
        }
        self.fields = {
            n: OptionField(n, self._found[n], self._update, span=spans.get(n)) for n in TUNED
        }
        for name, value in remembered.recall("tuner", self._given).items():
            self.fields[name].value = value

    def _press(self, button: widgets.Button) -> None:
        for name, value in (BUTTONS[button.description] or self._found).items():
            self.fields[name].value = value
        self._update()

    def _segment(self) -> Instances:
        settings, stack = self._settings.replace(**self.changes), self._stack
        cells = self._look(settings, settings.cell_radius_um or stack.cell_size)
        seen = size_to_look_again(cells, stack, self._model, settings)
        return self._look(settings, seen) if seen else cells

    def _look(self, settings: Settings, radius: float | CellSize | None) -> Instances:
        """Find the cells of a radius as `jobs.segment` does, in the crop."""
        stack = self._stack
        prepared = stack.prepared(for_cells(self._model.settings, radius))
        key = prepared.cell_radius_um
        if key not in self._probabilities:
            part, inner = _part(prepared, self._place)
            classes = predict_classes(part, self._model, self._settings)
            self._probabilities[key] = classes[(slice(None), *inner)]
        classes = self._probabilities[key]
        return find_cells(classes, self._image, stack, self._model, settings, cell_radius_um=radius)

    def _update(self) -> None:
        try:
            cells = self._segment()
        except UserError as error:
            self.count.value = message(f"{error}.", RED)
            return
        self.viewer.set_overlay("cells", cells.labels)
        self._describe(cells)
        remembered.keep("tuner", self._given, self.changes)

    def _describe(self, cells: Instances) -> None:
        voxel = float(np.prod(self._stack.voxel_size_um))
        volumes = np.bincount(cells.labels.ravel())[1:] * voxel
        smallest = self.fields["minimum_size"].value * 4 / 3 * np.pi * cells.cell_size.radius_um**3
        self.sizes.value = curves.figure_png(curves.plot_sizes(volumes, smallest))
        edges = " × ".join(str(n) for n in self._image.shape)
        words = f"<b>{cells.count} cells</b> in a crop of {edges} voxels"
        if self._truth is not None:
            scores = match_instances(cells.labels, self._truth, thresholds=[0.5])
            words += f"; F1 {scores.f1[0]:.2f} at IoU 0.5 for {scores.n_true} true cells"
        self.count.value = paragraph(words)


def _liveliest(image: np.ndarray) -> tuple[slice, ...]:
    """Return the liveliest part of an image (Z, Y, X); of a small one, all of it."""
    if image.size <= WHOLE_VOXELS:
        return tuple(slice(0, n) for n in image.shape)
    thin = np.asarray(image[::4, ::4, ::4], np.float32)
    size = [min(n, CROP_VOXELS) for n in image.shape]
    window = np.maximum(1, np.array(size) // 4)
    lively = ndimage.uniform_filter(thin**2, window) - ndimage.uniform_filter(thin, window) ** 2
    middle = 4 * np.array(np.unravel_index(lively.argmax(), thin.shape))
    return planes.window_around(middle.tolist(), size, image.shape)


def _part(prepared: Prepared, place: tuple[slice, ...]) -> tuple[Prepared, tuple[slice, ...]]:
    """Return the part of a prepared volume that holds a place, and where the place lies in it."""
    spans = list(zip(place, prepared.factors, prepared.shape, strict=True))
    part = tuple(slice(s.start // f, -(-s.stop // f)) for s, f, _ in spans)
    shape = tuple(
        min(p.stop * f, n) - p.start * f for p, (_, f, n) in zip(part, spans, strict=True)
    )
    inner = tuple(
        slice(s.start - p.start * f, s.stop - p.start * f)
        for p, (s, f, _) in zip(part, spans, strict=True)
    )
    return replace(prepared, array=prepared.array[part], shape=shape), inner
