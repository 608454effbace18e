"""CellSeg3D's published weights: fetched once, and checked at every use.

No hash of them is published, so the one received is recorded.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from datetime import datetime
from pathlib import Path

from wnet_nb.checkpoint import load_cellseg3d_weights
from wnet_nb.errors import UserError
from wnet_nb.files.download import Progress, download, unpack
from wnet_nb.whole_file import sha256, write_whole

PUBLISHED = "published"
PUBLISHED_URL = "https://huggingface.co/C-Achard/cellseg3d/resolve/main/wnet_latest.tar.gz"
PUBLISHED_FILE = "wnet_latest.pth"
LARGEST_BYTES = 2**30  # of the archive, and of everything in it; the network has a tenth of it


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
    *, url: str = PUBLISHED_URL, folder: Path | None = None, progress: Progress | None = None
) -> Path:
    """Return the published weights, downloaded if they are not in the cache yet.

    Parameters
    ----------
    url : str
        Address (http or https) of a ``.tar.gz`` that holds ``wnet_latest.pth``, which is returned.
    folder : Path, optional
        Where to keep them; `cache_folder` if not given.
    progress : callable, optional
        Called with (bytes received, bytes in all or 0 if unknown).

    Raises
    ------
    UserError
        If the download fails, is no such archive, or holds anything but such weights; says why.
    """
    folder = Path(folder) if folder else cache_folder()
    path, record = folder / PUBLISHED_FILE, folder / f"{PUBLISHED_FILE}.json"
    if path.exists() and record.exists():
        known = json.loads(record.read_text(encoding="utf-8"))
        if known.get("sha256") == sha256(path):
            return path
        raise UserError(f"'{path}' has changed since it was received; remove it and try again")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as scratch:
        archive = Path(scratch) / "archive.tar.gz"
        try:
            weights = _receive(url, archive, progress)
            load_cellseg3d_weights(weights)
        except UserError as error:
            raise UserError(
                f"no usable weights came from {url}: {error} (you can also download the file with "
                "a browser, unpack it, and give the .pth file)"
            ) from None
        facts = {
            "url": url,
            "sha256": sha256(weights),
            "archive_sha256": sha256(archive),
            "received": datetime.now().astimezone().isoformat(timespec="seconds"),
        }
        weights.replace(path)
    text = json.dumps(facts, indent=2)
    write_whole(record, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return path


def _receive(url: str, archive: Path, progress: Progress | None) -> Path:
    download(url, archive, kinds=("gzip",), largest_bytes=LARGEST_BYTES, progress=progress)
    found = unpack(
        archive, archive.parent / "content", only=PUBLISHED_FILE, largest_bytes=LARGEST_BYTES
    )
    if len(found) != 1:
        raise UserError(f"the archive holds no {PUBLISHED_FILE}, or more than one")
    return found[0]
