"""The field for the network to use: a run of yesterday, a weights file, or one of three words."""

from datetime import datetime
from html import escape
from pathlib import Path

import ipywidgets as widgets

from wnet_nb import checkpoint
from wnet_nb.errors import UserError
from wnet_nb.files import run_files
from wnet_nb.files.result import Result
from wnet_nb.jobs.models import STARTER, is_word, load_model
from wnet_nb.widgets import remembered
from wnet_nb.widgets.data_field import clean_path
from wnet_nb.widgets.panel import RED, SIDE, WIDE, Panel, message

RUNS = Path("runs")  # where every training in a notebook gets a folder of its own
WORDS = {
    "starter": "the network in this package, trained on simulated cells",
    "none": "no network: the same steps on the image alone",
    "published": "CellSeg3D's network, fetched once; slow without a GPU",
}


class ModelField(Panel):
    """Which network finds the cells; lists the runs that are there.

    It begins with `value`: a run folder, a weights file, ``starter`` (if not given), ``published``
    or ``none``. What is filled in stays for the next time, under the name `part`.
    """

    def __init__(self, value: str | Path = "", *, part: str = "model") -> None:
        self._part, self._fault, self._begun = part, "", str(value) or STARTER
        chosen = remembered.recall(part, self._begun).get("model", self._begun)
        self.choice = widgets.Text(
            chosen, description="network", continuous_update=False, layout=WIDE, style=SIDE
        )
        options = [("(choose)", ""), *((f"{word}: {text}", word) for word, text in WORDS.items())]
        options += [(_describe_run(run), str(run)) for run in find_runs()]
        self.list = widgets.Dropdown(
            options=options, description="what is there", layout=WIDE, style=SIDE
        )
        self.found = widgets.HTML()
        self.list.observe(self._take, "value")
        self.choice.observe(self._look, "value")
        super().__init__([self.choice, self.list, self.found], words=lambda: self.found.value)
        self._look()

    @property
    def source(self) -> str | Path:
        """What is chosen, for `jobs.models.load_model`; a cell stops here if it is not there."""
        if self._fault:
            raise UserError(self._fault)
        text = self.choice.value.strip()
        return text if is_word(text) else clean_path(text)

    def _take(self, change: dict) -> None:
        if change["new"]:
            self.choice.value = change["new"]

    def _look(self, _: object = None) -> None:
        text, self._fault = self.choice.value.strip(), ""
        try:
            said = f"{text}: {WORDS[text]}" if is_word(text) else _describe(clean_path(text))
        except UserError as error:
            self._fault = f"{error}."
            self.found.value = message(self._fault, RED)
            return
        self.found.value = message(f"{said}.")
        remembered.keep(self._part, self._begun, {"model": text})


def _describe(path: Path) -> str:
    if not path.exists():
        raise UserError(
            f"there is no network '{path}', looked for in '{Path.cwd()}'; give a run folder, a "
            f"weights file, or one of: {', '.join(WORDS)}"
        )
    settings = load_model(path).settings
    return f"A network of {settings.base_channels} channels and {settings.n_classes} classes"


def find_runs() -> list[Path]:
    """Return the run folders with a network in them, the newest first."""
    runs = [path for path in RUNS.glob("[!.]*") if run_files.is_run(path)]
    runs = [run for run in runs if (run / checkpoint.WEIGHTS).exists()]
    return sorted(runs, key=lambda run: -(run / checkpoint.WEIGHTS).stat().st_mtime)


def _describe_run(run: Path) -> str:
    """Return a run's date, volumes and cells in one line."""
    made = datetime.fromtimestamp((run / checkpoint.WEIGHTS).stat().st_mtime)
    words = f"{run}: {made:%d %b %Y %H:%M}"
    try:
        names = [stack["name"] for stack in run_files.read_record(run).get("inputs", [])]
        newest = {result.name: result.facts["count"] for result in Result.find_all(run)}
    except (UserError, KeyError, TypeError) as error:
        return f"{words}, not readable: {escape(str(error))}"
    more = f" and {len(names) - 2} more" if len(names) > 2 else ""
    cells = f"{sum(newest.values())} cells" if newest else "no cells yet"
    return f"{words}, {', '.join(names[:2])}{more}, {cells}"
