"""The picture beside the N-cut options: what they mean on the user's own image."""

from __future__ import annotations

from collections.abc import Sequence

import ipywidgets as widgets
import numpy as np
from scipy import ndimage

from wnet_nb import losses
from wnet_nb.config import Settings
from wnet_nb.figures import overlay
from wnet_nb.jobs.stacks import Stack
from wnet_nb.widgets.panel import message

CELL_SIGMA = 2.0  # voxels: cells are prepared to have a radius of about four


class AffinityPicture(widgets.VBox):
    """What the N-cut options mean at one voxel of a stack, at first the centre of a nucleus."""

    def __init__(self, stack: Stack, settings: Settings) -> None:
        self._stack, self._settings = stack, settings
        self._prepare()
        layout, style = {"flex": "1 1 160px", "max_width": "270px"}, {"description_width": "20px"}
        self.z, self.y, self.x = self._sliders = [
            widgets.IntSlider(p, 0, n - 1, description=axis, layout=layout, style=style)
            for axis, p, n in zip("zyx", self._nucleus(), self._seen.shape, strict=True)
        ]
        for slider in self._sliders:
            slider.observe(self._draw, "value")
        layout = {"width": "840px", "max_width": "calc(100% - 4px)", "object_fit": "contain"}
        self.picture = widgets.Image(layout=layout)
        text = (
            "How strongly the voxel at the red cross is pulled into one class with its neighbours, "
            "on your image as the network sees it (0-100). Yellow: strongly. Pick another voxel:"
        )
        sliders = widgets.HBox(self._sliders, layout={"flex_flow": "row wrap"})
        super().__init__([widgets.HTML(message(text)), sliders, self.picture])
        self.add_class("wnet-affinitypicture")
        self._draw()

    def show(self, settings: Settings) -> None:
        """Draw the picture anew for other settings."""
        self._settings = settings
        self._prepare()
        for slider, n in zip(self._sliders, self._seen.shape, strict=True):
            slider.max = n - 1
        self._draw()

    def _prepare(self) -> None:
        prepared = self._stack.prepared(self._settings)  # made once for the options it depends on
        self._seen, self._ranges = prepared.array, prepared.normalisation

    def _nucleus(self) -> Sequence[int]:
        """Return the centre (z, y, x) of a bright nucleus, away from the edges of the volume."""
        middle, reach = len(self._seen) // 2, min(16, max(1, len(self._seen) // 3))
        inner = [slice(max(0, middle - reach), middle + reach)]
        inner += [slice(n // 5, max(n // 5 + 1, n - n // 5)) for n in self._seen.shape[1:]]
        part = ndimage.gaussian_filter(np.asarray(self._seen[tuple(inner)], float), CELL_SIGMA)
        found = np.unravel_index(int(part.argmax()), part.shape)
        return [int(p) + s.start for p, s in zip(found, inner, strict=True)]

    def _draw(self, _: object = None) -> None:
        settings, form = self._settings, self._settings.affinity
        plane = self._ranges.apply(self._seen[self.z.value])
        point, reach = (self.y.value, self.x.value), max(7, settings.radius + 4)
        corner = [max(0, p - reach) for p in point]
        window = tuple(slice(c, p + reach + 1) for c, p in zip(corner, point, strict=True))
        y, x = np.ogrid[: plane.shape[0], : plane.shape[1]]
        down, across = y[window[0]] - point[0], x[:, window[1]] - point[1]
        unlike = plane[window] - plane[point]
        intensity = losses.intensity_exponent(unlike, settings.intensity_sigma, form)
        spatial = losses.spatial_exponent(down**2 + across**2, settings.spatial_sigma, form)
        near = losses.within_reach((down, across), settings.radius, form)
        self.picture.value = overlay.affinity_png(
            plane[window],
            np.exp(intensity),
            np.exp(spatial) * near,
            point=[p - c for p, c in zip(point, corner, strict=True)],
            white=max(1.0, float(plane.max())),
        )
