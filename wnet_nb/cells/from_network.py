"""Cells from a network that knows core and rim: its cores are seeds, its cells help the outlines.

It knows better than any level of brightness where a cell ends. How far one must stand out of the
texture around it, though, only the dark spots of the image at hand can tell (`seeds.Ground`).
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from wnet_nb.cells.regions import Box, Region, edges, grow_cells, with_halo
from wnet_nb.cells.seeds import SEED_SIGMA, Ground, find_seeds
from wnet_nb.grid import difference_of_gaussians

# Lengths in cell radii; chosen by measurement, see tests/benchmarks/quality.md.
SMOOTH_SIGMA = 0.2  # of the core probability whose maxima are seeds
SEED_REACH = 0.5  # no other maximum lies this close to a seed
SEED_PROBABILITY = 0.3  # of the smoothed core
GROWTH_PROBABILITY = 0.1  # of core or rim: no cell reaches further
# Probability of core or rim at which a cell ends, by how steeply its brightness falls off over one
# cell radius: a sharp edge is where half of the light is, of a soft one that would lose a lot.
BOUNDARY = (1.2, 1.3), (0.3, 0.5)
EDGE_LEVELS = 0.4, 0.6  # between the surroundings (0) and the core (1), where that is measured
# What is surely cell, by its smallest radius in voxels: blur carries light out of a thin cell.
BRIGHT_LEVEL = (1.0, 2.5), (0.55, 0.4)
RESOLVED_RADIUS = 2.7  # voxels; in thinner cells the network's voxels are too coarse
DIM_LEVEL = (0.3, 0.5), (0.15, 0.3)  # that the border of a cell has at least, by the boundary


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
        seeds = find_seeds(core, core > SEED_PROBABILITY, window, radii, SEED_REACH)
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
        return float(np.interp(np.median(steepness), *BOUNDARY)) if len(steepness) else 0.4

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
