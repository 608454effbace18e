"""CellSeg3D's published weights: fetched once, checked, unpacked without trust, kept in the cache.

No hash is published, so the one received is recorded beside the file and checked at every use.
"""

from __future__ import annotations

import gzip
import http.client
import json
import os
import sys
import tarfile
import tempfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import IO

from wnet_nb.checkpoint import CheckpointError, load_cellseg3d_weights
from wnet_nb.saving import new_file, sha256

PUBLISHED = "published"
URL = "https://huggingface.co/C-Achard/cellseg3d/resolve/main/wnet_latest.tar.gz"
NAME = "wnet_latest.pth"
LARGEST_BYTES = 2**30  # of the archive, and of everything in it; the network has a tenth of it
TIMEOUT_SECONDS = 30
CHUNK = 2**20
GZIP_MAGIC = b"\x1f\x8b"

Progress = Callable[[int, int], None]


def cache_folder() -> Path:
    """Return where this computer keeps what programs have downloaded, in a folder of ours."""
    home = Path.home()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", home / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = home / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    return base / "wnet_nb"


def fetch_published(
    *, url: str = URL, folder: Path | None = None, progress: Progress | None = None
) -> Path:
    """Return the published weights, downloaded if they are not in the cache yet.

    Parameters
    ----------
    url : str
        Address (http or https) of a ``.tar.gz`` that holds ``wnet_latest.pth``.
    folder : Path, optional
        Where to keep them; `cache_folder` if not given.
    progress : callable, optional
        Called with (bytes received, bytes in all or 0 if unknown).

    Returns
    -------
    Path
        A ``.pth`` file that `checkpoint.load_cellseg3d_weights` takes.

    Raises
    ------
    CheckpointError
        If the download fails, is no such archive, or holds anything but such weights; says why.
    """
    folder = Path(folder) if folder else cache_folder()
    path, record = folder / NAME, folder / f"{NAME}.json"
    if path.exists() and record.exists():
        known = json.loads(record.read_text(encoding="utf-8"))
        if known.get("sha256") == sha256(path):
            return path
        raise CheckpointError(
            f"'{path}' has changed since it was received; remove it and try again"
        )
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as scratch:
        archive, weights = Path(scratch) / "archive.tar.gz", Path(scratch) / NAME
        _download(url, archive, progress)
        _unpack(archive, weights, url)
        try:
            load_cellseg3d_weights(weights)
        except CheckpointError as error:
            raise CheckpointError(f"what {url} sent is not usable: {error}") from None
        facts = {
            "url": url,
            "sha256": sha256(weights),
            "archive_sha256": sha256(archive),
            "received": datetime.now().astimezone().isoformat(timespec="seconds"),
        }
        weights.replace(path)
    record.unlink(missing_ok=True)  # left by a fetch that was interrupted right here
    with new_file(record) as partial:
        partial.write_text(json.dumps(facts, indent=2), encoding="utf-8")
    return path


def _download(url: str, target: Path, progress: Progress | None) -> None:
    if not url.startswith(("https://", "http://")):
        raise CheckpointError(f"'{url}' is not an http or https address")
    try:
        with (
            urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as answer,
            target.open("wb") as out,
        ):
            promised = int(answer.headers.get("Content-Length") or 0)
            received = _copy(answer, out, url, promised, progress)
    except (
        urllib.error.URLError,
        http.client.HTTPException,
        TimeoutError,
        ConnectionError,
    ) as error:
        reason = getattr(error, "reason", None) or error
        raise CheckpointError(
            f"the published weights cannot be fetched from {url} ({reason}); check the internet "
            "connection, or download the file with a browser, unpack it, and give the .pth file"
        ) from None
    if received < promised:
        raise CheckpointError(
            f"the download from {url} broke off after {received} of {promised} bytes; try again"
        )


def _copy(source, out: IO[bytes], url: str, promised: int, progress: Progress | None) -> int:
    received = 0
    while chunk := source.read(CHUNK):
        if not received and not chunk.startswith(GZIP_MAGIC):
            what = "a web page" if chunk.lstrip()[:1] == b"<" else "something else"
            raise CheckpointError(
                f"{url} sent {what} in place of the weights; try again later, or download the file "
                "with a browser, unpack it, and give the .pth file"
            )
        received += len(chunk)
        if max(received, promised) > LARGEST_BYTES:
            raise CheckpointError(f"{url} sends more than {LARGEST_BYTES} bytes; it was not loaded")
        out.write(chunk)
        if progress:
            progress(received, promised)
    if not received:
        raise CheckpointError(f"{url} sent an empty file; try again later")
    return received


class _Limited:
    """A stream that refuses to give more than `LARGEST_BYTES`, against archives made to swell."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream, self.left = stream, LARGEST_BYTES

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` bytes."""
        content = self.stream.read(min(size, self.left + 1) if size >= 0 else self.left + 1)
        self.left -= len(content)
        if self.left < 0:
            raise CheckpointError(f"the archive unpacks to more than {LARGEST_BYTES} bytes")
        return content


def _unpack(archive: Path, target: Path, url: str) -> None:
    """Write the one regular file `NAME` of an archive to `target`; no path in it is ever used."""
    try:
        with gzip.open(archive) as stream, tarfile.open(fileobj=_Limited(stream), mode="r|") as tar:
            for member in tar:
                if PurePosixPath(member.name).name == NAME:
                    _check_member(member, url)
                    content = tar.extractfile(member)
                    with target.open("wb") as out:
                        while chunk := content.read(CHUNK):
                            out.write(chunk)
                    return
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise CheckpointError(f"the archive from {url} is damaged ({error}); try again") from None
    raise CheckpointError(f"the archive from {url} holds no {NAME}")


def _check_member(member: tarfile.TarInfo, url: str) -> None:
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts:
        raise CheckpointError(f"the archive from {url} points outside itself; it was not unpacked")
    if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
        raise CheckpointError(f"{NAME} in the archive from {url} is not a plain file")
    if member.size > LARGEST_BYTES:
        raise CheckpointError(f"{NAME} in the archive from {url} has {member.size} bytes: too many")
