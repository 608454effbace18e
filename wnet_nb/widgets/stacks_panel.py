"""Look at the volumes in the notebook, and write a part of one as a TIFF of its own."""

import itertools
from pathlib import Path

import ipywidgets as widgets

from wnet_nb.errors import UserError
from wnet_nb.files.axes import format_um
from wnet_nb.files.writing import write_labels, write_volume
from wnet_nb.jobs.stacks import Stack, Stacks
from wnet_nb.widgets.panel import RED, message
from wnet_nb.widgets.viewer import SLIDER, Chooser, Viewer, true_overlay

CROPS = Path("crops")


def view_stacks(stacks: Stacks) -> Chooser:
    """Return a viewer of the volumes, with their true labels where there are any, and a crop."""

    def make(number: int) -> Viewer:
        stack = stacks[number]
        size, overlays = stack.voxel_size_um, true_overlay(stack)
        viewer = Viewer(stack.array, voxel_size_um=size, overlays=overlays)
        viewer.children = [*viewer.children, CropForm(viewer, stack)]
        return viewer

    return Chooser([stack.name for stack in stacks], make)


class CropForm(widgets.Accordion):
    """Sliders for a box, which the planes of the viewer show, and a button that writes it."""

    def __init__(self, viewer: Viewer, stack: Stack) -> None:
        self.viewer, self.stack = viewer, stack
        self.sliders = [
            widgets.IntRangeSlider(value=(0, n), min=0, max=n, description=axis, layout=SLIDER)
            for axis, n in zip(("z, voxels", "y, voxels", "x, voxels"), stack.shape, strict=True)
        ]
        for slider in self.sliders:
            slider.observe(self._show, "value")
        self.button, self.said = widgets.Button(description="Write the box"), widgets.HTML()
        self.button.on_click(self._write)
        inside = [*self.sliders, self.button, self.said]
        super().__init__([widgets.VBox(inside)], selected_index=None)
        self.set_title(0, "crop: write a part of the volume as a TIFF")

    @property
    def box(self) -> tuple[slice, slice, slice]:
        """The part (z, y, x) in voxels."""
        return tuple(slice(*slider.value) for slider in self.sliders)

    def _size(self) -> str:
        return " × ".join(str(part.stop - part.start) for part in self.box)

    def _show(self, _: object) -> None:
        self.viewer.show_box(self.box)
        self.said.value = f"{self._size()} voxels (z, y, x)"

    def _write(self, _: object) -> None:
        names = (f"{self.stack.name}_crop{n}" for n in itertools.count(1))
        name = next(name for name in names if not (CROPS / f"{name}.tif").exists())
        size, truth = self.stack.voxel_size_um, self.stack.truth
        try:
            image = self.stack.array[self.box]
            path = write_volume(CROPS / f"{name}.tif", image, voxel_size_um=size)
            if truth is not None:  # beside its image, where it is recognised
                write_labels(CROPS / f"{name}_labels.tif", truth[self.box], voxel_size_um=size)
        except UserError as error:
            self.said.value = message(f"{error}.", RED)
            return
        self.said.value = message(
            f"{self._size()} voxels of {format_um(size)} are in '{path}'; to work with them, write "
            "this path into the field of the data."
        )
