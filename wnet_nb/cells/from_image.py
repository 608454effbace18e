"""Cells from the image within a class map: Laplacian seeds, and a level of each cell's own core."""

from collections.abc import Iterable
from dataclasses import dataclass

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


@dataclass(frozen=True)
class ImageEvidence:
    """Finds cells block by block in an image, where the class map allows them."""

    image: np.ndarray  # (Z, Y, X), any real dtype
    foreground: np.ndarray  # (Z, Y, X): probability of being a cell, 0-1
    radii: np.ndarray  # of a cell in voxels (z, y, x)
    ground: Ground  # the background, and what a seed must exceed

    def inside(self, region: Region, boundary: float) -> np.ndarray:
        """Return which voxels (z, y, x) of the basins are brighter than a share of the core."""
        level = boundary * region.cores
        return region.contrast > level[region.basins]

    def find(self, block: Box) -> Region:
        """Return the cells of a block and its halo."""
        radii, place = self.radii, with_halo(block, self.radii, self.image.shape)
        above = self.ground.above(self.image, place)
        near = ndimage.gaussian_filter(self.foreground[place], 0.3 * radii, truncate=3)
        blob = difference_of_gaussians(np.maximum(above, 0), SEED_SIGMA * radii)
        window = np.maximum(np.floor(SEED_DISTANCE * radii).astype(int) | 1, 3)
        bright = (blob >= self.ground.floor) & (near > SEED_PROBABILITY)
        seeds = find_seeds(blob, bright, window, radii, SEED_DISTANCE)
        # On the image itself a dim cell would be the slope of a brighter one, and flooded by it.
        np.negative(blob, out=blob)
        return grow_cells(block, place, seeds, blob, near > GROWTH_PROBABILITY, above, radii)

    def find_boundary(self, parts: Iterable[Region]) -> float:
        """Return the level, between background 0 and core 1, at which cells end.

        The image is steepest where a cell ends: over the cells that all parts own, the mean
        gradient as a function of the level is largest near 1/2 where cells are wider than the blur
        and further up where they are not, as in a Gaussian spot, which is steepest at 0.61.
        """
        total, number = np.zeros(27), np.zeros(27)
        # What was taken for one cell in plain background may fill more voxels than all cells.
        largest = 4 / 3 * np.pi * np.prod(2 * self.radii)
        for region in parts:
            basins, level, steepness = edges(region, self.radii)
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
