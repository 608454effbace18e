"""What a volume shows beside its cells: uneven light, texture, vessels, stripes, debris, haze.

Brightness is relative: 1 is a cell of median brightness.
"""

from collections.abc import Sequence

import numpy as np
from scipy import fft

SPECK_SHARE = 2e-3  # of the voxels, at most, are hot


def log_uniform(rng: np.random.Generator, limits: tuple[float, float]) -> float:
    """Draw a number between two positive limits, every factor of two as likely as any other."""
    return float(np.exp(rng.uniform(*np.log(limits))))


def places_along(shape: Sequence[int], voxel_size: Sequence[float]) -> list[np.ndarray]:
    """Return the place of the middle of each voxel along (z, y, x), float32."""
    return [
        (np.arange(n, dtype=np.float32) + np.float32(0.5)) * np.float32(step)
        for n, step in zip(shape, voxel_size, strict=True)
    ]


def random_rotation(rng: np.random.Generator) -> np.ndarray:
    """Draw an orthogonal matrix (3, 3) of any direction."""
    return np.linalg.qr(rng.normal(size=(3, 3)))[0]


def smooth_field(
    rng: np.random.Generator,
    shape: Sequence[int],
    sigmas: Sequence[float],
    *,
    voxel_size: Sequence[float] = (1.0, 1.0, 1.0),
    rotation: np.ndarray | None = None,
) -> np.ndarray:
    """Draw Gaussian noise of mean 0 and deviation 1 that is smooth over an ellipsoid, float32.

    The field (Z, Y, X) is periodic. `sigmas` are the standard deviations (3,) along the axes of the
    Gaussian in units of `voxel_size`; the axes are the columns of `rotation`, else the grid's.
    """
    axes = np.eye(3) if rotation is None else rotation
    spectrum = fft.rfftn(rng.standard_normal(shape, dtype=np.float32))
    counts = (np.fft.fftfreq, np.fft.fftfreq, np.fft.rfftfreq)
    waves = [
        (2 * np.pi * count(n, d=step)).astype(np.float32)
        for count, n, step in zip(counts, shape, voxel_size, strict=True)
    ]
    waves = np.meshgrid(*waves, indexing="ij", sparse=True)
    exponent = np.zeros(spectrum.shape, np.float32)
    for sigma, axis in zip(sigmas, axes.T, strict=True):
        along = sum(np.float32(share) * wave for share, wave in zip(axis, waves, strict=True))
        exponent -= np.float32(0.5 * sigma**2) * along**2
    spectrum *= np.exp(exponent)
    spectrum[0, 0, 0] = 0
    field = fft.irfftn(spectrum, s=shape).astype(np.float32)
    return field / max(float(field.std()), 1e-12)


class Tissue:
    """Draws the parts of a background; `voxel_size` (z, y, x), `radius` in voxels of the plane."""

    def __init__(
        self,
        rng: np.random.Generator,
        shape: Sequence[int],
        voxel_size: np.ndarray,
        radius: float,
    ) -> None:
        self.rng, self.shape, self.voxel_size, self.radius = rng, shape, voxel_size, radius
        self.places = np.meshgrid(*places_along(shape, voxel_size), indexing="ij", sparse=True)

    def _field(self, low: float, high: float, *, stretch: float = 1.0) -> np.ndarray:
        """Draw a field smooth over `low` to `high` cell radii, up to `stretch` times along one."""
        sigma = self.radius * log_uniform(self.rng, (low, high))
        sigmas = sigma * np.array([1, 1, self.rng.uniform(1, stretch)])
        rotation = random_rotation(self.rng) if stretch > 1 else None
        return smooth_field(
            self.rng, self.shape, sigmas, voxel_size=self.voxel_size, rotation=rotation
        )

    def _along(self, direction: np.ndarray, origin: np.ndarray) -> np.ndarray:
        """Return how far every voxel lies from `origin` along `direction`, float32."""
        return sum(
            np.float32(share) * (place - np.float32(start))
            for share, place, start in zip(direction, self.places, origin, strict=True)
        )

    def uneven(self) -> np.ndarray:
        """Draw light that changes over several cells."""
        return self._field(2.0, 7.0)

    def texture(self) -> np.ndarray:
        """Draw grain at scales from a third of a cell to a cell and a half, often skewed."""
        grain = self._field(0.25, 1.5, stretch=4.0)
        skew = self.rng.uniform(0, 1)
        if skew > 0.3:  # bright grains on a darker ground, like neuropil
            grain = np.exp(skew * grain)
            grain = (grain - grain.mean()) / grain.std()
        return grain

    def stripes(self) -> np.ndarray:
        """Draw stripes across the plane, as shadows in a light sheet."""
        sheet = [self.rng.uniform(0.2, 4), self.rng.uniform(0.4, 4), 10.0 * self.shape[2]]
        stripes = smooth_field(self.rng, self.shape, sheet)  # in voxels
        square = self.shape[1] == self.shape[2]
        return stripes.swapaxes(1, 2) if square and self.rng.random() < 0.5 else stripes

    def flicker(self) -> np.ndarray:
        """Draw a level for every plane, (Z, 1, 1)."""
        return self.rng.standard_normal((self.shape[0], 1, 1), dtype=np.float32)

    def tubes(self) -> np.ndarray:
        """Draw vessels and fibres, 0 to 1: where two smooth fields cross zero together."""
        width = log_uniform(self.rng, (0.05, 0.4))
        first, second = self._field(1.5, 5.0, stretch=3.0), self._field(1.5, 5.0, stretch=3.0)
        return np.exp(-(first**2 + second**2) / width**2)

    def sheets(self) -> np.ndarray:
        """Draw membranes, 0 to 1: where a smooth field crosses zero."""
        width = log_uniform(self.rng, (0.04, 0.25))
        return np.exp(-((self._field(1.5, 6.0) / width) ** 2))

    def bodies(self, *, streaks: bool) -> np.ndarray:
        """Draw large soft bodies of 2 to 5 cell radii, or long thin streaks; brightness near 1."""
        rng, total = self.rng, np.zeros(self.shape, np.float32)
        extent = self.voxel_size * self.shape
        for _ in range(rng.integers(1, 8 if streaks else 4)):
            axes = self.radius * rng.uniform(2.2, 5.0, 3)
            if streaks:
                thin = self.radius * rng.uniform(0.15, 0.5)
                axes = np.array([thin, thin, self.radius * rng.uniform(3, 15)])
            rotation, centre = random_rotation(rng), rng.uniform(0, extent)
            distance = np.zeros(self.shape, np.float32)
            for length, axis in zip(axes, rotation.T, strict=True):
                distance += self._along(axis / length, centre) ** 2
            edge = rng.uniform(2, 8)
            total += rng.uniform(0.3, 1.2) / (1 + np.exp(np.clip(edge * (distance - 1), -30, 30)))
        return total

    def specks(self) -> np.ndarray:
        """Draw single bright voxels, brightness 0 (nearly all) to 1."""
        count = int(self.rng.uniform(0, SPECK_SHARE) * np.prod(self.shape)) + 1
        specks = np.zeros(self.shape, np.float32)
        places = self.rng.integers(0, specks.size, count)
        specks.ravel()[places] = self.rng.uniform(0.1, 1, count)
        return specks

    def inside(self) -> np.ndarray:
        """Draw a tissue that ends at a plane, 1 inside and 0 outside."""
        normal = self.rng.normal(size=3)
        normal /= np.linalg.norm(normal)
        middle = self.rng.uniform(0.2, 0.8, 3) * self.voxel_size * self.shape
        distance = self._along(normal, middle)
        return 1 / (1 + np.exp(np.clip(distance / (0.3 * self.radius), -30, 30)))
