"""CellSeg3D's published weights: fetched once into the cache, and checked at every use.

No hash of them is published, so the one of the first receipt is recorded and holds from then on.
"""

import tempfile
from pathlib import Path

from wnet_nb.checkpoint import load_checkpoint
from wnet_nb.errors import UserError
from wnet_nb.files.archives import unpack
from wnet_nb.files.download import Progress, download
from wnet_nb.whole_file import sha256, write_whole

PUBLISHED = "published"
PUBLISHED_URL = "https://huggingface.co/C-Achard/cellseg3d/resolve/main/wnet_latest.tar.gz"
PUBLISHED_FILE = "wnet_latest.pth"
LARGEST_BYTES = 2**30  # of the archive, and of everything in it; the network has a tenth of it


def fetch_published(
    *, url: str = PUBLISHED_URL, folder: Path | None = None, progress: Progress | None = None
) -> Path:
    """Return the path of the weights, downloaded if they are not in the cache as first received.

    `url` leads to a ``.tar.gz`` that holds ``wnet_latest.pth``; it is kept in `folder`, by default
    ours in pooch's cache. UserError if that fails, or it holds anything but such weights.
    """
    import pooch

    folder = folder or pooch.os_cache("wnet_nb")
    record = folder / f"{PUBLISHED_FILE}.sha256"
    known = record.read_text(encoding="ascii").strip() if record.exists() else None
    if known is None:  # nobody vouches for a file without a record
        (folder / PUBLISHED_FILE).unlink(missing_ok=True)

    def receive(address: str, output_file: str, _: object) -> None:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as scratch:
            archive = Path(scratch) / "archive.tar.gz"
            download(url, archive, kinds=("gzip",), largest_bytes=LARGEST_BYTES, progress=progress)
            files = unpack(archive, Path(scratch) / "content", largest_bytes=LARGEST_BYTES)
            found = [file for file in files if file.name == PUBLISHED_FILE]
            if len(found) != 1:
                raise UserError(f"the archive holds no {PUBLISHED_FILE}, or more than one")
            load_checkpoint(found[0])
            found[0].replace(output_file)

    pooch.get_logger().setLevel("WARNING")
    try:
        path = Path(pooch.retrieve(url, known, PUBLISHED_FILE, folder, downloader=receive))
    except ValueError as error:  # ours, or pooch's for another hash
        raise UserError(
            f"no usable weights came from {url}: {error} (you can also download the file with a "
            "browser, unpack it, and give the .pth file)"
        ) from None
    if known is None:
        text = sha256(path)
        write_whole(record, lambda part: part.write_text(text, encoding="ascii"))
    return path
