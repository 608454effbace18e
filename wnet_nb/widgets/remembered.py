"""What was filled in last, in a small file in the user's folder: it stays after a restart."""

import contextlib
import json
from pathlib import Path
from typing import Any

from wnet_nb.whole_file import write_whole

FILE = "wnet_nb_last_used.json"


def recall(part: str, given: Any) -> dict[str, Any]:
    """Return what was filled in at a part of the notebook, such as ``data``.

    Nothing if the cell said something else then than `given`, a JSON value: where somebody edits
    the cell, that holds.
    """
    kept = _read().get(part, {})
    same = isinstance(kept, dict) and kept.get("given") == json.loads(json.dumps(given))
    return kept.get("values", {}) if same else {}


def keep(part: str, given: Any, values: dict[str, Any]) -> None:
    """Keep what is filled in; where the folder cannot be written, it is lost with the kernel."""
    content = _read() | {part: {"given": given, "values": values}}
    text = json.dumps(content, indent=2)
    with contextlib.suppress(OSError):
        write_whole(Path(FILE), lambda file: file.write_text(text, encoding="utf-8"))


def forget() -> None:
    """Begin anew: nothing counts as filled in."""
    with contextlib.suppress(OSError):
        Path(FILE).unlink(missing_ok=True)


def _read() -> dict[str, Any]:
    try:
        content = json.loads(Path(FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none yet, or not ours: then nothing was filled in
        return {}
    return content if isinstance(content, dict) else {}
