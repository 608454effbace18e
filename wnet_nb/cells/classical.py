"""The classical way to cells, always shown beside the network: Otsu's threshold and Voronoi-Otsu.

Both take their smoothing from the one cell radius, so the comparison with the network is fair.
"""

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree
from skimage.filters import threshold_otsu

from wnet_nb.grid import check_voxel_size

# Fractions of the cell radius; chosen by measurement, see tests/benchmarks/cell_size.md.
SPOT_SIGMA = 0.4
OUTLINE_SIGMA = 0.1


def otsu_foreground(
    image: np.ndarray, *, voxel_size_um: tuple[float, float, float], cell_radius_um: float
) -> np.ndarray:
    """Separate bright cells by Otsu's threshold (1979, doi:10.1109/TSMC.1979.4310076).

    Arguments and errors are those of `voronoi_otsu`; the light smoothing before has a Gaussian of
    `OUTLINE_SIGMA` times the radius. Returns bool (z, y, x); all False for a constant image.
    """
    sigma = _sigma_voxels(image, voxel_size_um, cell_radius_um, OUTLINE_SIGMA)
    smooth = ndimage.gaussian_filter(image.astype(np.float32), sigma)
    # The slack swallows float rounding, which would split a constant image.
    low, high = float(smooth.min()), float(smooth.max())
    if high - low <= 1e-5 * max(abs(low), abs(high)):
        return np.zeros(image.shape, dtype=bool)
    return smooth > threshold_otsu(smooth)


def voronoi_otsu(
    image: np.ndarray, *, voxel_size_um: tuple[float, float, float], cell_radius_um: float
) -> np.ndarray:
    """Label cells: Otsu's foreground divided among the local maxima of the smoothed image.

    The method of clesperanto's ``voronoi_otsu_labeling`` (Haase et al. 2020,
    doi:10.1038/s41592-019-0650-1): maxima of the image smoothed with the spot sigma that lie in the
    foreground are seeds, and each foreground voxel goes to the nearest seed of its own connected
    piece. Here all lengths are in µm, and both sigmas follow from the cell radius.

    Parameters
    ----------
    image : ndarray of any real dtype, shape (z, y, x)
        Bright cells on a darker background.
    voxel_size_um : tuple of float
        Voxel size (z, y, x) in µm.
    cell_radius_um : float
        Typical cell radius in µm; the spot sigma is `SPOT_SIGMA` times this.

    Returns
    -------
    ndarray of int32, shape (z, y, x)
        0 is background, 1 to n the cells; all 0 for a constant image.

    Raises
    ------
    ValueError
        If the image is not 3D or not finite, or a length is not positive.
    """
    mask = otsu_foreground(image, voxel_size_um=voxel_size_um, cell_radius_um=cell_radius_um)
    sigma = _sigma_voxels(image, voxel_size_um, cell_radius_um, SPOT_SIGMA)
    spots = ndimage.gaussian_filter(image.astype(np.float32), sigma)
    peaks = (spots == ndimage.maximum_filter(spots, size=3)) & mask
    # A plateau of equal voxels is one maximum.
    plateaus, _ = ndimage.label(peaks, structure=np.ones((3, 3, 3)))
    at = np.argwhere(peaks)
    _, first = np.unique(plateaus[peaks], return_index=True)
    del spots, plateaus, peaks  # room for the labels of a large volume
    return _divide(mask, at[first], np.asarray(voxel_size_um, dtype=np.float64))


def _divide(mask, seeds, spacing) -> np.ndarray:
    """Give each voxel of `mask` to the seed nearest in µm in its own connected piece; int32.

    `seeds` are voxel indices (n, 3); pieces without a seed become background.
    """
    labels = np.zeros(mask.shape, dtype=np.int32)
    if len(seeds) == 0:
        return labels
    pieces, _ = ndimage.label(mask)
    # The piece's number is a fourth coordinate, so far apart that no seed is nearest across it.
    far = 4 * float(np.linalg.norm(mask.shape * spacing))
    tree = cKDTree(np.column_stack([seeds * spacing, far * pieces[tuple(seeds.T)]]))
    for z in range(len(mask)):  # plane by plane: memory stays small on a large volume
        y, x = np.nonzero(mask[z])
        if len(y) == 0:
            continue
        place = np.column_stack([np.full(len(y), z), y, x]) * spacing
        place = np.column_stack([place, far * pieces[z, y, x]])
        distance, nearest = tree.query(place, distance_upper_bound=far / 2)
        labels[z, y, x] = np.where(np.isfinite(distance), nearest + 1, 0)
    return labels


def _sigma_voxels(image, voxel_size_um, cell_radius_um, fraction) -> np.ndarray:
    """Return a Gaussian's sigma in voxels (3,), or raise ValueError for unusable arguments."""
    spacing = np.array(check_voxel_size(voxel_size_um))
    if image.ndim != 3:
        raise ValueError(f"image of shape {image.shape} is not a volume (z, y, x)")
    if not np.all(np.isfinite(image)):
        raise ValueError("the image has values that are not finite; replace them first")
    if not (np.isfinite(cell_radius_um) and cell_radius_um > 0):
        raise ValueError(f"cell_radius_um {cell_radius_um} is not a positive length")
    return fraction * cell_radius_um / spacing
