"""Where cells are: the background they stand on, how far one must stand out, and their middles."""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from wnet_nb.grid import block_means, difference_of_gaussians, enlarge

# Lengths in cell radii; chosen by measurement, see tests/benchmarks/quality.md.
SEED_SIGMA = 0.52  # of the Laplacian of Gaussian that finds the middle of cells
SEED_PROBABILITY = 0.4  # foreground probability of a place that may be a cell
LINE_REACH = 2.0  # seeds this close may belong to one cell
DIP = 0.1  # by which the Laplacian must fall between two cells, as a share of the weaker
BACKGROUND_SIGMA = 2.5  # reach of the local background
CLIP = 2.0  # standard deviations from the local background at which something else begins
ROUNDS = 12  # of clipping; 6 instead change no F1 of quality.md by more than 0.02
SKEW = 1.5  # light adds up, so bright texture and noise reach further than dark: by this
# alone an empty noisy volume gave 0 cells with 1.5, 4 with 1.4 and 27 with 1.25
FALSE_SHARE = 0.05  # of the seeds may be background, by the count of dark spots as strong
OUTSIDE = 0.1  # foreground probability below which a voxel is surely no cell
NOISE_QUANTILE, NOISE_FACTOR = 0.9, 4.0  # a seed exceeds this many times that quantile of the
# bright spots outside cells, which speaks for fine noise as the dark spots do for texture
NOISE_LIMIT = 0.5  # but no more than so much of that quantile of the spots in the class map, or a
# small patch with a few bright spots outside would lose all of its cells at once


class Ground:
    """The background of a volume and what a seed must exceed, found once for all its blocks.

    Image (Z, Y, X) of any real dtype, foreground (Z, Y, X) in 0-1, radii in voxels. `floor` is in
    the units of `difference_of_gaussians` of the bright part of `above`, grey levels.
    """

    def __init__(self, image: np.ndarray, foreground: np.ndarray, radii: np.ndarray) -> None:
        self.step, fine = ground_steps(image.shape, radii)
        ratio = self.step / fine
        picture, inside = block_means(image, fine), block_means(foreground, fine)
        self.background = find_background(
            block_means(picture, ratio), block_means(inside, ratio), radii / self.step
        )
        picture -= enlarge(self.background, picture.shape, ratio)
        sigma = SEED_SIGMA * radii / fine
        bright = difference_of_gaussians(np.maximum(picture, 0), sigma)
        # A gap between cells is a dark spot of the image, but not darker than its background.
        np.negative(picture, out=picture)
        dark = difference_of_gaussians(np.maximum(picture, 0, out=picture), sigma)
        peaks = _are_peaks(bright)
        outside = bright[peaks & (inside < OUTSIDE)]
        self.floor = false_seed_floor(bright[peaks], dark[_are_peaks(dark)])
        within = bright[peaks & (inside > SEED_PROBABILITY)]
        if outside.size >= 10 and within.size:  # fewer say nothing: the background is nearly empty
            noise = NOISE_FACTOR * float(np.quantile(outside, NOISE_QUANTILE))
            limit = NOISE_LIMIT * float(np.quantile(within, NOISE_QUANTILE))
            self.floor = max(self.floor, min(noise, limit))

    def above(self, image: np.ndarray, region: Sequence[slice]) -> np.ndarray:
        """Return a region of the image minus its background, float32."""
        part = np.array(image[tuple(region)], np.float32)
        part -= enlarge(self.background, part.shape, self.step, start=[s.start for s in region])
        return part


def ground_steps(shape: Sequence[int], radii: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the steps in voxels (z, y, x) of the grids of the background and of the spots."""
    shape = np.array(shape)
    step = shape / np.ceil(shape / np.maximum(1.0, radii))  # whole steps fit
    return step, np.maximum(1.0, 0.5 * step)


def find_background(
    picture: np.ndarray, foreground: np.ndarray, reach: Sequence[float]
) -> np.ndarray:
    """Return the local brightness of what is not cells, float32: a clipped mean.

    The mean starts from what the network surely calls background. Where its class is too wide,
    that is the darker half of the texture only; so everything within `CLIP` local standard
    deviations is taken in, again and again (sigma clipping, as in Bertin & Arnouts 1996,
    doi:10.1051/aas:1996164, but from the network's background instead of from all voxels).

    `picture` and `foreground` (Z, Y, X) lie on a grid of about a cell radius, which is `reach` of
    its points along each axis.
    """
    sigma = BACKGROUND_SIGMA * np.asarray(reach)
    weight = np.clip(1 - foreground, 0, 1) ** 4 + np.float32(1e-6)  # never 0 in all of a place
    for _ in range(ROUNDS):
        share = ndimage.gaussian_filter(weight, sigma, mode="nearest")
        mean = ndimage.gaussian_filter(weight * picture, sigma, mode="nearest") / share
        away = (picture - mean) ** 2
        variance = ndimage.gaussian_filter(weight * away, sigma, mode="nearest") / share
        weight = (away < CLIP**2 * variance) + np.float32(1e-6)
    return mean


def false_seed_floor(bright: np.ndarray, dark: np.ndarray) -> float:
    """Return the lowest strength above which at most `FALSE_SHARE` of bright spots are background.

    Noise and texture make dark spots as well as bright ones, cells make bright ones only, so the
    dark spots as strong count the false ones (the target-decoy estimate of a false discovery
    rate: Elias & Gygi 2007, doi:10.1038/nmeth1019). They are taken `SKEW` times as strong.
    The result is a strength of `bright`, itself accepted; infinite where none is.
    """
    bright = np.sort(bright)[::-1]
    n_dark = len(dark) - np.searchsorted(np.sort(SKEW * dark), bright)
    accepted = np.flatnonzero(n_dark <= FALSE_SHARE * np.arange(1, len(bright) + 1))
    return float(bright[accepted[-1]]) if len(accepted) else np.inf


def _are_peaks(blob: np.ndarray) -> np.ndarray:
    return (blob == ndimage.maximum_filter(blob, size=3)) & (blob > 0)


def find_seeds(
    blob: np.ndarray, allowed: np.ndarray, window: np.ndarray, radii: np.ndarray, distance: float
) -> np.ndarray:
    """Return the voxels (n, 3) in the middle of cells, along z, y, x: strong maxima of `blob`.

    A maximum is the largest value in a window of that many voxels, a voxel in the middle where
    several touch, as where a network is sure of all of a cell. It is dropped near a stronger
    one that is kept: closer than `distance` cell radii (`radii` in voxels), or so that the blob
    hardly dips on the line between them, as within one large or textured cell.
    """
    peaks = (blob == ndimage.maximum_filter(blob, size=window)) & allowed
    seeds = _separate(_one_of_each_piece(peaks), blob, radii, distance)
    return seeds[np.lexsort(seeds.T[::-1])]


def _one_of_each_piece(mask: np.ndarray) -> np.ndarray:
    """Return the middle voxel, in the order of z, y, x, of each connected piece: (n, 3)."""
    pieces, n = ndimage.label(mask, np.ones((3, 3, 3)))
    numbers = pieces[mask]
    counts = np.bincount(numbers, minlength=n + 1)[1:]
    middles = np.cumsum(counts) - counts + (counts - 1) // 2
    return np.argwhere(mask)[np.argsort(numbers, kind="stable")][middles]


def _separate(
    places: np.ndarray, blob: np.ndarray, radii: np.ndarray, distance: float
) -> np.ndarray:
    """Return those places (n, 3) that are cells of their own, the strongest first."""
    places = places[np.argsort(-blob[tuple(places.T)], kind="stable")]
    peaks = blob[tuple(places.T)]
    pairs = cKDTree(places / radii).query_pairs(LINE_REACH, output_type="ndarray")
    pairs.sort(axis=1)  # the stronger first
    ends = places[pairs]  # (m, 2, 3)
    lines = ends[:, :1] + np.linspace(0, 1, 9)[:, None] * (ends[:, 1:] - ends[:, :1])  # (m, 9, 3)
    saddles = ndimage.map_coordinates(blob, lines.reshape(-1, 3).T, order=1).reshape(-1, 9).min(1)
    close = (((ends[:, 0] - ends[:, 1]) / radii) ** 2).sum(1) < distance**2
    same = close | (saddles > (1 - DIP) * peaks[pairs[:, 1]])
    free = np.ones(len(places), bool)
    for strong, weak in pairs[same][np.lexsort(pairs[same].T)]:
        free[weak] &= not free[strong]
    return places[free]
