"""How large is a typical cell here? One radius, from the image alone, sets every later scale."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from wnet_nb.errors import UserError
from wnet_nb.grid import enlarge

SCALE_STEP = 2**0.25
SMALLEST_RADIUS = 1.5  # voxels of the finest axis; a smaller blob looks like noise
LARGEST_SHARE = 0.2  # of the middle extent: larger blobs are background
GRID_BUDGET = 2_000_000  # voxels looked at per octave: a few seconds, under 200 MB
MAX_BLOBS = 6000

# A maximum of the scale space: its contrast is the Laplacian's answer in grey levels, its certainty
# the share of that (0 to 1) which exceeds what dark blobs of the same size reach.
BLOB = np.dtype(
    [("centre_um", "f8", 3), ("radius_um", "f8"), ("contrast", "f4"), ("certainty", "f4")]
)


@dataclass(frozen=True)
class CellSize:
    """The typical cell of a volume, as a sphere of the same volume."""

    radius_um: float
    radius_voxels: tuple[float, float, float]  # the same radius along (z, y, x)
    n_cells: int  # blobs of about this size, which the estimate rests on
    spread: float  # of the logarithm of the radii: below 0.3 the cells agree; above 0.5 look first
    reason: str  # how it was found, for the user


def median_radius_um(labels: np.ndarray, voxel_size_um: Sequence[float]) -> float:
    """Return the radius in µm of the ball as large as the median cell; 0 without cells.

    `labels` (Z, Y, X) are 0 for background; voxel sizes are (z, y, x).
    """
    _, sizes = np.unique(labels[labels > 0], return_counts=True)
    median = float(np.median(sizes)) if sizes.size else 0.0
    return (3 * median * math.prod(voxel_size_um) / (4 * math.pi)) ** (1 / 3)


def estimate_cell_radius(
    image: np.ndarray, *, voxel_size_um: tuple[float, float, float]
) -> CellSize:
    """Estimate the typical cell radius of a volume.

    A ball of radius r answers the scale-normalised Laplacian of Gaussian most at
    sigma = r / sqrt(3) (Lindeberg 1998, doi:10.1023/A:1008045108935). The image (Z, Y, X) has any
    real dtype and bright cells on a darker background; scale and offset of the grey levels do not
    matter. Voxel sizes are (z, y, x). UserError if the image is not finite or constant, or no blob
    stands out of the noise.
    """
    low, high = float(image.min()), float(image.max())
    if not np.isfinite(high - low):
        raise UserError("the image has values that are not finite; replace them first")
    if high == low:
        raise UserError(f"the image is constant ({low:g}), so it has no cells to measure")
    spacing = np.asarray(voxel_size_um, dtype=np.float64)
    blobs = _find_blobs(image, spacing)
    if len(blobs) == 0:
        raise UserError(
            "no blob stands out of the noise, so no cell size can be estimated; "
            "give the cell radius yourself"
        )
    radius, spread = _typical_radius(blobs, spacing.min())
    n_cells = int((np.abs(np.log(blobs["radius_um"] / radius)) < np.log(1.5)).sum())
    reason = (
        f"{n_cells} of the {len(blobs)} bright blobs that stand out of the noise are of about "
        f"this size (radius {radius:.3g} µm)"
    )
    if radius < 1.1 * SMALLEST_RADIUS * spacing.min():
        reason += ", which is the smallest that can be seen: noise, or unresolved cells; check"
    elif spread > 0.5:
        reason += ", but sizes differ widely: check"
    elif n_cells < 5:
        reason += ", which is few: check"
    in_voxels = tuple(float(radius / step) for step in spacing)
    return CellSize(radius, in_voxels, n_cells, spread, reason)


def _typical_radius(blobs: np.ndarray, finest: float) -> tuple[float, float]:
    """Return the weighted mode of the radii (µm) and the spread around it (natural logarithm)."""
    radii = blobs["radius_um"]
    # How sure a blob is counts most; large ones count more, as noise makes mostly small ones. The
    # exponents lie on a broad plateau: see tests/benchmarks/cell_size.md.
    weight = np.sqrt(blobs["contrast"]) * blobs["certainty"] ** 2 * (radii / finest) ** 2
    log = np.log2(radii)
    at = np.arange(log.min() - 0.5, log.max() + 0.5, 1 / 32)
    density = np.exp(-0.5 * ((at[:, None] - log) / 0.25) ** 2) @ weight  # sigma: a quarter octave
    radius = float(2 ** at[density.argmax()])
    deviation = np.log(radii / radius)
    return radius, float(np.sqrt(np.average(deviation**2, weights=weight)))


def _find_blobs(image: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Return the `BLOB`s of all sizes that stand out of noise and background, none overlapping."""
    finest = spacing.min()
    extent = np.array(image.shape) * spacing
    largest = LARGEST_SHARE * np.sort(extent)[1]
    found = []
    radius = SMALLEST_RADIUS * finest
    while radius < max(largest, 2 * finest):
        found += _octave_blobs(image, spacing, radius, max(finest, radius / 2))
        radius *= 2
    blobs = np.concatenate(found)
    blobs = blobs[blobs["radius_um"] <= largest * SCALE_STEP]
    nearest_edge = np.minimum(blobs["centre_um"], extent - blobs["centre_um"]).min(axis=1)
    blobs = blobs[nearest_edge > 0.5 * np.minimum(blobs["radius_um"], extent.min() / 3)]
    return _without_overlap(blobs)


def _octave_blobs(
    image: np.ndarray, spacing: np.ndarray, radius: float, step: float
) -> list[np.ndarray]:
    """Return `BLOB`s of radius `radius` to twice it (µm), sought on a cubic grid of `step` µm."""
    box = _busiest_box(image, spacing, step)
    origin = np.array([axis.start for axis in box]) * spacing
    radii = radius * SCALE_STEP ** np.arange(-1, 5)
    response = _laplacians(_resample(image[box], spacing / step), radii / step)
    bright, dark = _maxima(response), _maxima(-response)
    parts = []
    for scale in range(1, len(radii) - 1):
        here = bright[bright[:, 0] == scale]
        null = -response[tuple(dark[dark[:, 0] == scale].T)]
        # Noise and background make dark blobs too, cells do not: a bright one exceeds nearly all.
        floor = float(np.percentile(null, 99.9)) if len(null) else 0.0
        value = response[tuple(here.T)]
        here, value = here[value > floor], value[value > floor]
        before, after = (response[(here[:, 0] + d, *here[:, 1:].T)] for d in (-1, 1))
        bend = np.minimum(before - 2 * value + after, -1e-12 * np.abs(value) - 1e-30)
        shift = np.clip(0.5 * (before - after) / bend, -0.5, 0.5)  # vertex of the parabola
        blobs = np.empty(len(value), BLOB)
        blobs["centre_um"] = (here[:, 1:] + 0.5) * step + origin
        blobs["radius_um"] = radii[scale] * SCALE_STEP**shift
        blobs["contrast"], blobs["certainty"] = value, 1 - floor / value
        parts.append(blobs)
    return parts


def _busiest_box(image: np.ndarray, spacing: np.ndarray, step: float) -> tuple[slice, ...]:
    """Return the part of a large volume to look at: the one of largest standard deviation."""
    grid_shape = np.array(image.shape) * spacing / step
    budget = GRID_BUDGET * min(1, 8 * np.prod(spacing) / step**3)
    side = grid_shape.max()
    while np.prod(np.minimum(grid_shape, side)) > budget:
        side *= 0.95
    size = np.ceil(np.minimum(grid_shape, side) * step / spacing).astype(int)
    size = np.minimum(size, image.shape).tolist()
    starts = [sorted({0, (n - s) // 2, n - s}) for n, s in zip(image.shape, size, strict=True)]
    boxes = [
        tuple(slice(start, start + s) for start, s in zip(corner, size, strict=True))
        for corner in itertools.product(*starts)
    ]
    stride = tuple(slice(None, None, max(1, s // 48)) for s in size)
    if len(boxes) == 1:
        return boxes[0]
    return max(boxes, key=lambda box: float(image[box][stride].std()))


def _resample(volume: np.ndarray, ratio: np.ndarray) -> np.ndarray:
    """Return a volume smoothed and on a grid of `ratio` points (z, y, x) per voxel, float32."""
    sigma = 0.5 * np.sqrt(np.maximum(ratio**-2 - 1, 0))  # against aliasing
    smooth = volume.astype(np.float32)
    if sigma.any():
        smooth = ndimage.gaussian_filter(smooth, sigma)
    shape = [max(round(n * r), 1) for n, r in zip(volume.shape, ratio, strict=True)]
    return enlarge(smooth, shape, ratio)


def _laplacians(grid: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Return the negative scale-normalised Laplacian (n, z, y, x) for n radii (grid points)."""
    sigmas = np.append(radii / SCALE_STEP**0.5, radii[-1] * SCALE_STEP**0.5) / np.sqrt(3)
    smooth, have = grid, 0.5  # the blur of sampling and `_resample`
    stack = np.empty((len(radii), *grid.shape), dtype=np.float32)
    for index, sigma in enumerate(sigmas):
        extra = np.sqrt(max(sigma**2 - have**2, 0))
        wider = ndimage.gaussian_filter(smooth, extra, truncate=3.5)
        if index > 0:
            stack[index - 1] = (smooth - wider) / np.log(SCALE_STEP)
        smooth, have = wider, sigma
    return stack


def _maxima(stack: np.ndarray) -> np.ndarray:
    """Return the positive local maxima (n, 4) of (scale, z, y, x), inner scales only."""
    peak = (stack == ndimage.maximum_filter(stack, size=3, mode="nearest")) & (stack > 0)
    peak[0] = peak[-1] = False
    return np.argwhere(peak)


def _without_overlap(blobs: np.ndarray) -> np.ndarray:
    """Return the strongest of blobs that hold each other's centre.

    Strength is the signal-to-noise ratio of a matched filter in white noise, contrast * radius^1.5:
    it prefers a nucleus to its grains, and a nucleus to its cluster.
    """
    strength = blobs["contrast"] * blobs["certainty"] * blobs["radius_um"] ** 1.5
    blobs = blobs[np.argsort(-strength, kind="stable")[:MAX_BLOBS]]
    if len(blobs) == 0:
        return blobs
    centres, radii = blobs["centre_um"], blobs["radius_um"]
    tree = cKDTree(centres)
    free = np.ones(len(blobs), dtype=bool)
    kept = []
    for index, (centre, radius) in enumerate(zip(centres, radii, strict=True)):
        if not free[index]:
            continue
        kept.append(index)
        free[tree.query_ball_point(centre, radius)] = False
        distance = np.linalg.norm(centres - centre, axis=1)
        free[distance < 0.7 * radii] = False  # a larger blob around this one
    return blobs[kept]
