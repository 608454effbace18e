"""Find and read TIFF volumes: arrays (Z, Y, X) that keep their voxel size to every result."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil

from wnet_nb.errors import UserError
from wnet_nb.files.axes import VoxelSize, select_volume, settle_voxel_size, stated_voxel_size
from wnet_nb.files.tiff import load_planes, open_image
from wnet_nb.grid import check_voxel_size


@dataclass(frozen=True, eq=False)
class Volume:
    """A 3D image (Z, Y, X) with its voxel size.

    The array has dtype and byte order of the file, and is often a read-only memory map.
    """

    array: np.ndarray
    voxel_size_um: VoxelSize  # (z, y, x)
    voxel_size_source: str  # "metadata", "option", or "assumed" for what is not all stated
    source: Path  # the file, or the folder of slices
    remarks: tuple[str, ...] = ()  # what the user should see; one sentence each

    @property
    def name(self) -> str:
        """Name of the source without .ome.tif, .tif or .tiff; names its folder of results."""
        return re.sub(r"(\.ome)?\.tiff?$", "", self.source.name, flags=re.IGNORECASE)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Size (z, y, x) in voxels."""
        return self.array.shape


class FoundVolumes(NamedTuple):
    """TIFF files in natural order, and all else in their folder, each with the reason."""

    paths: tuple[Path, ...]
    skipped: tuple[tuple[Path, str], ...] = ()


def find_volumes(path: str | Path) -> FoundVolumes:
    """Find the TIFFs of a folder, without its subfolders, or take the one file that is given.

    Paths come in natural order (t2 before t10), possibly none; nothing is opened. UserError if the
    path does not exist or may not be looked into.
    """
    path = Path(path)
    try:
        if not path.exists():
            raise UserError(f"'{path}' does not exist; check the path")
        if not path.is_dir():
            return FoundVolumes((path,))
        entries = sorted(path.iterdir(), key=_natural_key)
    except OSError as error:
        raise UserError(f"'{path}' cannot be looked into ({error.strerror}); check it") from error
    seen = [(entry, _reason_to_skip(entry)) for entry in entries]
    found = tuple(entry for entry, reason in seen if not reason)
    return FoundVolumes(found, tuple(one for one in seen if one[1]))


def is_zarr(path: str | Path) -> bool:
    """Return whether a path is a Zarr, such as an OME-Zarr."""
    return any((Path(path) / name).exists() for name in (".zattrs", ".zgroup", "zarr.json"))


def is_beyond_memory(path: str | Path, *, slices: bool = False) -> bool:
    """Return whether a TIFF, or a folder of slices, is larger than half of the free memory."""
    files = find_volumes(path).paths if slices else [Path(path)]
    size = sum(file.stat().st_size for file in files if file.is_file())
    return size > psutil.virtual_memory().available / 2


def _natural_key(path: Path) -> list[str | int]:
    """Split a name into text and numbers, alternating, so that 2 sorts before 10."""
    parts = re.split(r"([0-9]+)", path.name.casefold())
    return [int(part) if n % 2 else part for n, part in enumerate(parts)] + [path.name]


def _reason_to_skip(entry: Path) -> str:
    if entry.name.startswith("."):
        return "macOS metadata, not an image" if entry.name.startswith("._") else "hidden"
    if entry.is_dir():
        return "a subfolder; subfolders are not searched"
    return "" if entry.suffix.lower() in (".tif", ".tiff") else "not a TIFF"


def read_volume(
    path: str | Path,
    *,
    channel: int | None = None,
    time: int | None = None,
    voxel_size_um: Sequence[float] | None = None,
) -> Volume:
    """Read one 3D volume from a TIFF, BigTIFF, OME-TIFF or ImageJ hyperstack.

    The axes are those that the file states. Only a file that names no axis but Y and X is read
    by convention: its pages are z slices. ImageJ labels an unlabelled stack as channels or time
    points; such a file is refused, since its channels may as well be channels. UserError also for
    one that is missing, damaged, incomplete, 2D, RGB, complex, or holds several volumes.

    Parameters
    ----------
    path : str or Path
        An uncompressed file is memory-mapped.
    channel, time : int, optional
        Which channel and time point to read, from 0. Needed where the file has several.
    voxel_size_um : sequence of 3 float, optional
        (z, y, x) in µm; replaces what the file states. Without either, 1:1:1 is assumed.
    """
    path = Path(path)
    option = None if voxel_size_um is None else check_voxel_size(voxel_size_um)
    with open_image(path) as (tif, image):
        index, kept = select_volume(path.name, image.axes, image.shape, channel=channel, time=time)
        array = load_planes(tif, image, index)
        stated, taken = stated_voxel_size(tif, image)
        others = [one.shape for one in tif.series if one is not image]
    array = array.transpose([kept.index(axis) for axis in "ZYX"])
    size, source, remarks = settle_voxel_size(path.name, stated, option)
    if taken and source == "metadata":
        remarks = (taken, *remarks)
    if others:
        shapes = ", ".join("×".join(map(str, shape)) for shape in others)
        remarks += (f"'{path.name}' also holds 2D images of another size ({shapes}), left aside",)
    return Volume(array, size, source, path, remarks)


def read_slices(folder: str | Path, *, voxel_size_um: Sequence[float] | None = None) -> Volume:
    """Read a folder of 2D greyscale TIFFs as one volume (Z, Y, X) in memory, in natural order.

    `voxel_size_um` (z, y, x) replaces what the first slice states; a slice cannot state z.
    UserError for fewer than two slices, or one that is not 2D, unreadable, or unlike the first.
    """
    folder = Path(folder)
    option = None if voxel_size_um is None else check_voxel_size(voxel_size_um)
    paths = find_volumes(folder).paths
    if folder.is_file() or len(paths) < 2:
        raise UserError(
            f"'{folder}' holds {len(paths)} TIFF files; give a folder that holds the slices of "
            "one volume, at least 2"
        )
    for position, path in enumerate(paths):
        with open_image(path) as (tif, image):
            if math.prod(image.shape) > math.prod(image.keyframe.shape):
                raise UserError(
                    f"slice '{path.name}' holds {len(image.pages)} planes; a slice is one 2D "
                    "image, and a volume is a file of its own"
                )
            plane = image.asarray().reshape(image.keyframe.shape[-2:])
            if position == 0:
                array = np.empty((len(paths), *plane.shape), plane.dtype)
                (_, y, x), _ = stated_voxel_size(tif, image)
        if plane.shape != array.shape[1:] or plane.dtype != array.dtype:
            raise UserError(
                f"slice '{path.name}' is {plane.shape} {plane.dtype} but '{paths[0].name}' is "
                f"{array.shape[1:]} {array.dtype}; keep slices of one shape and type in '{folder}'"
            )
        array[position] = plane
    size, source, remarks = settle_voxel_size(folder.name, (None, y, x), option)
    return Volume(array, size, source, folder, remarks)
