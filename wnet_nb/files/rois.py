"""Outlines of cells as a zip of ROIs, which the ROI Manager of Fiji opens."""

import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy import ndimage
from skimage.measure import find_contours

from wnet_nb.errors import UserError
from wnet_nb.whole_file import new_file


def write_rois(path: str | Path, labels: np.ndarray) -> Path:
    """Write the outline of every cell in every plane to a new zip, and return its path.

    Parameters
    ----------
    path : str or Path
        Ends in ``.zip``.
    labels : ndarray
        (Z, Y, X) integer, 0 is background. ROIs are called ``cell 7 slice 13``, the 13th plane.

    Raises
    ------
    UserError
        The file exists, there are no cells, or the package roifile is not installed.
    """
    try:
        from roifile import ImagejRoi
    except ImportError:
        raise UserError(
            "ROIs for Fiji are written by the package roifile, which is not installed: run "
            "'%pip install roifile' in a cell of the notebook, and try again"
        ) from None
    if not labels.any():
        raise UserError("there are no cells to write as ROIs")
    with new_file(path) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
        for cell, box in enumerate(ndimage.find_objects(labels), start=1):
            for z, points in _outlines(labels, cell, box) if box else ():
                name = f"cell {cell} slice {z + 1}"
                roi = ImagejRoi.frompoints(points, name=name, position=z)
                archive.writestr(f"{name}.roi", roi.tobytes())
    return Path(path)


def _outlines(
    labels: np.ndarray, cell: int, box: tuple[slice, slice, slice]
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the planes of a cell with its outline there, (points, x and y) float32 in pixels."""
    z, y, x = (part.start for part in box)
    for plane, seen in enumerate(labels[box] == cell, start=z):
        outlines = find_contours(np.pad(seen, 1).astype(float), 0.5)
        if outlines:  # of the largest piece, should a cell be in pieces there
            rows, columns = max(outlines, key=len).T
            points = [columns + x - 0.5, rows + y - 0.5]  # ImageJ counts from a pixel's corner
            yield plane, np.stack(points, axis=1).astype(np.float32)
