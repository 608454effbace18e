"""Files that are whole or not there: written under a hidden name, then renamed."""

import contextlib
import hashlib
import json
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from wnet_nb.errors import UserError


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Call ``write(temporary)`` and move the result to `path` once it is whole and on disk."""
    temporary = path.with_name(f".{path.name}.part")
    try:
        write(temporary)
        with temporary.open("r+b") as file:  # Windows syncs only what may be written
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON values, whole, in place of an earlier file."""
    words = json.dumps(content, indent=2, ensure_ascii=False)
    write_whole(path, lambda part: part.write_text(words, encoding="utf-8"))


@contextlib.contextmanager
def new_file(path: str | Path) -> Iterator[Path]:
    """Give a hidden name to write a new file to, and rename it when it is complete.

    Missing folders are made. UserError if the file exists, before or after the writing.
    """
    path = Path(path)
    refusal = f"'{path}' exists and is never overwritten; choose another name or move it away"
    if os.path.lexists(path):
        raise UserError(refusal)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        yield partial
        try:
            os.link(partial, path)  # unlike a rename, it never replaces a file
        except FileExistsError as error:
            raise UserError(refusal) from error
        except OSError as error:  # no hard links on this file system (Drive, exFAT)
            if os.path.lexists(path):
                raise UserError(refusal) from error
            partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)


def free_name(path: Path) -> Path:
    """Return the path, or the first of PATH-2, PATH-3 and so on that does not exist."""
    found, number = path, 1
    while found.exists():
        number += 1
        found = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return found


def sha256(path: str | Path) -> str:
    """Give the SHA-256 of a file, 64 hexadecimal digits; UserError if it cannot be read."""
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"'{path}' cannot be read ({error}); check the path") from error
