"""Volumes and outlines for Fiji and napari: new files only, complete or not there at all."""

import colorsys
import math
import sys
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import tifffile
from scipy import ndimage
from skimage.measure import find_contours

from wnet_nb.errors import UserError
from wnet_nb.grid import check_voxel_size
from wnet_nb.whole_file import new_file

# A classic TIFF addresses 4 GiB; 32 MiB of them are left for the list of pages.
CLASSIC_TIFF_LIMIT = 2**32 - 2**25

# What an ImageJ TIFF holds and Fiji opens at the right scale, and what OME-TIFF holds besides.
IMAGEJ_DTYPES = frozenset({"uint8", "uint16", "uint32", "float32"})
OME_DTYPES = frozenset({"int8", "int16", "int32", "float64"})
STORED_AS = {"bool": np.dtype("uint8"), "float16": np.dtype("float32")}


def write_volume(
    path: str | Path,
    array: np.ndarray,
    *,
    voxel_size_um: Sequence[float],
    largest_label: int | None = None,
) -> Path:
    """Write a volume as a compressed TIFF that Fiji and napari show at the right scale.

    Fiji opens it as it is; float64, signed integers and what is over 4 GB it opens with
    Bio-Formats (OME-TIFF). Planes are taken one at a time, so a memory map is never loaded whole.

    The array (Z, Y, X) may be uint8, uint16, uint32, float32, int8, int16, int32 or float64; bool
    is written as uint8 0 and 1, float16 as float32. Voxel sizes are (z, y, x). Where the largest
    of labels is given, Fiji shows 0 to it, in colours that neighbours seldom share. UserError if
    the file exists, or shape, voxel size or dtype do not fit.
    """
    path = Path(path)
    z, y, x = check_voxel_size(voxel_size_um)
    dtype = STORED_AS.get(array.dtype.name, array.dtype.newbyteorder("="))
    if array.ndim != 3 or 0 in array.shape:
        raise UserError(
            f"an array of shape {tuple(array.shape)} cannot be written as '{path.name}'; give a "
            "filled array (Z, Y, X)"
        )
    if dtype.name not in IMAGEJ_DTYPES | OME_DTYPES:
        raise UserError(
            f"{dtype} values cannot be written for Fiji; convert labels to uint16 or uint32 and "
            "other values to float32"
        )
    large = dtype.itemsize * math.prod(array.shape) > CLASSIC_TIFF_LIMIT
    imagej = dtype.name in IMAGEJ_DTYPES and not large
    description, metadata, tags = None, {"axes": "ZYX"}, ()
    if imagej:  # tifffile's own ImageJ mode refuses uint32, which ImageJ reads
        stated = {"spacing": z, "unit": "um"}
        if largest_label is not None:
            stated |= {"min": 0, "max": largest_label}
            shown = {"Ranges": [0.0, float(largest_label)], "LUTs": [label_colours()]}
            tags = tifffile.tifffile.imagej_metadata_tag(shown, "<>"[sys.byteorder == "big"])
        description = tifffile.imagej_description(array.shape, axes="ZYX", **stated)
        metadata = None
    else:
        for axis, size in (("Z", z), ("Y", y), ("X", x)):
            metadata |= {f"PhysicalSize{axis}": size, f"PhysicalSize{axis}Unit": "µm"}
    with new_file(path) as partial:
        tifffile.imwrite(
            partial,
            (np.ascontiguousarray(plane, dtype) for plane in array),
            shape=tuple(array.shape),
            dtype=dtype,
            bigtiff=large,
            ome=not imagej,
            photometric="minisblack",
            compression="zlib",
            description=description,
            metadata=metadata,
            resolution=(1 / x, 1 / y),
            resolutionunit="NONE",
            extratags=tags,
        )
    return path


def write_labels(path: str | Path, labels: np.ndarray, *, voxel_size_um: Sequence[float]) -> Path:
    """Write integer labels (Z, Y, X) as uint16, or uint32 if there are more; see `write_volume`."""
    largest = int(labels.max(initial=0))
    labels = labels.astype(np.uint16 if largest < 2**16 else np.uint32)
    return write_volume(path, labels, voxel_size_um=voxel_size_um, largest_label=max(1, largest))


def label_colours() -> np.ndarray:
    """Give 256 colours, (3, 256) uint8: black, then hues a golden section apart."""
    colours = [(0.0, 0.0, 0.0)]
    colours += [colorsys.hsv_to_rgb(n * 0.618034 % 1, 0.55 + 0.15 * (n % 4), 1) for n in range(255)]
    return np.round(255 * np.array(colours)).astype(np.uint8).T


def write_rois(path: str | Path, labels: np.ndarray) -> Path:
    """Write the outline of every cell in every plane to a new zip for the ROI Manager of Fiji.

    `labels` are (Z, Y, X) integer, 0 is background. ROIs are called ``cell 7 slice 13``, the 13th
    plane. UserError if the file exists, there are no cells, or roifile is not installed.
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
