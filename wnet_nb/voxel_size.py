"""The voxel size: what OME and ImageJ metadata state, and what is taken where they do not.

Sizes are (z, y, x) in micrometres. An option comes before the metadata, and those before 1:1:1.
"""

import math
from collections.abc import Sequence
from xml.etree import ElementTree

import numpy as np
import tifffile

from wnet_nb.tiff import VolumeError

VoxelSize = tuple[float, float, float]
Sizes = tuple[float | None, float | None, float | None]  # None = not stated

UM_PER_UNIT = {
    "m": 1e6,
    "meter": 1e6,
    "cm": 1e4,
    "mm": 1e3,
    "millimeter": 1e3,
    "um": 1.0,
    "micron": 1.0,
    "micrometer": 1.0,
    "nm": 1e-3,
    "nanometer": 1e-3,
    "pm": 1e-6,
    "å": 1e-4,
    "angstrom": 1e-4,
    "in": 25400.0,
    "inch": 25400.0,
}


def stated_voxel_size(tif: tifffile.TiffFile, image: tifffile.TiffPageSeries) -> tuple[Sizes, str]:
    """Read the voxel size from OME or ImageJ metadata.

    The resolution of a plain TIFF is not used: it is a print resolution (72 dpi) as a rule.

    Parameters
    ----------
    tif : tifffile.TiffFile
        The open file.
    image : tifffile.TiffPageSeries
        The image in it.

    Returns
    -------
    sizes : tuple of (float or None)
        (z, y, x) in µm, to six digits; None for what is not stated in a unit of length.
    remark : str
        What was taken for granted on the way, or "".
    """
    if tif.is_ome:
        place = [one is image for one in tif.series].index(True)
        return _ome_voxel_size(tif.ome_metadata or "", place), ""
    if tif.is_imagej:
        return _imagej_voxel_size(tif)
    return (None, None, None), ""


def _ome_voxel_size(xml: str, place: int) -> Sizes:
    """Read PhysicalSizeZ, Y, X of one image; the unit is µm where none is stated (OME schema)."""
    images = [one for one in ElementTree.fromstring(xml).iter() if one.tag.endswith("}Pixels")]
    if not images:
        return (None, None, None)
    stated = images[min(place, len(images) - 1)].attrib
    z, y, x = (
        to_um(stated.get(f"PhysicalSize{axis}"), stated.get(f"PhysicalSize{axis}Unit", "um"))
        for axis in "ZYX"
    )
    return z, y, x


def _imagej_voxel_size(tif: tifffile.TiffFile) -> tuple[Sizes, str]:
    """Read spacing, unit (yunit, zunit where they differ) and the resolution tags of ImageJ."""
    stated, tags = tif.imagej_metadata or {}, tif.pages.first.tags
    unit = stated.get("unit", "")
    x = to_um(_inverse(tags.valueof(282)), unit)
    y = to_um(_inverse(tags.valueof(283)), stated.get("yunit", unit))
    # ImageJ leaves out a spacing of 1 and ignores its sign when it reads one.
    spacing = stated.get("spacing", 1)
    z = to_um(abs(spacing) if isinstance(spacing, int | float) else None, stated.get("zunit", unit))
    if z is None or "spacing" in stated:
        return (z, y, x), ""
    return (z, y, x), f"no slice spacing in '{tif.filename}': {z:g} µm is taken, as Fiji does"


def _inverse(resolution: tuple[int, int] | None) -> float | None:
    """Turn pixels per unit, a fraction, into units per pixel."""
    if not resolution or not resolution[0]:
        return None
    return resolution[1] / resolution[0]


def to_um(value: object, unit: object) -> float | None:
    """Convert a length to micrometres.

    Parameters
    ----------
    value : object
        A number or its text, as metadata hold it.
    unit : object
        The unit's name in any of the usual spellings ('µm', 'um', 'micron', 'nm', 'inch').

    Returns
    -------
    float or None
        The length in µm to six digits (resolution tags are fractions: 0.127 comes back as
        0.12700000003); None for a length that is not positive and finite or an unknown unit.
    """
    name = str(unit).strip().lower().replace("\\u00b5", "u").replace("µ", "u").replace("μ", "u")
    name = name.replace("metre", "meter")
    factor = UM_PER_UNIT.get(name, UM_PER_UNIT.get(name.removesuffix("s")))
    try:
        length = float(value) * factor
    except (TypeError, ValueError):
        return None
    return float(f"{length:.6g}") if math.isfinite(length) and length > 0 else None


def check_voxel_size(voxel_size_um: Sequence[float]) -> VoxelSize:
    """Check a voxel size that somebody gave.

    Parameters
    ----------
    voxel_size_um : sequence of 3 float
        (z, y, x) in µm.

    Returns
    -------
    tuple of float
        The same three numbers.

    Raises
    ------
    VolumeError
        Not three positive, finite numbers.
    """
    try:
        z, y, x = (float(size) for size in voxel_size_um)
    except (TypeError, ValueError):
        z = y = x = math.nan
    if isinstance(voxel_size_um, str) or not all(0 < size < math.inf for size in (z, y, x)):
        raise VolumeError(
            f"voxel_size_um {voxel_size_um!r} is not a voxel size; give three positive numbers "
            "z,y,x in µm"
        )
    return z, y, x


def settle_voxel_size(
    name: str, stated: Sizes, option: VoxelSize | None
) -> tuple[VoxelSize, str, tuple[str, ...]]:
    """Choose between option, metadata and assumption.

    Where the file states a part, y and x stand in for each other, and for z, and z for both: a
    size of the right magnitude is closer than 1 µm. The source is then "assumed" all the same.

    Parameters
    ----------
    name : str
        The file, for the remark.
    stated : tuple of (float or None)
        (z, y, x) in µm as the file states it.
    option : tuple of float, optional
        (z, y, x) in µm as the user states it.

    Returns
    -------
    size : tuple of float
        (z, y, x) in µm.
    source : str
        "option", "metadata" or "assumed".
    remarks : tuple of str
        What was assumed, or which statement of the file was replaced.
    """
    known = [size for size in stated if size is not None]
    if option is not None:
        if len(known) < 3 or np.allclose(option, known, rtol=1e-3, atol=0):
            return option, "option", ()
        return option, "option", (f"voxel_size_um replaces {format_um(known)} of '{name}'",)
    if len(known) == 3:
        return tuple(known), "metadata", ()
    z, y, x = stated
    plane = x or y or z or 1.0
    size = (z or plane, y or plane, x or plane)
    missing = ", ".join(axis for axis, one in zip("zyx", stated, strict=True) if one is None)
    along = f" along {missing}" if known else ""
    remark = (
        f"no voxel size{along} in '{name}': {format_um(size)} is assumed; give voxel_size_um=z,y,x"
    )
    return size, "assumed", (remark,)


def format_um(sizes: Sequence[float]) -> str:
    """Give sizes (z, y, x) in µm as text, such as '2 × 0.5 × 0.5 µm (z, y, x)'."""
    return " × ".join(f"{size:g}" for size in sizes) + " µm (z, y, x)"
