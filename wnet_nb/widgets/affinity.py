"""The picture beside the N-cut options: what they mean on the user's own image."""

import numpy as np
from scipy import ndimage

from wnet_nb import losses
from wnet_nb.config import Settings
from wnet_nb.figures import overlay, planes
from wnet_nb.jobs.stacks import Stack

CELL_SIGMA = 2.0  # voxels: cells are prepared to have a radius of about four
TEXT = (
    "How strongly the voxel at the red cross, in a nucleus, is pulled into one class with its "
    "neighbours, on your image as the network sees it (0-100). Yellow: strongly."
)


def affinity_png(stack: Stack, settings: Settings) -> bytes:
    """Draw how alike the neighbours of the centre of a nucleus count, as the losses have it."""
    prepared, form = stack.prepared(settings), settings.affinity  # made once for its options
    z, y, x = _nucleus(prepared.array)
    plane = prepared.normalisation.apply(prepared.array[z])
    edge = 2 * max(7, settings.radius + 4) + 1
    window = planes.window_around((y, x), [min(edge, n) for n in plane.shape], plane.shape)
    down, across = (place - p for place, p in zip(np.ogrid[window], (y, x), strict=True))
    unlike = plane[window] - plane[y, x]
    intensity = losses.intensity_exponent(unlike, settings.intensity_sigma, form)
    spatial = losses.spatial_exponent(down**2 + across**2, settings.spatial_sigma, form)
    near = losses.within_reach((down, across), settings.radius, form)
    return overlay.affinity_png(
        plane[window],
        np.exp(intensity),
        np.exp(spatial) * near,
        point=(-int(down[0, 0]), -int(across[0, 0])),
        white=max(1.0, float(plane.max())),
    )


def _nucleus(image: np.ndarray) -> tuple[int, ...]:
    """Return the centre (z, y, x) of a bright nucleus, away from the edges of a volume."""
    depth, *sides = image.shape
    size = [min(32, max(1, 2 * depth // 3)), *(max(1, 3 * n // 5) for n in sides)]
    inner = planes.window_around([n // 2 for n in image.shape], size, image.shape)
    part = ndimage.gaussian_filter(np.asarray(image[inner], float), CELL_SIGMA)
    found = np.unravel_index(int(part.argmax()), part.shape)
    return tuple(int(p) + s.start for p, s in zip(found, inner, strict=True))
