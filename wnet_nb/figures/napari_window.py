"""A volume and its cells in a window of napari, where that is installed."""

from collections.abc import Sequence

import numpy as np


def show(image: np.ndarray, labels: np.ndarray, voxel_size_um: Sequence[float], name: str) -> None:
    """Open a window with an image and labels (Z, Y, X) at true proportions; return when it closes.

    It is meant for a process of its own: without a screen, the window takes its process along.
    """
    import napari  # no requirement of ours

    viewer = napari.Viewer(title=name)
    viewer.add_image(image, name=name, scale=voxel_size_um)
    viewer.add_labels(labels, name="cells", scale=voxel_size_um)
    napari.run()
