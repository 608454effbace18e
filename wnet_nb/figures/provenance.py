"""How a run was made, as parts of its report: data, options, versions, repeating, citing."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wnet_nb.config import DEFAULTS, OPTIONS, PRESETS
from wnet_nb.figures.page import Html, facts, put, table, tag

CITATIONS = (
    "Xia X, Kulis B. W-Net: A Deep Model for Fully Unsupervised Image Segmentation. "
    "arXiv:1711.08506 (2017).",
    "Achard C, Kousi T, Frey M, Vidal M, Paychere Y, Hofmann C, Iqbal A, Hausmann SB, Pagès S, "
    "Mathis MW. CellSeg3D, self-supervised 3D cell segmentation for fluorescence microscopy. eLife "
    "13:RP99848 (2024), doi:10.7554/eLife.99848.",
    "von Chamier L, Laine RF, Jukkala J, et al. Democratising deep learning for microscopy with "
    "ZeroCostDL4Mic. Nature Communications 12:2276 (2021).",
)
SOURCES = {
    "metadata": "as stated in the file",
    "option": "as given by the user",
    "assumed": "ASSUMED: the file does not state it",
}


def describe_voxel_size(volume: Mapping[str, Any]) -> Html:
    """Return the voxel size of a volume and where it comes from; loudly if nobody knows it."""
    source = volume["voxel_size_source"]
    words = f"{times(volume['voxel_size_um'])} µm (z, y, x), {SOURCES[source]}"
    return tag("b" if source == "assumed" else "span", words)


def fingerprint(volume: Mapping[str, Any]) -> Html:
    """Return the beginning of a file's hash; the mouse brings up all of it."""
    return tag("code", f"{volume['sha256'][:12]}…", title=volume["sha256"])


def times(lengths: Sequence[float]) -> str:
    """Return lengths as text, such as 2 × 0.5 × 0.5."""
    return " × ".join(f"{n}" if isinstance(n, int) else f"{n:.4g}" for n in lengths)


def describe_making(record: Mapping[str, Any]) -> Html:
    """Return data, options, network and versions.

    Parameters
    ----------
    record : mapping
        From `runs.read_record`.
    """
    heading = ("file", "voxels (z, y, x)", "number type", "voxel size", "fingerprint")
    data = [
        (
            item["file"],
            times(item["shape"]),
            item["dtype"],
            describe_voxel_size(item),
            fingerprint(item),
        )
        for item in record["inputs"]
    ]
    rows = [
        ("Network", f"WNet3D with {record['parameters']:,} weights, trained on patches (pieces) of "
         f"{times(record['patch_shape'])} voxels"),
        ("Computed on", f"{record['device']}, numbers as {record['precision']}"),
        ("Random numbers", f"seed {record['seed']}; the same seed gives the same numbers again"),
        ("Versions", ", ".join(f"{name} {number}" for name, number in record["versions"].items())),
    ]  # fmt: skip
    note = (
        "The fingerprint (SHA-256) changes if a single value of a file does; settings.json has it "
        "in full."
    )
    return put(
        tag("h2", "How it was done"),
        tag("h3", "Data the network was trained on"),
        table(heading, data),
        tag("p", note, kind="note"),
        tag("h3", "Options"),
        _options(record),
        tag("h3", "Network and computer"),
        facts(rows),
    )


def _options(record: Mapping[str, Any]) -> Html:
    """Return the options that differ from the defaults, or from the preset that was begun with."""
    options, preset = record["options"], record["preset"] or "published"
    begun = DEFAULTS | PRESETS[preset]
    rows = []
    for name, option in OPTIONS.items():
        value, default, before = (_text(values[name]) for values in (options, DEFAULTS, begun))
        if not value == default == before:
            unit = f" ({option.unit})" if option.unit else ""
            shown = tag("b" if PRESETS[preset] and value != before else "span", value)
            rows.append((tag("code", name), shown, default, option.help.rstrip(".") + unit))
    if not rows:
        return tag("p", "All have their defaults, which are those of CellSeg3D.")
    told = "These differ from the defaults, which are those of CellSeg3D."
    if PRESETS[preset]:
        told += f" The training used the preset {preset}; in bold, what differs from it."
    return put(tag("p", told), table(("option", "this run", "default", "what it is"), rows))


def changed_options(now: Mapping[str, Any], before: Mapping[str, Any]) -> list[str]:
    """Return the options that were given another value afterwards, as option=value."""
    return [f"{k}={_text(v)}" for k, v in now.items() if _text(v) != _text(before[k])]


def _text(value: Any) -> str:
    """Return the value of an option as it is written after ``--set``."""
    if isinstance(value, list | tuple):
        return ",".join(map(_text, value))
    if isinstance(value, float):
        return f"{value:.15g}"
    return "none" if value is None else value if isinstance(value, str) else json.dumps(value)


def describe_repeating(
    record: Mapping[str, Any], history: Sequence[Mapping[str, Any]], results: Sequence[Mapping]
) -> Html:
    """Return the commands that make the run again.

    Parameters
    ----------
    record : mapping
        From `runs.read_record`.
    history : sequence of mapping
        Rows of ``history.csv``.
    results : sequence of mapping
        Contents of result.json.
    """
    inputs = [item["path"] for item in record["inputs"]]
    lines = [f"train {_data(inputs)} --run repeated --settings settings.json"]
    groups: dict[str, list[str]] = {}
    for result in results:
        changes = changed_options(result["settings"], record["options"])
        words = "".join(f" --set {shlex.quote(change)}" for change in changes)
        groups.setdefault(words, []).append(result["path"])
    lines += [f"segment repeated {_data(images)}{words}" for words, images in groups.items()]
    commands = "\n".join(f"python -m wnet_nb {line}" for line in lines)
    words = "With the same versions, on the same kind of computer, every number comes out again."
    if any(row["changes"] for row in history):
        words += " But for this: options were changed by hand during the training (see there)."
    return put(
        tag("h2", "How to repeat it"),
        tag("p", "With the files above and settings.json, which lies beside this page:"),
        tag("pre", commands),
        tag("p", words),
    )


def _data(paths: Sequence[str]) -> str:
    """Return the name of one file, or of the folder of several, and how it is read."""
    path = Path(paths[0]) if len(set(paths)) == 1 else Path(paths[0]).parent
    slices = len(set(paths)) == 1 and path.suffix.lower() not in (".tif", ".tiff")
    return shlex.quote(path.name or ".") + (" --slices" if slices else "")


def describe_citing(record: Mapping[str, Any]) -> Html:
    """Return what to cite."""
    ours = f"and say that it was wnet_nb {record['versions']['wnet_nb']}."
    return put(
        tag("h2", "How to cite"),
        tag("p", "If you publish these results, please cite the methods they stand on,"),
        tag("ul", *(tag("li", citation) for citation in CITATIONS)),
        tag("p", ours),
    )
