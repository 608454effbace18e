"""``report.html``: what a run found and how, on one page to mail or to put into a lab book.

Everything on it is read from the run's folder, so it can be made again at any time; it is written
as a whole after a training, after cells were looked for, and after they were scored.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from wnet_nb.config import from_mapping
from wnet_nb.figures import advice, findings, plots, provenance
from wnet_nb.figures.page import Html, date, page, picture, put, table, tag
from wnet_nb.files import run_files
from wnet_nb.files.result import Result
from wnet_nb.whole_file import write_whole

PICTURED = 12  # volumes with pictures; more would make a page that no mail takes
Record, History = dict[str, Any], list[dict[str, Any]]


def renew(run: Path) -> Path | None:
    """Write the report of a run; return None if it is no run, or, with a warning, if that fails.

    A full disk or a damaged file must not take the results along that are there.
    """
    if not ((run / run_files.SETTINGS).exists() and (run / run_files.HISTORY).exists()):
        return None
    try:
        return write_report(run)
    except (OSError, ValueError) as error:
        warnings.warn(f"'{run / run_files.REPORT}' was not written: {error}", stacklevel=2)
        return None


def write_report(run: str | Path) -> Path:
    """Write ``report.html`` from what lies in a run's folder, in place of an older one.

    Raises
    ------
    ValueError
        If a file of the run is damaged.
    OSError
        If a file cannot be read, or the report cannot be written.
    """
    run = Path(run)
    record, history = run_files.read_record(run), run_files.read_history(run)
    found = Result.find_all(run)
    newest = {cells.facts["sha256"]: cells for cells in found}  # of each volume
    shown = sorted(newest.values(), key=lambda cells: cells.facts["name"])
    title = f"Cells in 3D: {run.resolve().name}"
    now = datetime.now().astimezone().isoformat()
    dates = f"Trained on {date(record['started'])}. This page was written on {date(now)}."
    words = page(
        title,
        tag("h1", title),
        tag("p", dates, kind="note"),
        _summary(record, history, shown),
        _alarm(record, shown),
        findings.overview(shown) if len(shown) > 1 else "",
        *(
            findings.describe_found(cells, record["options"], pictured=n < PICTURED)
            for n, cells in enumerate(shown)
        ),
        findings.describe_earlier([cells for cells in found if cells not in shown]),
        _training(run, record, history),
        provenance.describe_making(record),
        provenance.describe_repeating(record, history, [cells.facts for cells in shown]),
        provenance.describe_citing(record),
    )
    write_whole(
        run / run_files.REPORT, lambda part: part.write_bytes(words.encode("utf-8", "replace"))
    )
    return run / run_files.REPORT


def _summary(record: Record, history: History, shown: Sequence[Result]) -> Html:
    found: Any = "No cells have been looked for yet."
    if shown:
        network, classical = (
            sum(cells.facts[key] for cells in shown) for key in ("count", "baseline_count")
        )
        found = put(
            "The network found ",
            tag("b", f"{network:,} cells"),
            f" in {_count(len(shown), 'volume')}; the classical method, a threshold at the same "
            f"cell size, found {classical:,}. Neither number is the truth: compare the outlines "
            "below.",
            findings.sum_up_scores(shown),
        )
    files = [item["file"] for item in record["inputs"]]
    files = files[0] if len(files) == 1 else f"{len(files)} volumes"
    taught = f" The network, WNet3D, learned from {files} without any labels. From its loss "
    taught += "curves, explained under Training: "
    curves = " ".join(advice.read_losses(history, from_mapping(record["options"])))
    return tag("p", found, taught, curves, kind="lead")


def _alarm(record: Record, shown: Sequence[Result]) -> Html:
    """Say loudly of which volumes nobody knows the voxel size."""
    facts = [cells.facts for cells in shown] or record["inputs"]
    names = [one["name"] for one in facts if one["voxel_size_source"] == "assumed"]
    if not names:
        return Html()
    return tag(
        "p",
        tag("b", "Sizes in µm may be wrong. "),
        f"The voxel size of {', '.join(names)} is not fully stated in the file and was "
        "assumed. Look it up at the microscope, and train and segment again with ",
        tag("code", "--set voxel_size_um=z,y,x"),
        ".",
        kind="alarm",
    )


def _training(run: Path, record: Record, history: History) -> Html:
    epochs, minutes = record["options"]["epochs"], sum(row["seconds"] for row in history) / 60
    told = f"{len(history)} of {_count(epochs, 'epoch')} took {minutes:.1f} minutes."
    if len(history) < epochs:
        told += " The training was stopped before its end."
    told += " An epoch is one round through the patches, small pieces that are cut from the images."
    words = [tag("h2", "Training"), tag("p", told)]
    if history:
        worst = record["options"]["n_classes"] - 1
        caption = (
            f"Soft N-cut: how badly the classes separate bright from dark, near from far; 0 is "
            f"best, {worst} is no separation at all. Reconstruction: how far the image that is "
            "rebuilt from the classes is from the real one. The network lowers the weighted total."
        )
        words.append(picture(plots.figure_png(plots.plot_losses(history)), caption))
    changes = [(row["epoch"], row["changes"]) for row in history if row["changes"]]
    if changes:
        words += [tag("h3", "Options changed by hand while it trained")]
        words += [table(("epoch", "from which step, and what"), changes)]
    if validation := run_files.read_validation(run):
        epoch, dice = validation[-1]
        words.append(
            tag("p", f"Against the labels that were given, and never trained on, the Dice overlap "
                f"was {dice:.2f} after epoch {epoch} (1 = the same voxels).")
        )  # fmt: skip
    previews = sorted((run / run_files.PREVIEWS).glob("[!.]*.png"))
    if previews:
        caption = (
            "One patch as the network saw it last: the image, where each class is sure (yellow), "
            "and the image rebuilt from the classes."
        )
        words.append(picture(previews[-1], caption))
    return put(*words)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
