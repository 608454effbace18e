"""The picture beside the N-cut options: what they mean on the user's own image."""

from __future__ import annotations

from collections.abc import Sequence

import ipywidgets as widgets
import numpy as np

from wnet_nb.config import Settings
from wnet_nb.figures import charts, pictures
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
        PNG of `charts.plot_affinity`.
    z, y, x : IntSlider
        The voxel.
    """

    def __init__(self, volume: Volume, settings: Settings) -> None:
        self._volume = volume
        self._settings = settings
        self._prepared_for: tuple[object, ...] = ()
        self._framed_for: tuple[object, ...] = ()
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
        """Draw the maps into a frame that is kept while only the sigmas move: ten times quicker."""
        settings, point = self._settings, (self.y.value, self.x.value)
        plane = self._ranges.apply(self._seen[self.z.value])
        key = (self._prepared_for, self.z.value, point, settings.radius)
        if key != self._framed_for:
            figure = charts.plot_affinity(plane, point, settings)
            figure.canvas.draw()
            self._frame = figure, figure.canvas.copy_from_bbox(figure.bbox)
            self._framed_for = key
        figure, empty = self._frame
        figure.canvas.restore_region(empty)
        window = charts.affinity_window(plane, point, settings)
        intensity, spatial = charts.affinity_terms(plane, point, settings, window)
        for axes, values in zip(
            figure.axes[1:4], (intensity, spatial, intensity * spatial), strict=True
        ):
            axes.images[0].set_data(values)
            for artist in (*axes.images, *axes.lines):
                axes.draw_artist(artist)
        rgba = np.asarray(figure.canvas.buffer_rgba())
        self.picture.value = pictures.image_png(rgba[..., :3])
