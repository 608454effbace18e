"""What holds no data in a fused or masked volume: one grey level, most often 0, beside tissue."""

import numpy as np
from scipy import ndimage

from wnet_nb.grid import thin_out

SHARE = 0.05  # of the voxels that must have that level
GAP = 1 / 3  # of the way from it to the median of the others, which the darkest others keep
TAIL = 0.25  # as far as half of the others lie above the darkest tenth, at most, of the brightest
ONE_PIECE = 0.9  # of the others that hang together, as tissue does and cells do not
SAMPLE = 1_000_000  # voxels looked at


def fill_void(array: np.ndarray) -> tuple[np.ndarray, str]:
    """Return a volume (Z, Y, X) whose void is as dark as the tissue, and what was done in words.

    The edge between tissue and void would be taken for cells, and the tissue for one large cell.
    A black background is no void: it has darker and brighter voxels, down to its own level. Nor is
    it where everything else is bright or in pieces, for then these are the cells. Without a void
    the array comes back as it is, with no words.
    """
    sample = np.asarray(thin_out(array, SAMPLE))
    level = sample.min()
    rest = sample[sample > level]
    if array.dtype == bool or not 0 < rest.size <= (1 - SHARE) * sample.size:
        return array, ""
    darkest, dark, middle, bright = np.quantile(rest, (0.01, 0.1, 0.5, 0.995)) - float(level)
    if darkest < GAP * middle or middle - dark >= TAIL * (bright - dark):
        return array, ""
    pieces, _ = ndimage.label(sample > level)
    if np.bincount(pieces.ravel())[1:].max() < ONE_PIECE * rest.size:
        return array, ""
    taken = array.dtype.type(level + dark)
    words = (
        f"{1 - rest.size / sample.size:.0%} of the voxels are exactly {level:g}, far below the "
        f"others, and hold no data; they are taken as {taken:g}, as dark as the tissue"
    )
    return np.where(array > level, array, taken), words
