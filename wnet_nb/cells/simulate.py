"""Simulated volumes of cells with their truth, to train starter weights on.

Domain randomisation (as AnyStar, Dey et al., WACV 2024): every property of cells, tissue and
microscope is drawn from a range wider than any one real stack, so that real stacks lie inside.
"""

import dataclasses
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from wnet_nb.cells.placing import draw_cells
from wnet_nb.cells.tissue import Tissue, log_uniform, smooth_field
from wnet_nb.errors import UserError

BACKGROUND, CORE, RIM = 0, 1, 2
CORE_DEPTH = 0.64  # of a cell's radius: what lies further out is rim
FEWEST_CORE_VOXELS = 4  # of a cell, or a third of the cell if that is less
_CLUTTER = tuple(
    f"{name}_share" for name in ("tissue", "stripes", "tubes", "sheets", "bodies", "streaks")
)
_BRIGHTEST_GRAIN = 0.8  # of a median cell: in tissue that is full of grains the cells stand out

Pair = tuple[float, float]


@dataclass(frozen=True)
class Ranges:
    """What simulated volumes are drawn from: (low, high) pairs, and shares of the volumes (0-1).

    Lengths in voxels of the plane; brightness relative to a cell of median brightness.
    """

    # Averaging brings the estimated radius to 2-6 voxels, and the estimate may be 30 % off.
    radius: Pair = (2.2, 6.5)
    anisotropy: Pair = (1.0, 4.0)  # z step over plane step; a cell is never under 1.5 planes
    filled: Pair = (0.002, 0.6)  # share of the volume that is cells: a few c-Fos cells to tissue
    empty_share: float = 0.05  # volumes without any cell: the answer may be "nothing"
    clustered_share: float = 0.35  # cells in clumps with nothing between, as in embryos
    gap: Pair = (0.75, 1.15)  # of two radii between centres: below 1 neighbours press flat
    stretch: Pair = (1.0, 2.2)  # a length common to all cells: light sheets draw nuclei out in z
    size_spread: Pair = (0.03, 0.25)  # logarithmic standard deviation of radius ...
    shape_spread: Pair = (0.03, 0.25)  # ... of the three axes of each cell
    warp: Pair = (0.0, 0.3)  # of a radius: bent outlines
    mitotic_share: Pair = (0.0, 0.08)  # of the cells: small, flat, bright
    brightness_spread: Pair = (0.05, 0.7)  # logarithmic: dim cells beside bright ones
    texture: Pair = (0.0, 0.7)  # logarithmic, inside a cell: chromatin, chromocentres, nucleoli
    # Where the signal fades: annotators draw the whole nucleus, 25 % wider than its bright part.
    fading_share: float = 0.5
    bright_part: Pair = (0.68, 0.98)  # of a radius
    fading_floor: Pair = (0.03, 0.35)  # brightness that is left at the border
    hollow_share: float = 0.2  # dim middle: a stain of the envelope, a large nucleolus
    background: Pair = (0.02, 3.0)  # level under everything: c-Fos tissue is bright
    plain_share: float = 0.35  # volumes with nothing of what follows up to the streaks
    # A few cells in a bright, grainy, striped ground, as c-Fos in a cleared brain; how many, how
    # bright and how grainy is stated in `_as_brain`.
    brain_share: float = 0.15
    uneven: Pair = (0.02, 1.0)  # deviation of slow changes of the background
    tissue_share: float = 0.5
    tissue: Pair = (0.03, 0.45)  # deviation of grain near the size of cells: neuropil
    stripes_share: float = 0.3
    stripes: Pair = (0.02, 0.4)
    flicker_share: float = 0.3
    flicker: Pair = (0.01, 0.25)  # planes brighter and darker than their neighbours
    tubes_share: float = 0.4
    tubes: Pair = (0.1, 2.0)  # vessels and fibres; a third of them dark
    sheets_share: float = 0.25
    sheets: Pair = (0.05, 1.0)
    bodies_share: float = 0.25
    bodies: Pair = (0.2, 4.0)  # large bright things that are not cells
    streaks_share: float = 0.25
    streaks: Pair = (0.2, 3.0)  # autofluorescence
    specks_share: float = 0.4
    specks: Pair = (0.5, 15.0)  # hot pixels and dust
    edge_share: float = 0.15  # tissue that ends inside the volume
    haze: Pair = (0.0, 0.5)  # scattered light of the cells themselves
    blur: Pair = (0.08, 0.35)  # of a radius, standard deviation in the plane
    blur_along_z: Pair = (1.0, 4.0)  # times the blur in the plane
    transmission: Pair = (0.15, 1.0)  # light left at the last plane
    noise: Pair = (0.01, 0.8)  # of a median cell, deviation of the photons it gives in a voxel
    read_noise: Pair = (0.0, 0.5)  # times `noise`
    smoothed_share: float = 0.3  # noise that was smoothed after it came: averaging, compression
    eight_bit_share: float = 0.3  # rounded to few levels, the brightest cut off
    radius_error: Pair = (0.08, 0.3)  # logarithmic deviation of the radius that is estimated

    def __post_init__(self) -> None:
        """Refuse ranges that are none."""
        for name, value in vars(self).items():
            low, high = value if isinstance(value, tuple) else (value, value)
            if not 0 <= low <= high or (name.endswith("_share") and high > 1):
                raise UserError(f"{name}={value} must be 0 or more, the lower limit first")
        if self.radius[0] < 1 or self.anisotropy[0] < 1:
            raise UserError("radius and anisotropy must be 1 or more")


class Simulated(NamedTuple):
    """A volume and the truth about it."""

    image: np.ndarray  # (Z, Y, X) float32, any brightness scale
    labels: np.ndarray  # (Z, Y, X) uint16, 0 background, 1 to n cells
    depth: np.ndarray  # (Z, Y, X) float32, 0 in the middle of a cell, 1 at its border and outside
    estimated_radius: float  # what an estimator might say of the median cell's, in plane voxels
    voxel_size: tuple[float, float, float]  # (z, y, x), the plane's is 1
    facts: dict[str, float]  # everything that was drawn, by the names of `Ranges`


def simulate_cells(seed: int, shape: tuple[int, int, int], ranges: Ranges) -> Simulated:
    """Simulate a volume of `shape` voxels: the same arguments always give the same arrays."""
    rng = np.random.default_rng(seed)
    facts = _draw_facts(rng, ranges)
    voxel_size = np.array([facts["anisotropy"], 1.0, 1.0])
    labels, depth, brightness = draw_cells(rng, facts, shape, voxel_size)
    signal = _light_cells(rng, facts, labels, depth, brightness, voxel_size)
    image = _expose(rng, facts, signal, voxel_size)
    estimated = facts["radius"] * float(np.exp(rng.normal(0, facts["radius_error"])))
    return Simulated(image, labels, depth, estimated, tuple(voxel_size.tolist()), facts)


def core_and_rim(labels: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Return the three classes that the network learns, uint8: background, core and rim.

    The rim is the outer 36 % of a cell's radius and whatever touches another cell; the innermost
    voxels of a cell (4, or a third of them) are core however thin it is.
    """
    touching = np.zeros(labels.shape, bool)
    for axis in range(3):
        along, near = np.moveaxis(labels, axis, 0), np.moveaxis(touching, axis, 0)
        meet = (along[1:] != along[:-1]) & (along[1:] > 0) & (along[:-1] > 0)
        near[1:] |= meet
        near[:-1] |= meet
    core = (depth < CORE_DEPTH) & ~touching & (labels > 0)
    inside = np.flatnonzero(labels)
    order = np.lexsort((depth.ravel()[inside], labels.ravel()[inside]))
    inside = inside[order]  # cell by cell, from the middle outwards
    cell = labels.ravel()[inside]
    sizes = np.bincount(cell)
    rank = np.arange(len(cell)) - (np.cumsum(sizes) - sizes)[cell]
    core.ravel()[inside[rank < np.clip(sizes // 3, 1, FEWEST_CORE_VOXELS)[cell]]] = True
    return np.where(core, CORE, np.where(labels > 0, RIM, BACKGROUND)).astype(np.uint8)


def _draw_facts(rng, ranges: Ranges) -> dict[str, float]:
    """Draw every property of a volume; a share becomes 1 (it is so) or 0."""
    facts = {}
    logarithmic = ("radius", "background", "noise", "uneven", "tissue", "stripes")
    logarithmic += ("flicker", "tubes", "sheets", "bodies", "streaks", "specks")
    for field in dataclasses.fields(ranges):
        value = getattr(ranges, field.name)
        if not isinstance(value, tuple):
            facts[field.name] = float(rng.random() < value)
        elif field.name in logarithmic and value[0] > 0:
            facts[field.name] = log_uniform(rng, value)
        else:
            facts[field.name] = float(rng.uniform(*value))
    # Dense tissue, where cells must be told apart, comes more often than a log-uniform draw gives.
    low, high = ranges.filled
    facts["filled"] = low * (high / max(low, 1e-9)) ** (float(rng.random()) ** 0.7)
    # Half of the stacks are nearly isotropic; no cell is thinner than one and a half planes.
    low, high = ranges.anisotropy
    high = max(low, min(high, facts["radius"] / 0.75))
    facts["anisotropy"] = low + (high - low) * float(rng.random()) ** 2
    if facts["empty_share"]:
        facts["filled"] = 0.0
    if facts["plain_share"]:
        facts.update(dict.fromkeys(_CLUTTER, 0.0))
    if facts["brain_share"]:
        facts.update(_as_brain(rng, ranges))
    return facts


def _as_brain(rng, ranges: Ranges) -> dict[str, float]:
    """Draw what goes together in a cleared brain: most that is bright there is no cell."""
    facts = {"tissue_share": 1.0, "specks_share": 0.0, "clustered_share": 0.0}
    facts["filled"] = min(log_uniform(rng, (5e-4, 0.02)), ranges.filled[1])
    facts["background"] = log_uniform(rng, (0.3, 3.0))
    facts["tissue"] = log_uniform(rng, (0.08, 0.3))
    facts["noise"] = log_uniform(rng, (0.02, 0.25))
    for name in ("stripes", "flicker"):
        facts[f"{name}_share"] = float(rng.random() < 0.6)
        facts[name] = log_uniform(rng, (0.01, 0.15))
    return facts


def _light_cells(rng, facts, labels, depth, brightness, voxel_size) -> np.ndarray:
    """Return the light of the cells before the microscope, float32."""
    profile = np.ones(labels.shape, np.float32)
    if facts["fading_share"]:
        ends = facts["bright_part"] + rng.normal(0, 0.03, len(brightness)).astype(np.float32)
        fall = (ends[labels] - depth) / np.float32(rng.uniform(0.03, 0.15))
        profile = 1 / (1 + np.exp(np.clip(-fall, -30, 30)))
        profile = facts["fading_floor"] + (1 - facts["fading_floor"]) * profile
    elif rng.random() < 0.5:
        profile = 1 - np.float32(rng.uniform(0.1, 0.8)) * depth**2  # a dome
    if facts["hollow_share"]:
        middle = np.exp(-((depth / rng.uniform(0.3, 0.65)) ** 2))
        profile = profile * (1 - np.float32(rng.uniform(0.3, 0.85)) * middle)
    for _ in range(rng.integers(1, 3)):
        sigmas = np.full(3, facts["radius"] * log_uniform(rng, (0.12, 0.5)))
        grain = smooth_field(rng, labels.shape, sigmas, voxel_size=voxel_size)
        profile = profile * np.exp(np.float32(facts["texture"]) * grain - facts["texture"] ** 2 / 2)
    return brightness[labels] * profile.astype(np.float32)


def _expose(rng, facts, signal, voxel_size) -> np.ndarray:
    """Put cells into tissue and look at both through a microscope, float32."""
    tissue = Tissue(rng, signal.shape, voxel_size, facts["radius"])
    ground = _ground(rng, facts, tissue)
    sigma = facts["blur"] * facts["radius"]
    along_z = min(sigma * facts["blur_along_z"], 0.6 * facts["radius"])
    blur = np.maximum(np.array([along_z, sigma, sigma]) / voxel_size, 0.3)
    light = ndimage.gaussian_filter(signal + ground, blur, truncate=3)
    light += facts["haze"] * ndimage.gaussian_filter(
        signal, 2.5 * facts["radius"] / voxel_size, truncate=2
    )
    if facts["stripes_share"]:
        light *= np.clip(1 + facts["stripes"] * tissue.stripes(), 0.2, None)
    if facts["flicker_share"]:
        light *= np.clip(1 + facts["flicker"] * tissue.flicker(), 0.2, None)
    depth = np.linspace(0, 1, signal.shape[0], dtype=np.float32)[:, None, None]
    light *= facts["transmission"] ** (depth if rng.random() < 0.5 else 1 - depth)
    photons = 1 / facts["noise"] ** 2  # from a voxel of a median cell
    image = rng.poisson(np.maximum(light, 0) * photons).astype(np.float32) / np.float32(photons)
    read = np.float32(facts["noise"] * facts["read_noise"])
    image += read * rng.standard_normal(image.shape, dtype=np.float32)
    if facts["specks_share"] and rng.random() < 0.5:
        image += facts["specks"] * tissue.specks()
    if facts["smoothed_share"]:
        image = ndimage.gaussian_filter(image, rng.uniform(0.3, 0.9, 3), truncate=3)
    if facts["eight_bit_share"]:
        low, high = np.percentile(image[::2, ::2, ::2], (0.1, rng.uniform(99, 100)))
        levels = rng.integers(40, 256)
        image = np.rint(np.clip((image - low) / max(high - low, 1e-6), 0, 1) * levels)
    return image.astype(np.float32)


def _ground(rng, facts, tissue: Tissue) -> np.ndarray:
    """Return all that shines beside the cells, float32, 0 or more."""
    ground = facts["background"] * np.ones(tissue.shape, np.float32)
    ground += min(facts["uneven"], 0.7 * facts["background"] + 0.1) * tissue.uneven()
    if facts["tissue_share"]:
        for _ in range(rng.integers(1, 3)):
            grain = tissue.texture()
            brightest = float(np.percentile(grain[::2, ::2, ::2], 99.9))
            ground += min(facts["tissue"], _BRIGHTEST_GRAIN / brightest) * grain
    if facts["stripes_share"]:
        ground += facts["stripes"] * tissue.stripes()
    if facts["tubes_share"]:
        tubes = tissue.tubes()
        dark = rng.random() < 0.33
        ground = ground * (1 - 0.9 * tubes) if dark else ground + facts["tubes"] * tubes
    if facts["sheets_share"]:
        ground += facts["sheets"] * tissue.sheets()
    if facts["bodies_share"]:
        ground += facts["bodies"] * tissue.bodies(streaks=False)
    if facts["streaks_share"]:
        ground += facts["streaks"] * tissue.bodies(streaks=True)
    if facts["specks_share"]:
        ground += facts["specks"] * tissue.specks()
    if facts["edge_share"]:
        ground *= tissue.inside()
    return np.maximum(ground, 0)
