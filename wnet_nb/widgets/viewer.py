"""A viewer of volumes: three planes at true proportions with a shared crosshair and overlays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import ipywidgets as widgets
import numpy as np

from wnet_nb.figures import planes
from wnet_nb.widgets.panel import Panel

WIDTH = "520px"  # of the planes at most; beside the controls also on a narrow screen
SLIDER = widgets.Layout(width="98%")


class Viewer(Panel):
    """Three planes of a volume; sliders move a shared crosshair.

    Parameters
    ----------
    image : ndarray
        (Z, Y, X), any real dtype; a memory map is read plane by plane.
    voxel_size_um : sequence of 3 float
        (z, y, x) in µm.
    overlays : mapping of str to ndarray, optional
        Labels (integer, 0 is background) or class maps (float, 0-1), each (Z, Y, X). Two can be
        compared with a curtain. The planes begin where the first one, if labels, has most cells.
    below : sequence of Widget
        What to show under the controls.

    Attributes
    ----------
    z, y, x : IntSlider
        Where the planes cross.
    picture : Image
        The planes, as PNG.
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
        self._layout = planes.Layout.of(image.shape, self.voxel_size_um)
        self.picture = widgets.Image(
            format="png", layout={"flex": "1 1 330px", "max_width": WIDTH, "min_width": "0"}
        )
        self.z, self.y, self.x = (
            widgets.IntSlider(p, 0, n - 1, description=axis, layout=SLIDER)
            for axis, p, n in zip("zyx", self._first_point(), image.shape, strict=True)
        )
        low, high = _grey_range(image)
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
        names = list(self.overlays)
        self.left = widgets.Dropdown(
            options=["none", *names],
            value=names[0] if names else "none",
            description="overlay",
            layout=SLIDER,
        )
        self.right = widgets.Dropdown(
            options=["none", *names],
            value=names[1] if len(names) > 1 else "none",
            description="compare",
            layout=SLIDER,
        )
        self.opacity = _share(0.45, "opacity")
        self.curtain = _share(0.5 if len(names) > 1 else 1.0, "curtain")
        self.where = widgets.HTML()
        sliders = [self.z, self.y, self.x, self.contrast]
        self._for_overlays = widgets.VBox([self.left, self.right, self.curtain, self.opacity])
        controls = widgets.VBox(
            [*sliders, self._for_overlays, self.where, *below],
            layout={"flex": "1 1 270px", "max_width": "340px"},
        )
        for control in (*sliders, self.left, self.right, self.opacity, self.curtain):
            control.observe(self._draw, "value")
        row = widgets.HBox(
            [self.picture, controls],
            layout={"flex_flow": "row wrap", "align_items": "flex-start"},
        )
        super().__init__([row], lambda: self.picture.value)
        self._draw()

    def _first_point(self) -> Sequence[int]:
        first = next(iter(self.overlays.values()), None)
        if first is None or first.dtype.kind == "f" or not first.any():
            return [n // 2 for n in self.image.shape]
        return planes.densest_point(first)

    @property
    def point(self) -> tuple[int, int, int]:
        """Voxel (z, y, x) where the planes cross; set it to move all three."""
        return self.z.value, self.y.value, self.x.value

    @point.setter
    def point(self, point: Sequence[float]) -> None:
        with self.hold_sync():
            for slider, value in zip((self.z, self.y, self.x), point, strict=True):
                slider.value = round(value)

    def set_overlay(self, name: str, overlay: np.ndarray) -> None:
        """Add or replace an overlay; it is shown at once where it is chosen."""
        self.overlays[name] = overlay
        if name not in self.left.options:
            chosen = self.right.value
            self.left.options = self.right.options = ["none", *self.overlays]
            self.left.value, self.right.value = name, chosen
        self._draw()

    def _draw(self, _: object = None) -> None:
        point = self.point
        self._for_overlays.layout.display = "" if self.overlays else "none"
        self.picture.value = planes.planes_png(
            self.image,
            point,
            self._layout,
            limits=self.contrast.value,
            left=self.overlays.get(self.left.value),
            right=self.overlays.get(self.right.value),
            opacity=self.opacity.value,
            curtain=self.curtain.value,
        )
        micrometres = ", ".join(
            f"{axis} {p * s:.4g}"
            for axis, p, s in zip("zyx", point, self.voxel_size_um, strict=True)
        )
        z, y, x = (
            f"{n * s:.4g}" for n, s in zip(self.image.shape, self.voxel_size_um, strict=True)
        )
        text = f"XY is {x} µm wide and {y} µm high, {z} µm deep"
        text += f"<br>cross at {micrometres} µm, brightness {self.image[point]:.4g}"
        for overlay, side in ((self.left, "left"), (self.right, "right")):
            if overlay.value in self.overlays:
                value = self.overlays[overlay.value][point]
                kind = "cell number" if self.overlays[overlay.value].dtype.kind in "iu" else "value"
                found = f"{kind} {value:.4g}" if value else "no cell"
                text += f"<br>{side}: {overlay.value}; at the cross {found}"
        self.where.value = f'<div style="line-height:1.4">{text}</div>'


def _share(value: float, name: str) -> widgets.FloatSlider:
    return widgets.FloatSlider(
        value=value, min=0, max=1, step=0.01, description=name, layout=SLIDER
    )


def _grey_range(image: np.ndarray) -> tuple[float, float]:
    step = max(1, round((image.size / 500_000) ** (1 / 3)))
    sample = np.asarray(image[::step, ::step, ::step], np.float32)
    low, high = np.nanpercentile(sample, (0.5, 99.8))
    return float(low), float(max(high, low + 1e-6))
