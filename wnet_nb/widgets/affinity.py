"""The picture beside the N-cut options: what they mean on the user's own image."""

from __future__ import annotations

from collections.abc import Sequence

import ipywidgets as widgets
import numpy as np
from scipy import ndimage

from wnet_nb import losses
from wnet_nb.config import Settings
from wnet_nb.figures import curves
from wnet_nb.jobs.stacks import Stack

CELL_SIGMA = 2.0  # voxels: cells are prepared to have a radius of about four


class AffinityPicture(widgets.VBox):
    """What the N-cut options mean at one voxel of a stack, at first the centre of a nucleus."""

    def __init__(self, stack: Stack, settings: Settings) -> None:
        self._stack, self._settings = stack, settings
        self._prepare()
        facts = {
            "layout": {"flex": "1 1 160px", "max_width": "270px"},
            "style": {"description_width": "20px"},
        }
        self.z, self.y, self.x = self._sliders = [
            widgets.IntSlider(p, 0, n - 1, description=axis, **facts)
            for axis, p, n in zip("zyx", self._nucleus(), self._seen.shape, strict=True)
        ]
        for slider in self._sliders:
            slider.observe(self._draw, "value")
        layout = {"width": "840px", "max_width": "calc(100% - 4px)", "object_fit": "contain"}
        self.picture = widgets.Image(format="png", layout=layout)
        text = widgets.HTML(
            "How strongly the voxel at the red cross is pulled into one class with its neighbours, "
            "on your image as the network sees it (0-100). Yellow: strongly. Pick another voxel:"
        )
        sliders = widgets.HBox(self._sliders, layout={"flex_flow": "row wrap"})
        super().__init__([text, sliders, self.picture])
        self.add_class("wnet-affinitypicture")
        self._draw()

    def show(self, settings: Settings) -> None:
        """Draw the picture anew for other settings."""
        self._settings = settings
        self._prepare()
        for slider, n in zip(self._sliders, self._seen.shape, strict=True):
            slider.max = n - 1
        self._draw()

    def remark(self, settings: Settings) -> str:
        """Return what is doubtful about the settings on this image, in one sentence, or nothing."""
        power = 2 if settings.affinity == "class_mean" else 1
        reach = settings.intensity_sigma ** (1 / power)
        if reach < self._noise:
            return (
                f"intensity_sigma={settings.intensity_sigma:g} counts voxels as alike within "
                f"{reach:.2g} of 0-100, and the noise of this image alone is {self._noise:.2g}: "
                f"raise it to {self._noise**power:.2g} or more."
            )
        if settings.spatial_sigma > 4 * settings.radius:
            return (
                f"spatial_sigma={settings.spatial_sigma:g} reaches far beyond radius="
                f"{settings.radius}, which cuts it off: raise the radius or lower spatial_sigma."
            )
        return ""

    def _prepare(self) -> None:
        prepared = self._stack.prepared(self._settings)  # made once for the options it depends on
        self._seen, self._ranges = prepared.array, prepared.normalisation
        chosen = np.linspace(0, len(self._seen) - 1, 9).astype(int)
        sample = self._ranges.apply(self._seen[chosen])
        self._noise = 1.4826 * float(np.median(np.abs(np.diff(sample, axis=2)))) / np.sqrt(2)

    def _nucleus(self) -> Sequence[int]:
        """Return the centre (z, y, x) of a bright nucleus, away from the edges of the volume."""
        middle, reach = len(self._seen) // 2, min(16, max(1, len(self._seen) // 3))
        inner = [slice(max(0, middle - reach), middle + reach)]
        inner += [slice(n // 5, max(n // 5 + 1, n - n // 5)) for n in self._seen.shape[1:]]
        part = ndimage.gaussian_filter(np.asarray(self._seen[tuple(inner)], float), CELL_SIGMA)
        found = np.unravel_index(int(part.argmax()), part.shape)
        return [int(p) + s.start for p, s in zip(found, inner, strict=True)]

    def _draw(self, _: object = None) -> None:
        settings, point = self._settings, (self.y.value, self.x.value)
        plane = self._ranges.apply(self._seen[self.z.value])
        reach = max(7, settings.radius + 4)
        window = tuple(
            slice(max(0, p - reach), min(n, p + reach + 1))
            for p, n in zip(point, plane.shape, strict=True)
        )
        y, x = np.ogrid[window]
        offset, form = (y - point[0], x - point[1]), settings.affinity
        intensity = losses.intensity_exponent(
            plane[window] - plane[point], settings.intensity_sigma, form
        )
        spatial = losses.spatial_exponent(
            offset[0] ** 2 + offset[1] ** 2, settings.spatial_sigma, form
        )
        near = losses.within_reach(offset, settings.radius, form)
        figure = curves.plot_affinity(
            plane[window],
            np.exp(intensity),
            np.exp(spatial) * near,
            point=point,
            corner=[part.start for part in window],
            white=max(1.0, float(plane.max())),
        )
        self.picture.value = curves.figure_png(figure)
