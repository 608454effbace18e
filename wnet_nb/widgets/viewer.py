"""A viewer of volumes: three planes at true proportions with a shared crosshair and overlays."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import numpy as np

from wnet_nb.figures import planes
from wnet_nb.grid import thin_out
from wnet_nb.jobs.stacks import Stack
from wnet_nb.widgets.panel import WIDE, Panel, paragraph

WIDTH = "760px"  # of the planes at most
SLIDER = widgets.Layout(width="98%")
LETTERS = 28  # of a name that a list shows; a longer one is cut where runs seldom differ
CHOSEN = (255, 255, 255)  # colour of the cell that was chosen
TRUTH = "true labels"
# Core ipywidgets tell no click position. A pane of glass over the picture writes what the mouse
# does into a text field that is not seen; where a page forbids that, the sliders remain.
GLASS = Path(__file__).with_name("glass.html")


class Viewer(Panel):
    """Three planes of a volume (Z, Y, X); a click or the sliders move a shared crosshair.

    `overlays` are integer labels (Z, Y, X) by their names, 0 is background; a curtain compares two
    of them, and the planes begin where the first one has most cells. `below` is shown under the
    controls. `chosen` is the cell that is drawn white: its overlay and its number, with which
    `on_cell` is called when a cell was clicked. The voxel size is (z, y, x) in µm.
    """

    def __init__(
        self,
        image: np.ndarray,
        *,
        voxel_size_um: Sequence[float],
        overlays: Mapping[str, np.ndarray] | None = None,
        below: Sequence[widgets.Widget] = (),
    ) -> None:
        self.image, self.voxel_size_um = image, tuple(float(s) for s in voxel_size_um)
        self.overlays = dict(overlays or {})
        self.chosen, self.on_cell = ("", 0), None
        self._colours: dict[str, np.ndarray] = {}
        self._moving, self._box = False, None
        self._make_controls()
        self._make_stage()
        of_overlays = [self.left, self.right, self.curtain, self.opacity]
        sliders = [self.z, self.y, self.x, self.zoom, self.contrast]
        for control in (*sliders, *of_overlays):
            control.observe(self._draw, "value")
        controls = widgets.VBox(
            [*sliders, *(of_overlays if self.overlays else ()), self.where, *below],
            layout={"flex": "1 1 270px", "max_width": "340px"},
        )
        layout = {"flex_flow": "row wrap", "align_items": "flex-start"}
        super().__init__(
            [widgets.HBox([self.stage, controls], layout=layout)], lambda: self.picture.value
        )
        self._draw()

    def _make_controls(self) -> None:
        names = list(self.overlays)
        point = [n // 2 for n in self.image.shape]
        if names:
            point = planes.densest_point(self.overlays[names[0]])
        self.z, self.y, self.x = (
            widgets.IntSlider(p, 0, n - 1, description=axis, layout=SLIDER)
            for axis, p, n in zip("zyx", point, self.image.shape, strict=True)
        )
        sample = np.asarray(thin_out(self.image, 500_000), np.float32)
        low, high = np.nanpercentile(sample, (0.5, 99.8))
        span = max(high - low, 1e-6)
        self.contrast = widgets.FloatRangeSlider(
            value=(low, high),
            min=low - 0.2 * span,
            max=high + span,
            step=span / 200,
            description="contrast",
            readout_format=".3g",
            layout=SLIDER,
        )
        shown = zip(("overlay", "compare"), [*names, "none", "none"][:2], strict=True)
        options = [(n if len(n) <= LETTERS else f"{n[:11]}…{n[-16:]}", n) for n in ("none", *names)]
        self.left, self.right = (
            widgets.Dropdown(options=options, value=name, description=title, layout=SLIDER)
            for title, name in shown
        )
        shares = {"opacity": 0.45, "curtain": 0.5 if len(names) > 1 else 1.0}
        self.opacity, self.curtain = (
            widgets.FloatSlider(value, min=0, max=1, step=0.01, description=name, layout=SLIDER)
            for name, value in shares.items()
        )
        zooms = [("the whole", 1), ("2 ×", 2), ("4 ×", 4), ("8 ×", 8)]
        self.zoom = widgets.Dropdown(options=zooms, description="zoom", layout=SLIDER)
        self.where = widgets.HTML()

    def _make_stage(self) -> None:
        self.picture = widgets.Image(layout={"width": "100%"})
        glass, self.hand = widgets.HTML(GLASS.read_text(encoding="utf-8")), widgets.Text()
        glass.add_class("wnet-glass")
        self.hand.add_class("wnet-hand")
        self.hand.observe(self._take_hand, "value")
        layout = {"flex": "2 1 330px", "max_width": WIDTH, "min_width": "0"}
        self.stage = widgets.Box([self.picture, glass, self.hand], layout=layout)
        self.stage.add_class("wnet-stage")

    @property
    def point(self) -> tuple[int, int, int]:
        """Voxel (z, y, x) where the planes cross; set it to move all three."""
        return self.z.value, self.y.value, self.x.value

    @point.setter
    def point(self, point: Sequence[float]) -> None:
        self._moving = True
        for slider, value in zip((self.z, self.y, self.x), point, strict=True):
            slider.value = round(value)
        self._moving = False
        self._draw()

    def choose(self, overlay: str, cell: int, point: Sequence[float] | None = None) -> None:
        """Draw a cell white, in whichever of the two overlays it is, and go to a point of it."""
        self.chosen = (overlay, cell)
        if overlay not in (self.left.value, self.right.value):
            self.left.value = overlay
        self.point = self.point if point is None else point
        columns, is_left = self._window()[0][2], overlay == self.left.value
        share = (self.x.value - columns.start + 0.5) / (columns.stop - columns.start)
        if (share < self.curtain.value) != is_left:  # hidden: draw the curtain aside
            self.curtain.value = float(is_left)

    def set_overlay(self, name: str, overlay: np.ndarray) -> None:
        """Replace an overlay."""
        self.overlays[name] = overlay
        self._colours.pop(name, None)
        self._draw()

    def show_box(self, box: Sequence[slice]) -> None:
        """Draw the edges of a part (z, y, x) of the volume into the planes."""
        self._box = box
        self._draw()

    def _take_hand(self, change: Mapping[str, Any]) -> None:
        across, down, wheel, _ = (float(word) for word in change["new"].split())
        window, layout = self._window()
        row, column = down * layout.shape[0], across * layout.shape[1]
        point = list(self.point)
        for (rows, columns), axes in zip(layout.places, planes.AXES, strict=True):
            if not (rows.start <= row < rows.stop and columns.start <= column < columns.stop):
                continue
            if wheel:
                (through,) = {0, 1, 2} - set(axes)
                last = self.image.shape[through] - 1
                point[through] = min(max(0, point[through] + int(wheel)), last)
                self.point = point
                return
            for place, at, axis in zip((rows, columns), (row, column), axes, strict=True):
                share = (at - place.start) / (place.stop - place.start)
                part = window[axis]
                point[axis] = part.start + int(share * (part.stop - part.start))
            self.point = point
            share = (column - columns.start) / (columns.stop - columns.start)
            self._choose_here(share < self.curtain.value)

    def _choose_here(self, is_left: bool) -> None:
        """Choose the cell at the cross, of the overlay that is seen there."""
        names = [name for name in (self.left.value, self.right.value) if name in self.overlays]
        if not names:
            return
        name = names[0] if is_left else names[-1]
        cell = int(self.overlays[name][self.point])
        if cell:
            self.choose(name, cell)
            if self.on_cell:
                self.on_cell(name, cell)

    def _window(self) -> tuple[tuple[slice, ...], planes.Layout]:
        """Return the part of the volume that is shown, and the layout of its planes."""
        shape = [max(1, n // self.zoom.value) for n in self.image.shape]
        window = planes.window_around(self.point, shape, self.image.shape)
        return window, planes.Layout.of(shape, self.voxel_size_um)

    def _overlay(self, name: str, window: tuple[slice, ...]) -> planes.Overlay | None:
        if name not in self.overlays:
            return None
        if name not in self._colours:
            self._colours[name] = planes.cell_colours(self.overlays[name])
        colours, (overlay, cell) = self._colours[name], self.chosen
        if overlay == name and 0 < cell < len(colours):
            colours = colours.copy()
            colours[cell] = CHOSEN
        return self.overlays[name][window], colours

    def _draw(self, _: object = None) -> None:
        if self._moving:
            return
        window, layout = self._window()
        box = self._box
        if box is not None:
            edges = zip(box, window, strict=True)
            box = [slice(b.start - w.start, b.stop - w.start) for b, w in edges]
        self.picture.value = planes.planes_png(
            self.image[window],
            [p - part.start for p, part in zip(self.point, window, strict=True)],
            layout,
            limits=self.contrast.value,
            left=self._overlay(self.left.value, window),
            right=self._overlay(self.right.value, window),
            opacity=self.opacity.value,
            curtain=self.curtain.value,
            box=box,
        )
        self.where.value = self._describe()

    def _describe(self) -> str:
        point = self.point
        voxels = ", ".join(f"{axis} {p}" for axis, p in zip("zyx", point, strict=True))
        lengths = ", ".join(f"{length:.4g}" for length in np.multiply(point, self.voxel_size_um))
        sides = np.multiply(self.image.shape, self.voxel_size_um)
        lines = [
            f"the volume is {' × '.join(f'{side:.4g}' for side in sides)} µm (z, y, x)",
            f"cross at voxel {voxels} ({lengths} µm), brightness {self.image[point]:.4g}",
        ]
        for side, name in (("left", self.left.value), ("right", self.right.value)):
            if name in self.overlays:
                cell = self.overlays[name][point]
                lines.append(f"{side}: {name}; at the cross {f'cell {cell}' if cell else 'none'}")
        return paragraph("<br>".join(lines))


class Chooser(Panel):
    """One of several panels, which `make` returns for the number of a name that is chosen."""

    def __init__(self, names: Sequence[str], make: Callable[[int], Panel]) -> None:
        self._make = make
        options = [(f"{n + 1}: {name}", n) for n, name in enumerate(names)]
        layout = WIDE | {"display": "" if len(names) > 1 else "none"}
        self.which = widgets.Dropdown(options=options, description="volume", layout=layout)
        self.which.observe(self._open, "value")
        self._box = widgets.VBox()
        super().__init__([self.which, self._box], lambda: self.shown._picture())
        self._open()

    def _open(self, _: object = None) -> None:
        self.shown = self._make(self.which.value)
        self._box.children = [self.shown]


def true_overlay(stack: Stack) -> dict[str, np.ndarray]:
    """Return the true labels of a volume as an overlay; nothing without."""
    truth = stack.truth
    return {} if truth is None else {TRUTH: truth}
