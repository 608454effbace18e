"""Figures of the notebook's panels that nothing else shows: affinities and sizes of cells.

Like in `plots`, every function returns a Figure and shows nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from wnet_nb.config import Settings
from wnet_nb.figures.plots import LOSS_COLOUR, MARK_COLOUR, new_figure


def affinity_window(
    plane: np.ndarray, point: Sequence[int], settings: Settings
) -> tuple[slice, slice]:
    """Return the part of a plane (Y, X) that is worth showing around a voxel (y, x)."""
    reach = max(7, settings.radius + 4)
    return tuple(
        slice(max(0, p - reach), min(n, p + reach + 1))
        for p, n in zip(point, plane.shape, strict=True)
    )


def affinity_terms(
    plane: np.ndarray, point: Sequence[int], settings: Settings, window: tuple[slice, slice]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the intensity and the spatial term of the soft N-cut around one voxel.

    Parameters
    ----------
    plane : ndarray
        (Y, X) in 0-100.
    point : sequence of int
        The voxel (y, x). In the class-mean form its brightness stands for the class's mean.
    settings : Settings
        `affinity`, `intensity_sigma`, `spatial_sigma`, `radius`.
    window : tuple of slice
        For which voxels.

    Returns
    -------
    intensity, spatial : ndarray
        Each as large as the window, in 0-1; see `losses.soft_ncut_loss` for the formulas.
    """
    from wnet_nb import losses  # brings torch, which no other figure needs

    form = settings.affinity
    y, x = np.ogrid[window]
    difference = plane[window] - plane[tuple(point)]
    offset = (y - point[0], x - point[1])
    squared = offset[0] ** 2 + offset[1] ** 2
    intensity = np.exp(losses.intensity_exponent(difference, settings.intensity_sigma, form))
    spatial = np.exp(losses.spatial_exponent(squared, settings.spatial_sigma, form))
    return intensity, spatial * losses.within_reach(offset, settings.radius, form)


def plot_affinity(plane: np.ndarray, point: Sequence[int], settings: Settings) -> Figure:
    """Draw how alike the voxels around one voxel count: brightness, distance, and both.

    Parameters
    ----------
    plane : ndarray
        (Y, X) in 0-100.
    point : sequence of int
        The voxel (y, x).
    settings : Settings
        See `affinity_terms`.
    """
    window = affinity_window(plane, point, settings)
    crop = plane[window]
    intensity, spatial = affinity_terms(plane, point, settings, window)
    blocks = [
        ("image, 0-100", crop, "gray", max(1.0, float(plane.max()))),
        ("alike in brightness", intensity, "viridis", 1),
        ("near enough", spatial, "viridis", 1),
        ("both: pulls together", intensity * spatial, "viridis", 1),
    ]
    figure = new_figure(8.4, 2.5)
    figure.set_layout_engine("none")
    extent = (
        window[1].start - 0.5, window[1].stop - 0.5, window[0].stop - 0.5, window[0].start - 0.5
    )  # fmt: skip
    for n, (title, values, cmap, top) in enumerate(blocks):
        axes = figure.add_axes((0.055 + 0.225 * n, 0.17, 0.205, 0.70))
        shown = axes.imshow(values, cmap=cmap, vmin=0, vmax=top, extent=extent)
        axes.plot(point[1], point[0], "+", color="red", markersize=9)
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("x (voxels)", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        if n == 0:
            axes.set_ylabel("y (voxels)", fontsize=8)
        else:
            axes.set_yticklabels([])
    bar = figure.add_axes((0.945, 0.17, 0.012, 0.70))
    figure.colorbar(shown, cax=bar, ticks=[0, 0.5, 1]).ax.tick_params(labelsize=7)
    return figure


def plot_sizes(volumes_um3: Sequence[float], smallest_um3: float) -> Figure:
    """Draw how many cells there are of each volume; a line marks the smallest that is kept."""
    figure = new_figure(3.4, 1.9)
    axes = figure.add_subplot()
    if len(volumes_um3):
        top = max(float(np.percentile(volumes_um3, 99)) * 1.1, smallest_um3 * 1.5)
        axes.hist(np.clip(volumes_um3, 0, top), bins=24, range=(0, top), color=LOSS_COLOUR)
    axes.axvline(smallest_um3, color=MARK_COLOUR, linestyle="--", label="minimum_size")
    axes.set_xlabel("volume of a cell (µm³)", fontsize=9)
    axes.set_ylabel("cells", fontsize=9)
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.tick_params(labelsize=8)
    axes.legend(fontsize=8, frameon=False)
    return figure
