"""The user's volumes: read, checked, hashed, measured and prepared once for every job."""

import hashlib
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Self

import numpy as np

from wnet_nb import scale  # which imports its packages only when they are used
from wnet_nb.cells.size import CellSize, estimate_cell_radius
from wnet_nb.config import Settings
from wnet_nb.data import Prepared, prepare
from wnet_nb.errors import UserError
from wnet_nb.files.axes import format_um
from wnet_nb.files.volumes import (
    FoundVolumes,
    Volume,
    find_volumes,
    is_beyond_memory,
    is_zarr,
    read_slices,
    read_volume,
)
from wnet_nb.jobs.check import Finding, check_volume, read_remarks
from wnet_nb.jobs.truth import find_truths, is_points, read_labels
from wnet_nb.jobs.void import fill_void
from wnet_nb.whole_file import sha256

KEPT_BYTES = 2**30  # prepared volumes that are kept though nobody uses them at the moment
PREPARING = ("normalisation", "match_cell_size", "subtract_background")


class Memory:
    """What the stacks of a folder keep: the array decoded last, and the newest prepared volumes."""

    def __init__(self) -> None:
        self.lock = threading.RLock()  # a widget and the training may ask at the same time
        self.array: np.ndarray | None = None
        self._prepared: list[Prepared] = []  # the newest first

    def keep(self, prepared: Prepared) -> None:
        """Keep a prepared volume, and as many of those before it as `KEPT_BYTES` hold."""
        self._prepared = [prepared, *(one for one in self._prepared if one is not prepared)]
        while sum(one.array.nbytes for one in self._prepared) > KEPT_BYTES:
            self._prepared.pop()


class Stack:
    """One volume of the user, with name, shape, dtype and voxel size of the file.

    The array of `volume` is held, unless `read` can decode it anew. `truth_file` has its true
    labels or points, `findings` what there is to say of it; `memory` is shared by a folder.
    """

    def __init__(
        self,
        volume: Volume,
        *,
        read: Callable[[], np.ndarray] | None = None,
        truth_file: Path | None = None,
        findings: Sequence[Finding] = (),
        memory: Memory | None = None,
    ) -> None:
        self.name, self.source, self.remarks = volume.name, volume.source, volume.remarks
        self.shape, self.dtype = volume.shape, volume.array.dtype
        self.voxel_size_um = volume.voxel_size_um  # (z, y, x)
        self.voxel_size_source = volume.voxel_size_source
        self.truth_file, self.findings = truth_file, tuple(findings)
        self._read, self._memory = read, memory or Memory()
        self._memory.array = volume.array
        self._prepared: weakref.WeakValueDictionary = weakref.WeakValueDictionary()
        held = read is None or isinstance(volume.array, np.memmap)
        self._held, self._decoded = volume.array if held else None, weakref.ref(volume.array)

    @property
    def words(self) -> str:
        """Name, size, dtype, voxel size and where that comes from, in one line."""
        size = " × ".join(map(str, self.shape))
        source = {"metadata": "from the file", "option": "as given"}.get(self.voxel_size_source)
        scale = f"{format_um(self.voxel_size_um)} {source or self.voxel_size_source}"
        return f"{self.name}: {size} voxels (z, y, x), {self.dtype.name}, {scale}"

    @property
    def array(self) -> np.ndarray:
        """The voxels (Z, Y, X), a void filled; decoded anew if nobody holds them any more."""
        if self._held is not None:
            return self._held
        with self._memory.lock:
            array = self._decoded()
            if array is None:
                array = self._read()
                self._decoded = weakref.ref(array)
            self._memory.array = array
        return array

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the file, or of its slices."""
        if self.source.is_file():
            return sha256(self.source)
        slices = find_volumes(self.source).paths
        lines = "".join(f"{path.name} {sha256(path)}\n" for path in slices)
        return hashlib.sha256(lines.encode()).hexdigest()

    @cached_property
    def cell_size(self) -> CellSize | None:
        """Typical cell as the image shows it; None if no cells stand out of the noise."""
        try:
            return estimate_cell_radius(self.array, voxel_size_um=self.voxel_size_um)
        except UserError:
            return None

    def prepared(self, settings: Settings) -> Prepared:
        """Return the volume as the network takes it; made once for the options that decide it."""
        radius = settings.cell_radius_um
        if radius is None and settings.needs_radius and self.cell_size:
            radius = self.cell_size.radius_um
        key = (radius, *(getattr(settings, name) for name in PREPARING))
        with self._memory.lock:
            prepared = self._prepared.get(key)
            if prepared is None:
                prepared = prepare(
                    self.array,
                    settings,
                    cell_radius_um=radius,
                    voxel_size_um=self.voxel_size_um,
                    name=self.name,
                )
                self._prepared[key] = prepared
            self._memory.keep(prepared)
        return prepared

    def prepared_voxel_size(self, settings: Settings) -> tuple[float, ...]:
        """Return the voxel size (z, y, x) in µm of the volume as the network takes it."""
        factors = self.prepared(settings).factors
        return tuple(size * n for size, n in zip(self.voxel_size_um, factors, strict=True))

    def remark_on_preparation(self, settings: Settings) -> str:
        """Say that preparing could not do what the settings ask, and what to do; else nothing."""
        if not settings.needs_radius or settings.cell_radius_um or self.cell_size:
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


@dataclass(frozen=True)
class Stacks:
    """Volumes that can be used, and what was left aside and why."""

    path: Path
    stacks: tuple[Stack, ...]
    skipped: tuple[tuple[Path, str], ...] = ()

    def __iter__(self) -> Iterator[Stack]:
        return iter(self.stacks)

    def __len__(self) -> int:
        return len(self.stacks)

    def __getitem__(self, index: int) -> Stack:
        return self.stacks[index]

    def require(self) -> Self:
        """Return itself; UserError with the reasons if there is no usable volume."""
        if self.stacks:
            return self
        for file, why in self.skipped:
            if file == self.path or file.suffix.lower() in (".tif", ".tiff"):
                raise UserError(f"'{self.path}' holds no usable volume: {why}")
        raise UserError(self.without_tiff)

    @property
    def without_tiff(self) -> str:
        """What to say where neither a usable volume nor a file with a fault is there."""
        return f"'{self.path}' holds no TIFF; give a TIFF file or a folder of TIFFs"


def read_stacks(
    path: str | Path,
    settings: Settings,
    *,
    labels: str | Path | None = None,
    slices: bool = False,
    check: bool = True,
    trained_size_um: Sequence[float] | None = None,
) -> Stacks:
    """Read the volumes of a file or folder; files that cannot be used are named, not fatal.

    Of an OME-Zarr, and of what is larger than half of the free memory where the extra `scale` is
    installed, boxes from all over it are taken, each as a volume. True labels beside an image
    (``x_labels.tif`` beside ``x.tif``) are recognised by name and content: results are scored
    against them, and they are never trained on.

    The settings say `channel`, `time`, `voxel_size_um`, and what `check_volume` looks at, unless
    `check` is off. `labels` are true labels or points: a file, or a folder with files named alike.
    With `slices`, the folder is one volume. `trained_size_um` (z, y, x) is for files that state no
    voxel size. UserError if a path does not exist, or `labels` fit no volume.
    """
    path = Path(path)
    if is_zarr(path) or (
        check and not scale.missing_packages() and is_beyond_memory(path, slices=slices)
    ):
        return scale.sample_stacks(path, settings)
    found = FoundVolumes((path,)) if slices else find_volumes(path)
    truths = find_truths(path, found.paths, labels)
    memory, stacks = Memory(), []
    skipped = [one for one in found.skipped if one[0] not in truths.files]
    for file in found.paths:
        if file in truths.files:
            continue
        read = partial(_read, file, settings, slices, trained_size_um)
        try:
            volume = read()
            seen = check_volume(volume, settings) if check else read_remarks(volume)
        except UserError as error:
            skipped.append((file, str(error)))
            continue
        truth, said = truths.settle(volume)
        stacks.append(
            Stack(
                volume,
                read=lambda read=read: read().array,
                truth_file=truth,
                findings=[*seen, *said],
                memory=memory,
            )
        )
    return Stacks(path, tuple(stacks), tuple(skipped))


def _read(
    file: Path, settings: Settings, slices: bool, trained_size_um: Sequence[float] | None
) -> Volume:
    size = settings.voxel_size_um
    if slices:
        volume = read_slices(file, voxel_size_um=size)
    else:
        channel, time = settings.channel, settings.time
        volume = read_volume(file, channel=channel, time=time, voxel_size_um=size)
    if volume.voxel_size_source == "assumed" and trained_size_um is not None:
        remark = f"'{volume.name}' takes the voxel size given for the training"
        size = tuple(float(step) for step in trained_size_um)
        volume = replace(volume, voxel_size_um=size, voxel_size_source="option", remarks=(remark,))
    array, void = fill_void(volume.array)
    if not void:
        return volume
    return replace(volume, array=array, remarks=(*volume.remarks, void))
