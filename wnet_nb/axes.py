"""Axes of an image: which one is z, and which channel and time point are taken.

The letters are those of tifffile: T, Z, C, Y, X, S for colours, Q and I for an unnamed axis.
"""

import operator

import numpy as np

from wnet_nb.tiff import VolumeError


def refuse_colours_and_complex(
    name: str, axes: str, shape: tuple[int, ...], dtype: np.dtype
) -> None:
    """Refuse what is not greyscale with real values.

    Parameters
    ----------
    name : str
        The file, for the error.
    axes : str
        One letter per axis, as tifffile names them; S holds the colours.
    shape : tuple of int
        The size along each axis.
    dtype : np.dtype
        The type of the values.

    Raises
    ------
    VolumeError
        Complex or other non-real values, or several colours per voxel.
    """
    if dtype.kind not in "buif":
        raise VolumeError(f"'{name}' holds {dtype} values; save it with integers or real numbers")
    samples = dict(zip(axes, shape, strict=True)).get("S", 1)
    if samples > 1:
        raise VolumeError(
            f"'{name}' is a colour (RGB) image with {samples} colours per voxel; split them in "
            "Fiji (Image > Color > Split Channels) and save the one that shows the nuclei"
        )


def select_volume(
    name: str, axes: str, shape: tuple[int, ...], *, channel: int | None, time: int | None
) -> tuple[tuple[int | slice, ...], str]:
    """Say which part of an image is the volume.

    Parameters
    ----------
    name : str
        The file, for the errors.
    axes : str
        One letter per axis.
    shape : tuple of int
        The size along each axis.
    channel, time : int or None
        The choice of the user, from 0.

    Returns
    -------
    index : tuple of int or slice
        One entry per axis: the position to take, or slice(None) for z, y and x.
    kept : str
        The letters Z, Y, X in the order in which they remain.

    Raises
    ------
    VolumeError
        No z, an axis without a known meaning, or a missing or impossible choice.

    Examples
    --------
    >>> select_volume("a.tif", "ZCYX", (9, 2, 40, 50), channel=1, time=None)
    ((slice(None, None, None), 1, slice(None, None, None), slice(None, None, None)), 'ZYX')
    """
    axes = _name_axes(name, axes, shape)
    choices = {"C": channel, "T": time}
    for axis in choices.keys() - set(axes):
        _choose(name, axis, 1, choices[axis])
    index = tuple(
        slice(None) if axis in "ZYX" else _choose(name, axis, size, choices.get(axis))
        for axis, size in zip(axes, shape, strict=True)
    )
    return index, "".join(axis for axis in axes if axis in "ZYX")


def _name_axes(name: str, axes: str, shape: tuple[int, ...]) -> str:
    """Give the axes with z named, or say why this is no volume.

    A single unnamed axis (tifffile's Q or I) is z. Axes of length 1 carry no information and
    become "_", apart from Y, X, C and T.
    """
    axes = "".join(
        axis if size > 1 or axis in "YXCT" else "_" for axis, size in zip(axes, shape, strict=True)
    )
    long = {axis: size for axis, size in zip(axes, shape, strict=True) if size > 1}
    several = [axis for axis in axes if axis not in "_YX" and axis in long]
    if several in (["Q"], ["I"]):
        return axes.replace(several[0], "Z")
    if not several:
        raise VolumeError(
            f"'{name}' is one 2D image ({shape[axes.index('Y')]}×{shape[axes.index('X')]}), not a "
            "volume; if its folder holds the slices of one volume, read it with read_slices"
        )
    if set(several) - set("ZCT") or len(set(several)) < len(several):
        raise VolumeError(
            f"'{name}' has axes without a known meaning ('{axes}', shape {shape}); save it from "
            "Fiji with the right order (Image > Hyperstacks > Stack to Hyperstack)"
        )
    if "Z" not in several:
        kinds = {"C": "channels", "T": "time points"}
        stated = " and ".join(f"{long[axis]} {kinds[axis]}" for axis in several)
        raise VolumeError(
            f"'{name}' has {stated} but no z: 2D images, not a volume; if they are z slices, set "
            "Slices (z) to their number and the rest to 1 in Fiji (Image > Properties) and save"
        )
    return axes


def _choose(name: str, axis: str, size: int, choice: int | None) -> int:
    """Give the position to take on an axis, from 0."""
    option, noun = {"C": ("channel", "channel"), "T": ("time", "time point")}.get(axis, ("", ""))
    plural = noun if size == 1 else noun + "s"
    if choice is None:
        if size > 1:
            raise VolumeError(
                f"'{name}' has {size} {plural}; choose one with {option}=0..{size - 1} "
                f"(command line: --set {option}=0)"
            )
        return 0
    try:
        position = operator.index(choice)
    except TypeError:
        position = -1
    if not 0 <= position < size:
        raise VolumeError(
            f"{option} {choice!r} does not exist in '{name}', which has {size} {plural}; "
            + (f"choose {option}=0..{size - 1}" if size > 1 else f"leave {option} unset")
        )
    return position
