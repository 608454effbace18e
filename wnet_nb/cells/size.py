"""How large is a typical cell here? One radius, from the image alone, sets every later scale.

Bright blobs are sought over all sizes in a Laplacian scale space (Lindeberg 1998), and dark blobs
say how strong a blob must be to be more than noise and background.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from wnet_nb.errors import UserError

_SCALE_STEP = 2**0.25
_SMALLEST_RADIUS = (
    1.5  # in voxels of the finest axis; below, a blob is indistinguishable from noise
)
_LARGEST_SHARE = 0.2  # of the middle extent: larger blobs are background
_GRID_BUDGET = 2_000_000  # voxels looked at per octave: a few seconds, under 200 MB
_MAX_BLOBS = 6000


@dataclass(frozen=True)
class CellSize:
    """The typical cell of a volume, as a sphere of the same volume.

    Attributes
    ----------
    radius_um : float
        Radius in µm.
    radius_voxels : tuple of float
        The same radius in voxels of each axis, (z, y, x).
    n_cells : int
        Number of blobs of about this size that the estimate rests on.
    spread : float
        Reliability: standard deviation of the natural logarithm of the radii around the estimate.
        Below 0.3 the cells agree; above 0.5 look at the result before trusting it.
    reason : str
        How the estimate was found, for the user.
    """

    radius_um: float
    radius_voxels: tuple[float, float, float]
    n_cells: int
    spread: float
    reason: str


@dataclass(frozen=True)
class _Blobs:
    """Scale-space maxima: ``centre_um`` (n, 3), and three numbers each (n,).

    ``contrast`` is the Laplacian's answer in grey levels, ``certainty`` the share of it (0 to 1)
    that exceeds what dark blobs of the same size reach.
    """

    centre_um: np.ndarray
    radius_um: np.ndarray
    contrast: np.ndarray
    certainty: np.ndarray

    def __len__(self) -> int:
        return len(self.radius_um)

    def __getitem__(self, index) -> "_Blobs":
        return _Blobs(*(column[index] for column in vars(self).values()))


def estimate_cell_radius(
    image: np.ndarray,
    *,
    voxel_size_um: tuple[float, float, float],
    foreground: np.ndarray | None = None,
) -> CellSize:
    """Estimate the typical cell radius of a volume.

    Parameters
    ----------
    image : ndarray of any real dtype, shape (z, y, x)
        Bright cells on a darker background. Scale and offset of the grey levels do not matter.
    voxel_size_um : tuple of float
        Voxel size (z, y, x) in µm; only its proportions matter if the unit is unknown.
    foreground : ndarray of float32 in 0 to 1, or of bool, shape (z, y, x), optional
        Probability that a voxel belongs to a cell. Blobs centred where it is below 0.5 are left
        out. Its outline is not used: a network's map is often too fat.

    Returns
    -------
    CellSize
        Radius in µm and in voxels, with its reliability and how it was found.

    Raises
    ------
    UserError
        If the shapes disagree, a voxel size is not positive, the image is not finite or constant,
        or no blob stands out of the noise.

    Notes
    -----
    A ball of radius r answers the scale-normalised Laplacian of Gaussian most at
    sigma = r / sqrt(3) (Lindeberg 1998, doi:10.1023/A:1008045108935).

    Examples
    --------
    >>> from wnet_nb.jobs.example import make_example
    >>> image, _ = make_example(shape=(48, 48, 48), n_cells=20, cell_radius_um=5.0)
    >>> 4 < estimate_cell_radius(image, voxel_size_um=(1, 1, 1)).radius_um < 6
    True
    """
    spacing = _checked_spacing(image, voxel_size_um, foreground)
    blobs = _find_blobs(image, spacing, foreground)
    if len(blobs) == 0:
        raise UserError(
            "no blob stands out of the noise, so no cell size can be estimated; "
            "give the cell radius yourself"
        )
    radius, spread = _typical_radius(blobs, spacing.min())
    near = np.abs(np.log(blobs.radius_um / radius)) < np.log(1.5)
    n_cells = int(near.sum())
    return CellSize(
        radius_um=radius,
        radius_voxels=tuple(float(radius / step) for step in spacing),
        n_cells=n_cells,
        spread=spread,
        reason=_reason(radius, spacing.min(), n_cells, len(blobs), spread),
    )


def _typical_radius(blobs, finest) -> tuple[float, float]:
    """Find the weighted mode of the radii (µm) and the spread around it (natural logarithm)."""
    # How sure a blob is counts most; large ones count more, as noise makes mostly small ones. The
    # exponents lie on a broad plateau: see tests/benchmarks/cell_size.md.
    weight = np.sqrt(blobs.contrast) * blobs.certainty**2 * (blobs.radius_um / finest) ** 2
    log = np.log2(blobs.radius_um)
    at = np.arange(log.min() - 0.5, log.max() + 0.5, 1 / 32)
    density = np.exp(-0.5 * ((at[:, None] - log) / 0.25) ** 2) @ weight  # sigma: a quarter octave
    radius = float(2 ** at[density.argmax()])
    deviation = np.log(blobs.radius_um / radius)
    return radius, float(np.sqrt(np.average(deviation**2, weights=weight)))


def _reason(radius, finest, n_cells, n_blobs, spread) -> str:
    """Say in words how the estimate came about and whether to trust it."""
    text = (
        f"{n_cells} of the {n_blobs} bright blobs that stand out of the noise are of about "
        f"this size (radius {radius:.3g} µm)"
    )
    if radius < 1.1 * _SMALLEST_RADIUS * finest:
        return text + ", which is the smallest that can be seen: noise, or unresolved cells; check"
    if spread > 0.5:
        return text + ", but sizes differ widely: check"
    if n_cells < 5:
        return text + ", which is few: check"
    return text


def _checked_spacing(image, voxel_size_um, foreground) -> np.ndarray:
    """Return the voxel size as float64 (3,), or raise UserError for unusable arguments."""
    spacing = np.asarray(voxel_size_um, dtype=np.float64)
    if image.ndim != 3:
        raise UserError(f"image of shape {image.shape} is not a volume (z, y, x)")
    if spacing.shape != (3,) or not np.all(np.isfinite(spacing)) or np.any(spacing <= 0):
        raise UserError(f"voxel_size_um {voxel_size_um} is not three positive lengths (z, y, x)")
    if foreground is not None and foreground.shape != image.shape:
        raise UserError(f"foreground has shape {foreground.shape}, the image {image.shape}")
    low, high = float(image.min()), float(image.max())
    if not np.isfinite(high - low):
        raise UserError("the image has values that are not finite; replace them first")
    if high == low:
        raise UserError(f"the image is constant ({low:g}), so it has no cells to measure")
    return spacing


def _find_blobs(image, spacing, foreground) -> _Blobs:
    """Find bright blobs of all sizes that stand out of noise and background, none overlapping."""
    finest = spacing.min()
    extent = np.array(image.shape) * spacing
    largest = _LARGEST_SHARE * np.sort(extent)[1]
    found = []
    radius = _SMALLEST_RADIUS * finest
    while radius < max(largest, 2 * finest):
        found.append(_octave_blobs(image, spacing, radius, max(finest, radius / 2)))
        radius *= 2
    blobs = _concatenate(found)
    blobs = blobs[blobs.radius_um <= largest * _SCALE_STEP]
    nearest_edge = np.minimum(blobs.centre_um, extent - blobs.centre_um).min(axis=1)
    blobs = blobs[nearest_edge > 0.5 * np.minimum(blobs.radius_um, extent.min() / 3)]
    if foreground is not None:
        voxel = (blobs.centre_um / spacing).astype(int)
        voxel = np.minimum(voxel, np.array(image.shape) - 1)
        blobs = blobs[foreground[tuple(voxel.T)] >= 0.5]
    return _without_overlap(blobs)


def _octave_blobs(image, spacing, radius, step) -> _Blobs:
    """Bright blobs of radius `radius` to twice it (µm), sought on a cubic grid of `step` µm.

    Noise and background make dark blobs as well as bright ones, cells do not: a bright blob counts
    if it exceeds (nearly) all dark ones of its size.
    """
    box = _busiest_box(image, spacing, step)
    origin = np.array([axis.start for axis in box]) * spacing
    grid = _resample(image[box].astype(np.float32), spacing, step)
    radii = radius * _SCALE_STEP ** np.arange(-1, 5)
    response = _laplacian_stack(grid, radii / step)
    parts = []
    bright, dark = _maxima(response), _maxima(-response)
    for scale in range(1, len(radii) - 1):
        here = bright[bright[:, 0] == scale]
        null = -response[tuple(dark[dark[:, 0] == scale].T)]
        floor = float(np.percentile(null, 99.9)) if len(null) else 0.0
        value = response[tuple(here.T)]
        here, value = here[value > floor], value[value > floor]
        before, after = (response[(here[:, 0] + d, *here[:, 1:].T)] for d in (-1, 1))
        bend = np.minimum(before - 2 * value + after, -1e-12 * np.abs(value) - 1e-30)
        shift = np.clip(0.5 * (before - after) / bend, -0.5, 0.5)  # vertex of the parabola
        centre = (here[:, 1:] + 0.5) * step + origin
        parts.append(_Blobs(centre, radii[scale] * _SCALE_STEP**shift, value, 1 - floor / value))
    return _concatenate(parts)


def _busiest_box(image, spacing, step) -> tuple[slice, slice, slice]:
    """Choose the part of a large volume to look at: the one of largest standard deviation.

    The box holds at most `_GRID_BUDGET` grid points of `step` µm, and eight times as many voxels;
    a small volume is taken whole.
    """
    grid_shape = np.array(image.shape) * spacing / step
    budget = _GRID_BUDGET * min(1, 8 * np.prod(spacing) / step**3)
    side = grid_shape.max()
    while np.prod(np.minimum(grid_shape, side)) > budget:
        side *= 0.95
    size = np.ceil(np.minimum(grid_shape, side) * step / spacing).astype(int)
    size = np.minimum(size, image.shape)
    free = np.array(image.shape) - size
    starts = [sorted({0, int(f) // 2, int(f)}) for f in free]
    stride = tuple(slice(None, None, max(1, int(s) // 48)) for s in size)
    boxes = [
        tuple(slice(a, a + int(n)) for a, n in zip(start, size, strict=True))
        for start in np.stack(np.meshgrid(*starts), axis=-1).reshape(-1, 3).tolist()
    ]
    if len(boxes) == 1:
        return boxes[0]
    return max(boxes, key=lambda box: float(image[box][stride].std()))


def _resample(volume, spacing, step) -> np.ndarray:
    """Smooth and resample (z, y, x) to cubic voxels of `step` µm; float32."""
    ratio = step / spacing
    sigma = 0.5 * np.sqrt(np.maximum(ratio**2 - 1, 0))  # against aliasing
    out = ndimage.gaussian_filter(volume, sigma) if sigma.any() else volume
    for axis in range(3):
        size = max(round(volume.shape[axis] / ratio[axis]), 1)
        at = np.clip((np.arange(size) + 0.5) * ratio[axis] - 0.5, 0, out.shape[axis] - 1)
        low = np.minimum(at.astype(int), max(out.shape[axis] - 2, 0))
        high = np.minimum(low + 1, out.shape[axis] - 1)
        shape = [1, 1, 1]
        shape[axis] = size
        share = (at - low).astype(np.float32).reshape(shape)
        below = np.take(out, low, axis)
        out = below + share * (np.take(out, high, axis) - below)
    return out


def _laplacian_stack(grid, radii) -> np.ndarray:
    """Scale-normalised negative Laplacian for each radius (grid points), as differences.

    Returns float32 of shape (len(radii), z, y, x); positive in the middle of bright blobs.
    """
    sigmas = np.append(radii / _SCALE_STEP**0.5, radii[-1] * _SCALE_STEP**0.5) / np.sqrt(3)
    smooth, have = grid, 0.5  # the blur of sampling and `_resample`
    stack = np.empty((len(radii), *grid.shape), dtype=np.float32)
    for index, sigma in enumerate(sigmas):
        extra = np.sqrt(max(sigma**2 - have**2, 0))
        wider = ndimage.gaussian_filter(smooth, extra, truncate=3.5)
        if index > 0:
            stack[index - 1] = (smooth - wider) / np.log(_SCALE_STEP)
        smooth, have = wider, sigma
    return stack


def _maxima(stack) -> np.ndarray:
    """Find the positive local maxima (n, 4) of (scale, z, y, x), inner scales only."""
    peak = (stack == ndimage.maximum_filter(stack, size=3, mode="nearest")) & (stack > 0)
    peak[0] = peak[-1] = False
    return np.argwhere(peak)


def _without_overlap(blobs) -> _Blobs:
    """Keep the strongest of blobs that hold each other's centre.

    Strength is the signal-to-noise ratio of a matched filter in white noise, contrast * radius^1.5:
    it prefers a nucleus to its grains, and a nucleus to its cluster.
    """
    strength = blobs.contrast * blobs.certainty * blobs.radius_um**1.5
    blobs = blobs[np.argsort(-strength, kind="stable")[:_MAX_BLOBS]]
    if len(blobs) == 0:
        return blobs
    tree = cKDTree(blobs.centre_um)
    free = np.ones(len(blobs), dtype=bool)
    kept = []
    for index in range(len(blobs)):
        if not free[index]:
            continue
        kept.append(index)
        centre, radius = blobs.centre_um[index], blobs.radius_um[index]
        free[tree.query_ball_point(centre, radius)] = False
        distance = np.linalg.norm(blobs.centre_um - centre, axis=1)
        free[distance < 0.7 * blobs.radius_um] = False  # a larger blob around this one
    return blobs[kept]


def _concatenate(parts) -> _Blobs:
    """Join a list of blobs."""
    columns = zip(*(vars(part).values() for part in parts), strict=True)
    return _Blobs(*(np.concatenate(column) for column in columns))
