"""Where cells are and where they end: what the image says, or a network that knows core and rim.

Such a network knows better than any level of brightness where a cell ends. How far one must stand
out of the texture around it, though, only the dark spots of the image can tell (`seeds.Ground`).
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from wnet_nb.cells.regions import Box, Region, edges, grow_cells, with_halo
from wnet_nb.cells.seeds import SEED_PROBABILITY, SEED_SIGMA, Ground, find_seeds
from wnet_nb.grid import difference_of_gaussians

# Lengths in cell radii; chosen by measurement, see tests/benchmarks/quality.md.
GROWTH_PROBABILITY = 0.1  # of being a cell: none reaches further
# From the image:
SEED_DISTANCE = 0.6  # no two seeds are closer
BOUNDARY_DEFAULT, BOUNDARY_SLOPE = 0.4, 0.6  # the level where cells end, and how far it follows
# the steepest level of the volume
# From a network:
SMOOTH_SIGMA = 0.2  # of the core probability whose maxima are seeds
SEED_REACH = 0.5  # no other maximum lies this close to a seed
CORE_PROBABILITY = 0.3  # of a seed, smoothed
# Probability of core or rim at which a cell ends, by how steeply its brightness falls off over one
# cell radius: a sharp edge is where half of the light is, of a soft one that would lose a lot.
EDGE_BOUNDARY = (1.2, 1.3), (0.3, 0.5)
EDGE_LEVELS = 0.4, 0.6  # between the surroundings (0) and the core (1), where that is measured
# What is surely cell, by its smallest radius in voxels: blur carries light out of a thin cell.
BRIGHT_LEVEL = (1.0, 2.5), (0.55, 0.4)
RESOLVED_RADIUS = 2.7  # voxels; in thinner cells the network's voxels are too coarse
DIM_LEVEL = (0.3, 0.5), (0.15, 0.3)  # that the border of a cell has at least, by the boundary


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


@dataclass(frozen=True)
class NetworkEvidence:
    """Finds cells block by block in the probabilities of a network with a core class."""

    core: np.ndarray  # (Z, Y, X) in 0-1: probability of the middle of a cell
    foreground: np.ndarray  # (Z, Y, X) in 0-1: of core or rim
    image: np.ndarray  # (Z, Y, X), any real dtype
    radii: np.ndarray  # of a cell in voxels (z, y, x)
    ground: Ground  # the background, and what a spot must exceed

    def find(self, block: Box) -> Region:
        """Return the cells of a block and its halo."""
        radii, place = self.radii, with_halo(block, self.radii, self.core.shape)
        core = ndimage.gaussian_filter(self.core[place], SMOOTH_SIGMA * radii, truncate=3)
        window = 2 * np.maximum(np.floor(SEED_REACH * radii).astype(int), 1) + 1
        seeds = find_seeds(core, core > CORE_PROBABILITY, window, radii, SEED_REACH)
        foreground = self.foreground[place]
        landscape = ndimage.gaussian_filter(foreground, SMOOTH_SIGMA * radii, truncate=3)
        landscape += core
        np.negative(landscape, out=landscape)
        mask = foreground > GROWTH_PROBABILITY
        above = self.ground.above(self.image, place)
        region = grow_cells(block, place, seeds, landscape, mask, above, radii)
        # A cell must hold a spot of its size that stands out of texture and noise.
        blob = difference_of_gaussians(np.maximum(above, 0), SEED_SIGMA * radii)
        strongest = ndimage.maximum(blob, region.basins, np.arange(1, len(seeds) + 1))
        region.owned[1:] &= np.asarray(strongest) >= self.ground.floor
        return region

    def find_boundary(self, parts: Iterable[Region]) -> float:
        """Return the foreground probability at which cells end, generous where edges are soft."""
        low, high = EDGE_LEVELS
        found = [np.zeros(0)]
        for region in parts:
            _, level, steepness = edges(region, self.radii)
            found.append(steepness[(level > low) & (level < high)])
        steepness = np.concatenate(found)
        return float(np.interp(np.median(steepness), *EDGE_BOUNDARY)) if len(steepness) else 0.4

    def inside(self, region: Region, boundary: float) -> np.ndarray:
        """Return which voxels of the basins are cell: what is bright, or what the network says.

        The network knows of dim borders that no level of brightness tells from the surroundings;
        where a cell is hardly thicker than a voxel, only the image is finer than that.
        """
        cores = region.cores[region.basins]
        thinnest = float(self.radii.min())
        inside = region.contrast > np.interp(thinnest, *BRIGHT_LEVEL) * cores
        if thinnest >= RESOLVED_RADIUS:
            known = self.foreground[region.place] > boundary
            inside |= known & (region.contrast > np.interp(boundary, *DIM_LEVEL) * cores)
        return inside


def find_evidence(
    image: np.ndarray,
    foreground: np.ndarray,
    core: np.ndarray | None,
    radii: np.ndarray,
    ground: Ground,
) -> ImageEvidence | NetworkEvidence:
    """Return what cells are found from: the network where it knows their core, else the image."""
    if core is None:
        return ImageEvidence(image, foreground, radii, ground)
    return NetworkEvidence(core, foreground, image, radii, ground)
