"""Voronoi-Otsu labelling, which users know from Fiji and clesperanto, for the benchmarks' tables.

clesperanto's ``voronoi_otsu_labeling`` (Haase et al. 2020, doi:10.1038/s41592-019-0650-1): maxima
of the smoothed image that lie above Otsu's threshold are seeds, and each voxel above it goes to the
nearest seed of its own connected piece.
"""

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree
from skimage.filters import threshold_otsu

# Smoothing in cell radii, chosen with tests/benchmarks/cell_size.py: the one radius sets all.
SPOT_SIGMA, OUTLINE_SIGMA = 0.4, 0.1


def voronoi_otsu(
    image, *, voxel_size_um, cell_radius_um, spot_sigma=SPOT_SIGMA, outline_sigma=OUTLINE_SIGMA
):
    """Return labels (Z, Y, X) int32 of an image that is not constant; lengths in µm."""
    spacing = np.asarray(voxel_size_um, float)
    image = image.astype(np.float32)
    smooth = ndimage.gaussian_filter(image, outline_sigma * cell_radius_um / spacing)
    mask = smooth > threshold_otsu(smooth)
    spots = ndimage.gaussian_filter(image, spot_sigma * cell_radius_um / spacing)
    peaks = (spots == ndimage.maximum_filter(spots, size=3)) & mask
    # A plateau of equal voxels is one maximum.
    plateaus, _ = ndimage.label(peaks, structure=np.ones((3, 3, 3)))
    _, first = np.unique(plateaus[peaks], return_index=True)
    return _divide(mask, np.argwhere(peaks)[first], spacing)


def _divide(mask, seeds, spacing):
    """Give each voxel of `mask` to the seed nearest in µm in its own connected piece."""
    labels = np.zeros(mask.shape, dtype=np.int32)
    if len(seeds) == 0:
        return labels
    pieces, _ = ndimage.label(mask)
    # The piece's number is a fourth coordinate, so far apart that no seed is nearest across it.
    far = 4 * float(np.linalg.norm(mask.shape * spacing))
    tree = cKDTree(np.column_stack([seeds * spacing, far * pieces[tuple(seeds.T)]]))
    for z, plane in enumerate(mask):  # plane by plane: memory stays small on a large volume
        y, x = np.nonzero(plane)
        if len(y) == 0:
            continue
        place = np.column_stack([np.full(len(y), z), y, x]) * spacing
        place = np.column_stack([place, far * pieces[z, y, x]])
        distance, nearest = tree.query(place, distance_upper_bound=far / 2)
        labels[z, y, x] = np.where(np.isfinite(distance), nearest + 1, 0)
    return labels
