"""One row of numbers for every cell: place, size, shape and brightness, with units in the names."""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage
from skimage.measure import marching_cubes, mesh_surface_area

from wnet_nb.cells.regions import enlarged

SHELL = 0.3  # thickness of the surroundings that contrast is taken against, in cell radii

COLUMNS = ("label", "centroid_z_voxels", "centroid_y_voxels", "centroid_x_voxels")
COLUMNS += ("centroid_z_um", "centroid_y_um", "centroid_x_um")
COLUMNS += ("volume_voxels", "volume_um3", "equivalent_diameter_um")
COLUMNS += ("axis_major_um", "axis_middle_um", "axis_minor_um", "sphericity")
COLUMNS += ("mean_intensity", "max_intensity", "integrated_intensity")
COLUMNS += ("local_contrast", "touches_border")
WHOLE_NUMBERS = {"label", "volume_voxels", "touches_border"}


def measure_cells(
    labels: np.ndarray, image: np.ndarray, *, voxel_size_um: Sequence[float]
) -> dict[str, np.ndarray]:
    """Measure every cell of integer labels (Z, Y, X) on the image as it is in the file.

    Given are the `COLUMNS`, each (n,), ordered by label; `voxel_size_um` is (z, y, x). Centroids
    count from the middle of the first voxel. Axes are those of the ellipsoid with the same second
    moments. Sphericity is the surface of the ball of equal volume over the surface of the cell
    (Wadell 1935), 1 for a ball. Local contrast is the mean inside minus the mean of a shell of 0.3
    radii around the cell that belongs to no other cell, in grey levels; NaN without such a shell.
    """
    size = np.asarray(voxel_size_um, float)
    rows = [
        _measure(labels, image, label, place, size)
        for label, place in enumerate(ndimage.find_objects(labels), start=1)
        if place is not None
    ]
    return {
        name: np.array([row[i] for row in rows], np.int64 if name in WHOLE_NUMBERS else np.float64)
        for i, name in enumerate(COLUMNS)
    }


def _measure(labels, image, label, place, size) -> tuple[float, ...]:
    """Return the row of one cell, which lies in the box `place`."""
    mask = labels[place] == label
    values = np.asarray(image[place][mask], np.float64)
    voxels = np.argwhere(mask) + [s.start for s in place]
    centre = voxels.mean(0)
    volume = len(voxels) * float(size.prod())
    diameter = (6 * volume / np.pi) ** (1 / 3)
    touches = any(
        s.start == 0 or s.stop == edge for s, edge in zip(place, image.shape, strict=True)
    )
    return (
        label,
        *centre,
        *(centre * size),
        len(voxels),
        volume,
        diameter,
        *_axes(voxels * size, size),
        min(1.0, np.pi * diameter**2 / _surface(mask, size)),
        values.mean(),
        values.max(),
        values.sum(),
        values.mean() - _surroundings(labels, image, label, place, diameter / 2 / size),
        int(touches),
    )


def _axes(places: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Return the full axes (3,) in µm, longest first, of the ellipsoid with equal moments."""
    spread = np.cov(places.T, bias=True) + np.diag(size**2) / 12  # a voxel is a box, not a point
    return 2 * np.sqrt(5 * np.maximum(np.linalg.eigvalsh(spread)[::-1], 0))


def _surface(mask: np.ndarray, size: np.ndarray) -> float:
    """Return the area in µm² of the lightly smoothed surface of a mask."""
    padded = ndimage.gaussian_filter(np.pad(mask, 2).astype(np.float32), 0.7)
    level = min(0.5, 0.5 * float(padded.max()))  # a speck of few voxels is below 0.5 throughout
    corners, faces, _, _ = marching_cubes(padded, level, spacing=tuple(size))
    return float(mesh_surface_area(corners, faces))


def _surroundings(labels, image, label, place, radii: np.ndarray) -> float:
    """Return the mean of the image in a shell around a cell that belongs to no other cell."""
    reach = np.maximum(np.ceil(SHELL * radii).astype(int), 1)
    around = enlarged(place, reach, labels.shape)
    near = labels[around]
    box = ndimage.maximum_filter((near == label).view(np.uint8), size=2 * reach + 1)
    shell = (box > 0) & (near == 0)
    return float(np.asarray(image[around])[shell].mean()) if shell.any() else float("nan")
