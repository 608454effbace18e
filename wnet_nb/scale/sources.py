"""Volumes that are read box by box and never whole: BigTIFF, a folder of slices, OME-Zarr."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from tifffile import TiffFile, TiffPageSeries

from wnet_nb.cells.regions import Box
from wnet_nb.config import Settings
from wnet_nb.errors import UserError
from wnet_nb.files.axes import UM_PER_UNIT, select_volume, settle_voxel_size, stated_voxel_size
from wnet_nb.files.tiff import load_planes, open_image
from wnet_nb.files.volumes import find_volumes, is_zarr


@dataclass(frozen=True, eq=False)
class Source:
    """A volume (Z, Y, X) on the disk, of which boxes can be read."""

    path: Path
    shape: tuple[int, int, int]
    dtype: np.dtype
    voxel_size_um: tuple[float, float, float]  # (z, y, x)
    voxel_size_source: str  # "metadata", "option" or "assumed"
    remarks: tuple[str, ...]
    read: Callable[[Box], np.ndarray]  # a box inside the volume, as an array in memory

    @property
    def name(self) -> str:
        """Name of the file or folder without what says that it is a TIFF or an OME-Zarr."""
        name = self.path.name
        for ending in (".tif", ".tiff", ".zarr", ".ome"):
            name = name[: -len(ending)] if name.lower().endswith(ending) else name
        return name or self.path.name

    @property
    def whole(self) -> Box:
        """The box of all voxels."""
        return tuple(slice(0, n) for n in self.shape)


def open_source(path: str | Path, settings: Settings) -> Source:
    """Open a volume to read boxes of it.

    Parameters
    ----------
    path : str or Path
        A TIFF, a folder of 2D TIFFs (its slices in natural order), or an OME-Zarr 0.4 or 0.5.
    settings : Settings
        `channel`, `time`, and `voxel_size_um`, which replaces what the files state.

    Raises
    ------
    UserError
        If there is no volume of real numbers, or a choice of channel or time is missing.
    """
    path = Path(path)
    if is_zarr(path):
        return _open_zarr(path, settings)
    if path.is_dir():
        return _open_slices(path, settings)
    return _open_tiff(path, settings)


def _open_tiff(path: Path, settings: Settings) -> Source:
    keep_open = contextlib.ExitStack()  # closed with the process: boxes are read from the file
    tif, image = keep_open.enter_context(open_image(path))
    index, kept = select_volume(
        path.name, image.axes, image.shape, channel=settings.channel, time=settings.time
    )
    stated, taken = stated_voxel_size(tif, image)
    size, source, remarks = settle_voxel_size(path.name, stated, settings.voxel_size_um)
    array, order = _lazy(tif, image), [kept.index(axis) for axis in "ZYX"]

    def read(box: Box) -> np.ndarray:
        assert keep_open is not None
        in_file = iter([box["ZYX".index(axis)] for axis in kept])
        part = array[tuple(next(in_file) if one == slice(None) else one for one in index)]
        return np.ascontiguousarray(np.asarray(part).transpose(order))

    lengths = [n for n, one in zip(image.shape, index, strict=True) if one == slice(None)]
    shape = tuple(lengths[place] for place in order)
    remarks = (taken, *remarks) if taken and source == "metadata" else remarks
    return Source(path, shape, image.dtype.newbyteorder("="), size, source, remarks, read)


def _lazy(tif: TiffFile, image: TiffPageSeries) -> Any:
    """Return an image as what can be sliced: a memory map, or a Zarr that decodes its pieces."""
    if image.dataoffset is not None and not image.is_multifile and image.transform is None:
        return load_planes(tif, image, (slice(None),) * image.ndim)
    return zarr.open(image.aszarr(), mode="r")


def _open_slices(folder: Path, settings: Settings) -> Source:
    paths = find_volumes(folder).paths
    if len(paths) < 2:
        raise UserError(
            f"'{folder}' holds {len(paths)} TIFF files; give a folder that holds the slices of one "
            "volume, at least 2, a TIFF or an OME-Zarr"
        )
    with open_image(paths[0]) as (tif, image):
        plane, dtype = image.keyframe.shape[-2:], image.dtype
        (_, y, x), _ = stated_voxel_size(tif, image)

    def read(box: Box) -> np.ndarray:
        planes = paths[box[0]]
        part = np.empty((len(planes), *(s.stop - s.start for s in box[1:])), dtype)
        for target, file in zip(part, planes, strict=True):
            with open_image(file) as (tif, image):
                if math.prod(image.shape) != math.prod(plane) or image.dtype != dtype:
                    raise UserError(
                        f"slice '{file.name}' is {image.shape} {image.dtype} but "
                        f"'{paths[0].name}' is {plane} {dtype}; keep slices of one shape and type"
                    )
                outer = (0,) * (image.ndim - 2)
                target[:] = _lazy(tif, image)[(*outer, *box[1:])]
        return part

    size, source, remarks = settle_voxel_size(folder.name, (None, y, x), settings.voxel_size_um)
    shape = (len(paths), *plane)
    return Source(folder, shape, dtype.newbyteorder("="), size, source, remarks, read)


def _open_zarr(path: Path, settings: Settings) -> Source:
    array, image = _full_resolution(path)
    names = [axis if isinstance(axis, str) else axis["name"] for axis in image["axes"]]
    axes = "".join(names).upper()
    index, kept = select_volume(
        path.name, axes, array.shape, channel=settings.channel, time=settings.time
    )
    if array.dtype.kind not in "buif" or kept != "ZYX":
        raise UserError(
            f"'{path}' holds {array.dtype} values along {axes}; give integers or real numbers "
            "along z, y and x, in this order"
        )
    stated = tuple(
        _in_um(image["axes"][axes.index(axis)], scale)
        for axis, scale in zip("ZYX", _scales(image, axes), strict=True)
    )
    size, source, remarks = settle_voxel_size(path.name, stated, settings.voxel_size_um)

    def read(box: Box) -> np.ndarray:
        in_file = iter(box)
        place = tuple(next(in_file) if one == slice(None) else one for one in index)
        return np.asarray(array[place])

    shape = tuple(array.shape[axes.index(axis)] for axis in "ZYX")
    return Source(path, shape, np.dtype(array.dtype), size, source, remarks, read)


def _full_resolution(path: Path) -> tuple[zarr.Array, dict[str, Any]]:
    """Return the finest array of an OME-Zarr, and its entry of `multiscales`."""
    try:
        found = zarr.open(str(path), mode="r")
        group = found if isinstance(found, zarr.Group) else None
        for part in (group, None if group is None else group.get("0")):  # of bioformats2raw
            attributes = {} if not isinstance(part, zarr.Group) else dict(part.attrs)
            images = attributes.get("ome", attributes).get("multiscales")
            if images:
                return part[images[0]["datasets"][0]["path"]], images[0]
    except (KeyError, IndexError, TypeError, ValueError, OSError) as error:
        raise UserError(f"'{path}' cannot be read as an OME-Zarr: {error}") from error
    raise UserError(
        f"'{path}' is a Zarr, but no image of OME-Zarr 0.4 or 0.5: its attributes have no "
        "multiscales"
    )


def _scales(image: dict[str, Any], axes: str) -> Sequence[float]:
    """Return the voxel size (z, y, x) of the finest level in the units of its axes."""
    size = np.ones(len(axes))
    finest = image["datasets"][0].get("coordinateTransformations", [])
    for one in [*finest, *image.get("coordinateTransformations", [])]:
        size = size * np.asarray(one.get("scale", 1.0))
    return [float(size[axes.index(axis)]) for axis in "ZYX"]


def _in_um(axis: Any, scale: float) -> float | None:
    """Return a length in µm to six digits; None where the axis states no unit of length."""
    unit = axis.get("unit", "") if isinstance(axis, dict) else ""
    factor = UM_PER_UNIT.get(str(unit).lower())
    return None if factor is None or scale <= 0 else float(f"{scale * factor:.6g}")
