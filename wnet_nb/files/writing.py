"""Write volumes and tables, and read points: new files only, complete or not there at all.

A file is written under a hidden name beside its place and gets its own name when it is complete.
"""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import tifffile

from wnet_nb.errors import UserError
from wnet_nb.grid import check_voxel_size
from wnet_nb.whole_file import new_file

# A classic TIFF addresses 4 GiB; 32 MiB of them are left for the list of pages.
CLASSIC_TIFF_LIMIT = 2**32 - 2**25

# What an ImageJ TIFF holds and Fiji opens at the right scale, and what OME-TIFF holds besides.
IMAGEJ_DTYPES = frozenset({"uint8", "uint16", "uint32", "float32"})
OME_DTYPES = frozenset({"int8", "int16", "int32", "float64"})


def choose_format(dtype: np.dtype, n_bytes: int) -> str:
    """Choose the kind of TIFF for a result of `n_bytes` before compression.

    "imagej" where Fiji opens it as it is, "ome" for other real types, "ome-bigtiff" for results
    over 4 GB, which Fiji opens with Bio-Formats; UserError for what neither holds (int64).

    Examples
    --------
    >>> choose_format(np.dtype("uint16"), 10**9), choose_format(np.dtype("uint16"), 5 * 10**9)
    ('imagej', 'ome-bigtiff')
    """
    if dtype.name not in IMAGEJ_DTYPES | OME_DTYPES:
        raise UserError(
            f"{dtype} values cannot be written for Fiji; convert labels to uint16 or uint32 and "
            "other values to float32"
        )
    if n_bytes > CLASSIC_TIFF_LIMIT:
        return "ome-bigtiff"
    return "imagej" if dtype.name in IMAGEJ_DTYPES else "ome"


def write_volume(
    path: str | Path,
    array: np.ndarray,
    *,
    voxel_size_um: Sequence[float],
    compress: bool = True,
) -> Path:
    """Write a volume as a TIFF that Fiji and napari show at the right scale.

    Planes are taken one at a time, so a memory map or a dask or zarr array is never loaded
    whole.

    Parameters
    ----------
    path : str or Path
        The new file, which is also returned.
    array : np.ndarray
        Shape (Z, Y, X). uint8, uint16, uint32, float32, int8, int16, int32, float64; bool is
        written as uint8 0 and 1, float16 as float32.
    voxel_size_um : sequence of 3 float
        (z, y, x) in µm.
    compress : bool
        Without loss (zlib), readable everywhere. Measured: labels shrink to 1 or 2 %, smooth
        float32 to 60 % at a tenth of the speed. A file that is to be memory-mapped must not be.

    Raises
    ------
    UserError
        The file exists, or shape, voxel size or dtype do not fit.
    """
    path = Path(path)
    z, y, x = check_voxel_size(voxel_size_um)
    if array.ndim != 3 or 0 in array.shape:
        raise UserError(
            f"an array of shape {tuple(array.shape)} cannot be written as '{path.name}'; give a "
            "filled array (Z, Y, X)"
        )
    stored = {"bool": np.dtype("uint8"), "float16": np.dtype("float32")}
    dtype = stored.get(array.dtype.name, array.dtype.newbyteorder("="))
    form = choose_format(dtype, dtype.itemsize * math.prod(array.shape))
    if form == "imagej":
        # tifffile's own ImageJ mode refuses uint32, which ImageJ reads; the text is the same.
        description = tifffile.imagej_description(array.shape, axes="ZYX", spacing=z, unit="um")
        metadata = None
    else:
        description, metadata = None, {"axes": "ZYX"}
        metadata |= {f"PhysicalSize{a}": s for a, s in zip("ZYX", (z, y, x), strict=True)}
        metadata |= {f"PhysicalSize{a}Unit": "µm" for a in "ZYX"}
    with new_file(path) as partial:
        tifffile.imwrite(
            partial,
            (np.ascontiguousarray(plane, dtype) for plane in array),
            shape=tuple(array.shape),
            dtype=dtype,
            bigtiff=form == "ome-bigtiff",
            ome=form != "imagej",
            photometric="minisblack",
            compression="zlib" if compress else None,
            description=description,
            metadata=metadata,
            resolution=(1 / x, 1 / y),
            resolutionunit="NONE",
        )
    return path


def write_table(path: str | Path, columns: Mapping[str, Sequence[object]]) -> Path:
    """Write a table as CSV (comma, point, UTF-8, one header line).

    Parameters
    ----------
    path : str or Path
        The new file, which is also returned.
    columns : mapping of str to sequence
        Heading to values, all of one length. None and NaN become empty cells.

    Raises
    ------
    UserError
        The file exists, or the columns differ in length.
    """
    path = Path(path)
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise UserError(f"columns of '{path.name}' differ in length ({lengths}); make them equal")
    with new_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for row in zip(*columns.values(), strict=True):
            # NaN is the one value that differs from itself; str() of numpy scalars is short.
            writer.writerow("" if cell is None or cell != cell else str(cell) for cell in row)
    return path


def read_points(path: str | Path) -> np.ndarray:
    """Read points, such as the centres of cells, from a CSV.

    Parameters
    ----------
    path : str or Path
        A CSV with a heading; columns z, y and x in any order and case, or napari's axis-0,
        axis-1 and axis-2; comma or semicolon between cells; other columns are left aside.

    Returns
    -------
    np.ndarray
        Shape (n, 3), float64, (z, y, x) in the file's unit, which is voxels as a rule.

    Raises
    ------
    UserError
        The file is missing, or has no such columns, or a cell is not a finite number.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"'{path}' cannot be read as a table ({error}); give a CSV file") from error
    heading = lines[0] if lines else ""
    rows = list(csv.reader(lines, delimiter=";" if ";" in heading else ","))
    names = [name.strip().lower() for name in rows[0]] if rows else []
    wanted = ["z", "y", "x"] if {"z", "y", "x"} <= set(names) else ["axis-0", "axis-1", "axis-2"]
    if not set(wanted) <= set(names):
        raise UserError(
            f"'{path.name}' has no columns z, y and x (its heading: {heading[:80]!r}); name them so"
        )
    columns = [names.index(name) for name in wanted]
    points = []
    for number, row in enumerate(rows[1:], start=2):
        if not any(cell.strip() for cell in row):
            continue
        try:
            point = [float(row[column]) for column in columns]
        except (ValueError, IndexError):
            point = [np.nan]
        if not np.isfinite(point).all():
            raise UserError(
                f"line {number} of '{path.name}' has no numbers for z, y, x; correct or remove it"
            )
        points.append(point)
    return np.array(points, dtype=np.float64).reshape(-1, 3)
