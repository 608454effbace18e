"""Sliders for how cells are cut out, live on a crop of the user's volume."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import ipywidgets as widgets
import numpy as np

from wnet_nb.cells.outlines import segment_instances
from wnet_nb.cells.size import CellSize, estimate_cell_radius
from wnet_nb.data import Prepared
from wnet_nb.figures import curves
from wnet_nb.files.volumes import Volume
from wnet_nb.inference import predict_volume
from wnet_nb.jobs.prepare import prepare_volume
from wnet_nb.widgets.option_form import labelled
from wnet_nb.widgets.panel import RED, Panel, message
from wnet_nb.widgets.training_panel import Trained
from wnet_nb.widgets.viewer import Viewer

CROP_VOXELS = 96  # edge of the crop: small enough to answer within a second or two


class CellTuner(Panel):
    """Sliders for cell radius, boundary and smallest cell, live on a crop.

    Parameters
    ----------
    trained : Trained
    volume : Volume
        The crop is where most happens in it.

    Attributes
    ----------
    changes : dict
        What differs from the trained settings; give it to `find_cells`.
    """

    def __init__(self, trained: Trained, volume: Volume) -> None:
        self._settings = trained.model.settings
        self._size = volume.voxel_size_um
        prepared, size = prepare_volume(volume, self._settings)
        crop, self.place = _crop(prepared, volume.array)
        self._image = np.asarray(volume.array[self.place])
        self._probabilities = predict_volume(
            trained.model.model,
            crop,
            tile_size=self._settings.tile_size,
            precision=self._settings.precision,
        )
        first = {
            "cell_radius_um": self._settings.cell_radius_um or self._radius(volume, size),
            "boundary": self._settings.boundary,
            "minimum_size": self._settings.minimum_size,
        }
        cells = self._segment(first)
        first["boundary"] = round(cells.boundary, 3)
        self._first = first
        self.controls = {
            "cell_radius_um": _slider(first, "cell_radius_um", 0.4, 2.5),
            "boundary": widgets.FloatSlider(value=first["boundary"], min=0.05, max=0.95, step=0.01),
            "minimum_size": widgets.FloatSlider(
                value=first["minimum_size"], min=0, max=1, step=0.02
            ),
        }
        rows = []
        for name, control in self.controls.items():
            control.continuous_update = False
            control.layout.width = "300px"
            control.observe(lambda _: self._update(), "value")
            rows.append(labelled(name, control))
        chosen = self._settings.foreground_classes or ()
        self.classes = widgets.Dropdown(  # None as a value would be shown as an empty field
            options=[("found from the image", ())]
            + [(f"class {k}", (k,)) for k in range(len(self._probabilities))],
            value=chosen if len(chosen) == 1 else (),
        )
        self.classes.observe(lambda _: self._update(), "value")
        rows.append(labelled("foreground_classes", self.classes))
        self.count, self.sizes = widgets.HTML(), widgets.Image(format="png")
        self.sizes.layout = widgets.Layout(max_width="100%")
        self.viewer = Viewer(
            self._image,
            voxel_size_um=self._size,
            overlays={"cells": cells.labels},
            below=[self.count, self.sizes],
        )
        super().__init__([self.viewer, *rows], lambda: self.viewer.picture.value)
        self._show(cells)

    @property
    def changes(self) -> dict[str, Any]:
        """Options that were moved away from what was found."""
        moved = {
            name: control.value
            for name, control in self.controls.items()
            if control.value != self._first[name]
        }
        if self.classes.value:
            moved["foreground_classes"] = self.classes.value
        return moved

    def _radius(self, volume: Volume, size: CellSize | None) -> float:
        size = size or estimate_cell_radius(volume.array, voxel_size_um=volume.voxel_size_um)
        return round(size.radius_um, 3)

    def _segment(self, values: Mapping[str, Any]) -> Any:
        return segment_instances(
            self._probabilities, self._image, voxel_size_um=self._size, **values
        )

    def _update(self) -> None:
        values = {name: control.value for name, control in self.controls.items()}
        try:
            cells = self._segment(values | {"foreground_classes": self.classes.value or None})
        except ValueError as error:
            self.count.value = message(f"{error}.", RED)
            return
        self.viewer.set_overlay("cells", cells.labels)
        self._show(cells)

    def _show(self, cells: Any) -> None:
        voxel = float(np.prod(self._size))
        volumes = np.bincount(cells.labels.ravel())[1:] * voxel
        radius = cells.cell_size.radius_um
        share = self.controls["minimum_size"].value
        smallest = share * 4 / 3 * np.pi * radius**3
        self.sizes.value = curves.figure_png(curves.plot_sizes(volumes, smallest))
        edges = " × ".join(str(n) for n in self._image.shape)
        self.count.value = f"<b>{cells.count} cells</b> in a crop of {edges} voxels"


def _crop(prepared: Prepared, image: np.ndarray) -> tuple[Prepared, tuple[slice, ...]]:
    """Return the liveliest part of a prepared volume, and where it lies in the image."""
    size = [max(1, CROP_VOXELS // f) for f in prepared.factors]
    array = prepared.array
    steps = [max(1, s // 2) for s in size]
    starts = [
        range(0, max(1, n - s + 1), step)
        for n, s, step in zip(array.shape, size, steps, strict=True)
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


def _slider(first: Mapping[str, float], name: str, low: float, high: float) -> widgets.FloatSlider:
    value = first[name]
    return widgets.FloatSlider(
        value=value, min=low * value, max=high * value, step=value / 50, readout_format=".3g"
    )
