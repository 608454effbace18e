"""Which classes of a network are cells: its classes come in arbitrary order."""

import numpy as np

from wnet_nb.cells.seeds import SEED_SIGMA
from wnet_nb.grid import block_means, difference_of_gaussians


def find_foreground(
    probabilities: np.ndarray, image: np.ndarray, radii: np.ndarray
) -> tuple[tuple[int, ...], str]:
    """Find the classes that are cells, and say why.

    Cells are bright, take the smaller part of the volume, and are compact: a Laplacian of Gaussian
    of their size answers positively inside them, and negatively in the halo around them. The class
    with the strongest answer is taken, and with three or more classes every other class whose
    answer is at least a third as strong and which is brighter than the volume on average. Where
    the probabilities of the class hardly vary, the network has learned nothing: the reason says so.

    `probabilities` are (K, Z, Y, X), the image (Z, Y, X), and `radii` a cell's in voxels (z, y, x).
    """
    step = np.maximum(1.0, 0.5 * radii)
    picture = block_means(image, step)
    blob = difference_of_gaussians(picture, SEED_SIGMA * (radii / step))
    spread = max(float(picture.std()), 1e-9)
    maps = [block_means(p, step) for p in probabilities]
    shares = [float(m.mean()) for m in maps]
    totals = [max(float(m.sum()), 1e-9) for m in maps]
    answers = [float((blob * m).sum()) / t / spread for m, t in zip(maps, totals, strict=True)]
    brightness = [float((picture * m).sum()) / t for m, t in zip(maps, totals, strict=True)]
    best = int(np.argmax(answers))
    if np.ptp(maps[best]) < 0.5:
        return (int(np.argmin(shares)),), (
            "no class tells one place from another: the network has learned nothing; train it "
            "again, longer or with another seed"
        )
    classes = [best]
    if len(maps) > 2:
        bright = [k for k in range(len(maps)) if brightness[k] > picture.mean()]
        classes = sorted({best, *(k for k in bright if answers[k] > answers[best] / 3)})
    words = " and ".join(
        f"class {k} (mean brightness {brightness[k]:.4g}, {100 * shares[k]:.1f} % of the volume)"
        for k in classes
    )
    rest = max((brightness[k] for k in range(len(maps)) if k not in classes), default=np.nan)
    return tuple(classes), (
        f"{words}, which lies on bright spots as large as a cell; mean brightness of the rest "
        f"{rest:.4g}"
    )
