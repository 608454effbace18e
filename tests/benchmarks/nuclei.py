"""Synthetic nuclei of cleared tissue, of another make than those that the starter learned from.

The example in the package is `make_nuclei()`; other kinds are in tests and in the tables since
version 0.1: large, sparse, noisy, dense, small, anisotropic.
"""

import math

import numpy as np
from scipy import ndimage

# Camera: grey levels at no light, grey levels per photon, and read noise in grey levels (standard
# deviation): the order of magnitude of an sCMOS camera.
_CAMERA_OFFSET = 100.0
_CAMERA_GAIN = 2.2
_READ_NOISE = 4.0
_PEAK_PHOTONS = 220.0  # of a nucleus of median brightness at the illuminated surface
_BACKGROUND_PHOTONS = 35.0
_DEPTH_TRANSMISSION = 0.4  # light left at the last plane
_TRIES_PER_CELL = 60


def make_nuclei(
    seed: int = 0,
    *,
    shape: tuple[int, int, int] = (96, 96, 96),
    voxel_size_um: tuple[float, float, float] = (1.0, 1.0, 1.0),
    cell_radius_um: float = 5.0,
    n_cells: int = 130,
    touching_fraction: float = 0.4,
    blur_um: float | None = None,
    noise: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Make a light-sheet-like stack of nuclei and its instance labels, both (z, y, x) uint16.

    Ellipsoidal nuclei of varied size, orientation, brightness and slight texture; a point spread
    twice as long in z as in the plane; light lost with depth (z); uneven background; shot and read
    noise. The same arguments always give the same arrays.

    Parameters
    ----------
    seed : int
        Seed of every random choice.
    shape, voxel_size_um : tuple
        (z, y, x) in voxels and in µm.
    cell_radius_um : float
        Radius in µm of the sphere as large as the median nucleus.
    n_cells : int
        Number of nuclei to place, at most 65,535; fewer are placed where no room is left.
    touching_fraction : float
        Share of the nuclei (0 to 1) placed in contact with an earlier one.
    blur_um : float, optional
        Standard deviation in µm of the point spread in the plane; twice as much along z.
        One sixth of ``cell_radius_um`` if not given.
    noise : float
        Noise level: 1 is a good stack, 3 a poor one, 0 none. There are ``1 / noise**2`` times as
        many photons.
    """
    if blur_um is None:
        blur_um = cell_radius_um / 6
    rng = np.random.default_rng(seed)
    voxel_size = np.asarray(voxel_size_um, dtype=float)
    centres, forms, brightness = _place_nuclei(
        rng, shape * voxel_size, cell_radius_um, n_cells, touching_fraction
    )
    labels = _draw_labels(rng, centres, forms, shape, voxel_size, cell_radius_um)
    texture = _smooth_noise(rng, shape, 0.35 * cell_radius_um / voxel_size)
    signal = brightness[labels] * np.clip(1 + 0.22 * texture, 0.3, None)
    signal = ndimage.gaussian_filter(signal, np.array([2, 1, 1]) * blur_um / voxel_size)
    image = _expose(rng, signal, cell_radius_um / voxel_size, noise)
    return image, labels


def _place_nuclei(rng, extent_um, radius_um, n_cells, touching_fraction):
    """Place up to `n_cells` ellipsoids that do not overlap, some of them in contact.

    Returned are the centres (n, 3) in µm; the forms (n, 3, 3) in µm⁻², u @ form @ u = 1 on the
    surface; and the relative brightness (n + 1,), 0 for the background.
    """
    margin = np.minimum(0.4 * radius_um, extent_um / 2)
    centres, forms = np.empty((n_cells, 3)), np.empty((n_cells, 3, 3))
    brightness, n = np.zeros(n_cells + 1, np.float32), 0
    for _ in range(n_cells):
        form = _random_form(rng, radius_um)
        brightness[n + 1] = np.exp(rng.normal(0, 0.45))
        touching = n > 0 and rng.random() < touching_fraction
        for _ in range(_TRIES_PER_CELL):
            centre = rng.uniform(margin, extent_um - margin)
            if touching:
                near = rng.integers(n)
                centre = _touching_centre(rng, centres[near], forms[near], form)
            if np.any(centre < margin) or np.any(centre > extent_um - margin):
                continue
            if _has_room(centre, form, centres[:n], forms[:n]):
                centres[n], forms[n] = centre, form
                n += 1
                break
    return centres[:n], forms[:n], brightness[: n + 1]


def _random_form(rng, radius_um) -> np.ndarray:
    """Draw the (3, 3) form of an ellipsoid: size ±12 %, axes ±15 %, any orientation."""
    size = radius_um * np.exp(rng.normal(0, 0.12))
    stretch = rng.normal(0, 0.15, 3)
    axes = size * np.exp(stretch - stretch.mean())  # the volume stays that of `size`
    orientation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    return orientation @ np.diag(1 / axes**2) @ orientation.T


def _touching_centre(rng, centre, neighbour, form) -> np.ndarray:
    """Centre (3,) in µm that brings an ellipsoid into contact with its neighbour at `centre`."""
    direction = rng.normal(size=3)
    direction /= np.linalg.norm(direction)
    reach = 1 / math.sqrt(direction @ neighbour @ direction)
    reach += 1 / math.sqrt(direction @ form @ direction)
    return centre + 0.96 * reach * direction


def _has_room(centre, form, centres, forms) -> bool:
    """Say whether an ellipsoid at `centre` overlaps none of those at `centres` (n, 3)."""
    offset = centres - centre
    distance = np.linalg.norm(offset, axis=1)
    direction = offset / distance[:, None]
    reach = 1 / np.sqrt(np.einsum("ni,ij,nj->n", direction, form, direction))
    reach += 1 / np.sqrt(np.einsum("ni,nij,nj->n", direction, forms, direction))
    return bool(np.all(distance > 0.95 * reach))


def _draw_labels(rng, centres, forms, shape, voxel_size, radius_um) -> np.ndarray:
    """Rasterise the ellipsoids, their surface made uneven, to uint16 labels of `shape`.

    A voxel claimed by two nuclei goes to the one it lies deeper in.
    """
    unevenness = 0.1 * _smooth_noise(rng, shape, 0.5 * radius_um / voxel_size)
    depth = np.full(shape, 1.0, dtype=np.float32)  # squared relative distance from the centre
    labels = np.zeros(shape, dtype=np.uint16)
    for label, (centre, form) in enumerate(zip(centres, forms, strict=True), start=1):
        half = 1.2 * np.sqrt(np.diag(np.linalg.inv(form)))  # of the bounding box, µm
        low = np.maximum(np.floor((centre - half) / voxel_size), 0).astype(int)
        high = np.minimum(np.ceil((centre + half) / voxel_size) + 1, shape).astype(int)
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        grid = np.stack(np.meshgrid(*map(np.arange, low, high), indexing="ij"), axis=-1)
        offset = (grid + 0.5) * voxel_size - centre  # (z, y, x, 3) in µm
        here = np.einsum("...i,ij,...j->...", offset, form, offset) + unevenness[box]
        closer = here < depth[box]
        depth[box][closer] = here[closer]
        labels[box][closer] = label
    return labels


def _smooth_noise(rng, shape, sigma_voxels) -> np.ndarray:
    """Gaussian noise of standard deviation 1, smooth over `sigma_voxels`; float32."""
    field = rng.standard_normal(shape, dtype=np.float32)
    field = ndimage.gaussian_filter(field, sigma_voxels, mode="wrap")
    return field / max(float(field.std()), 1e-12)


def _expose(rng, signal, radius_voxels, noise) -> np.ndarray:
    """Turn relative brightness (z, y, x) into uint16 grey levels of a camera."""
    depth = np.linspace(0, 1, signal.shape[0], dtype=np.float32)[:, None, None]
    transmission = _DEPTH_TRANSMISSION**depth
    uneven = _smooth_noise(rng, signal.shape, np.minimum(4 * radius_voxels, 40))
    haze = ndimage.gaussian_filter(signal, np.minimum(3 * radius_voxels, 30))  # scattered light
    background = _BACKGROUND_PHOTONS * np.clip(1 + 0.25 * uneven, 0.2, None)
    photons = (_PEAK_PHOTONS * (0.9 * signal + 0.35 * haze) + background) * transmission
    if noise > 0:
        scale = 1 / noise**2
        photons = rng.poisson(photons * scale).astype(np.float32) / scale
    grey = _CAMERA_OFFSET + _CAMERA_GAIN * photons
    grey += noise * _READ_NOISE * rng.standard_normal(signal.shape, dtype=np.float32)
    return np.clip(np.rint(grey), 0, np.iinfo(np.uint16).max).astype(np.uint16)
