"""The volumes of a file or folder, read and checked; what cannot be used is named, not fatal."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from wnet_nb.config import Settings
from wnet_nb.errors import UserError
from wnet_nb.files.volumes import FoundVolumes, Volume, find_volumes, read_slices, read_volume
from wnet_nb.jobs import check as advice


@dataclass(frozen=True)
class Inputs:
    """Volumes that can be used, what was found in them, and what was left aside and why."""

    volumes: tuple[Volume, ...]
    findings: tuple[tuple[advice.Finding, ...], ...]
    skipped: tuple[tuple[Path, str], ...] = ()


def read_inputs(
    path: str | Path, settings: Settings, *, slices: bool = False, check: bool = True
) -> Inputs:
    """Read the volumes of a file or folder; files that cannot be used are named, not fatal.

    Parameters
    ----------
    path : str or Path
        A TIFF or a folder of TIFFs.
    settings : Settings
        `channel`, `time`, `voxel_size_um`, and what `advice.check_volume` looks at.
    slices : bool
        Take the folder as one volume of 2D slices.
    check : bool
        Whether to look into the volumes (`advice.check_volume`).

    Raises
    ------
    UserError
        If the path does not exist. (No usable volume is no error here: see `require_volumes`.)
    """
    size = settings.voxel_size_um
    found = FoundVolumes((Path(path),)) if slices else find_volumes(path)
    volumes, findings, skipped = [], [], list(found.skipped)
    for file in found:
        try:
            if slices:
                volume = read_slices(file, voxel_size_um=size)
            else:
                volume = read_volume(
                    file, channel=settings.channel, time=settings.time, voxel_size_um=size
                )
        except UserError as error:
            skipped.append((file, str(error)))
            continue
        seen = advice.check_volume(volume, settings) if check else advice.read_remarks(volume)
        if advice.is_usable(seen):
            volumes.append(volume)
            findings.append(tuple(seen))
        else:
            reasons = "; ".join(f.text for f in seen if f.level == "error")
            skipped.append((file, reasons))
    return Inputs(tuple(volumes), tuple(findings), tuple(skipped))


def require_volumes(inputs: Inputs, path: str | Path) -> None:
    """Raise UserError, with the reasons, if there is no volume among the inputs."""
    if inputs.volumes:
        return
    reasons = [
        reason for file, reason in inputs.skipped if file.suffix.lower() in (".tif", ".tiff")
    ]
    reasons = reasons or [reason for file, reason in inputs.skipped if file == Path(path)]
    if not reasons:
        raise UserError(f"'{path}' holds no TIFF; give a TIFF file or a folder of TIFFs")
    more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
    raise UserError(f"'{path}' holds no usable volume: {reasons[0]}{more}")
