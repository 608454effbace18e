"""``report.html``: what a run found and how, on one page to mail or to put into a lab book.

It is made from the run's folder alone; what it says stands in the template beside this module.
"""

import json
import shlex
import warnings
from base64 import b64encode
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from wnet_nb.config import DEFAULTS, OPTIONS, PRESETS, Settings
from wnet_nb.errors import UserError
from wnet_nb.figures import curves
from wnet_nb.files import run_files
from wnet_nb.files.result import Result
from wnet_nb.whole_file import write_whole

PICTURED = 12  # volumes with pictures; more would make a page that no mail takes
BESIDE = 3  # other results of a volume with pictures
NEEDED = {"sha256", "file", "path", "shape", "dtype", "voxel_size_um", "voxel_size_source"}
NEEDED |= {"cell_size", "cell_radius_um", "settings", "model", "reason"}


def renew(run: Path) -> Path | None:
    """Write ``report.html`` from what lies in a run's folder; return None if it is no run.

    A full disk or a damaged file is a warning: it must not take the results along that are there.
    """
    if not (run_files.is_run(run) and (run / run_files.HISTORY).exists()):
        return None
    path = run / run_files.REPORT
    try:
        page = _fill_template(run)
        write_whole(path, lambda part: part.write_bytes(page.encode("utf-8", "replace")))
    except (OSError, UserError) as error:
        warnings.warn(f"'{path}' was not written: {error}", stacklevel=2)
        return None
    return path


def _fill_template(run: Path) -> str:
    record, history = run_files.read_record(run), run_files.read_history(run)
    volumes = _group_results(run, record["options"])
    return _template().render(
        run=run,
        name=run.resolve().name,
        record=record,
        history=history,
        said=" ".join(curves.read_losses(history, Settings(**record["options"]))),
        previews=sorted((run / run_files.PREVIEWS).glob("[!.]*.png")),
        validation=run_files.read_validation(run),
        volumes=volumes,
        pictured=PICTURED,
        beside=BESIDE,
        files=sorted([*run.glob("[!.]*.*"), *(run / run_files.PREDICTIONS).glob("*.csv")]),
        known=OPTIONS,
        defaults=DEFAULTS,
        begun=DEFAULTS | PRESETS.get(record["preset"] or "published", {}),
        commands=_repeat_commands(record, volumes),
        now=datetime.now().astimezone().isoformat(),
    )


def _group_results(run: Path, options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what the template asks for of the newest result of each volume, by name.

    `others` of a volume are its earlier ones. `options` are those of the training.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for result in reversed(Result.find_all(run)):  # the newest was last
        facts = result.facts
        if missing := NEEDED - set(facts):
            lacks = f"'{result.folder}' lacks {', '.join(sorted(missing))}"
            warnings.warn(f"the report goes without a result: {lacks}", stacklevel=2)
            continue
        one = {
            "result": result,
            "facts": facts,
            "scores": _read_scores(result),
            "where": f"{run_files.PREDICTIONS}/{result.folder.name}/",
            "changed": _differences(facts["settings"], options),
        }
        groups.setdefault(facts["sha256"], []).append(one)
    volumes = []
    for first, *others in groups.values():
        for one in others:
            one["differs"] = _differences(one["facts"]["settings"], first["facts"]["settings"])
        scores = (one["scores"] for one in (first, *others))
        first |= {"others": others, "scored": next(filter(None, scores), None)}
        volumes.append(first | _measure(first))
    return sorted(volumes, key=lambda volume: volume["facts"]["name"])


def _measure(volume: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sizes of a result's cells; nothing, with a warning, if they cannot be read."""
    try:
        cells = volume["result"].cells()
    except UserError as error:
        warnings.warn(f"the report goes without the sizes of cells: {error}", stacklevel=2)
        cells = []
    if not cells:
        return {"cells": [], "sizes_png": b""}
    sizes, facts = [row["volume_um3"] for row in cells], volume["facts"]
    ball_um3 = 4 / 3 * np.pi * facts["cell_radius_um"] ** 3
    figure = curves.plot_sizes(sizes, facts["settings"]["minimum_size"] * ball_um3)
    quartiles = [float(size) for size in np.percentile(sizes, (25, 50, 75))]
    return {"cells": cells, "quartiles_um3": quartiles, "sizes_png": curves.figure_png(figure)}


def _read_scores(result: Result) -> dict[str, Any] | None:
    """Return scores with and without the network at an IoU of 0.5; against points, near them."""
    found = result.scores
    if found is None:
        return None
    both = []
    for one in (found["scores"], found.get("baseline") or {}):
        half = [row for row in one.get("rows", ()) if row["threshold"] == 0.5]
        both.append(one | (half[0] if half else {}))
    names = ("n_predicted", "precision", "recall", "f1")
    return {
        "of_labels": "rows" in found["scores"],
        "truth": Path(found["truth"]).name,
        "n_true": found["scores"]["n_true"],
        "dice": found.get("dice"),
        **{name: [one.get(name) for one in both] for name in names},
    }


def _differences(options: Mapping[str, Any], others: Mapping[str, Any]) -> list[str]:
    """Return the options that have another value elsewhere, as option=value."""
    texts = {name: option_text(value) for name, value in options.items()}
    differing = [name for name in texts if texts[name] != option_text(others.get(name))]
    return [f"{name}={texts[name]}" for name in differing]


def option_text(value: Any) -> str:
    """Return the value of an option as it is written after ``--set``."""
    if isinstance(value, list | tuple):
        return ",".join(map(option_text, value))
    if isinstance(value, float):
        return f"{value:.15g}"
    return "none" if value is None else value if isinstance(value, str) else json.dumps(value)


def _repeat_commands(record: Mapping[str, Any], volumes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the commands that make the run and its newest results again."""
    inputs = [item["path"] for item in record["inputs"]]
    lines = [f"train {_data(inputs)} --run repeated --settings settings.json"]
    groups: dict[str, list[str]] = {}
    for volume in volumes:
        words = "".join(f" --set {shlex.quote(change)}" for change in volume["changed"])
        groups.setdefault(words, []).append(volume["facts"]["path"])
    lines += [f"segment repeated {_data(images)}{words}" for words, images in groups.items()]
    return [f"python -m wnet_nb {line}" for line in lines]


def _data(paths: Sequence[str]) -> str:
    """Return the name of one file, or of the folder of several, and how it is read."""
    path = Path(paths[0]) if len(set(paths)) == 1 else Path(paths[0]).parent
    slices = len(set(paths)) == 1 and path.suffix.lower() not in (".tif", ".tiff")
    return shlex.quote(path.name or ".") + (" --slices" if slices else "")


def times(lengths: Sequence[float]) -> str:
    """Return lengths as text, such as 2 × 0.5 × 0.5."""
    return " × ".join(f"{n}" if isinstance(n, int) else f"{n:.4g}" for n in lengths)


def _data_uri(png: bytes | Path) -> str:
    """Return a picture, or a file of one if it is there, as an address; "" without."""
    if isinstance(png, Path):
        png = png.read_bytes() if png.exists() else b""
    return f"data:image/png;base64,{b64encode(png).decode()}" if png else ""


def _template() -> Any:
    """Return the template; whatever is put into it is escaped, as names come from anywhere."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "times": times,
        "option": option_text,
        "data_uri": _data_uri,
        "losses": lambda rows: curves.figure_png(curves.plot_losses(rows)) if rows else b"",
        "link": quote,
        "short": lambda path: "/".join(Path(path).parts[-2:]),  # what says something elsewhere
        "number": lambda number: f"{number:,}",
        "um3": lambda volume: f"{float(f'{volume:.3g}'):,g} µm³",
        "date": lambda moment: moment[:16].replace("T", " at "),
        "count": lambda n, noun: f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s",
    }
    return environment.get_template("report.html")
