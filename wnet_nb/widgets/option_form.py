"""Fields for the options: built from `config`, so no default, limit or help is written twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import numpy as np

from wnet_nb import config
from wnet_nb.config import OPTIONS, PRESETS, Settings
from wnet_nb.errors import UserError
from wnet_nb.files.volumes import Volume
from wnet_nb.whole_file import new_file
from wnet_nb.widgets.affinity import AffinityPicture
from wnet_nb.widgets.panel import ORANGE, RED, Panel, message

SLIDERS = {  # the part of an option's range that is worth a slider, and whether it is logarithmic
    "intensity_sigma": (0.1, 100.0, True),
    "spatial_sigma": (0.5, 20.0, False),
    "radius": (1, 10, False),
    "ncut_weight": (0.0, 2.0, False),
    "reconstruction_weight": (1e-5, 1.0, True),
}
SET_WITH_DATA = ("channel", "time", "voxel_size_um")
LOG_STEP = 0.02  # of a logarithmic slider, in powers of ten
NO_AMOUNTS = ("channel", "time", "seed", "voxel_size_um", "foreground_classes", "start_from")


class OptionField(widgets.VBox):
    """One option: a slider or a field, its unit, its help, and what is wrong with its value.

    Parameters
    ----------
    name : str
        Of the option.
    value : object
        To begin with.
    on_change : callable
        Called with no argument after the user changed the value to one that can be taken.
    brief : bool
        Leave out the help.

    Attributes
    ----------
    control : Widget
        The slider or field.
    """

    def __init__(
        self, name: str, value: Any, on_change: Callable[[], None], *, brief: bool = False
    ) -> None:
        self.name, self.option, self._on_change = name, OPTIONS[name], on_change
        self._value = value
        self.control = _control(name, value)
        self.problem = widgets.HTML()
        super().__init__([labelled(name, self.control, brief=brief), self.problem])
        self.layout.margin = "0" if brief else "0 0 6px 0"
        self.add_class(f"wnet-option-{name}")
        self.control.observe(self._changed, "value")

    @property
    def value(self) -> Any:
        """The last value that can be taken."""
        return self._value

    @value.setter
    def value(self, value: Any) -> None:
        self._value = config.check_value(self.name, value)
        self.problem.value = ""
        _show(self.control, self.name, self._value)

    def _changed(self, change: dict[str, Any]) -> None:
        try:
            value = _read(self.control, self.name, self._value)
        except UserError as error:
            self.problem.value = message(str(error), RED)
            return
        self.problem.value = ""
        if value != self._value:
            self._value = value
            self._on_change()


def labelled(name: str, control: widgets.Widget, *, brief: bool = False) -> widgets.Widget:
    """Return a control with the option's name and unit beside it, and its help below."""
    label = widgets.HTML(f"<b>{name}</b>", layout={"width": "190px"})
    unit = widgets.HTML(escape(OPTIONS[name].unit), layout={"width": "80px"})
    row = widgets.HBox([label, control, unit], layout={"align_items": "center"})
    return widgets.VBox([row] if brief else [row, widgets.HTML(_help(name))])


def _control(name: str, value: Any) -> widgets.Widget:
    option, layout = OPTIONS[name], widgets.Layout(width="260px")
    if name in SLIDERS:
        low, high, logarithmic = SLIDERS[name]
        low, high = min(low, value) if value else low, max(high, value)
        facts = {"layout": layout, "continuous_update": True}
        if logarithmic:
            value = max(value, low)  # a point of the grid, or the slider would say another value
            steps = np.ceil(np.log10([value / low, high / value]) / LOG_STEP) * LOG_STEP
            ends = {"min": np.log10(value) - steps[0], "max": np.log10(value) + steps[1]}
            return widgets.FloatLogSlider(
                value=value, step=LOG_STEP, readout_format=".3g", **ends, **facts
            )
        if option.kind is int:
            return widgets.IntSlider(value=value, min=low, max=high, **facts)
        return widgets.FloatSlider(value=value, min=low, max=high, step=0.05, **facts)
    if option.choices:
        return widgets.Dropdown(options=option.choices, value=value, layout=layout)
    if option.kind is bool:
        return widgets.Checkbox(value=value, indent=False, layout=layout)
    text = _as_text(value)
    hint = "not set" if option.optional else ""
    return widgets.Text(value=text, placeholder=hint, continuous_update=False, layout=layout)


def _show(control: widgets.Widget, name: str, value: Any) -> None:
    if isinstance(control, widgets.Text):
        control.value = _as_text(value)
        return
    if name in SLIDERS:
        _, _, logarithmic = SLIDERS[name]
        edge = np.log10(value) if logarithmic and value > 0 else value
        if not (logarithmic and value == 0):
            control.min, control.max = min(control.min, edge), max(control.max, edge)
    control.value = value


def _read(control: widgets.Widget, name: str, before: Any) -> Any:
    if isinstance(control, widgets.Text):
        return config.parse_value(name, control.value)
    if isinstance(control, widgets.FloatLogSlider):
        if before > 0 and abs(np.log10(control.value / before)) < 0.51 * LOG_STEP:
            return before  # the browser moves a value that is not on the slider's grid
        return config.check_value(name, float(f"{control.value:.3g}"))
    if isinstance(control, widgets.FloatSlider):
        return config.check_value(name, round(control.value, 6))
    return config.check_value(name, control.value)


def _as_text(value: Any) -> str:
    if value is None:
        return ""
    return ",".join(map(str, value)) if isinstance(value, tuple) else f"{value}"


def _help(name: str) -> str:
    option = OPTIONS[name]
    words = ("Raise it when", "lower it when")
    if option.choices:
        words = ("Choose:", "or")
    elif option.kind is bool:
        words = ("On when", "off when")
    elif name in NO_AMOUNTS:
        words = ("Set it when", "not when")
    pairs = zip(words, (option.raise_when, option.lower_when), strict=True)
    hints = escape("; ".join(f"{word} {text}" for word, text in pairs if text))
    return (
        f'<div style="line-height:1.35;max-width:560px">{escape(option.help)}'
        f'<div style="opacity:.7;font-size:90%">{hints}.</div></div>'
    )


def _without_data(settings: Settings) -> dict[str, Any]:
    return {n: v for n, v in settings.as_dict().items() if n not in SET_WITH_DATA}


class SettingsForm(Panel):
    """All options in tabs, with presets, files, and a picture of what the N-cut options mean.

    Parameters
    ----------
    settings : Settings
        To begin with.
    image : ndarray or Volume, optional
        Of the user; the picture shows its affinities. For an array, voxels count as 1 µm.
    like : SettingsForm, optional
        An earlier one that began with the same settings: what was changed there stays.

    Attributes
    ----------
    settings : Settings
        As the fields say now. Assign to it to change the fields.
    fields : dict of str to OptionField
    affinity : AffinityPicture or None
    problem : HTML
        What is wrong between options, such as a radius too large for the patches.
    """

    def __init__(
        self,
        settings: Settings,
        image: np.ndarray | Volume | None = None,
        *,
        like: SettingsForm | None = None,
    ) -> None:
        self._given = settings
        if like is not None and _without_data(like._given) == _without_data(settings):
            changed = _without_data(like.settings)
            settings = settings.replace(**changed)
        self._base = self._settings = settings
        self._quiet = False
        self.fields = {
            name: OptionField(name, getattr(settings, name), self._changed)
            for name in OPTIONS
            if name not in SET_WITH_DATA
        }
        self.affinity = None if image is None else AffinityPicture(image, settings)
        self.problem = widgets.HTML()
        super().__init__(
            [self._top(), self.problem, self._tabs()],
            (lambda: self.affinity.picture.value) if self.affinity else None,
        )
        self._check()

    @property
    def settings(self) -> Settings:
        """Options as the fields say; where they do not fit each other, the last that did."""
        return self._settings

    @settings.setter
    def settings(self, settings: Settings) -> None:
        self._quiet = True
        try:
            for name, field in self.fields.items():
                field.value = getattr(settings, name)
        finally:
            self._quiet = False
        self._base = settings
        self._changed()

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
        self.save = widgets.Button(description="Save", layout={"width": "70px"})
        self.file_note = widgets.HTML()
        self.preset.observe(self._take_preset, "value")
        self.load.on_click(self._load)
        self.save.on_click(self._save)
        row = widgets.HBox([self.preset, self.path, self.load, self.save])
        row.layout.flex_flow = "row wrap"
        return widgets.VBox([row, self.file_note])

    def _tabs(self) -> widgets.Widget:
        tabs = []
        for group in config.GROUPS:
            rows = [f for f in self.fields.values() if f.option.group == group]
            box = widgets.VBox(rows)
            if group == "ncut" and self.affinity:
                box = widgets.VBox([self.affinity, box])
            tabs.append(box)
        tab = widgets.Tab(children=tabs)
        for n, (group, title) in enumerate(config.GROUPS.items()):
            tab.set_title(n, title)
            if group == "ncut":
                tab.selected_index = n
        return tab

    def _changed(self) -> None:
        if not self._quiet:
            self._check()

    def _check(self) -> None:
        try:
            values = {name: field.value for name, field in self.fields.items()}
            self._settings = self._base.replace(**values)
        except UserError as error:
            self.problem.value = message(f"{error}. Until then the last settings hold.", RED)
            return
        remark = self.affinity.remark(self._settings) if self.affinity else ""
        self.problem.value = message(remark, ORANGE)
        kept = {name: getattr(self._base, name) for name in SET_WITH_DATA}
        chosen = [n for n in PRESETS if config.preset(n, **kept) == self._settings]
        self._quiet = True
        self.preset.value = chosen[0] if chosen else "(choose)"
        self._quiet = False
        if self.affinity:
            self.affinity.show(self._settings)

    def _take_preset(self, change: dict[str, Any]) -> None:
        if change["new"] in PRESETS and not self._quiet:
            kept = {name: getattr(self._base, name) for name in SET_WITH_DATA}
            self.settings = config.preset(change["new"], **kept)
            self.file_note.value = message(f"The options of the preset '{change['new']}' are set.")

    def _load(self, _: object) -> None:
        try:
            self.settings = config.load_settings(Path(self.path.value).expanduser())
            self.file_note.value = message(f"Read from '{self.path.value}'.")
        except UserError as error:
            self.file_note.value = message(str(error), RED)

    def _save(self, _: object) -> None:
        path = Path(self.path.value).expanduser()
        text = json.dumps(self.settings.as_dict(), indent=2)
        try:
            with new_file(path) as partial:
                partial.write_text(text, encoding="utf-8")
        except (OSError, ValueError) as error:
            self.file_note.value = message(f"Not saved: {error}", RED)
            return
        self.file_note.value = message(f"Saved to '{path.resolve()}'.")
