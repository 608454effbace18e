"""The user's volumes: read, checked, hashed, measured and prepared once for every job.

Check, panel, training, tuner and segmentation share one `Stack` per volume. Voxels of compressed
files are decoded when they are used, and let go when another stack is.
"""

from __future__ import annotations

import copy
import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from wnet_nb.cells.size import CellSize, estimate_cell_radius
from wnet_nb.config import Settings
from wnet_nb.data import Prepared, prepare
from wnet_nb.errors import UserError
from wnet_nb.files.axes import format_um
from wnet_nb.files.volumes import FoundVolumes, Volume, find_volumes, read_slices, read_volume
from wnet_nb.jobs.check import Finding, check_volume, is_usable, read_remarks
from wnet_nb.jobs.store import Store
from wnet_nb.jobs.truth import find_truths, is_points, read_labels
from wnet_nb.whole_file import sha256

KEPT_BYTES = 2**30  # prepared volumes that are kept though nobody uses them at the moment
PREPARING = ("normalisation", "match_cell_size", "subtract_background")


class Stack:
    """One volume of the user.

    Parameters
    ----------
    volume : Volume
        As read.
    read : callable, optional
        Reads its array anew, so that it need not be held; it is held if not given.
    truth : Path, optional
        File of its true labels or points.
    stores : tuple of Store, optional
        Where arrays and prepared volumes are kept; shared by the stacks of a folder.

    Attributes
    ----------
    name, source, voxel_size_um, voxel_size_source, remarks
        As of `Volume`.
    shape : tuple of int
        (Z, Y, X) in voxels.
    dtype : dtype
    truth_file : Path or None
    """

    def __init__(
        self,
        volume: Volume,
        *,
        read: Callable[[], np.ndarray] | None = None,
        truth: Path | None = None,
        stores: tuple[Store, Store] | None = None,
    ) -> None:
        self.name, self.source, self.remarks = volume.name, volume.source, volume.remarks
        self.shape, self.dtype = volume.shape, volume.array.dtype
        self.voxel_size_um = volume.voxel_size_um
        self.voxel_size_source = volume.voxel_size_source
        self.truth_file = truth
        self._read, self._key, self._lock = read, object(), threading.RLock()
        self._arrays, self._prepared = stores or new_stores()
        held = read is None or isinstance(volume.array, np.memmap)
        self._held = volume.array if held else None
        if not held:
            self._arrays.get(self._key, lambda: volume.array, _n_bytes)

    @property
    def words(self) -> str:
        """Name, size, dtype, voxel size and where that comes from, in one line."""
        size = " × ".join(map(str, self.shape))
        source = self.voxel_size_source
        scale = format_um(self.voxel_size_um) + (" " if source == "assumed" else " from ") + source
        return f"{self.name}: {size} voxels (z, y, x), {self.dtype.name}, {scale}"

    @property
    def array(self) -> np.ndarray:
        """The voxels (Z, Y, X), as in the file; decoded anew if nobody holds them any more."""
        if self._held is not None:
            return self._held
        return self._arrays.get(self._key, self._read, _n_bytes)

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the file, of its slices, or of the array if there is no file."""
        if self.source.is_file():
            return sha256(self.source)
        digest = hashlib.sha256()
        if self.source.is_dir():
            for path in find_volumes(self.source).paths:
                digest.update(f"{path.name} {sha256(path)}\n".encode())
        else:
            for plane in self.array:
                digest.update(np.ascontiguousarray(plane))
        return digest.hexdigest()

    @property
    def cell_size(self) -> CellSize | None:
        """Typical cell as the image shows it; None if no cells stand out of the noise."""
        with self._lock:  # a widget and the training may ask at the same time
            return self._cell_size

    @cached_property
    def _cell_size(self) -> CellSize | None:
        try:
            return estimate_cell_radius(self.array, voxel_size_um=self.voxel_size_um)
        except UserError:
            return None

    def prepared(self, settings: Settings, *, otherwise_radius_um: float | None = None) -> Prepared:
        """Return the volume as the network takes it; made once for the options that decide it.

        `otherwise_radius_um` is taken where the settings have no radius and the image shows none.
        """
        radius = settings.cell_radius_um
        if radius is None and (settings.match_cell_size or settings.subtract_background):
            radius = self.cell_size.radius_um if self.cell_size else otherwise_radius_um
        options = tuple(getattr(settings, name) for name in PREPARING)

        def make() -> Prepared:
            return prepare(
                self.array,
                settings,
                cell_radius_um=radius,
                voxel_size_um=self.voxel_size_um,
                name=self.name,
            )

        key = (self._key, self.voxel_size_um, radius, *options)
        return self._prepared.get(key, make, lambda prepared: prepared.array.nbytes)

    def remark_on_preparation(self, settings: Settings) -> str:
        """Say that preparing could not do what the settings ask, and what to do; else nothing."""
        wanted = settings.match_cell_size or settings.subtract_background
        if not wanted or settings.cell_radius_um or self.cell_size:
            return ""
        return (
            f"no cells stand out of the noise in '{self.name}', so it is taken as it is, neither "
            "averaged nor freed from background; give cell_radius_um if you know the cells"
        )

    @property
    def truth(self) -> np.ndarray | None:
        """The true labels (Z, Y, X), read when asked for; None without, and for true points."""
        if self.truth_file is None or is_points(self.truth_file):
            return None
        return read_labels(self.truth_file).array

    def with_voxel_size(self, voxel_size_um: Sequence[float], remark: str) -> Stack:
        """Return the same volume with a voxel size that somebody has given."""
        other = copy.copy(self)
        other.voxel_size_um = tuple(float(step) for step in voxel_size_um)
        other.voxel_size_source, other.remarks = "option", (remark,)
        other.__dict__.pop("_cell_size", None)
        return other


def new_stores() -> tuple[Store, Store]:
    """Return where decoded and where prepared volumes are kept: the last one, and a few."""
    return Store(0), Store(KEPT_BYTES, largest=KEPT_BYTES)


def _n_bytes(array: np.ndarray) -> int:
    return array.nbytes


@dataclass(frozen=True)
class Stacks:
    """Volumes that can be used, what was found in them, and what was left aside and why."""

    path: Path
    stacks: tuple[Stack, ...]
    findings: tuple[tuple[Finding, ...], ...]
    skipped: tuple[tuple[Path, str], ...] = ()

    def __iter__(self) -> Iterator[Stack]:
        return iter(self.stacks)

    def __len__(self) -> int:
        return len(self.stacks)

    def __getitem__(self, index: int) -> Stack:
        return self.stacks[index]

    def require(self) -> Stacks:
        """Return itself; UserError with the reasons if there is no usable volume."""
        if self.stacks:
            return self
        reasons = [why for file, why in self.skipped if file.suffix.lower() in (".tif", ".tiff")]
        reasons = reasons or [why for file, why in self.skipped if file == self.path]
        if not reasons:
            raise UserError(f"'{self.path}' holds no TIFF; give a TIFF file or a folder of TIFFs")
        more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
        raise UserError(f"'{self.path}' holds no usable volume: {reasons[0]}{more}")

    def assume_voxel_size(self, voxel_size_um: Sequence[float] | None) -> Stacks:
        """Return the volumes with this voxel size where none is stated; unchanged without one."""
        if voxel_size_um is None:
            return self
        stacks = tuple(
            stack.with_voxel_size(
                voxel_size_um, f"'{stack.name}' takes the voxel size given for the training"
            )
            if stack.voxel_size_source == "assumed"
            else stack
            for stack in self.stacks
        )
        return replace(self, stacks=stacks, findings=tuple(tuple(read_remarks(s)) for s in stacks))


def read_stacks(
    path: str | Path,
    settings: Settings,
    *,
    labels: str | Path | None = None,
    slices: bool = False,
    check: bool = True,
) -> Stacks:
    """Read the volumes of a file or folder; files that cannot be used are named, not fatal.

    Parameters
    ----------
    path : str or Path
        A TIFF or a folder of TIFFs. True labels beside an image (``x_labels.tif`` beside
        ``x.tif``) are recognised by name and content: results are scored against them, and they
        are never trained on.
    settings : Settings
        `channel`, `time`, `voxel_size_um`, and what `check_volume` looks at.
    labels : str or Path, optional
        True labels or points of the volumes: a file, or a folder with files named alike.
    slices : bool
        Take the folder as one volume of 2D slices.
    check : bool
        Whether to look into the volumes (`check_volume`).

    Raises
    ------
    UserError
        If a path does not exist, or `labels` belong to no volume. (No usable volume is no error
        here: see `Stacks.require`.)
    """
    path = Path(path)
    found = FoundVolumes((path,)) if slices else find_volumes(path)
    truths = find_truths(path, found.paths, labels)
    stores = new_stores()
    stacks, findings = [], []
    skipped = [one for one in found.skipped if one[0] not in truths.files]
    for file in found.paths:
        if file in truths.files:
            continue
        read = partial(_read, file, settings, slices)
        try:
            volume = read()
            seen = check_volume(volume, settings) if check else read_remarks(volume)
            if not is_usable(seen):
                raise UserError("; ".join(f.text for f in seen if f.level == "error"))
        except UserError as error:
            skipped.append((file, str(error)))
            continue
        truth, said = truths.settle(volume)
        stacks.append(Stack(volume, read=lambda r=read: r().array, truth=truth, stores=stores))
        findings.append((*seen, *said))
    truths.require([stack.source for stack in stacks])
    return Stacks(path, tuple(stacks), tuple(findings), tuple(skipped))


def _read(file: Path, settings: Settings, slices: bool) -> Volume:
    if slices:
        return read_slices(file, voxel_size_um=settings.voxel_size_um)
    return read_volume(
        file,
        channel=settings.channel,
        time=settings.time,
        voxel_size_um=settings.voxel_size_um,
    )
