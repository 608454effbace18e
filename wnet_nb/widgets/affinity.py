"""The picture beside the N-cut options: what they mean on the user's own image."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from wnet_nb import losses
from wnet_nb.config import Settings
from wnet_nb.figures import overlay
from wnet_nb.jobs.stacks import Stack

CELL_SIGMA = 2.0  # voxels: cells are prepared to have a radius of about four
TEXT = (
    "How strongly the voxel at the red cross, in a nucleus, is pulled into one class with its "
    "neighbours, on your image as the network sees it (0-100). Yellow: strongly."
)


def affinity_png(stack: Stack, settings: Settings) -> bytes:
    """Draw how alike the neighbours of the centre of a nucleus count, as the losses have it."""
    prepared, form = stack.prepared(settings), settings.affinity  # made once for its options
    z, *point = _nucleus(prepared.array)
    plane = prepared.normalisation.apply(prepared.array[z])
    reach = max(7, settings.radius + 4)
    corner = [max(0, p - reach) for p in point]
    window = tuple(slice(c, p + reach + 1) for c, p in zip(corner, point, strict=True))
    y, x = np.ogrid[: plane.shape[0], : plane.shape[1]]
    down, across = y[window[0]] - point[0], x[:, window[1]] - point[1]
    unlike = plane[window] - plane[tuple(point)]
    intensity = losses.intensity_exponent(unlike, settings.intensity_sigma, form)
    spatial = losses.spatial_exponent(down**2 + across**2, settings.spatial_sigma, form)
    near = losses.within_reach((down, across), settings.radius, form)
    return overlay.affinity_png(
        plane[window],
        np.exp(intensity),
        np.exp(spatial) * near,
        point=[p - c for p, c in zip(point, corner, strict=True)],
        white=max(1.0, float(plane.max())),
    )


def _nucleus(image: np.ndarray) -> list[int]:
    """Return the centre (z, y, x) of a bright nucleus, away from the edges of a volume."""
    middle, reach = len(image) // 2, min(16, max(1, len(image) // 3))
    inner = [slice(max(0, middle - reach), middle + reach)]
    inner += [slice(n // 5, max(n // 5 + 1, n - n // 5)) for n in image.shape[1:]]
    part = ndimage.gaussian_filter(np.asarray(image[tuple(inner)], float), CELL_SIGMA)
    found = np.unravel_index(int(part.argmax()), part.shape)
    return [int(p) + s.start for p, s in zip(found, inner, strict=True)]
