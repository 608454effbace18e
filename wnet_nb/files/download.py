"""Files from the web and from shared Drive links: fetched with limits, over safe addresses only.

Nothing is believed that a server says of a file: content is told by its first bytes, sizes are
counted while they arrive, and a refused file leaves nothing behind.
"""

import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO
from urllib.parse import urljoin, urlsplit

from wnet_nb.errors import UserError
from wnet_nb.whole_file import new_file, sha256

LARGEST_BYTES = 20 * 2**30
TIMEOUT_SECONDS = 30
WAITS_SECONDS = (1, 5)  # before the second and the third attempt
CHUNK = 2**20
KINDS = {
    "zip": (b"PK\x03\x04",),
    "gzip": (b"\x1f\x8b",),
    "tiff": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
}

Progress = Callable[[int, int], None]  # bytes received, and in all or 0 if unknown


def kind_of(path: Path) -> str:
    """Return what the first bytes of a file say it is: a key of `KINDS`, tar, web page or ""."""
    with path.open("rb") as file:
        head = file.read(512)
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
    kinds: Sequence[str] = (),
    largest_bytes: int = LARGEST_BYTES,
    progress: Progress | None = None,
) -> Path:
    """Fetch a file from an https address, a shared Drive link or a Drive id to the new `target`.

    What breaks off is tried again, and goes on where it broke off if the server can do that. Where
    `source` ends in ``#sha256=`` and 64 hexadecimal digits, the file must hash to them. `kinds` are
    what it may be (`kind_of`); any but a web page if empty. UserError if it cannot be had, is
    something else or larger; nothing is kept then.
    """
    source, _, expected = source.strip().partition("#sha256=")
    drive_id = _drive_id(source)
    with new_file(target) as part:
        with part.open("wb") as out:
            received = _Received(out, source, largest_bytes, progress)
            _with_retries(_from_drive if drive_id else _from_web, drive_id or source, received)
        kind = kind_of(part)
        if not received.size:
            raise UserError(f"{source} sent an empty file; try again later")
        if kind == "web page":
            raise UserError(
                f"{source} sent a web page in place of the file: it may not be shared with anyone "
                "who has the link, or too many people fetched it today; open it in a browser, or "
                "try again tomorrow"
            )
        if kinds and kind not in kinds:
            raise UserError(f"{source} sent something else than {' or '.join(kinds)}; check it")
        if expected and sha256(part) != expected.lower():
            raise UserError(
                f"what {source} sent is not the expected file (its SHA-256 is {sha256(part)}); "
                "ask whoever gave you the address"
            )
    return target


class _Received:
    """What has come of a file; it refuses what is too long. gdown takes it for a file."""

    def __init__(self, out: IO[bytes], source: str, largest: int, progress: Progress | None):
        self.out, self.source, self.largest, self.progress = out, source, largest, progress
        self.version = ""  # what the server calls this version of the file
        self.size = self.promised = 0

    def write(self, chunk: bytes) -> int:
        self.size += len(chunk)
        if max(self.size, self.promised) > self.largest:
            raise UserError(f"{self.source} sends more than {self.largest} bytes; it was not kept")
        self.out.write(chunk)
        if self.progress:
            self.progress(self.size, self.promised)
        return len(chunk)

    def flush(self) -> None:
        pass

    def start_again(self) -> None:
        self.out.seek(0)
        self.out.truncate()
        self.size = 0


def _with_retries(fetch: Callable, place: str, received: _Received) -> None:
    import requests

    for wait in (*WAITS_SECONDS, None):
        try:
            return fetch(place, received)
        except requests.RequestException as error:
            refused = error.response is not None and error.response.status_code < 500
            if refused or wait is None:
                raise UserError(
                    f"{received.source} cannot be fetched ({_reason(error)}); check the address "
                    "and the internet connection, and try again"
                ) from None
        time.sleep(wait)


def _from_web(address: str, received: _Received) -> None:
    import requests

    _check_address(address)
    headers = {"Accept-Encoding": "identity"}
    goes_on = received.size > 0 and received.version != ""
    if goes_on:
        headers |= {"Range": f"bytes={received.size}-", "If-Range": received.version}
    options = {"stream": True, "timeout": TIMEOUT_SECONDS, "hooks": {"response": _check_redirect}}
    with requests.get(address, headers=headers, **options) as answer:
        answer.raise_for_status()
        if not goes_on or answer.status_code != 206:  # the whole file, whatever was asked for
            received.start_again()
        version = answer.headers.get("ETag", answer.headers.get("Last-Modified", ""))
        # W/ says that it is alike, not that it is the same.
        received.version = "" if version.startswith("W/") else version
        length = int(answer.headers.get("Content-Length") or 0)
        received.promised = received.size + length if length else 0
        for chunk in answer.iter_content(CHUNK):
            received.write(chunk)
    if received.size < received.promised:
        raise requests.ConnectionError(f"it broke off after {received.size} bytes")


def _check_redirect(answer, **_: object) -> None:
    """Refuse to be led to an unsafe address; requests calls this before it follows."""
    if answer.is_redirect:
        try:
            _check_address(urljoin(answer.url, answer.headers["Location"]))
        except UserError:
            answer.close()
            raise


def _check_address(address: str) -> None:
    """Refuse plain http, which could be changed on its way, unless it stays on this computer."""
    parts = urlsplit(address)
    here = parts.scheme == "http" and parts.hostname in ("127.0.0.1", "localhost", "::1")
    if parts.scheme != "https" and not here:
        raise UserError(f"'{address}' is neither an https address nor a Drive link")


def _drive_id(source: str) -> str | None:
    if re.fullmatch(r"[-\w]{25,}", source):
        return source
    if not re.match(r"https?://(drive|docs)\.google\.com/", source):
        return None
    found = re.search(r"(?:/d/|[?&]id=)([-\w]{10,})", source)
    if not found:
        raise UserError(
            f"{source} is no link to a file: share one file or a zip of the folder, or add the "
            "folder to your own Drive and give its path"
        )
    return found.group(1)


def _from_drive(drive_id: str, received: _Received) -> None:
    import gdown

    # 6.x has a wider error and raises it where 5.x returns None.
    refused = getattr(gdown.exceptions, "DownloadError", gdown.exceptions.FileURLRetrievalError)
    received.start_again()
    try:
        if gdown.download(id=drive_id, output=received, quiet=True, use_cookies=False) is None:
            raise refused("no reason given")
    except (refused, KeyError) as error:
        raise UserError(
            f"Drive does not give {received.source}: share it with anyone who has the link, or, "
            "if too many people fetched it today, add it to your own Drive and give its path "
            f"({_reason(error)})"
        ) from None


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
