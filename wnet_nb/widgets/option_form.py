"""The form of all options, with presets, and a picture of what the N-cut options mean."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from wnet_nb import config
from wnet_nb.config import PRESETS, Settings
from wnet_nb.errors import UserError
from wnet_nb.files.run_files import SETTINGS
from wnet_nb.jobs.models import is_word
from wnet_nb.jobs.stacks import Stack
from wnet_nb.widgets import remembered
from wnet_nb.widgets.affinity import TEXT, affinity_png
from wnet_nb.widgets.model_field import find_runs
from wnet_nb.widgets.option_field import OptionField
from wnet_nb.widgets.panel import RED, Panel, message

TABS = ("training", "data", "cells", "model", "ncut", "weights")  # of `config.GROUPS`, in order
PICTURE = {"width": "840px", "max_width": "calc(100% - 4px)", "object_fit": "contain"}
WITH_DATA = config.names_with("data")


class SettingsForm(Panel):
    """All options in tabs; what is filled in stays for the next time.

    It begins with `settings`, and shows the affinities of `stack`. `on_preset` is called with the
    settings when a preset or those of a run were taken.
    """

    def __init__(
        self,
        settings: Settings,
        stack: Stack | None = None,
        *,
        on_preset: Callable[[Settings], None] | None = None,
    ) -> None:
        self._base, self._on_preset, self._quiet = settings, on_preset, False
        self._given = {n: v for n, v in settings.as_dict().items() if n not in WITH_DATA}
        self.fields = {
            name: OptionField(name, getattr(settings, name), self._changed) for name in self._given
        }
        self._stack, self.affinity = stack, widgets.Image(layout=PICTURE)
        of_runs = [(f"as in {run}", str(run / SETTINGS)) for run in find_runs()]
        self.preset = widgets.Dropdown(
            options=[("(choose)", ""), *((name, name) for name in PRESETS), *of_runs],
            description="preset",
            layout={"width": "260px"},
            style={"description_width": "50px"},
        )
        self.preset.observe(self._take_preset, "value")
        self.note, self.problem = widgets.HTML(), widgets.HTML()
        super().__init__(
            [self.preset, self.note, self.problem, self._tabs()],
            lambda: self.affinity.value,
        )
        self._recall()
        self._changed()

    def _recall(self) -> None:
        for name, value in remembered.recall("settings", self._given).items():
            try:
                self.fields[name].value = value
            except (KeyError, UserError) as error:  # of another version
                self.note.value = message(f"{name} was not taken from last time: {error}", RED)

    @property
    def settings(self) -> Settings:
        """Options as the fields say; UserError while something is wrong."""
        values = {name: field.value for name, field in self.fields.items()}
        settings, start = self._base.replace(**values), values["start_from"]
        if start and not is_word(start) and not Path(start).exists():
            raise UserError(
                f"start_from: there are no weights at '{start}', looked for in '{Path.cwd()}'"
            )
        return settings

    def _tabs(self) -> widgets.Widget:
        groups = {group: [] for group in TABS}
        if self._stack is not None:
            picture = widgets.VBox([widgets.HTML(message(TEXT)), self.affinity])
            groups["ncut"].append(picture.add_class("wnet-affinitypicture"))
        for field in self.fields.values():
            groups[field.option.group].append(field)
        fit = "<style>.wnet-settingsform .lm-TabBar-tab {flex: 0 1 auto !important}</style>"
        groups[TABS[0]].append(widgets.HTML(fit, layout={"display": "none"}))
        tab = widgets.Tab([widgets.VBox(fields) for fields in groups.values()], selected_index=0)
        for n, group in enumerate(TABS):
            tab.set_title(n, config.GROUPS[group])
        return tab

    def _changed(self) -> None:
        try:
            settings = self.settings
        except UserError as error:
            words = f"{error}. The training cannot start before this is mended."
            self.problem.value = message(words, RED)
            return
        self.problem.value = ""
        if self._stack is not None:
            self.affinity.value = affinity_png(self._stack, settings)
        chosen = [n for n in PRESETS if self._preset(n) == settings]
        self._quiet = True
        self.preset.value = chosen[0] if chosen else ""
        self._quiet = False
        values = settings.as_dict()
        changed = {n: values[n] for n, v in self._given.items() if values[n] != v}
        remembered.keep("settings", self._given, changed)

    def _preset(self, name: str) -> Settings:
        """Return the settings of a preset or of a run, for the data that are there."""
        chosen = config.preset(name) if name in PRESETS else config.load_settings(name)
        return chosen.replace(**{n: getattr(self._base, n) for n in WITH_DATA})

    def _take_preset(self, change: dict[str, Any]) -> None:
        if self._quiet or not change["new"]:
            return
        try:
            settings = self._preset(change["new"])
        except UserError as error:  # of a run of another version
            self.note.value = message(f"{error}.", RED)
            return
        for name, field in self.fields.items():
            field.value = getattr(settings, name)
        self._changed()
        self.note.value = message(f"The options of '{change['new']}' are set.")
        if self._on_preset:
            self._on_preset(settings)
