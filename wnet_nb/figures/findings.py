"""What was found in a volume, as a part of the report: picture, counts, sizes, scores, files."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wnet_nb.errors import UserError
from wnet_nb.figures import charts, plots
from wnet_nb.figures.page import Html, date, facts, picture, put, table, tag
from wnet_nb.figures.provenance import changed_options, describe_voxel_size, fingerprint, times
from wnet_nb.files.result import Result
from wnet_nb.files.run_files import PREDICTIONS

PRINT_DPI = 150


def _rows(cells: Result) -> list[dict[str, Any]]:
    """Return the rows of cells.csv; none, with a warning, if it cannot be read."""
    try:
        return cells.cells()
    except UserError as error:
        warnings.warn(f"the report goes without the sizes of cells: {error}", stacklevel=2)
        return []


def _volumes_um3(rows: Sequence[Mapping[str, Any]]) -> list[float]:
    """Return the volume of each cell in µm³."""
    return [row["volume_um3"] for row in rows]


def _counts(cells: Result) -> str:
    facts = cells.facts
    return f"{facts['count']:,} by the network, {facts['baseline_count']:,} by the classical"


def overview(found: Sequence[Result]) -> Html:
    """Return a table with one line per volume."""
    rows = [
        (
            cells.facts["name"],
            f"{cells.facts['count']:,}",
            f"{cells.facts['baseline_count']:,}",
            _um3(np.median(volumes)) if (volumes := _volumes_um3(_rows(cells))) else "",
        )
        for cells in found
    ]
    return table(("volume", "cells: network", "cells: classical", "median volume of a cell"), rows)


def describe_found(cells: Result, options: Mapping[str, Any], *, pictured: bool) -> Html:
    """Return what there is to say about the cells of a volume.

    Parameters
    ----------
    cells : Result
    options : mapping
        Of the run; those of the segmentation that differ are named.
    pictured : bool
        Whether to take in the pictures, which make up nearly all of a page.
    """
    overlay = sizes = scores = Html()
    table_rows = _rows(cells)
    if pictured:
        overlay = picture(cells.overlay, OVERLAY_CAPTION)
        sizes = picture(_sizes_png(cells, table_rows), SIZES_CAPTION) if table_rows else sizes
        if cells.scores and "rows" in cells.scores["scores"]:
            scores = picture(cells.scores_picture, SCORES_CAPTION)
    return put(
        tag("h2", f"Cells of {cells.facts['name']}"),
        overlay,
        facts(_facts(cells, table_rows, options)),
        *_describe_scores(cells.scores),
        tag("div", sizes, scores, kind="side"),
    )


OVERLAY_CAPTION = (
    "Three planes through the volume, from above (XY) and from the sides (XZ, YZ), where most "
    "cells are. Yellow: cells of the network. Turquoise: cells of the classical method, a "
    "threshold at the same cell size (Voronoi-Otsu). Where both agree, take either; where they "
    "differ, look."
)
SIZES_CAPTION = (
    "How many cells have which volume. Objects smaller than the dashed line (minimum_size) were "
    "left out as specks."
)
SCORES_CAPTION = (
    "F1 for every overlap that one may ask for: the more of a cell must coincide with the true "
    "one, the fewer count as found."
)


def _sizes_png(cells: Result, table_rows: Sequence[Mapping[str, Any]]) -> bytes:
    radius, share = cells.facts["cell_radius_um"], cells.facts["settings"]["minimum_size"]
    figure = charts.plot_sizes(_volumes_um3(table_rows), share * 4 / 3 * np.pi * radius**3)
    figure.set_dpi(PRINT_DPI)
    return plots.figure_png(figure)


def _facts(
    cells: Result, table_rows: Sequence[Mapping[str, Any]], options: Mapping[str, Any]
) -> list[tuple[str, Any]]:
    result, radius = cells.facts, cells.facts["cell_size"]
    in_voxels = [round(length, 1) for length in radius["radius_voxels"]]
    rows = [("Number of cells", f"{_counts(cells)} method")]
    if table_rows:
        low, middle, high = np.percentile(_volumes_um3(table_rows), (25, 50, 75))
        cut = sum(row["touches_border"] for row in table_rows)
        rows.append(
            ("Volume of a cell", f"median {_um3(middle)}; the middle half of the cells lies "
             f"between {_um3(low)} and {_um3(high)}. {cut:,} of the cells touch the edge of the "
             "image and may be cut off.")
        )  # fmt: skip
    rows += [
        ("Typical radius", f"{radius['radius_um']:.3g} µm, or {times(in_voxels)} voxels (z, y, x): "
         f"{radius['reason']}"),
        ("Voxel size", describe_voxel_size(result)),
        ("What was taken as cells", f"{result['reason']}. (The network sorts voxels into classes "
         "in no particular order; which of them are cells is found afterwards.)"),
    ]  # fmt: skip
    if changed := changed_options(result["settings"], options):
        rows.append(("Options changed after the training", ", ".join(changed)))
    network = "/".join(Path(result["model"]).parts[-2:])
    image = f"{result['file']} ({times(result['shape'])} voxels, {result['dtype']}, fingerprint "
    files = [path.name for path in cells.files]
    return [
        *rows,
        (
            "Made",
            put(
                f"on {date(result['made'])} from {image}", fingerprint(result), f") with {network}"
            ),
        ),
        ("Files", put(_folder(cells), " in the folder of the run: ", ", ".join(files))),
    ]


def _describe_scores(scores: Mapping[str, Any] | None) -> list[Html]:
    if scores is None:
        return []
    both = [one or {} for one in (scores["scores"], scores["baseline"])]
    rows = [("Cells", *(f"{one['n_predicted']:,}" if one else "" for one in both))]
    limit, at = "near a true point", both
    if "rows" in both[0]:  # true labels; points have one distance and not many overlaps
        limit, at = "overlap (IoU) of 0.5 or more", [_at_half(one) for one in both]
    for words, name, found in (
        (f"Precision: share of these that are right ({limit})", "precision", at),
        (f"Recall: share of the true cells that were found ({limit})", "recall", at),
        ("F1, which joins both: 1 = every cell found, none invented", "f1", at),
        ("Mean F1 over overlaps of 0.1 to 0.9", "mean_f1", both),
        ("Dice: how far all voxels of cells coincide, 1 = fully", "dice", [scores, {}]),
    ):
        values = [one.get(name) for one in found]
        if values[0] is not None:
            rows.append((words, *("" if v is None else f"{v:.2f}" for v in values)))
    title = f"Against the truth: {both[0]['n_true']:,} cells in {Path(scores['truth']).name}"
    return [tag("h3", title), table(("", "network", "classical"), rows)]


def _at_half(scores: Mapping[str, Any]) -> Mapping[str, float]:
    return next((row for row in scores.get("rows", ()) if row["threshold"] == 0.5), {})


def sum_up_scores(found: Sequence[Result]) -> str:
    """Return the mean F1 of both methods over the volumes with a truth; nothing without any."""
    both = [(c.scores["scores"], c.scores["baseline"]) for c in found if c.scores]
    pairs = [[one.get("mean_f1", one.get("f1")) for one in pair] for pair in both if all(pair)]
    if not pairs:
        return ""
    network, classical = np.mean(pairs, axis=0)
    return (
        f" Compared with the truth, where it is known, the network reaches an F1 of {network:.2f} "
        f"and the classical method {classical:.2f} (1 = every cell found, none invented)."
    )


def describe_earlier(found: Sequence[Result]) -> Html:
    """Return one line for each result that a newer one of the same volume stands for."""
    if not found:
        return Html()
    lines = [tag("li", _folder(cells), f" {_counts(cells)} method") for cells in found]
    words = "The same volumes were segmented before. These results are kept:"
    return put(tag("h2", "Earlier results"), tag("p", words), tag("ul", *lines))


def _folder(cells: Result) -> Html:
    return tag("code", f"{PREDICTIONS}/{cells.folder.name}/")


def _um3(volume: float) -> str:
    return f"{float(f'{volume:.3g}'):,g} µm³"
