"""What sorts the voxels of a volume into classes: a network, or without one, a threshold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from skimage.filters import threshold_otsu

from wnet_nb.checkpoint import Checkpoint
from wnet_nb.config import Settings, preset
from wnet_nb.grid import enlarge
from wnet_nb.inference import predict_probabilities
from wnet_nb.jobs.models import NONE_PRESET
from wnet_nb.jobs.stacks import Stack


class NetworkMap:
    """The class probabilities of a trained network.

    Attributes
    ----------
    prepared : Prepared
        The volume, or a part of it, as the network takes it.
    foreground_classes, core_class, boundary
        See `segment_instances`.
    reason : str
        Why they are, if that is known.
    """

    def __init__(
        self, stack: Stack, model: Checkpoint, settings: Settings, tell: Callable[..., None]
    ) -> None:
        self._model, self._settings, self._tell = model.model, settings, tell
        # As the training had it: a radius given afterwards splits cells, and changes no class map.
        radius = settings.cell_radius_um
        self.prepared = stack.prepared(model.settings, otherwise_radius_um=radius)
        self.foreground_classes, self.core_class = settings.foreground_classes, settings.core_class
        self.boundary, self.reason = settings.boundary, ""

    def predict(self, out: Path | None) -> np.ndarray:
        """Return the probabilities (K, Z, Y, X) float32, in memory or in a new file."""
        return predict_probabilities(
            self._model,
            self.prepared,
            tile_size=self._settings.tile_size,
            flips=self._settings.flips,
            precision=self._settings.precision,
            out=out,
            progress=lambda done, total: self._tell(tiles=done, of_tiles=total),
        )


class OtsuMap:
    """A class map without a network: what is brighter than Otsu's threshold is a cell.

    The volume is prepared as the preset quick prepares it, whatever network it stands beside.
    Attributes as in `NetworkMap`.
    """

    def __init__(self, stack: Stack, model: Checkpoint, settings: Settings) -> None:
        radius = model.settings.cell_radius_um
        self.prepared = stack.prepared(preset(NONE_PRESET, cell_radius_um=radius))
        self.foreground_classes, self.core_class = (1,), None
        # Of a network that knows the core, the boundary is a probability and no brightness.
        self.boundary = settings.boundary if settings.core_class is None else None
        self.reason = "what is brighter than Otsu's threshold of the prepared image"

    def predict(self, out: Path | None) -> np.ndarray:
        """Return background and foreground (2, Z, Y, X) float32, in memory or in a new file."""
        brightness = self.prepared.normalisation.apply(self.prepared.array)
        bright = (brightness > threshold_otsu(brightness)).astype(np.float32)
        del brightness
        shape = (2, *self.prepared.shape)
        if out is None:
            classes = np.empty(shape, np.float32)
        else:
            classes = np.lib.format.open_memmap(out, "w+", np.float32, shape)
        classes[1] = enlarge(bright, self.prepared.shape, self.prepared.factors)
        np.subtract(1, classes[1], out=classes[0])
        return classes


def class_map(
    stack: Stack,
    model: Checkpoint,
    settings: Settings,
    tell: Callable[..., None] = lambda **_: None,
) -> NetworkMap | OtsuMap:
    """Return what sorts the voxels of a volume into classes: the network, or without one, Otsu."""
    if model.model is None:
        return OtsuMap(stack, model, settings)
    return NetworkMap(stack, model, settings, tell)
