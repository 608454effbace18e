"""Networks side by side: what was set differently, what came of it, and how they were trained."""

import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from wnet_nb.cells.scores import f1_at_half
from wnet_nb.errors import UserError
from wnet_nb.figures.report import option_text
from wnet_nb.files.result import Result
from wnet_nb.files.run_files import PROGRESS, is_run, read_history
from wnet_nb.jobs.models import load_model
from wnet_nb.widgets.model_field import find_runs
from wnet_nb.widgets.panel import RED, Panel, message

CELL = "text-align:left;vertical-align:top;padding:2px 20px 2px 0;line-height:1.4"
HALF = {"width": "49%", "min_width": "560px"}  # of a wide page; below each other on a narrow one


def compare_runs(*networks: Any) -> widgets.Widget:
    """Return a table of the cells, scores and settings of networks, and how they were trained.

    Each is a `ModelField`, a `TrainingPanel`, or what `jobs.models.load_model` takes; without any,
    the two newest runs in ``runs``. The newest result of a volume counts.
    """
    chosen = networks or find_runs()[1::-1]
    sources = list(dict.fromkeys(str(getattr(network, "source", network)) for network in chosen))
    if len(sources) < 2:
        return widgets.HTML(message("It takes two different networks or runs to compare."))
    try:
        table = widgets.HTML(_table(sources))
    except UserError as error:
        return widgets.HTML(message(f"{error}.", RED))
    pictures = {s: f.read_bytes() for s in sources if (f := Path(s) / PROGRESS).exists()}
    shown = [
        widgets.VBox([widgets.HTML(message(s)), widgets.Image(value=png)], layout=HALF)
        for s, png in pictures.items()
    ]
    row = widgets.HBox(shown, layout={"flex_flow": "row wrap"})
    return Panel([table, row], lambda: next(iter(pictures.values()), b""), lambda: table.value)


def _table(sources: Sequence[str]) -> str:
    past = [f"{len(read_history(s))} epochs" if is_run(s) else "no" for s in sources]
    rows = {"": [Path(s).name for s in sources], "trained here": past}
    found = [_newest(source) for source in sources]
    for name in sorted({name for results in found for name in results}):
        rows[f"cells of {name}"] = [results.get(name, "not applied") for results in found]
    options = [load_model(source).settings.as_dict() for source in sources]
    texts = {name: [option_text(each[name]) for each in options] for name in options[0]}
    rows |= {name: values for name, values in texts.items() if len(set(values)) > 1}
    lines = ("".join(f'<td style="{CELL}">{escape(t)}</td>' for t in [n, *rows[n]]) for n in rows)
    table = f"<table><tr>{'</tr><tr>'.join(lines)}</tr></table>"
    return re.sub("(_|(?<!<)/)", r"\1<wbr>", table)  # where a long name may be broken


def _newest(source: str) -> dict[str, str]:
    """Return count and score of the newest result of each volume, in words."""
    found, run = {}, is_run(source)
    for result in Result.find_all(source if run else Path()):
        if run or Path(result.facts["model"]).stem == Path(source).stem:
            scores = result.scores
            score = f", F1 {f1_at_half(scores['scores']):.2f}" if scores else ""
            found[result.name] = f"{result.facts['count']} cells{score}"
    return found
