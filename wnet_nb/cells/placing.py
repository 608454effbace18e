"""Where simulated cells lie and which voxels they fill: warped ellipsoids that may touch."""

import numpy as np
from scipy.spatial import cKDTree

from wnet_nb.cells.tissue import places_along, random_rotation, smooth_field

_CHUNK = 400_000  # voxels of cell boxes at once: stays in the cache of a processor
_FEWEST_VOXELS = 3  # of a cell that is kept: less is a corner cut off by the border


def draw_cells(rng, facts, shape, voxel_size):
    """Place cells and draw them: labels uint16, depth float32, and the brightness of each cell.

    Cells that overlap share the space: a voxel goes to the one that it lies deeper in. Depth is 0
    in the middle of a cell, 1 at its border and outside. Brightness (n + 1,) has the median 1, and
    0 for the background. `voxel_size` (z, y, x) is in voxels of the plane, as all lengths here.
    """
    radius = facts["radius"]
    common = _common_stretch(rng, facts["stretch"])
    centres = _place(rng, facts, shape * voxel_size, common)
    n = len(centres)
    size = np.exp(rng.normal(0, facts["size_spread"], (n, 1)))
    axes = rng.normal(0, facts["shape_spread"], (n, 3))
    axes = radius * size * np.exp(axes - axes.mean(1, keepdims=True))
    brightness = np.exp(rng.normal(0, facts["brightness_spread"], n))
    mitotic = rng.random(n) < facts["mitotic_share"]
    axes[mitotic] *= np.array([0.45, 0.8, 0.8])
    brightness[mitotic] *= rng.uniform(1.5, 3, mitotic.sum())
    turns = np.linalg.qr(rng.normal(size=(n, 3, 3)))[0]
    shrink = np.linalg.inv(common)
    forms = shrink @ (turns / axes[:, None, :] ** 2) @ turns.transpose(0, 2, 1) @ shrink
    labels, depth = _rasterise(rng, facts, centres, forms, shape, voxel_size)
    kept = np.bincount(labels.ravel(), minlength=n + 1) >= _FEWEST_VOXELS
    kept[0] = False
    depth[~kept[labels]] = 1
    labels = (np.cumsum(kept) * kept).astype(np.uint16)[labels]
    return labels, depth, np.concatenate([[0], brightness[kept[1:]]]).astype(np.float32)


def _common_stretch(rng, stretch: float) -> np.ndarray:
    """Return a symmetric matrix (3, 3) of determinant 1 that draws every cell out, often in z."""
    stretch = stretch if rng.random() < 0.5 else 1.0
    axes = np.eye(3) if rng.random() < 0.6 else random_rotation(rng)
    return axes @ np.diag([stretch ** (2 / 3), stretch ** (-1 / 3), stretch ** (-1 / 3)]) @ axes.T


def _place(rng, facts, extent, common) -> np.ndarray:
    """Return centres (n, 3), in voxels of the plane, no two nearer than the gap."""
    radius = facts["radius"]
    low, high = np.full(3, -0.7 * radius), extent + 0.7 * radius  # some are cut by the border
    one = 4 / 3 * np.pi * radius**3
    wanted = int(np.ceil(facts["filled"] * np.prod(high - low) / one))
    candidates = 2 * wanted + (10 * wanted if facts["filled"] > 0.15 else 20 * bool(wanted))
    centres = rng.uniform(low, high, (candidates, 3))
    if facts["clustered_share"] and wanted:
        clumps = rng.uniform(low, high, (rng.integers(1, 6), 3))
        spread = radius * max(2.0, 0.8 * (wanted / len(clumps)) ** (1 / 3)) * rng.uniform(0.8, 1.6)
        centres = clumps[rng.integers(0, len(clumps), candidates)]
        centres = centres + rng.normal(0, spread, (candidates, 3))
        centres = centres[((centres > low) & (centres < high)).all(1)]
    if len(centres) == 0:
        return centres
    tree = cKDTree(centres @ np.linalg.inv(common))
    pairs = tree.query_pairs(2 * radius * facts["gap"], output_type="ndarray")
    pairs = pairs[np.lexsort(pairs.T[::-1])]  # by the first of a pair, which is the lower number
    free = np.ones(len(centres), bool)
    for first, second in pairs.tolist():
        if free[first]:
            free[second] = False
    return centres[free][:wanted]


def _rasterise(rng, facts, centres, forms, shape, voxel_size):
    """Draw ellipsoids u' form u < 1 on a warped grid: labels int32 and depth float32."""
    places = _warped_places(rng, facts, shape, voxel_size)  # three of (Z * Y * X,)
    half = np.sqrt(np.linalg.inv(forms).diagonal(axis1=1, axis2=2))
    half += facts["warp"] * facts["radius"]
    found = []
    order = np.argsort(half.max(1))  # cells of like size share a box
    done = 0
    while done < len(order):
        per_cell = np.prod(2 * np.ceil(half[order[done]] / voxel_size) + 1)
        some = order[done : done + max(1, int(_CHUNK / per_cell))]
        done += len(some)
        found.append(_ellipsoids(some, centres, forms, half, shape, voxel_size, places))
    labels, depth = np.zeros(shape, np.int32), np.ones(shape, np.float32)
    if found:
        where, square, cell = (np.concatenate(column) for column in zip(*found, strict=True))
        last = np.argsort(-square, kind="stable")  # of several, the deepest is written last
        labels.ravel()[where[last]] = cell[last] + 1
        depth.ravel()[where[last]] = np.sqrt(square[last])
    return labels, depth


def _ellipsoids(cells, centres, forms, half, shape, voxel_size, places):
    """Return flat index, squared depth and number of every voxel inside some `cells`."""
    reach = np.ceil(half[cells].max(0) / voxel_size).astype(int)
    box = np.stack(np.meshgrid(*[np.arange(-r, r + 1) for r in reach], indexing="ij"), -1)
    at = np.floor(centres[cells] / voxel_size).astype(np.int32)[:, None]
    at = at + box.reshape(1, -1, 3).astype(np.int32)  # (n, box, 3)
    row, column = np.nonzero(((at >= 0) & (at < shape)).all(-1))
    at = at[row, column]
    where = (at[:, 0] * shape[1] + at[:, 1]) * shape[2] + at[:, 2]
    cell = cells[row]
    middle, form = centres.astype(np.float32), forms.astype(np.float32)
    u = [place[where] - middle[cell, axis] for axis, place in enumerate(places)]
    square = np.zeros(len(where), np.float32)
    for a in range(3):
        for b in range(a, 3):
            square += (1 if a == b else 2) * form[cell, a, b] * u[a] * u[b]
    inside = square < 1
    return where[inside], square[inside], cell[inside]


def _warped_places(rng, facts, shape, voxel_size):
    """Return the place of every voxel, bent: three of (Z * Y * X,) float32."""
    bend = facts["warp"] * facts["radius"]
    sigmas = np.full(3, facts["radius"] * rng.uniform(0.7, 1.5))
    places = []
    for axis, along in enumerate(places_along(shape, voxel_size)):
        along = along.reshape([-1 if a == axis else 1 for a in range(3)])
        field = smooth_field(rng, shape, sigmas, voxel_size=voxel_size)
        places.append((along + np.float32(0.6 * bend) * field).ravel())
    return places
