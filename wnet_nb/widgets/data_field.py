"""The field for a file or folder, which answers at once what was found there."""

import contextlib
import os
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote

import ipywidgets as widgets

from wnet_nb import config
from wnet_nb.config import Settings
from wnet_nb.errors import UserError
from wnet_nb.jobs import check, example
from wnet_nb.jobs.stacks import Stack, Stacks, read_stacks
from wnet_nb.widgets import remembered
from wnet_nb.widgets.option_field import OptionField
from wnet_nb.widgets.panel import ORANGE, RED, SIDE, WIDE, Panel, message, paragraph

EXAMPLE = "example"
OFFERED = 200  # files at most
COLOURS = {"warning": ORANGE, "info": "inherit"}


class DataField(Panel):
    """A file or folder of TIFFs, read and checked as soon as it is named.

    It begins with `path`, where ``example`` is the built-in volume, and true `labels` to compare
    with, or with all that is said in another field that it is to be `like`. What is filled in stays
    for the next time, under the name `part`.
    """

    def __init__(
        self,
        path: str | Path | None = None,
        labels: str | Path | None = None,
        *,
        like: Self | None = None,
        part: str = "data",
    ) -> None:
        nothing = {"path": EXAMPLE, "labels": "", "slices": False}
        nothing |= {name: None for name in config.names_with("data")}
        self._begun = nothing if like is None else like.entries
        if path is not None:
            self._begun |= {"path": str(path), "labels": str(labels or "")}
        self._part, self._reason, self._stacks = part, "", None
        filled = self._begun | remembered.recall(part, self._begun)
        self.path = _path_field(filled["path"], "file or folder")
        self.labels = _path_field(filled["labels"], "labels, if any")
        self.slices = widgets.Checkbox(
            value=filled["slices"], description="a folder of 2D slices is one volume", indent=False
        )
        self.fields = {n: OptionField(n, None, self.read) for n in config.names_with("data")}
        for name, field in self.fields.items():
            field.value = filled[name]
        self.found = widgets.HTML()
        self.reset = widgets.Button(description="Reset", tooltip="to what the cell says")
        self.reset.on_click(self._reset)
        parts = widgets.VBox([self.slices, *self.fields.values(), self.reset])
        said = filled["slices"] or any(value is not None for value in self.options.values())
        self.more = widgets.Accordion([parts], selected_index=0 if said else None)
        self.more.set_title(0, "Channel, time point, voxel size, reset")
        for control in (self.path, self.labels, self.slices):
            control.observe(self.read, "value")
        shown = [self.path, self.labels, self.more, self.found]
        super().__init__(shown, words=lambda: self.found.value)
        self.read()

    @property
    def entries(self) -> dict[str, Any]:
        """All that is filled in, as JSON values."""
        texts = {"path": self.path.value, "labels": self.labels.value}
        return texts | {"slices": self.slices.value, **self.options}

    @property
    def options(self) -> dict[str, Any]:
        """The options that say how files are read, for ``config.preset("quick", **...)``."""
        return {name: field.value for name, field in self.fields.items()}

    @property
    def stacks(self) -> Stacks:
        """The usable volumes; without any, the cell that asks stops with the reason."""
        if self._stacks is None:
            raise UserError(f"There are no volumes yet. {self._reason}")
        return self._stacks

    @property
    def stack(self) -> Stack:
        """The first volume."""
        return self.stacks[0]

    @property
    def first(self) -> Stacks:
        """The first volume alone."""
        stacks = self.stacks
        return replace(stacks, stacks=stacks.stacks[:1])

    def read(self, _: object = None) -> None:
        """Read what the field names, and say what was found."""
        self._stacks, self.found.value = None, message("reading …")
        try:
            settings = config.preset("quick", **self.options)
            labels = clean_path(self.labels.value) if self.labels.value.strip() else None
            found = read_stacks(
                self._chosen(), settings, labels=labels, slices=self.slices.value
            ).require()
        except (UserError, OSError) as error:
            self._reason = str(error)
            self.found.value = message(f"{error}.", RED)
            return
        self._stacks, self.found.value = found, _describe(found)
        if any(stack.voxel_size_source == "assumed" for stack in found):
            self.more.selected_index = 0  # the field for it is in there
        remembered.keep(self._part, self._begun, self.entries)

    def judge(self, settings: Settings) -> None:
        """Judge the volumes anew, for what they are to be used with."""
        if self._stacks is not None:
            for stack in self._stacks:
                stack.findings = tuple(check.check_volume(stack, settings))
            self.found.value = _describe(self._stacks)

    def _chosen(self) -> Path:
        if self.path.value.strip() != EXAMPLE:
            path = clean_path(self.path.value)
            if not path.exists():
                raise UserError(f"there is no '{path}'; it was looked for in '{Path.cwd()}'")
            return path
        image = Path("example") / "example.tif"
        return image if image.exists() else example.write_example(image.parent)

    def _reset(self, _: object) -> None:
        for name, field in self.fields.items():
            field.value = self._begun[name]
        self.slices.value, self.labels.value = self._begun["slices"], self._begun["labels"]
        self.path.value = self._begun["path"]
        self.read()
        remembered.forget()
        self.found.value += message("Nothing is remembered from last time; run the cells below.")


def clean_path(text: str) -> Path:
    """Return a path as it was pasted: without quotes, ``file://`` and blanks around it."""
    text = text.strip().strip("\"'“”‘’").strip()
    if text.startswith("file://"):
        text = unquote(text.removeprefix("file://").removeprefix("localhost"))
    return Path(os.path.expanduser(text))  # unlike pathlib's, it leaves an unknown ~name


def _path_field(value: str, name: str) -> widgets.Combobox:
    """Return a field that offers the folders and TIFFs beside and below what it says."""
    field = widgets.Combobox(
        value=value, description=name, continuous_update=False, layout=WIDE, style=SIDE
    )

    def offer(_: object = None) -> None:
        path = clean_path(field.value)
        with contextlib.suppress(OSError):  # what is no path or may not be read offers nothing
            folder = path if path.is_dir() else path.parent
            inside = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
            kinds = (".tif", ".tiff")
            seen = [str(p) for p in inside if p.is_dir() or p.suffix.lower() in kinds]
            field.options = [EXAMPLE, str(folder.parent), *seen[:OFFERED]]

    field.observe(offer, "value")
    offer()
    return field


def _describe(found: Stacks) -> str:
    n = len(found)
    rows = [(0, f"<b>{n} volume{'s' if n > 1 else ''}</b>")]
    for stack in found:
        rows.append((0, escape(stack.words)))
        rows += [(1, message(f"{f.level}: {f.text}.", COLOURS[f.level])) for f in stack.findings]
    rows += [(0, message(f"skipped {path.name}: {why}", ORANGE)) for path, why in found.skipped]
    return paragraph("".join(f'<div style="margin-left:{n}em">{row}</div>' for n, row in rows))
