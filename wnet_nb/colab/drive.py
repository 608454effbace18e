"""Data brought to the local disk once, and results copied away under new names and read back."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from wnet_nb.errors import UserError
from wnet_nb.files.archives import unpack
from wnet_nb.files.download import Progress, download, kind_of
from wnet_nb.whole_file import new_file, sha256, write_whole

TIFFS = (".tif", ".tiff")


def bring(source: Path, folder: Path, progress: Progress) -> Path:
    """Copy a file, or the TIFFs and tables of a folder, into `folder`: once, and what changed.

    The copy, which is returned, then holds what the source holds now and nothing else. UserError if
    the disk has too little room, or a file cannot be read.
    """
    files = [source] if source.is_file() else sorted(filter(_is_data, source.iterdir()))
    copies = folder / f"{source.stem}-{_key(str(source))}"
    copies.mkdir(parents=True, exist_ok=True)
    for copy in filter(_is_data, copies.iterdir()):
        if copy.name not in {file.name for file in files}:
            copy.unlink()  # it was removed where it came from
    changed = [file for file in files if _stamp(copies / file.name) != _stamp(file)]
    done, total = 0, sum(file.stat().st_size for file in changed)
    if total > shutil.disk_usage(copies).free:
        raise UserError(
            f"'{source}' has {total / 1e9:.1f} GB to copy, more than this disk has free; put fewer "
            "stacks into the folder"
        )
    for file in changed:
        try:
            write_whole(copies / file.name, partial(shutil.copy2, file))
        except OSError as error:
            raise UserError(f"'{file}' cannot be copied ({error}); try again") from error
        done += file.stat().st_size
        progress(done, total)
    return copies / source.name if source.is_file() else copies


def fetch_volumes(link: str, folder: Path, progress: Progress) -> Path:
    """Fetch a TIFF, or a zip or tar of TIFFs, once, and return the folder that holds the TIFFs."""
    target = folder / f"link-{_key(link.strip())}"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".link-") as scratch:
            received = Path(scratch) / "stacks" / "download"
            download(link, received, kinds=("tiff", "zip", "gzip", "tar"), progress=progress)
            if kind_of(received) == "tiff":
                received.rename(received.with_name("volume.tif")).parent.rename(target)
            else:
                unpack(received, target)
    return _folder_of_tiffs(target)


def _folder_of_tiffs(unpacked: Path) -> Path:
    """Return the topmost folder with TIFFs: people zip the folder, and not what is in it."""
    holding = {file.parent for file in unpacked.rglob("*") if file.suffix.lower() in TIFFS}
    depth = min((len(folder.parts) for folder in holding), default=0)
    topmost = sorted(folder for folder in holding if len(folder.parts) == depth)
    if len(topmost) > 1:
        names = ", ".join(str(folder.relative_to(unpacked)) for folder in topmost)
        raise UserError(
            f"the archive has TIFFs in several folders ({names}); choose 'own folder' and give "
            f"the one with the images, such as '{topmost[0]}'"
        )
    return topmost[0] if topmost else unpacked


def pack(folder: Path, files: Iterable[Path], target: Path) -> Path:
    """Write files of a folder to a zip, named from the folder's inside, without compression."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for file in files:
            archive.write(file, file.relative_to(folder))
    return target


def copy_verified(source: Path, target: Path) -> None:
    """Copy to a new file under a temporary name, read it back, and then give it its name.

    UserError if what was written is not what was meant; nothing is left then.
    """
    try:
        with new_file(target) as part:
            shutil.copyfile(source, part)
            if _sha256_on_disk(part) != sha256(source):
                raise OSError("it reads differently than it was written")
    except OSError as error:
        raise UserError(f"'{target}' could not be written ({error}); is Drive full?") from error


def _sha256_on_disk(path: Path) -> str:
    """Return the SHA-256 of a file after what the memory still holds of it was given up."""
    with path.open("r+b") as file:
        os.fsync(file.fileno())
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return sha256(path)


def _is_data(path: Path) -> bool:
    return path.suffix.lower() in (*TIFFS, ".csv") and path.name[0] != "." and path.is_file()


def _key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:6]


def _stamp(path: Path) -> tuple[int, int] | None:
    return (path.stat().st_size, int(path.stat().st_mtime)) if path.exists() else None
