"""Files from the web and from shared Drive links: fetched with limits and unpacked without trust.

Nothing is believed that a server or an archive says of itself: content is told by its first bytes,
sizes are counted while they arrive, and a refused file leaves nothing behind.
"""

from __future__ import annotations

import gzip
import http.client
import re
import shutil
import stat
import tarfile
import tempfile
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PureWindowsPath
from typing import IO

from wnet_nb.errors import UserError
from wnet_nb.whole_file import new_file, sha256

LARGEST_BYTES = 20 * 2**30  # of a download, and of everything in an archive
MOST_FILES = 10_000  # in an archive
TIMEOUT_SECONDS = 30
CHUNK = 2**20
KINDS = {
    "zip": (b"PK\x03\x04",),
    "gzip": (b"\x1f\x8b",),
    "tiff": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
}
DAMAGE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError)
DRIVE_HOSTS = r"https?://(drive|docs)\.google\.com/"

Progress = Callable[[int, int], None]


def kind_of(head: bytes) -> str:
    """Return what the first bytes of a file say it is, a key of `KINDS`, tar, web page or ""."""
    for kind, beginnings in KINDS.items():
        if head.startswith(beginnings):
            return kind
    if head[257:262] == b"ustar":
        return "tar"
    return "web page" if head.lstrip()[:1] == b"<" else ""


def download(
    source: str,
    target: Path,
    *,
    kinds: tuple[str, ...] = (),
    largest_bytes: int = LARGEST_BYTES,
    progress: Progress | None = None,
) -> Path:
    """Fetch a file from a web address, a shared Drive link or a Drive id.

    Parameters
    ----------
    source : str
        http or https address; Drive links go through gdown, as Drive asks questions in between.
        With ``#sha256=`` and 64 hexadecimal digits at its end, the file must hash to them.
    target : Path
        The new file; it appears when it is whole.
    kinds : tuple of str
        What it may be, of `kind_of`; any but a web page if empty.
    largest_bytes : int
        More is refused.
    progress : callable, optional
        Called with (bytes received, bytes in all or 0 if unknown).

    Raises
    ------
    UserError
        If it cannot be had or is something else; nothing is kept then.
    """
    source, _, expected = source.strip().partition("#sha256=")
    with new_file(target) as received:
        with received.open("wb") as out:
            sink = _Sink(out, source, kinds, largest_bytes, progress)
            drive_id = _drive_id(source)
            if drive_id:
                _from_drive(drive_id, source, sink)
            else:
                _from_web(source, sink)
        if not sink.received:
            raise UserError(f"{source} sent an empty file; try again later")
        if expected and sha256(received) != expected.lower():
            raise UserError(
                f"what {source} sent is not the expected file (its SHA-256 is {sha256(received)}); "
                "ask whoever gave you the address"
            )
    return target


class _Sink:
    """The file that is being received; it refuses what is too long or of the wrong kind."""

    def __init__(self, out: IO[bytes], source, kinds, largest_bytes, progress) -> None:
        self.out, self.source, self.kinds = out, source, kinds
        self.largest, self.progress = largest_bytes, progress
        self.received = self.promised = 0

    def write(self, chunk: bytes) -> int:
        """Take the next part; the first one shows what the file is."""
        first = chunk and not self.received
        kind = kind_of(chunk) if first else ""
        if kind == "web page":
            raise UserError(
                f"{self.source} sent a web page in place of the file: it may not be shared with "
                "anyone who has the link, or too many people fetched it today; open it in a "
                "browser, or try again tomorrow"
            )
        if first and self.kinds and kind not in self.kinds:
            raise UserError(
                f"{self.source} sent something else than {' or '.join(self.kinds)}; check the link"
            )
        self.received += len(chunk)
        if max(self.received, self.promised) > self.largest:
            raise UserError(f"{self.source} sends more than {self.largest} bytes; it was not kept")
        self.out.write(chunk)
        if self.progress:
            self.progress(self.received, self.promised)
        return len(chunk)

    def flush(self) -> None:
        """Do nothing; gdown may ask for it."""


def _drive_id(source: str) -> str | None:
    if re.fullmatch(r"[-\w]{25,}", source):
        return source
    if not re.match(DRIVE_HOSTS, source):
        return None
    if "/folders/" in source:
        raise UserError(
            f"{source} is a folder: share one file or a zip of the folder, or add the folder to "
            "your own Drive and give its path"
        )
    found = re.search(r"(?:/d/|[?&]id=)([-\w]{10,})", source)
    if not found:
        raise UserError(f"{source} names no file; copy the link from Drive's Share > Copy link")
    return found.group(1)


def _from_drive(drive_id: str, source: str, sink: _Sink) -> None:
    import gdown

    refused = gdown.exceptions.FileURLRetrievalError
    refused = getattr(gdown.exceptions, "DownloadError", refused)  # 6.x has a wider one
    done, reason = None, "gdown gave no reason"  # 5.x returns None where 6.x raises
    try:
        done = gdown.download(id=drive_id, output=sink, quiet=True, use_cookies=False)
    except (refused, OSError, KeyError) as error:
        reason = _reason(error)
    if done is None:
        raise UserError(
            f"Drive does not give {source}: share it with anyone who has the link, or, if too many "
            f"people fetched it today, add it to your own Drive and give its path ({reason})"
        )


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__


def _from_web(source: str, sink: _Sink) -> None:
    if not source.startswith(("https://", "http://")):
        raise UserError(f"'{source}' is not an http or https address, nor a Drive link")
    try:
        with urllib.request.urlopen(source, timeout=TIMEOUT_SECONDS) as answer:
            sink.promised = int(answer.headers.get("Content-Length") or 0)
            while chunk := answer.read(CHUNK):
                sink.write(chunk)
    except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
        reason = getattr(error, "reason", None) or error
        raise UserError(
            f"{source} cannot be fetched ({reason}); check the address and the internet connection"
        ) from None
    if sink.received < sink.promised:
        raise UserError(
            f"the download from {source} broke off after {sink.received} of {sink.promised} bytes; "
            "try again"
        )


def unpack(
    archive: Path,
    folder: Path,
    *,
    only: str | None = None,
    largest_bytes: int = LARGEST_BYTES,
    most_files: int = MOST_FILES,
) -> list[Path]:
    """Unpack a zip, tar or tar.gz into a new folder: plain files only, all inside it.

    What kind the archive is, its content says and not its name. The folder appears when everything
    is in it. With `only`, files of that name are taken and everything else is left aside.

    Raises
    ------
    UserError
        If the archive is damaged, hostile or holds more than is allowed; nothing of it is kept.
    """
    if folder.exists():
        raise UserError(f"'{folder}' exists; nothing is unpacked over it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    what, size, names = f"the archive '{archive.name}'", 0, []
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".unpack-") as scratch:
        inside = Path(scratch) / "content"
        inside.mkdir()
        try:
            for name, kind, member_size, open_member in _members(archive, largest_bytes):
                path = PureWindowsPath(name)  # takes / and \ alike, and knows C:
                size += member_size
                if size > largest_bytes:
                    raise UserError(f"{what} unpacks to more than {largest_bytes} bytes")
                if "__MACOSX" in path.parts or (only and path.name != only):
                    continue
                if path.drive or path.root or ".." in path.parts:
                    raise UserError(f"{what} points outside itself; it was not unpacked")
                if kind == "folder" and not only:
                    continue
                if kind != "file":
                    raise UserError(f"'{path.name}' in {what} is not a plain file; not unpacked")
                if len(names) >= most_files:
                    raise UserError(f"{what} holds more than {most_files} files")
                names.append(Path(*path.parts))
                target = inside / names[-1]
                target.parent.mkdir(parents=True, exist_ok=True)
                with open_member() as content, target.open("xb") as out:
                    shutil.copyfileobj(content, out, CHUNK)
        except UserError:
            raise
        except DAMAGE as error:
            raise UserError(f"{what} is damaged ({_reason(error)}); fetch it again") from None
        except (RuntimeError, NotImplementedError):  # as zipfile says it
            raise UserError(
                f"{what} has a password or is packed in an unusual way; make a plain zip"
            ) from None
        inside.rename(folder)
    return [folder / name for name in names]


def _members(
    archive: Path, largest_bytes: int
) -> Iterator[tuple[str, str, int, Callable[[], IO[bytes]]]]:
    """Yield name, kind (file, folder or other), size, and what opens no more than that size."""
    with archive.open("rb") as file:
        kind = kind_of(file.read(512))
        file.seek(0)
        if kind == "zip":
            with zipfile.ZipFile(file) as packed:
                for info in packed.infolist():
                    form = stat.S_IFMT(info.external_attr >> 16)
                    kind = "file" if form in (0, stat.S_IFREG) else "other"
                    kind = "folder" if info.is_dir() else kind
                    yield info.filename, kind, info.file_size, partial(packed.open, info)
        elif kind in ("gzip", "tar"):
            stream = _Limited(gzip.open(file) if kind == "gzip" else file, largest_bytes)
            with tarfile.open(fileobj=stream, mode="r|") as packed:
                for info in packed:
                    plain = info.type in (tarfile.REGTYPE, tarfile.AREGTYPE)
                    kind = "file" if plain else "folder" if info.isdir() else "other"
                    yield info.name, kind, info.size, partial(packed.extractfile, info)
            while stream.read(CHUNK):  # to the end, where gzip keeps its checksum
                pass
        else:
            raise UserError(f"'{archive.name}' is no zip, tar or tar.gz")


class _Limited:
    """A stream that gives no more than it should, for the headings of a tar are not its members."""

    def __init__(self, stream: IO[bytes], largest_bytes: int) -> None:
        self.stream, self.left = stream, largest_bytes + 10 * CHUNK

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes."""
        content = self.stream.read(size)
        self.left -= len(content)
        if self.left < 0:
            raise UserError("the archive unpacks to more than is allowed; it was not unpacked")
        return content
