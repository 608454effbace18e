"""Synthetic nuclei of cleared tissue of another make than those that the starter learned from.

The volumes of the tables since version 0.1: large, sparse, noisy, dense, small, anisotropic.
"""

import math
from typing import NamedTuple

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


class _Nucleus(NamedTuple):
    """An ellipsoid: ``centre`` (3,) in µm, ``form`` (3, 3) in µm⁻², ``brightness`` relative."""

    centre: np.ndarray
    form: np.ndarray  # u @ form @ u = 1 on the surface
    brightness: float


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
    """Make a light-sheet-like stack of nuclei and its instance labels.

    Ellipsoidal nuclei of varied size, orientation, brightness and slight texture; a point spread
    twice as long in z as in the plane; light lost with depth (z); uneven background; shot and read
    noise. The same arguments always give the same arrays.

    Parameters
    ----------
    seed : int
        Seed of every random choice.
    shape : tuple of int
        Size in voxels, (z, y, x).
    voxel_size_um : tuple of float
        Voxel size (z, y, x) in µm. With the default, lengths in µm are lengths in voxels.
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

    Returns
    -------
    image : ndarray of uint16, shape ``shape``
        Grey levels.
    labels : ndarray of uint16, shape ``shape``
        0 is background, 1 to n the nuclei.
    """
    if blur_um is None:
        blur_um = cell_radius_um / 6
    rng = np.random.default_rng(seed)
    voxel_size = np.asarray(voxel_size_um, dtype=float)
    nuclei = _place_nuclei(rng, shape * voxel_size, cell_radius_um, n_cells, touching_fraction)
    labels = _draw_labels(rng, nuclei, shape, voxel_size, cell_radius_um)

    brightness = np.array([0.0] + [nucleus.brightness for nucleus in nuclei], dtype=np.float32)
    texture = _smooth_noise(rng, shape, 0.35 * cell_radius_um / voxel_size)
    signal = brightness[labels] * np.clip(1 + 0.22 * texture, 0.3, None)
    signal = ndimage.gaussian_filter(signal, np.array([2, 1, 1]) * blur_um / voxel_size)
    image = _expose(rng, signal, cell_radius_um / voxel_size, noise)
    return image, labels


def _place_nuclei(rng, extent_um, radius_um, n_cells, touching_fraction) -> list[_Nucleus]:
    """Place up to `n_cells` ellipsoids that do not overlap, some of them in contact."""
    margin = np.minimum(0.4 * radius_um, extent_um / 2)
    nuclei: list[_Nucleus] = []
    centres, forms = np.empty((n_cells, 3)), np.empty((n_cells, 3, 3))
    for _ in range(n_cells):
        form = _random_form(rng, radius_um)
        brightness = float(np.exp(rng.normal(0, 0.45)))
        touching = nuclei and rng.random() < touching_fraction
        for _ in range(_TRIES_PER_CELL):
            centre = rng.uniform(margin, extent_um - margin)
            if touching:
                centre = _touching_centre(rng, nuclei[rng.integers(len(nuclei))], form)
            if np.any(centre < margin) or np.any(centre > extent_um - margin):
                continue
            n = len(nuclei)
            if _has_room(centre, form, centres[:n], forms[:n]):
                centres[n], forms[n] = centre, form
                nuclei.append(_Nucleus(centre, form, brightness))
                break
    return nuclei


def _random_form(rng, radius_um) -> np.ndarray:
    """Draw the (3, 3) form of an ellipsoid: size ±12 %, axes ±15 %, any orientation."""
    size = radius_um * np.exp(rng.normal(0, 0.12))
    stretch = rng.normal(0, 0.15, 3)
    axes = size * np.exp(stretch - stretch.mean())  # the volume stays that of `size`
    orientation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    return orientation @ np.diag(1 / axes**2) @ orientation.T


def _touching_centre(rng, neighbour: _Nucleus, form) -> np.ndarray:
    """Centre (3,) in µm that brings an ellipsoid into contact with its neighbour."""
    direction = rng.normal(size=3)
    direction /= np.linalg.norm(direction)
    reach = 1 / math.sqrt(direction @ neighbour.form @ direction)
    reach += 1 / math.sqrt(direction @ form @ direction)
    return neighbour.centre + 0.96 * reach * direction


def _has_room(centre, form, centres, forms) -> bool:
    """Say whether an ellipsoid at `centre` overlaps none of those at `centres` (n, 3)."""
    if len(centres) == 0:
        return True
    offset = centres - centre
    distance = np.linalg.norm(offset, axis=1)
    direction = offset / distance[:, None]
    reach = 1 / np.sqrt(np.einsum("ni,ij,nj->n", direction, form, direction))
    reach += 1 / np.sqrt(np.einsum("ni,nij,nj->n", direction, forms, direction))
    return bool(np.all(distance > 0.95 * reach))


def _draw_labels(rng, nuclei, shape, voxel_size, radius_um) -> np.ndarray:
    """Rasterise the ellipsoids, their surface made uneven, to uint16 labels of `shape`.

    A voxel claimed by two nuclei goes to the one it lies deeper in.
    """
    unevenness = 0.1 * _smooth_noise(rng, shape, 0.5 * radius_um / voxel_size)
    depth = np.full(shape, 1.0, dtype=np.float32)  # squared relative distance from the centre
    labels = np.zeros(shape, dtype=np.uint16)
    for label, nucleus in enumerate(nuclei, start=1):
        half = 1.2 * np.sqrt(np.diag(np.linalg.inv(nucleus.form)))  # of the bounding box, µm
        low = np.maximum(np.floor((nucleus.centre - half) / voxel_size), 0).astype(int)
        high = np.minimum(np.ceil((nucleus.centre + half) / voxel_size) + 1, shape).astype(int)
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        grid = np.stack(np.meshgrid(*map(np.arange, low, high), indexing="ij"), axis=-1)
        offset = (grid + 0.5) * voxel_size - nucleus.centre  # (z, y, x, 3) in µm
        here = np.einsum("...i,ij,...j->...", offset, nucleus.form, offset) + unevenness[box]
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
