"""One option as a field: built from `config`, so no default, limit or help is written twice."""

from collections.abc import Callable, Mapping
from html import escape
from typing import Any

import ipywidgets as widgets
import numpy as np

from wnet_nb import config
from wnet_nb.config import OPTIONS
from wnet_nb.errors import UserError
from wnet_nb.widgets.panel import RED, message

LINEAR, WHOLE, POWERS = widgets.FloatSlider, widgets.IntSlider, widgets.FloatLogSlider
Span = tuple[type, float, float, float]  # kind of slider, its ends, its step; POWERS: of ten
SPANS: dict[str, Span] = {
    "intensity_sigma": (POWERS, -1, 2, 0.02),
    "spatial_sigma": (LINEAR, 0.5, 20, 0.1),
    "radius": (WHOLE, 1, 10, 1),
    "ncut_weight": (LINEAR, 0, 2, 0.05),
    "reconstruction_weight": (POWERS, -5, 0, 0.02),
    "hold_weight": (LINEAR, 0, 4, 0.05),
}
NO_AMOUNTS = ("channel", "time", "seed", "voxel_size_um", "foreground_classes", "start_from")


class OptionField(widgets.VBox):
    """One option: a field, a slider where it has one, its unit, its help, and what is wrong.

    `on_change` is called after the user changed the entry, also to one that cannot be taken: then
    `fault` says why. `brief` leaves out the help.
    """

    def __init__(
        self,
        name: str,
        value: Any,
        on_change: Callable[[], None],
        *,
        brief: bool = False,
        span: Span | None = None,
    ) -> None:
        self.name, self.option, self._on_change = name, OPTIONS[name], on_change
        self._value, self.fault = value, ""
        self._span = span or SPANS.get(name)
        self.control = self._make_control("80px" if self._span else "220px")
        self.control.observe(self._take_entry, "value")
        self.problem, self.slider = widgets.HTML(), None
        row = [widgets.HTML(f"<b>{name}</b>", layout={"width": "190px"}), self.control]
        if self._span:
            kind, low, high, step = self._span
            layout = {"width": "150px"}
            self.slider = kind(min=low, max=high, step=step, readout=False, layout=layout)
            self._follow()
            self.slider.observe(self._take_position, "value")
            row.append(self.slider)
        row.append(widgets.HTML(escape(self.option.unit)))
        layout = {"align_items": "center", "flex_flow": "row wrap"}
        parts = [widgets.HBox(row, layout=layout), self.problem]
        super().__init__(parts if brief else [*parts, widgets.HTML(_help(name))])
        self.layout.margin = "0" if brief else "0 0 6px 0"
        self.add_class(f"wnet-option-{name}")

    @property
    def value(self) -> Any:
        """What is entered; UserError if it cannot be taken."""
        if self.fault:
            raise UserError(self.fault)
        return self._value

    @value.setter
    def value(self, value: Any) -> None:
        self._value, self.fault, self.problem.value = config.check_value(self.name, value), "", ""
        self.control.value = self._entry()
        self._follow()

    def _make_control(self, width: str) -> widgets.Widget:
        layout = {"width": width}
        if self.option.choices:
            return widgets.Dropdown(options=self.option.choices, value=self._value, layout=layout)
        if self.option.kind is bool:
            return widgets.Checkbox(value=self._value, indent=False, layout=layout)
        hint = "not set" if self.option.optional else ""
        return widgets.Text(
            value=self._entry(), placeholder=hint, continuous_update=False, layout=layout
        )

    def _entry(self) -> Any:
        """Return the value as its control takes it."""
        value = self._value
        if self.option.choices or self.option.kind is bool:
            return value
        if value is None:
            return ""
        return ",".join(map(str, value)) if isinstance(value, tuple) else f"{value}"

    def _is_apart(self, position: float) -> bool:
        """Return whether the slider stands at another step than the one nearest to the value.

        A browser answers with a step that is next to the value it was given: that is not the user.
        """
        if self._value is None:
            return True
        kind, low, high, step = self._span
        both = np.array([position, self._value])
        steps = np.clip(np.log10(both) if kind is POWERS else both, low, high) / step
        return abs(steps[1] - steps[0]) > 0.5

    def _follow(self) -> None:
        if self.slider and self._value is not None and self._is_apart(self.slider.value):
            self.slider.value = self._value

    def _take_position(self, change: Mapping[str, Any]) -> None:
        if self._is_apart(change["new"]):
            self.control.value = f"{change['new']:.3g}"

    def _take_entry(self, change: Mapping[str, Any]) -> None:
        before = self._value, self.fault
        try:
            self._value, fault = config.parse_value(self.name, str(change["new"])), ""
        except UserError as error:
            fault = str(error)
        self.fault, self.problem.value = fault, message(fault and f"{fault}.", RED)
        self._follow()
        if fault or before != (self._value, fault):
            self._on_change()


def _help(name: str) -> str:
    option = OPTIONS[name]
    words = ("Raise it when", "lower it when")
    if option.choices or name == "core_class":
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
