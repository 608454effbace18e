"""The picture beside the N-cut options: what they mean on the user's own image."""

from __future__ import annotations

from collections.abc import Sequence

import ipywidgets as widgets
import numpy as np

from wnet_nb import losses
from wnet_nb.config import Settings
from wnet_nb.figures import curves
from wnet_nb.files.volumes import Volume
from wnet_nb.jobs.prepare import prepare_volume


class AffinityPicture(widgets.VBox):
    """What the N-cut options mean at one voxel of the user's own image.

    Parameters
    ----------
    volume : Volume
    settings : Settings
        Say how the image is prepared, and which affinity to show.

    Attributes
    ----------
    picture : Image
        PNG of `curves.plot_affinity`.
    z, y, x : IntSlider
        The voxel.
    """

    def __init__(self, volume: Volume, settings: Settings) -> None:
        self._volume = volume
        self._settings = settings
        self._prepared_for: tuple[object, ...] = ()
        self._prepare(settings)
        point = self._brightest()
        self.z, self.y, self.x = (
            widgets.IntSlider(
                p,
                0,
                n - 1,
                description=axis,
                layout={"flex": "1 1 160px", "max_width": "270px"},
                style={"description_width": "20px"},
            )
            for axis, p, n in zip("zyx", point, self._seen.shape, strict=True)
        )
        for slider in (self.z, self.y, self.x):
            slider.observe(lambda _: self._draw(), "value")
        self.picture = widgets.Image(
            format="png",
            layout={"width": "840px", "max_width": "calc(100% - 4px)", "object_fit": "contain"},
        )
        text = widgets.HTML(
            "How strongly the red voxel is pulled into one class with its neighbours, on your "
            "image as the network sees it (0-100). Bright yellow: strongly. Pick another voxel:"
        )
        sliders = widgets.HBox([self.z, self.y, self.x], layout={"flex_flow": "row wrap"})
        super().__init__([text, sliders, self.picture])
        self.add_class("wnet-affinitypicture")
        self._draw()

    def show(self, settings: Settings) -> None:
        """Draw the picture anew for other settings."""
        self._settings = settings
        self._prepare(settings)
        for slider, n in zip((self.z, self.y, self.x), self._seen.shape, strict=True):
            slider.max = n - 1
        self._draw()

    def remark(self, settings: Settings) -> str:
        """Return what is doubtful about the settings on this image, in one sentence, or nothing."""
        reach = settings.intensity_sigma ** (0.5 if settings.affinity == "class_mean" else 1.0)
        if reach < self._noise:
            needed = self._noise ** (2 if settings.affinity == "class_mean" else 1)
            return (
                f"intensity_sigma={settings.intensity_sigma:g} counts voxels as alike within "
                f"{reach:.2g} of 0-100, and the noise of this image alone is {self._noise:.2g}: "
                f"raise it to {needed:.2g} or more."
            )
        if settings.spatial_sigma > 4 * settings.radius:
            return (
                f"spatial_sigma={settings.spatial_sigma:g} reaches far beyond radius="
                f"{settings.radius}, which cuts it off: raise the radius or lower spatial_sigma."
            )
        return ""

    def _prepare(self, settings: Settings) -> None:
        key = (
            settings.normalisation,
            settings.match_cell_size,
            settings.subtract_background,
            settings.cell_radius_um,
        )
        if key == self._prepared_for:
            return
        prepared = prepare_volume(self._volume, settings)[0]
        self._seen, self._ranges, self._prepared_for = prepared.array, prepared.normalisation, key
        planes = np.linspace(0, len(self._seen) - 1, 9).astype(int)
        sample = self._ranges.apply(self._seen[planes])
        self._noise = 1.4826 * float(np.median(np.abs(np.diff(sample, axis=2)))) / np.sqrt(2)

    def _brightest(self) -> Sequence[int]:
        """Return a bright voxel (z, y, x) of the middle plane, away from its edges."""
        z = len(self._seen) // 2
        plane = np.asarray(self._seen[z], np.float32)
        edge = [n // 5 for n in plane.shape]
        inner = plane[edge[0] : plane.shape[0] - edge[0], edge[1] : plane.shape[1] - edge[1]]
        y, x = np.unravel_index(int(np.argmax(inner)), inner.shape)
        return z, int(y) + edge[0], int(x) + edge[1]

    def _draw(self) -> None:
        settings, point = self._settings, (self.y.value, self.x.value)
        plane = self._ranges.apply(self._seen[self.z.value])
        reach = max(7, settings.radius + 4)
        window = tuple(
            slice(max(0, p - reach), min(n, p + reach + 1))
            for p, n in zip(point, plane.shape, strict=True)
        )
        y, x = np.ogrid[window]
        offset, form = (y - point[0], x - point[1]), settings.affinity
        difference = plane[window] - plane[point]
        squared = offset[0] ** 2 + offset[1] ** 2
        intensity = np.exp(losses.intensity_exponent(difference, settings.intensity_sigma, form))
        spatial = np.exp(losses.spatial_exponent(squared, settings.spatial_sigma, form))
        figure = curves.plot_affinity(
            plane[window],
            intensity,
            spatial * losses.within_reach(offset, settings.radius, form),
            point=point,
            corner=[part.start for part in window],
            white=max(1.0, float(plane.max())),
        )
        self.picture.value = curves.figure_png(figure)
