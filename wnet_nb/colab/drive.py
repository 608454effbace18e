"""Data brought to the local disk once; results and states copied to Drive and read back."""

import glob
import hashlib
import os
import shutil
import tempfile
import time
import zipfile
from collections.abc import Generator, Iterable
from functools import partial
from pathlib import Path

from tqdm import tqdm

from wnet_nb.checkpoint import STATES
from wnet_nb.errors import UserError
from wnet_nb.events import EpochEnd, Event
from wnet_nb.files.archives import unpack
from wnet_nb.files.download import Progress, download, kind_of
from wnet_nb.whole_file import free_name, new_file, sha256, write_whole

TIFFS = (".tif", ".tiff")
STATES_FOLDER = "training states"
STATES_KEPT = 2
BACKUP_SECONDS = 300  # a lost runtime costs at most so much training, and the epoch it was in

Events = Generator[Event, None, None]


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
    """Copy to a new file that gets its name once it was read back; UserError, and nothing, else."""
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


class Backups:
    """The copies of the newest states, each one file; none are made without a `drive` folder."""

    def __init__(self, drive: Path | None) -> None:
        self.folder = drive / STATES_FOLDER if drive else None
        self._last = 0.0

    def of(self, name: str) -> list[Path]:
        """Return the copies of the run of this name, the newest last."""
        pattern = f"{glob.escape(name)} step *.zip"
        return sorted(self.folder.glob(pattern)) if self.folder else []

    def guard(self, events: Events, run: Path) -> Events:
        """Pass a training's events on; copy its state now and then, and when it ends."""
        try:
            for event in events:
                if isinstance(event, EpochEnd) and time.monotonic() - self._last >= BACKUP_SECONDS:
                    self.copy(run)
                    self._last = time.monotonic()
                yield event
        finally:
            events.close()  # the state of the last step is written here
            self.copy(run)

    def copy(self, run: Path) -> None:
        """Copy what is needed to go on with a run to Drive, as one new file; say if that fails."""
        states = sorted((run / STATES).glob("step-*.pt"))
        if self.folder is None or not states:
            return
        target = self.folder / f"{run.name} {states[-1].stem.replace('-', ' ')}.zip"
        packed = run.with_name(f".{target.name}")
        try:
            if not target.exists():
                files = [p for p in run.iterdir() if p.is_file() and p.name[0] != "."]
                copy_verified(pack(run, [*files, states[-1]], packed), target)
            for old in self.of(run.name)[:-STATES_KEPT]:
                old.unlink()  # ours, and older than two that were read back
        except (OSError, UserError) as error:  # a full Drive must not end a training
            tqdm.write(f"the training goes on, but without a copy on Drive: {error}")
        finally:
            packed.unlink(missing_ok=True)

    def newest_run(self, runs: Path) -> Path:
        """Return the newest run with a state, in the folder `runs` or brought there from Drive."""
        found = {}
        for state in runs.glob(f"*/{STATES}/step-*.pt"):
            run = state.parent.parent
            found[run] = max(found.get(run, 0), state.stat().st_mtime)
        for copy in self.folder.glob("*.zip") if self.folder else ():
            found[copy] = copy.stat().st_mtime
        for one in sorted(found, key=found.get, reverse=True):
            if one.is_dir():
                return one
            run = free_name(runs / one.stem.rpartition(" step ")[0])
            try:
                unpack(one, run)
                return run
            except UserError as error:  # a copy that broke off: there is one before it
                tqdm.write(f"{error}; the copy before it is taken")
        raise UserError(
            "there is no run to go on with; mount the Drive that it was saved to (section 2.2), or "
            "start a new one"
        )


def _is_data(path: Path) -> bool:
    return path.suffix.lower() in (*TIFFS, ".csv") and path.name[0] != "." and path.is_file()


def _key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:6]


def _stamp(path: Path) -> tuple[int, int] | None:
    return (path.stat().st_size, int(path.stat().st_mtime)) if path.exists() else None
