"""Which classes of a network are cells: its classes come in arbitrary order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from wnet_nb.cells.seeds import SEED_SIGMA
from wnet_nb.grid import block_means, difference_of_gaussians


def find_foreground(
    probabilities: np.ndarray, image: np.ndarray, radii: Sequence[float]
) -> tuple[tuple[int, ...], str]:
    """Find the classes that are cells.

    Cells are bright, take the smaller part of the volume, and are compact: a Laplacian of Gaussian
    of their size answers positively inside them, and negatively in the halo around them. The class
    with the strongest answer is taken, and with three or more classes every other class whose
    answer is at least a third as strong and which is brighter than the volume on average. Where
    the probabilities of the class hardly vary, the network has learned nothing: the reason says so.

    Parameters
    ----------
    probabilities : ndarray
        (K, Z, Y, X).
    image : ndarray
        (Z, Y, X).
    radii : sequence of float
        Cell radius in voxels (z, y, x).

    Returns
    -------
    classes : tuple of int
    reason : str
    """
    step = np.maximum(1.0, 0.5 * np.asarray(radii))
    picture = block_means(image, step)
    reach = np.asarray(radii) / step
    blob = difference_of_gaussians(picture, SEED_SIGMA * reach)
    maps = [block_means(p, step) for p in probabilities]
    shares = np.array([float(m.mean()) for m in maps])
    totals = [max(float(m.sum()), 1e-9) for m in maps]
    spread = max(float(picture.std()), 1e-9)
    answers = np.array(
        [float((blob * m).sum()) / t / spread for m, t in zip(maps, totals, strict=True)]
    )
    brightness = np.array(
        [float((picture * m).sum()) / t for m, t in zip(maps, totals, strict=True)]
    )
    best = int(np.argmax(answers))
    if np.ptp(maps[best]) < 0.5:
        return (int(np.argmin(shares)),), (
            "no class tells one place from another: the network has learned nothing; train it "
            "again, longer or with another seed"
        )
    limit = answers[best] / 3
    classes = tuple(
        k
        for k in range(len(maps))
        if k == best or (len(maps) > 2 and answers[k] > limit and brightness[k] > picture.mean())
    )
    words = " and ".join(
        f"class {k} (mean brightness {brightness[k]:.4g}, {100 * shares[k]:.1f} % of the volume)"
        for k in classes
    )
    rest = max((brightness[k] for k in range(len(maps)) if k not in classes), default=np.nan)
    return classes, (
        f"{words}, which lies on bright spots as large as a cell; mean brightness of the rest "
        f"{rest:.4g}"
    )
