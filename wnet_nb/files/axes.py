"""What a TIFF says of its volume: which axis is z, which channel and time, and the voxel size.

Axes are tifffile's letters: T, Z, C, Y, X, S for colours, Q and I for an unnamed axis. Sizes are
(z, y, x) in micrometres; an option comes before the metadata, and those before 1:1:1.
"""

import math
import re
from collections.abc import Sequence
from xml.etree import ElementTree

import numpy as np
from tifffile import TiffFile, TiffPageSeries

from wnet_nb.errors import UserError

VoxelSize = tuple[float, float, float]
Sizes = tuple[float | None, float | None, float | None]  # None = not stated

UM_PER_UNIT = {
    **{"m": 1e6, "cm": 1e4, "mm": 1e3, "um": 1.0, "nm": 1e-3, "pm": 1e-6, "å": 1e-4, "in": 25400.0},
    **{"meter": 1e6, "millimeter": 1e3, "micrometer": 1.0, "micron": 1.0, "nanometer": 1e-3},
    **{"angstrom": 1e-4, "inch": 25400.0},
}


def select_volume(
    name: str, axes: str, shape: tuple[int, ...], *, channel: int | None, time: int | None
) -> tuple[tuple[int | slice, ...], str]:
    """Say which part of the image of the file `name` is the volume.

    Given for each axis (a letter of `axes`) is the position to take, or slice(None) for z, y and
    x, and then the letters Z, Y, X in the order in which they remain. UserError for no z, an
    axis without a known meaning, or a missing or impossible choice.
    """
    axes = _name_axes(name, axes, shape)
    sizes = dict(zip(axes, shape, strict=True))
    places = {
        "_": 0,
        "C": _choose(name, "channel", "channel", sizes.get("C", 1), channel),
        "T": _choose(name, "time", "time point", sizes.get("T", 1), time),
    }
    index = tuple(places.get(axis, slice(None)) for axis in axes)
    return index, "".join(axis for axis in axes if axis in "ZYX")


def _name_axes(name: str, axes: str, shape: tuple[int, ...]) -> str:
    """Give the axes with z named, and "_" for those of length 1, or say why this is no volume."""
    sizes = list(zip(axes, shape, strict=True))
    axes = "".join(axis if size > 1 or axis in "YX" else "_" for axis, size in sizes)
    several = [axis for axis in axes if axis not in "_YX"]
    if several in (["Q"], ["I"]):  # a single unnamed axis is z
        return axes.replace(several[0], "Z")
    if not several:
        raise UserError(
            f"'{name}' is one 2D image ({shape[axes.index('Y')]}×{shape[axes.index('X')]}), not a "
            "volume; if its folder holds the slices of one volume, give the folder "
            "with --slices (in the notebook: tick the box for slices)"
        )
    if set(several) - set("ZCT") or len(set(several)) < len(several):
        raise UserError(
            f"'{name}' has axes without a known meaning ('{axes}', shape {shape}); save it from "
            "Fiji with the right order (Image > Hyperstacks > Stack to Hyperstack)"
        )
    if "Z" not in several:
        nouns = {"C": "channels", "T": "time points"}
        stated = [f"{size} {nouns[axis]}" for axis, size in sizes if axis in several]
        raise UserError(
            f"'{name}' has {' and '.join(stated)} but no z: 2D images, not a volume; if they are z "
            "slices, set Slices (z) to their number and the rest to 1 in Fiji (Image > Properties) "
            "and save"
        )
    return axes


def _choose(name: str, option: str, noun: str, size: int, choice: int | None) -> int:
    """Give the position to take on an axis, from 0."""
    has = f"{size} {noun}" + "s" * (size > 1)
    if choice is None and size > 1:
        raise UserError(
            f"'{name}' has {has}; choose one with {option}=0..{size - 1} "
            f"(command line: --set {option}=0)"
        )
    position = 0 if choice is None else choice
    if not isinstance(position, int | np.integer) or not 0 <= position < size:
        way_out = f"choose {option}=0..{size - 1}" if size > 1 else f"leave {option} unset"
        raise UserError(
            f"{option} {choice!r} does not exist in '{name}', which has {has}; {way_out}"
        )
    return int(position)


def stated_voxel_size(tif: TiffFile, image: TiffPageSeries) -> tuple[Sizes, str]:
    """Read the voxel size from OME or ImageJ metadata, and what was taken for granted on the way.

    None stands for what is not stated in a unit of length. The resolution of a plain TIFF is not
    used: it is a print resolution (72 dpi) as a rule.
    """
    if tif.is_ome:
        root = ElementTree.fromstring(tif.ome_metadata or "")
        images = [one.attrib for one in root.iter() if one.tag.endswith("}Pixels")]
        stated = images[min(tif.series.index(image), len(images) - 1)] if images else {}
        names = [f"PhysicalSize{axis}" for axis in "ZYX"]
        return tuple(_to_um(stated.get(n), stated.get(f"{n}Unit", "um")) for n in names), ""
    if not tif.is_imagej:
        return (None, None, None), ""
    stated, tags = tif.imagej_metadata or {}, tif.pages.first.tags
    spacing = stated.get("spacing", 1)  # ImageJ leaves out a spacing of 1, and ignores its sign
    spacing = abs(spacing) if isinstance(spacing, int | float) else None
    unit = stated.get("unit", "")
    z = _to_um(spacing, stated.get("zunit", unit))
    y = _to_um(_inverse(tags.valueof(283)), stated.get("yunit", unit))
    x = _to_um(_inverse(tags.valueof(282)), unit)
    if z is None or "spacing" in stated:
        return (z, y, x), ""
    return (z, y, x), f"no slice spacing in '{tif.filename}': {z:g} µm is taken, as Fiji does"


def _inverse(resolution: tuple[int, int] | None) -> float | None:
    """Turn pixels per unit, a fraction, into units per pixel."""
    return resolution[1] / resolution[0] if resolution and resolution[0] else None


def _to_um(value: object, unit: object) -> float | None:
    """Convert a length in any usual spelling of a unit to µm; None if it is no positive length.

    To six digits, as resolution tags are fractions: 0.127 comes back as 0.12700000003.
    """
    name = re.sub("\\\\u00b5|µ|μ", "u", str(unit).strip().lower()).replace("metre", "meter")
    factor = UM_PER_UNIT.get(name, UM_PER_UNIT.get(name.removesuffix("s")))
    try:
        length = float(value) * factor
    except (TypeError, ValueError):
        return None
    return float(f"{length:.6g}") if math.isfinite(length) and length > 0 else None


def settle_voxel_size(
    name: str, stated: Sizes, option: VoxelSize | None
) -> tuple[VoxelSize, str, tuple[str, ...]]:
    """Choose between the user's option, the metadata of the file `name`, and an assumption.

    Where the file states a part, that stands in for the rest: it is closer than 1 µm. Returned are
    the size, its source ("option", "metadata" or "assumed"), and remarks on what was assumed or
    replaced.
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
        f"no voxel size{along} in '{name}': {format_um(size)} is assumed; set voxel_size_um (z,y,x)"
    )
    return size, "assumed", (remark,)


def format_um(sizes: Sequence[float]) -> str:
    """Give sizes (z, y, x) in µm as text, such as '2 × 0.5 × 0.5 µm (z, y, x)'."""
    return " × ".join(f"{size:g}" for size in sizes) + " µm (z, y, x)"
