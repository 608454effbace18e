"""The field for a file or folder, which answers at once what was found there."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from wnet_nb import config
from wnet_nb.files.volumes import Volume, describe
from wnet_nb.jobs import train as pipeline
from wnet_nb.jobs.inputs import Inputs, read_inputs, require_volumes
from wnet_nb.widgets.busy_cell import StopInPlace
from wnet_nb.widgets.option_form import SET_WITH_DATA, OptionField
from wnet_nb.widgets.panel import ORANGE, RED, Panel, message

EXAMPLE = "example"
COLOURS = {"error": RED, "warning": ORANGE, "info": "inherit"}


class DataField(Panel):
    """A file or folder of TIFFs, read and checked as soon as it is named.

    Parameters
    ----------
    path : str or Path
        A TIFF, a folder, or ``example`` for the built-in volume.
    labels : str or Path, optional
        True labels, only to compare with.
    example_folder : str or Path
        Where the example is written.
    options : mapping, optional
        `channel`, `time` and `voxel_size_um` to begin with.
    like : DataField, optional
        An earlier one with the same `path`: what was filled in there stays, so that running a
        cell again loses nothing.

    Attributes
    ----------
    options : dict
        `channel`, `time` and `voxel_size_um` as set here, for ``config.preset("quick", **...)``.
    """

    def __init__(
        self,
        path: str | Path = EXAMPLE,
        labels: str | Path | None = None,
        *,
        example_folder: str | Path = "example",
        options: Mapping[str, Any] | None = None,
        like: DataField | None = None,
    ) -> None:
        self._given = str(path)
        kept = like is not None and like._given == self._given
        if kept:
            path, labels, options = like.path.value, like.labels.value, like.options
        self._example = Path(example_folder)
        self._inputs: Inputs | None = None
        self._reason = ""
        self.path = _text(path, "file or folder")
        self.labels = _text(labels or "", "labels, if any")
        self.slices = widgets.Checkbox(
            value=kept and like.slices.value,
            description="a folder of 2D slices is one volume",
            indent=False,
        )
        self.fields = {
            name: OptionField(name, (options or {}).get(name), self.read) for name in SET_WITH_DATA
        }
        self.found = widgets.HTML()
        more = widgets.Accordion(children=[widgets.VBox([self.slices, *self.fields.values()])])
        more.set_title(0, "Channel, time point, voxel size")
        is_said = any(value is not None for value in self.options.values())
        more.selected_index = 0 if is_said else None  # open where it says something
        for control in (self.path, self.labels, self.slices):
            control.observe(self.read, "value")
        super().__init__([self.path, self.labels, more, self.found], words=lambda: self.found.value)
        self.read()

    @property
    def options(self) -> dict[str, Any]:
        """The options that say how files are read."""
        return {name: field.value for name, field in self.fields.items()}

    @property
    def inputs(self) -> Inputs:
        """The usable volumes; without any, the cell that asks stops with the reason."""
        if self._inputs is None:
            raise StopInPlace(f"There are no volumes yet. {self._reason}")
        return self._inputs

    @property
    def volume(self) -> Volume:
        """The first volume."""
        return self.inputs.volumes[0]

    @property
    def truth(self) -> Path | None:
        """Where the true labels are, if there are any."""
        if self.labels.value.strip():
            return Path(self.labels.value.strip()).expanduser()
        return self._example / "truth" if self.path.value.strip() == EXAMPLE else None

    def read(self, _: object = None) -> None:
        """Read what the field names, and say what was found."""
        self._inputs, self.found.value = None, message("reading …")
        try:
            path = self._chosen()
            settings = config.preset("quick", **self.options)
            found = read_inputs(path, settings, slices=self.slices.value)
            require_volumes(found, path)
            if self.truth is not None:
                pipeline.read_validation(self.truth, found.volumes)
        except (ValueError, OSError) as error:
            self._reason = str(error)
            self.found.value = message(f"{error}.", RED)
            return
        self._inputs, self.found.value = found, _describe(found)
        if self.truth is not None:
            self.found.value += message("True labels are there; they are never trained on.")

    def _chosen(self) -> Path:
        text = self.path.value.strip()
        if text != EXAMPLE:
            return Path(text).expanduser()
        image = self._example / "example.tif"
        if not image.exists():
            pipeline.make_demo_files(self._example, 0)
        return image


def _text(value: object, name: str) -> widgets.Text:
    return widgets.Text(
        value=str(value),
        description=name,
        continuous_update=False,
        layout={"width": "98%", "max_width": "800px"},
        style={"description_width": "110px"},
    )


def _describe(found: Inputs) -> str:
    n = len(found.volumes)
    rows = [f"<b>{n} volume{'s' if n > 1 else ''}</b>"]
    for volume, findings in zip(found.volumes, found.findings, strict=True):
        rows.append(escape(describe(volume)))
        rows += [f"&emsp;{message(f'{f.level}: {f.text}.', COLOURS[f.level])}" for f in findings]
    rows += [message(f"skipped {path.name}: {reason}", ORANGE) for path, reason in found.skipped]
    return f'<div style="line-height:1.45">{"<br>".join(rows)}</div>'
