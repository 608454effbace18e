"""The form of all options, with presets, files, and a picture of what the N-cut options mean."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from wnet_nb import config
from wnet_nb.config import PRESETS, Settings
from wnet_nb.errors import UserError
from wnet_nb.jobs.stacks import Stack
from wnet_nb.widgets import remembered
from wnet_nb.widgets.affinity import AffinityPicture
from wnet_nb.widgets.busy_cell import StopInPlace
from wnet_nb.widgets.option_field import OptionField
from wnet_nb.widgets.panel import ORANGE, RED, Panel, message

TABS = ("training", "data", "cells", "model", "ncut", "weights")  # of `config.GROUPS`, in order
WITH_DATA = config.names_with("data")


def nearest_preset(settings: Settings) -> str:
    """Return the name of the preset from which the fewest options differ."""

    def distance(name: str) -> int:
        other = config.preset(name).as_dict()
        return sum(settings.as_dict()[n] != v for n, v in other.items() if n not in WITH_DATA)

    return min(PRESETS, key=distance)


class SettingsForm(Panel):
    """All options in tabs; what is filled in stays for the next time.

    Parameters
    ----------
    settings : Settings
        To begin with.
    stack : Stack, optional
        Of the user; the picture shows its affinities.
    on_preset : callable, optional
        Called with the settings when a preset or a file of settings was taken.
    """

    def __init__(
        self,
        settings: Settings,
        stack: Stack | None = None,
        *,
        on_preset: Callable[[Settings], None] | None = None,
    ) -> None:
        self._base, self._on_preset, self._quiet = settings, on_preset, True
        self._given = {n: v for n, v in settings.as_dict().items() if n not in WITH_DATA}
        self.fields = {
            name: OptionField(name, getattr(settings, name), self._changed) for name in self._given
        }
        self.affinity = None if stack is None else AffinityPicture(stack, settings)
        self.problem = widgets.HTML()
        super().__init__(
            [self._top(), self.problem, self._tabs()],
            (lambda: self.affinity.picture.value) if self.affinity else None,
        )
        self._recall()
        self._quiet = False
        self._changed()

    def _recall(self) -> None:
        for name, value in remembered.recall("settings", self._given).items():
            try:
                self.fields[name].value = value
            except (KeyError, UserError) as error:  # of another version
                self.file_note.value = message(f"{name} was not taken from last time: {error}", RED)

    @property
    def settings(self) -> Settings:
        """Options as the fields say; a cell that asks while something is wrong stops there.

        Assign to it to change the fields.
        """
        fault = self.fault
        if fault:
            raise StopInPlace(f"{fault}. Mend it in the form of the parameters.")
        return self._read()

    @settings.setter
    def settings(self, settings: Settings) -> None:
        self._quiet = True
        for name, field in self.fields.items():
            field.value = getattr(settings, name)
        self._quiet, self._base = False, settings
        self._changed()

    @property
    def fault(self) -> str:
        """Why the options cannot be taken as they are; empty if they can."""
        faults = [field.fault for field in self.fields.values() if field.fault]
        if faults:
            return faults[0]
        try:
            settings = self._read()
        except UserError as error:
            return str(error)
        start = settings.start_from
        if start and start not in ("published", "starter") and not Path(start).exists():
            return f"start_from: there are no weights at '{start}', looked for in '{Path.cwd()}'"
        return ""

    def _read(self) -> Settings:
        return self._base.replace(**{name: field.value for name, field in self.fields.items()})

    def _top(self) -> widgets.Widget:
        self.preset = widgets.Dropdown(
            options=["(choose)", *PRESETS],
            description="preset",
            layout={"width": "180px"},
            style={"description_width": "50px"},
        )
        self.path = widgets.Text(
            value="settings.json",
            description="file",
            layout={"width": "260px"},
            style={"description_width": "40px"},
        )
        self.load = widgets.Button(description="Load", layout={"width": "70px"})
        self.file_note = widgets.HTML()
        self.preset.observe(self._take_preset, "value")
        self.load.on_click(self._load)
        row = widgets.HBox([self.preset, self.path, self.load])
        row.layout.flex_flow = "row wrap"
        return widgets.VBox([row, self.file_note])

    def _tabs(self) -> widgets.Widget:
        tabs = []
        for group in TABS:
            rows = [f for f in self.fields.values() if f.option.group == group]
            if group == "ncut" and self.affinity:
                rows.insert(0, self.affinity)
            tabs.append(widgets.VBox(rows))
        tab = widgets.Tab(children=tabs)
        for n, group in enumerate(TABS):
            tab.set_title(n, config.GROUPS[group])
        tab.selected_index = 0
        return tab

    def _changed(self) -> None:
        if self._quiet:
            return
        fault = self.fault
        if fault:
            words = f"{fault}. The training cannot start before this is mended."
            self.problem.value = message(words, RED)
            return
        settings = self._read()
        remark = self.affinity.remark(settings) if self.affinity else ""
        self.problem.value = message(remark, ORANGE)
        kept = {name: getattr(self._base, name) for name in WITH_DATA}
        chosen = [n for n in PRESETS if config.preset(n, **kept) == settings]
        self._quiet = True
        self.preset.value = chosen[0] if chosen else "(choose)"
        self._quiet = False
        values = settings.as_dict()
        changed = {n: values[n] for n, v in self._given.items() if values[n] != v}
        remembered.keep("settings", self._given, changed)
        if self.affinity:
            self.affinity.show(settings)

    def _take_preset(self, change: dict[str, Any]) -> None:
        if change["new"] in PRESETS and not self._quiet:
            kept = {name: getattr(self._base, name) for name in WITH_DATA}
            self._take(config.preset(change["new"], **kept))
            self.file_note.value = message(f"The options of the preset '{change['new']}' are set.")

    def _take(self, settings: Settings) -> None:
        self.settings = settings
        if self._on_preset:
            self._on_preset(settings)

    def _load(self, _: object) -> None:
        try:
            self._take(config.load_settings(Path(self.path.value).expanduser()))
            self.file_note.value = message(f"Read from '{self.path.value}'.")
        except UserError as error:
            self.file_note.value = message(f"{error}.", RED)
