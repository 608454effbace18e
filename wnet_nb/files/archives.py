"""Archives unpacked without trust: plain files only, all inside a new folder, within limits."""

import gzip
import shutil
import stat
import tarfile
import tempfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PureWindowsPath
from typing import IO

from wnet_nb.errors import UserError
from wnet_nb.files.download import CHUNK, LARGEST_BYTES, kind_of

MOST_FILES = 10_000
DAMAGE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError)


def unpack(archive: Path, folder: Path, *, largest_bytes: int = LARGEST_BYTES) -> list[Path]:
    """Unpack a zip, tar or tar.gz (its content decides) into a new folder; return its files.

    The folder appears when everything is in it; what macOS adds is left aside. UserError if the
    archive is damaged, hostile or holds more than is allowed; nothing of it is kept then.
    """
    if folder.exists():
        raise UserError(f"'{folder}' exists; nothing is unpacked over it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    what = f"the archive '{archive.name}'"
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".unpack-") as scratch:
        inside = Path(scratch) / "content"
        inside.mkdir()
        names, spellings, size = [], {}, 0
        try:
            for number, (name, kind, n_bytes, read) in enumerate(_members(archive)):
                path = PureWindowsPath(name)  # takes / and \ alike, and knows C:
                size += n_bytes
                if size > largest_bytes:
                    raise UserError(f"{what} unpacks to more than {largest_bytes} bytes")
                if number >= MOST_FILES:
                    raise UserError(f"{what} holds more than {MOST_FILES} files")
                if "__MACOSX" in path.parts or path.name.startswith("._"):
                    continue
                _check_member(what, path, kind, spellings)
                if kind == "file":
                    target = inside / path.as_posix()
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with read() as source, target.open("xb") as file:
                        shutil.copyfileobj(source, file)
                    names.append(path.as_posix())
        except UserError:
            raise
        except DAMAGE as error:
            raise UserError(f"{what} is damaged ({error}); fetch it again") from None
        except (RuntimeError, NotImplementedError):  # as zipfile says it
            raise UserError(
                f"{what} has a password or is packed in an unusual way; make a plain zip"
            ) from None
        inside.rename(folder)
    return [folder / name for name in names]


def _check_member(what: str, path: PureWindowsPath, kind: str, spellings: dict[str, str]) -> None:
    """Refuse what is no file or folder inside, and two names that are one on some computers."""
    if path.drive or path.root or ".." in path.parts:
        raise UserError(f"{what} points outside itself; it was not unpacked")
    if kind == "other":
        raise UserError(f"'{path.name}' in {what} is not a plain file; not unpacked")
    folders = path.parents if kind == "file" else (path, *path.parents)
    for part in (path, *path.parents):
        key = unicodedata.normalize("NFC", part.as_posix()).casefold()
        spelling = part.as_posix() + "/" * (part in folders)
        known = spellings.get(key, "")
        if known and (known != spelling or part not in folders):
            raise UserError(
                f"{what} holds '{known}' and '{spelling}', which are one name on many computers; "
                "rename one of them and pack it again"
            )
        spellings[key] = spelling


def _members(archive: Path) -> Iterator[tuple[str, str, int, Callable[[], IO[bytes]]]]:
    """Yield name, kind (file, folder or other), size, and what opens it to be read."""
    packing = kind_of(archive)
    with archive.open("rb") as file:
        if packing == "zip":
            with zipfile.ZipFile(file) as packed:
                for info in packed.infolist():
                    form = stat.S_IFMT(info.external_attr >> 16)
                    kind = "file" if form in (0, stat.S_IFREG) else "other"
                    kind = "folder" if info.filename.endswith(("/", "\\")) else kind
                    yield info.filename, kind, info.file_size, partial(packed.open, info)
        elif packing in ("gzip", "tar"):
            stream = _InPieces(gzip.open(file) if packing == "gzip" else file)
            with tarfile.open(fileobj=stream, mode="r:") as packed:
                for info in packed:
                    plain = info.type in (tarfile.REGTYPE, tarfile.AREGTYPE)
                    kind = "file" if plain else "folder" if info.isdir() else "other"
                    yield info.name, kind, info.size, partial(packed.extractfile, info)
            while stream.read(CHUNK):  # to the end, where gzip keeps its checksum
                pass
        else:
            raise UserError(f"'{archive.name}' is no zip, tar or tar.gz")


class _InPieces:
    """A stream that is read in small pieces only: a heading that swells asks for a large one."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream, self.seek, self.tell = stream, stream.seek, stream.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= CHUNK:
            raise UserError("a heading in the archive is larger than any honest one; not unpacked")
        return self.stream.read(size)
