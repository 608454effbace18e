"""Cells from the image within a class map: Laplacian seeds, and a level of each cell's own core.

This is all there is without a network that knows cells; lengths follow from the cell radius.
"""

from collections.abc import Iterable

import numpy as np
from scipy import ndimage

from wnet_nb.cells.regions import Box, Region, edges, grow_cells, with_halo
from wnet_nb.cells.seeds import SEED_PROBABILITY, SEED_SIGMA, Ground, find_seeds
from wnet_nb.grid import difference_of_gaussians

# Chosen by measurement, see tests/benchmarks/quality.md.
SEED_DISTANCE = 0.6  # cell radii: no two seeds are closer
BOUNDARY_DEFAULT, BOUNDARY_SLOPE = 0.4, 0.6  # the level where cells end, and how far it follows
# the steepest level of the volume
GROWTH_PROBABILITY = 0.1  # cells may reach this far beyond the class map


class ImageEvidence:
    """Finds cells block by block in an image, where the class map allows them.

    Parameters
    ----------
    image, foreground : ndarray
        (Z, Y, X): any real dtype; probability of being a cell, 0-1.
    radii : ndarray
        Cell radius in voxels (z, y, x).
    ground : Ground
        The background, and what a seed must exceed.
    """

    def __init__(
        self,
        image: np.ndarray,
        foreground: np.ndarray,
        radii: np.ndarray,
        ground: Ground,
    ) -> None:
        self._image, self._foreground, self._radii = image, foreground, radii
        self._ground = ground

    def inside(self, region: Region, boundary: float) -> np.ndarray:
        """Return which voxels (z, y, x) of the basins are brighter than a share of the core."""
        level = boundary * region.cores
        return region.contrast > level[region.basins]

    def find(self, block: Box) -> Region:
        """Return the cells of a block and its halo."""
        radii, place = self._radii, with_halo(block, self._radii, self._image.shape)
        above = self._ground.above(self._image, place)
        near = ndimage.gaussian_filter(self._foreground[place], 0.3 * radii, truncate=3)
        blob = difference_of_gaussians(np.maximum(above, 0), SEED_SIGMA * radii)
        window = np.maximum(np.floor(SEED_DISTANCE * radii).astype(int) | 1, 3)
        bright = (blob >= self._ground.floor) & (near > SEED_PROBABILITY)
        seeds = find_seeds(blob, bright, window, radii, SEED_DISTANCE)
        # On the image itself a dim cell would be the slope of a brighter neighbour, and flooded by
        # it.
        np.negative(blob, out=blob)
        return grow_cells(block, place, seeds, blob, near > GROWTH_PROBABILITY, above, radii)

    def find_boundary(self, parts: Iterable[Region]) -> float:
        """Return the level, between background 0 and core 1, at which cells end.

        The image is steepest where a cell ends. Over the cells that all parts own, the mean
        gradient is taken as a function of the level. It is largest near 1/2 where cells are wider
        than the blur and further up where they are not, as in a Gaussian spot, which is steepest
        at 0.61.
        """
        total, number = np.zeros(27), np.zeros(27)
        # What was taken for one cell in plain background may fill more voxels than all cells.
        largest = 4 / 3 * np.pi * np.prod(2 * self._radii)
        for region in parts:
            basins, level, steepness = edges(region, self._radii)
            bins = np.clip((level * 20).astype(int), -1, 25) + 1
            share = np.minimum(1, largest / np.maximum(np.bincount(basins), 1))[basins]
            total += np.bincount(bins, share * steepness, 27)
            number += np.bincount(bins, share, 27)
        if not number.any():
            return BOUNDARY_DEFAULT
        mean = total / np.maximum(number, 1e-9)
        mean = ndimage.gaussian_filter1d(mean, 1.0)[1 + 5 : 1 + 18]  # levels 0.25 to 0.9
        steepest = (int(np.argmax(mean)) + 5.5) / 20
        return float(np.clip(BOUNDARY_DEFAULT + BOUNDARY_SLOPE * (steepest - 0.55), 0.35, 0.5))
