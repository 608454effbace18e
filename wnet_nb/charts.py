"""Figures of the notebook's panels: affinities, curves, previews, sizes of cells.

Like in `plots`, every function returns a Figure and shows nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from wnet_nb import pictures, planes
from wnet_nb.config import Settings
from wnet_nb.plots import (
    LOSS_COLOUR,
    LOSSES,
    MARK_COLOUR,
    new_figure,
)
from wnet_nb.training import Preview


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
    y, x = np.ogrid[window]
    difference = plane[window] - plane[tuple(point)]
    apart = (y - point[0]), (x - point[1])
    squared = apart[0] ** 2 + apart[1] ** 2
    power, scale = (4, 2.0) if settings.affinity == "class_mean" else (2, 1.0)
    intensity = np.exp(-(np.abs(difference) ** power) / settings.intensity_sigma**2)
    spatial = np.exp(-squared / (scale * settings.spatial_sigma**2))
    if settings.affinity == "class_mean":
        inside = np.maximum(*map(np.abs, apart)) <= settings.radius
    else:
        inside = squared < settings.radius**2
    return intensity, spatial * inside


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


def plot_training(
    steps: Sequence[tuple[int, float, float, float]],
    history: Sequence[Mapping[str, Any]],
    *,
    steps_per_epoch: int,
    epochs: int,
    changes: Mapping[int, str] | None = None,
    log: bool = False,
) -> Figure:
    """Draw the losses of every step (thin) and their mean over each epoch (thick).

    Parameters
    ----------
    steps : sequence of (step, soft N-cut, reconstruction, total)
    history : sequence of mapping
        Rows of ``history.csv``.
    steps_per_epoch, epochs : int
        For the horizontal axis.
    changes : mapping of int to str, optional
        Options changed before a step; each is drawn as a line with its number.
    log : bool
        Logarithmic vertical axes.
    """
    figure = new_figure(9.4, 2.75)
    for n, (name, title) in enumerate(LOSSES.items(), start=1):
        axes = figure.add_subplot(1, 3, n)
        at = [(step - 0.5) / steps_per_epoch for step, *_ in steps]
        axes.plot(at, [values[n] for values in steps], color=LOSS_COLOUR, alpha=0.35, linewidth=1)
        middle = [row["epoch"] - 0.5 for row in history]
        means = [row[name] for row in history]
        axes.plot(middle, means, "o-", color=LOSS_COLOUR, markersize=3, label="epoch mean")
        for number, step in enumerate(changes or (), start=1):
            place = (step - 1) / steps_per_epoch
            axes.axvline(place, color=MARK_COLOUR, linestyle=":", linewidth=1.3)
            axes.annotate(
                f"{number}", (place, 1), xycoords=("data", "axes fraction"), fontsize=8,
                color=MARK_COLOUR, va="top", xytext=(2, -2), textcoords="offset points",
            )  # fmt: skip
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("epoch", fontsize=9)
        reached = steps[-1][0] / steps_per_epoch if steps else epochs
        axes.set_xlim(0, max(1, min(epochs, 1.5 * reached)))
        axes.set_ylabel("loss, lower is better" if n == 1 else "", fontsize=9)
        axes.tick_params(labelsize=8)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.grid(alpha=0.3)
        if log and steps and min(values[n] for values in steps) > 0:
            axes.set_yscale("log")
    return figure


def plot_preview_cells(
    preview: Preview, cells: np.ndarray | None, *, voxel_size_um: Sequence[float], title: str
) -> Figure:
    """Draw the preview patch: input, class maps, reconstruction, and the cells found in it.

    Parameters
    ----------
    preview : Preview
    cells : ndarray, optional
        (Z, Y, X) labels, 0 background; None if no cells could be looked for.
    voxel_size_um : sequence of 3 float
        (z, y, x) in µm, of the patch.
    title : str
        Above the figure.
    """
    layout = planes.Layout.of(preview.image.shape, voxel_size_um)
    point = [n // 2 for n in preview.image.shape]
    top = max(1.0, float(np.percentile(preview.image, 99.8)))
    blocks = [(f"input\n(white: {top:.0f} of 100)", preview.image, "gray", top)]
    blocks += [
        (f"class {k}\n(yellow: sure)", p, "viridis", 1)
        for k, p in enumerate(preview.probabilities[:3])
    ]
    given_back = max(1.0, float(np.percentile(preview.reconstruction, 99.8)))
    blocks.append(
        (f"reconstruction\n(white: {given_back:.0f})", preview.reconstruction, "gray", given_back)
    )
    columns = len(blocks) + 1
    figure = new_figure(1.9 * columns, 2.7)
    for n, (name, volume, cmap, limit) in enumerate(blocks, start=1):
        axes = figure.add_subplot(1, columns, n)
        axes.imshow(layout.draw(volume, point), cmap=cmap, vmin=0, vmax=limit)
        axes.set_title(name, fontsize=9)
        axes.set_axis_off()
    axes = figure.add_subplot(1, columns, columns)
    axes.imshow(_draw_labels(preview.image / top, cells, layout, point))
    count = 0 if cells is None else len(np.unique(cells[cells > 0]))
    axes.set_title(f"{count} cells\nin the patch", fontsize=9)
    axes.set_axis_off()
    figure.suptitle(title, fontsize=9)
    return figure


def _draw_labels(image: np.ndarray, labels: np.ndarray | None, layout, point) -> np.ndarray:
    grey = layout.draw(image, point)
    rgb = np.repeat(np.where(np.isnan(grey), 1, np.clip(grey, 0, 1))[..., None], 3, axis=2)
    for place, plane in zip(layout.places, pictures.cross_planes(labels, point), strict=True):
        if plane is not None:
            part = rgb[place]
            colour, alpha = pictures.paint(pictures.enlarge(plane, part.shape[:2]), 0.5)
            part[:] = (1 - alpha[..., None]) * part + alpha[..., None] * colour / 255
    return rgb


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
