"""The volumes and patches that starter weights are trained on: simulated, prepared, drawn.

Every volume follows from (seed, number) and every patch from (seed, step): nothing else is chance.
"""

import numpy as np
import torch
from torch import Tensor

from wnet_nb import config
from wnet_nb.cells.simulate import CORE, RIM, Ranges, core_and_rim, simulate_cells
from wnet_nb.config import Settings
from wnet_nb.data import CELL_RADIUS_VOXELS, prepare

CLASSES = ("background", "core", "rim")  # in the order of the channels
VOLUME_SIZE, PATCH, BATCH = 64, 32, 4
CELL_SHARE = 0.35  # patches drawn around a cell; the others anywhere, mostly background


# Of prepared simulated volumes, images and classes: (Z, Y, X) uint8. An image is its brightness
# after the preparation, 0-100, times 2.55.
Pool = list[tuple[np.ndarray, np.ndarray]]


def starter_settings(seed: int = 0) -> Settings:
    """Return the settings that starter weights are trained and used with."""
    return config.preset(
        "scratch",
        n_classes=len(CLASSES),
        foreground_classes=(CORE, RIM),
        core_class=CORE,
        patch_size=PATCH,
        seed=seed,
    )


def prepared_volume(number: int, seed: int, ranges: Ranges) -> tuple[np.ndarray, np.ndarray]:
    """Simulate a volume and prepare it as `quick` does, with a radius that is a bit off.

    Returns brightness times 2.55, and classes (background, core, rim), both (64, 64, 64) uint8.
    """
    simulated = simulate_cells(1_000_003 * seed + number, (VOLUME_SIZE,) * 3, ranges)
    # Above 1.5 times the aim voxels would be averaged; volumes are drawn as they are after that.
    radius = min(simulated.estimated_radius, 1.49 * CELL_RADIUS_VOXELS)
    settings = starter_settings().replace(cell_radius_um=max(radius, 1.2))
    prepared = prepare(simulated.image, settings, voxel_size_um=simulated.voxel_size)
    image = prepared.normalisation.apply(prepared.array)
    return np.rint(2.55 * image).astype(np.uint8), core_and_rim(simulated.labels, simulated.depth)


def draw_patches(pool: Pool, seed: int, step: int) -> tuple[Tensor, Tensor]:
    """Draw the patches of a step: images (4, 1, 32, 32, 32) in 0-100 and classes (4, 32, 32, 32).

    Flipped, turned in the plane, and their brightness bent (gamma) and scaled.
    """
    rng = np.random.default_rng([seed, step])
    images, targets = [], []
    for _ in range(BATCH):
        image, classes = pool[rng.integers(len(pool))]
        corner = rng.integers(0, np.array(classes.shape) - PATCH + 1)
        if rng.random() < CELL_SHARE:
            cells = np.flatnonzero(classes == CORE)
            if len(cells):
                middle = np.array(np.unravel_index(rng.choice(cells), classes.shape))
                corner = middle - rng.integers(0, PATCH, 3)
                corner = np.clip(corner, 0, np.array(classes.shape) - PATCH)
        box = tuple(slice(c, c + PATCH) for c in corner)
        flips = tuple(axis for axis in range(3) if rng.random() < 0.5)
        turns = rng.integers(4)
        image, target = (
            np.rot90(np.flip(array[box], flips), turns, (1, 2)) for array in (image, classes)
        )
        image = image.astype(np.float32) / 255
        image = image ** np.exp(rng.normal(0, 0.2)) * np.exp(rng.normal(0, 0.15))
        images.append(100 * np.clip(image, 0, 1).astype(np.float32))
        targets.append(target.astype(np.int64))
    return torch.from_numpy(np.stack(images)[:, None]), torch.from_numpy(np.stack(targets))
