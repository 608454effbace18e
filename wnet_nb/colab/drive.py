"""Data brought to the local disk once, and results copied away under new names and read back."""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from wnet_nb.checkpoint import STATES
from wnet_nb.files import download as fetch
from wnet_nb.whole_file import new_file, sha256, write_whole

SUFFIXES = (".tif", ".tiff", ".csv")


def bring(source: Path, folder: Path, progress: fetch.Progress) -> Path:
    """Copy a file, or the TIFFs and tables of a folder, into `folder`; what is there stays.

    Returns
    -------
    Path
        The copy of the file or folder.
    """
    found = [source] if source.is_file() else sorted(source.iterdir())
    files = [f for f in found if f.suffix.lower() in SUFFIXES and f.name[0] != "."]
    target = folder / f"{source.stem}-{_key(str(source))}"
    target.mkdir(parents=True, exist_ok=True)
    done, total = 0, sum(file.stat().st_size for file in files)
    if total > shutil.disk_usage(target).free:
        raise OSError(f"'{source}' has {total / 1e9:.1f} GB: more than this disk has free")
    for file in files:
        copy = target / file.name
        if not copy.exists() or _stamp(copy) != _stamp(file):
            write_whole(copy, partial(shutil.copy2, file))
        done += file.stat().st_size
        progress(done, total)
    return target / source.name if source.is_file() else target


def fetch_volumes(link: str, folder: Path, progress: fetch.Progress) -> Path:
    """Fetch a TIFF, or a zip or tar of TIFFs, into a folder of its own, once."""
    target = folder / f"link-{_key(link.strip())}"
    if target.exists():
        return target
    received = folder / f"{target.name}.download"
    fetch.download(link, received, kinds=("tiff", "zip", "gzip", "tar"), progress=progress)
    with received.open("rb") as file:
        kind = fetch.kind_of(file.read(512))
    try:
        if kind == "tiff":
            target.mkdir()
            received.rename(target / "volume.tif")
        else:
            fetch.unpack(received, target)
    finally:
        received.unlink(missing_ok=True)
    return target


def free_name(path: Path) -> Path:
    """Return the path, or the first of PATH-2, PATH-3 and so on that does not exist."""
    found, number = path, 1
    while found.exists():
        number += 1
        found = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return found


def result_files(run: Path) -> list[Path]:
    """Return the files of a run that are results; full training states are not."""
    found = (p for p in sorted(run.rglob("*")) if p.is_file() and p.name[0] != ".")
    return [p for p in found if p.parent != run / STATES]


def pack(folder: Path, files: Iterable[Path], target: Path) -> Path:
    """Write files of a folder to a zip, named from the folder's inside, without compression."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for file in files:
            archive.write(file, file.relative_to(folder))
    return target


def copy_verified(source: Path, target: Path) -> None:
    """Copy to a new file under a temporary name, read it back, and then give it its name.

    Raises
    ------
    OSError
        If what was written is not what was meant; nothing is left then.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with new_file(target) as part:
            shutil.copyfile(source, part)
            if sha256(part) != sha256(source):
                raise OSError("it reads differently than it was written")
    except OSError as error:
        raise OSError(f"'{target}' could not be written ({error}); is Drive full?") from error


def _key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:6]


def _stamp(path: Path) -> tuple[int, int]:
    return path.stat().st_size, int(path.stat().st_mtime)
