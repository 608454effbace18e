"""Cells from a network that knows core and rim: its cores are the seeds, its cells the outlines.

The starter network is trained on simulated cells whose whole extent is known, so it knows where a
cell ends better than any level of brightness does. How far a cell must stand out of the texture
around it, though, only the image at hand can tell: its dark spots do (`seeds.Ground`).
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from skimage.segmentation import watershed

from wnet_nb.cells.regions import Box, Region, markers, owned_by, with_halo
from wnet_nb.cells.seeds import SEED_SIGMA, Ground, separate
from wnet_nb.grid import difference_of_gaussians

# Lengths in cell radii; chosen by measurement, see tests/benchmarks/quality.md.
SMOOTH_SIGMA = 0.2  # of the core probability whose maxima are seeds
SEED_REACH = 0.5  # no other maximum lies this close to a seed
SEED_PROBABILITY = 0.3  # of the smoothed core
BOUNDARY_DEFAULT = 0.5  # probability of core or rim at which a cell ends


class NetworkEvidence:
    """Finds cells block by block in the probabilities of a network with a core class.

    Parameters
    ----------
    core : ndarray
        (Z, Y, X) in 0-1: probability of the middle of a cell.
    foreground : ndarray
        (Z, Y, X) in 0-1: probability of being a cell, core or rim.
    image : ndarray
        (Z, Y, X), any real dtype.
    radii : ndarray
        Cell radius in voxels (z, y, x).
    boundary : float, optional
        Foreground probability at which a cell ends; `BOUNDARY_DEFAULT` if not given.

    Attributes
    ----------
    boundary : float
    """

    def __init__(
        self,
        core: np.ndarray,
        foreground: np.ndarray,
        image: np.ndarray,
        radii: np.ndarray,
        *,
        boundary: float | None = None,
    ) -> None:
        self._core, self._foreground, self._image, self._radii = core, foreground, image, radii
        self._ground = Ground(image, foreground, radii)
        self.boundary = BOUNDARY_DEFAULT if boundary is None else boundary

    def find(self, block: Box) -> Region:
        """Return the cells of a block and its halo."""
        radii = self._radii
        place = with_halo(block, radii, self._core.shape)
        core = ndimage.gaussian_filter(self._core[place], SMOOTH_SIGMA * radii, truncate=3)
        size = 2 * np.maximum(np.floor(SEED_REACH * radii).astype(int), 1) + 1
        peaks = (core == ndimage.maximum_filter(core, size=size)) & (core > SEED_PROBABILITY)
        seeds = separate(np.argwhere(peaks), core, radii, SEED_REACH)
        seeds = seeds[np.lexsort(seeds.T[::-1])]
        foreground = self._foreground[place]
        landscape = ndimage.gaussian_filter(foreground, SMOOTH_SIGMA * radii, truncate=3)
        landscape += core
        inside = foreground > self.boundary
        basins = watershed(
            np.negative(landscape, out=landscape), markers(seeds, core.shape), mask=inside
        )
        owned = owned_by(block, place, seeds)
        owned[1:] &= self._stand_out(basins, len(seeds), place)
        return Region(place, basins, inside, owned)

    def _stand_out(self, basins: np.ndarray, count: int, place: Box) -> np.ndarray:
        """Return for each basin whether a spot of cell size in it is above texture and noise."""
        above = np.maximum(self._ground.above(self._image, place), 0)
        blob = difference_of_gaussians(above, SEED_SIGMA * self._radii)
        strongest = ndimage.maximum(blob, basins, np.arange(1, count + 1))
        return np.asarray(strongest) >= self._ground.floor
