"""``report.html``: what a run found and how, on one page to mail or to put into a lab book.

Everything on it is read from the run's folder, so it can be made again at any time. What it says
stands in the template report.html beside this module; here is what the template is filled with.
"""

from __future__ import annotations

import json
import shlex
import warnings
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
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
PRINT_DPI = 150
NEEDED = {"sha256", "file", "path", "shape", "dtype", "voxel_size_um", "voxel_size_source"}
NEEDED |= {"cell_size", "cell_radius_um", "settings", "model", "reason"}


def renew(run: Path) -> Path | None:
    """Write the report of a run; return None if it is no run, or, with a warning, if that fails.

    A full disk or a damaged file must not take the results along that are there.
    """
    if not (run_files.is_run(run) and (run / run_files.HISTORY).exists()):
        return None
    try:
        return write_report(run)
    except (OSError, UserError) as error:
        warnings.warn(f"'{run / run_files.REPORT}' was not written: {error}", stacklevel=2)
        return None


def write_report(run: str | Path) -> Path:
    """Write ``report.html`` from what lies in a run's folder, in place of an older one.

    Raises
    ------
    UserError
        If a file of the run is damaged.
    OSError
        If a file cannot be read, or the report cannot be written.
    """
    run = Path(run)
    record, history = run_files.read_record(run), run_files.read_history(run)
    volumes = group_results(Result.find_all(run), record["options"])
    previews = sorted((run / run_files.PREVIEWS).glob("[!.]*.png"))
    page = _template().render(
        run=run.resolve().name,
        record=record,
        history=history,
        said=" ".join(curves.read_losses(history, Settings(**record["options"]))),
        losses_png=curves.figure_png(curves.plot_losses(history)) if history else None,
        preview_png=previews[-1].read_bytes() if previews else None,
        validation=run_files.read_validation(run),
        volumes=volumes,
        pictured=PICTURED,
        scores=_mean_scores(volumes),
        known=OPTIONS,
        defaults=DEFAULTS,
        begun=DEFAULTS | PRESETS.get(record["preset"] or "published", {}),
        commands=repeat_commands(record, volumes),
        files=_written(run),
        now=datetime.now().astimezone().isoformat(),
    )
    path = run / run_files.REPORT
    write_whole(path, lambda part: part.write_bytes(page.encode("utf-8", "replace")))
    return path


@dataclass(frozen=True)
class VolumeResults:
    """All that was found in one volume, as the template asks for it.

    Attributes
    ----------
    result : Result
        The newest.
    others : list of VolumeResults
        The earlier ones, the newest first.
    options : mapping
        Of the run.
    """

    result: Result
    others: list[VolumeResults]
    options: Mapping[str, Any]

    @property
    def facts(self) -> dict[str, Any]:
        """The content of result.json."""
        return self.result.facts

    @property
    def changed(self) -> list[str]:
        """Options that were given another value than the run had, as option=value."""
        before = self.options
        return [
            f"{name}={option_text(value)}"
            for name, value in self.facts["settings"].items()
            if option_text(value) != option_text(before.get(name))
        ]

    @property
    def model(self) -> str:
        """The network, as far as it says something away from this computer."""
        return "/".join(Path(self.facts["model"]).parts[-2:])

    @cached_property
    def cells(self) -> list[dict[str, Any]]:
        """The rows of cells.csv; none, with a warning, if it cannot be read."""
        try:
            return self.result.cells()
        except UserError as error:
            warnings.warn(f"the report goes without the sizes of cells: {error}", stacklevel=2)
            return []

    @cached_property
    def volumes_um3(self) -> list[float]:
        """Volume of each cell in µm³."""
        return [row["volume_um3"] for row in self.cells]

    @property
    def quartiles_um3(self) -> list[float]:
        """Volume in µm³ that a quarter, a half and three quarters of the cells stay below."""
        return [float(volume) for volume in np.percentile(self.volumes_um3, (25, 50, 75))]

    @property
    def sizes_png(self) -> bytes:
        """Picture of how many cells have which volume."""
        smallest = self.facts["settings"]["minimum_size"]
        smallest *= 4 / 3 * np.pi * self.facts["cell_radius_um"] ** 3
        figure = curves.plot_sizes(self.volumes_um3, smallest)
        figure.set_dpi(PRINT_DPI)
        return curves.figure_png(figure)

    @cached_property
    def scores(self) -> dict[str, Any] | None:
        """Scores with and without the network at an IoU of 0.5; against points, near them."""
        found = self.result.scores
        if found is None:
            return None
        both = [found["scores"], found.get("baseline") or {}]
        of_labels = "rows" in both[0]
        at = [_at_half(one) if of_labels else one for one in both]
        return {
            "of_labels": of_labels,
            "truth": Path(found["truth"]).name,
            "n_true": both[0]["n_true"],
            "dice": found.get("dice"),
            "n_predicted": [one.get("n_predicted") for one in both],
            **{name: [one.get(name) for one in at] for name in ("precision", "recall", "f1")},
        }

    @property
    def scored(self) -> VolumeResults | None:
        """The newest result that was compared with a truth."""
        return next((one for one in (self, *self.others) if one.scores), None)

    def picture(self, name: str) -> bytes | None:
        """Return a picture of the folder; None if it is not there."""
        path = self.result.folder / name
        return path.read_bytes() if path.exists() else None

    def link(self, name: str = "") -> str:
        """Return the address of a file of the folder, as seen from the report."""
        return quote(f"{run_files.PREDICTIONS}/{self.result.folder.name}/{name}")


def group_results(found: Sequence[Result], options: Mapping[str, Any]) -> list[VolumeResults]:
    """Return the results of each volume, the newest with the earlier ones; sorted by name."""
    newest: dict[str, VolumeResults] = {}
    for result in found:  # the newest is last
        if missing := NEEDED - set(result.facts):
            lacks = f"'{result.folder.name}' lacks {', '.join(sorted(missing))}"
            warnings.warn(f"the report goes without a result: {lacks}", stacklevel=2)
            continue
        before = newest.pop(result.facts["sha256"], None)
        others = [before, *before.others] if before else []
        newest[result.facts["sha256"]] = VolumeResults(result, others, options)
    return sorted(newest.values(), key=lambda volume: volume.result.name)


def option_text(value: Any) -> str:
    """Return the value of an option as it is written after ``--set``."""
    if isinstance(value, list | tuple):
        return ",".join(map(option_text, value))
    if isinstance(value, float):
        return f"{value:.15g}"
    return "none" if value is None else value if isinstance(value, str) else json.dumps(value)


def repeat_commands(record: Mapping[str, Any], volumes: Sequence[VolumeResults]) -> list[str]:
    """Return the commands that make the run and its newest results again."""
    inputs = [item["path"] for item in record["inputs"]]
    lines = [f"train {_data(inputs)} --run repeated --settings settings.json"]
    groups: dict[str, list[str]] = {}
    for volume in volumes:
        words = "".join(f" --set {shlex.quote(change)}" for change in volume.changed)
        groups.setdefault(words, []).append(volume.facts["path"])
    lines += [f"segment repeated {_data(images)}{words}" for words, images in groups.items()]
    return [f"python -m wnet_nb {line}" for line in lines]


def times(lengths: Sequence[float]) -> str:
    """Return lengths as text, such as 2 × 0.5 × 0.5."""
    return " × ".join(f"{n}" if isinstance(n, int) else f"{n:.4g}" for n in lengths)


def _data(paths: Sequence[str]) -> str:
    """Return the name of one file, or of the folder of several, and how it is read."""
    path = Path(paths[0]) if len(set(paths)) == 1 else Path(paths[0]).parent
    slices = len(set(paths)) == 1 and path.suffix.lower() not in (".tif", ".tiff")
    return shlex.quote(path.name or ".") + (" --slices" if slices else "")


def _at_half(scores: Mapping[str, Any]) -> Mapping[str, float]:
    return next((row for row in scores.get("rows", ()) if row["threshold"] == 0.5), {})


def _mean_scores(volumes: Sequence[VolumeResults]) -> dict[str, list[float]]:
    """Return, by its name, F1 with and without the network: the mean over the volumes."""
    found = [volume.scored.scores for volume in volumes if volume.scored]
    means = {}
    for name, of_labels in (("F1 at IoU 0.5", True), ("F1 against true points", False)):
        pairs = [one["f1"] for one in found if one["of_labels"] == of_labels]
        if pairs and not any(None in pair for pair in pairs):
            means[name] = [float(mean) for mean in np.mean(pairs, axis=0)]
    return means


def _written(run: Path) -> list[str]:
    """Return the files of a run that are worth a link."""
    tables = (run_files.ALL_CELLS, run_files.ALL_VOLUMES)
    names = [run_files.SETTINGS, run_files.HISTORY, run_files.VALIDATION, run_files.PROGRESS]
    names += [f"{run_files.PREDICTIONS}/{name}" for name in tables]
    return [name for name in (*names, "weights.safetensors") if (run / name).exists()]


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
        "number": lambda number: f"{number:,}",
        "um3": lambda volume: f"{float(f'{volume:.3g}'):,g} µm³",
        "date": lambda moment: moment[:16].replace("T", " at "),
        "data_uri": lambda png: f"data:image/png;base64,{b64encode(png).decode()}",
        "count": lambda n, noun: f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s",
    }
    return environment.get_template("report.html")
