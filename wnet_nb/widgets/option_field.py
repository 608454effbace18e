"""One option as a field: built from `config`, so no default, limit or help is written twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from html import escape
from typing import Any

import ipywidgets as widgets
import numpy as np

from wnet_nb import config
from wnet_nb.config import OPTIONS
from wnet_nb.errors import UserError
from wnet_nb.widgets.panel import RED, message

SPANS = {  # of a slider: its ends, how many steps lie between them, whether it is logarithmic
    "intensity_sigma": (0.1, 100.0, 150, True),
    "spatial_sigma": (0.5, 20.0, 195, False),
    "radius": (1, 10, 9, False),
    "ncut_weight": (0.0, 2.0, 40, False),
    "reconstruction_weight": (1e-5, 1.0, 250, True),
    "hold_weight": (0.0, 4.0, 80, False),
}
NO_AMOUNTS = ("channel", "time", "seed", "voxel_size_um", "foreground_classes", "start_from")


class OptionField(widgets.VBox):
    """One option: a field, a slider where it has one, its unit, its help, and what is wrong.

    Parameters
    ----------
    name : str
        Of the option.
    value : object
        To begin with.
    on_change : callable
        Called with no argument after the user changed the entry, also to one that cannot be taken.
    brief : bool
        Leave out the help.
    span : tuple, optional
        Of the slider, as in `SPANS`.

    Attributes
    ----------
    control : Widget
        The field. A decimal comma is as good as a point.
    slider : IntSlider or None
        Its positions; the value itself stands in the field.
    fault : str
        Why the entry cannot be taken; empty if it can.
    """

    def __init__(
        self,
        name: str,
        value: Any,
        on_change: Callable[[], None],
        *,
        brief: bool = False,
        span: tuple[float, float, int, bool] | None = None,
    ) -> None:
        self.name, self.option, self._on_change = name, OPTIONS[name], on_change
        self._value, self.fault = value, ""
        self._span = span or SPANS.get(name)
        self.control = self._make_control()
        self.control.observe(self._take_entry, "value")
        self.problem = widgets.HTML()
        row = [widgets.HTML(f"<b>{name}</b>", layout={"width": "168px"}), self.control]
        self.slider = self._make_slider() if self._span else None
        row += [self.slider] if self.slider else []
        row.append(widgets.HTML(escape(self.option.unit), layout={"width": "70px"}))
        layout = {"align_items": "center", "flex_flow": "row wrap"}
        parts = [widgets.HBox(row, layout=layout), self.problem]
        super().__init__(parts if brief else [*parts, widgets.HTML(_help(name))])
        self.layout.margin = "0" if brief else "0 0 6px 0"
        self.add_class(f"wnet-option-{name}")

    @property
    def value(self) -> Any:
        """The last value that could be taken."""
        return self._value

    @value.setter
    def value(self, value: Any) -> None:
        self._value, self.fault, self.problem.value = config.check_value(self.name, value), "", ""
        self._show()

    def _make_control(self) -> widgets.Widget:
        layout = widgets.Layout(width="80px" if self._span else "220px")
        if self.option.choices:
            return widgets.Dropdown(options=self.option.choices, value=self._value, layout=layout)
        if self.option.kind is bool:
            return widgets.Checkbox(value=self._value, indent=False, layout=layout)
        hint = "not set" if self.option.optional else ""
        return widgets.Text(
            value=_as_text(self._value), placeholder=hint, continuous_update=False, layout=layout
        )

    def _make_slider(self) -> widgets.IntSlider:
        layout = widgets.Layout(width="160px")
        slider = widgets.IntSlider(self._position(), 0, self._span[2], readout=False, layout=layout)
        slider.observe(self._take_position, "value")
        return slider

    def _position(self) -> int:
        low, high, steps, logarithmic = self._span
        value = np.clip(low if self._value is None else self._value, low, high)
        share = (
            np.log(value / low) / np.log(high / low)
            if logarithmic
            else (value - low) / (high - low)
        )
        return round(float(share) * steps)

    def _take_position(self, change: Mapping[str, Any]) -> None:
        if change["new"] == self._position():
            return
        low, high, steps, logarithmic = self._span
        share = change["new"] / steps
        value = low * (high / low) ** share if logarithmic else low + (high - low) * share
        whole = self.option.kind is int
        self._take(round(value) if whole else float(f"{value:.3g}"))
        self._show()

    def _take_entry(self, change: Mapping[str, Any]) -> None:
        entry = change["new"]
        text = isinstance(self.control, widgets.Text)
        if text and entry == _as_text(self._value) and not self.fault:
            return
        if text and not self.option.length and self.option.kind is float:
            entry = entry.replace(",", ".")
        try:
            read = config.parse_value if text else config.check_value
            self._take(read(self.name, entry))
        except UserError as error:
            self.fault = str(error)
            self.problem.value = message(f"{error}.", RED)
            self._on_change()
            return
        if self.slider:
            self.slider.value = self._position()

    def _take(self, value: Any) -> None:
        changed = value != self._value or bool(self.fault)
        self._value, self.fault, self.problem.value = value, "", ""
        if changed:
            self._on_change()

    def _show(self) -> None:
        text = isinstance(self.control, widgets.Text)
        self.control.value = _as_text(self._value) if text else self._value
        if self.slider:
            self.slider.value = self._position()


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
        words = ("Set it when", "leave it when")
    hints = (option.raise_when, option.lower_when.removesuffix(": leave it unset"))
    pairs = zip(words, hints, strict=True)
    told = escape("; ".join(f"{word} {text}" for word, text in pairs if text))
    return (
        f'<div style="line-height:1.35;max-width:560px">{escape(option.help)}'
        f'<div style="opacity:.7;font-size:90%">{told}.</div></div>'
    )
