"""The cells of a volume one by one, bound to a viewer: row and cell are chosen together."""

from collections.abc import Mapping
from html import escape
from typing import Any

import ipywidgets as widgets

from wnet_nb.files.result import CELLS, Result
from wnet_nb.widgets.panel import Panel, paragraph
from wnet_nb.widgets.viewer import Viewer

COLUMNS = (  # name in cells.csv, title, width, format
    ("label", "cell", 6, ".0f"),
    ("volume_um3", "volume µm³", 12, ".0f"),
    ("sphericity", "sphericity", 12, ".2f"),
    ("mean_intensity", "brightness", 12, ".1f"),
    ("centroid_z_voxels", "z", 6, ".0f"),
    ("centroid_y_voxels", "y", 6, ".0f"),
    ("centroid_x_voxels", "x", 6, ".0f"),
    ("touches_border", "at edge", 9, ""),
)
STYLE = (
    "<style>.wnet-table, .wnet-table select {font-family:monospace !important;"
    "font-size:12px !important; white-space:pre}</style>"
)


class CellTable(Panel):
    """A sortable table of a result: its row chooses the cell in `overlay` of a viewer, and back."""

    def __init__(self, result: Result, viewer: Viewer, overlay: str) -> None:
        self.viewer, self.overlay, self.rows = viewer, overlay, result.cells()
        self.by = widgets.Dropdown(
            options=[(title, name) for name, title, *_ in COLUMNS],
            description="sort by",
            layout={"width": "260px"},
        )
        self.down = widgets.Checkbox(description="largest first", indent=False)
        head = "".join(f"{title:>{width}}" for _, title, width, _ in COLUMNS)
        header = widgets.HTML(f'{STYLE}<pre class="wnet-table" style="margin:0">{head}</pre>')
        self.table = widgets.Select(rows=12, layout={"width": "98%", "max_width": "860px"})
        self.table.add_class("wnet-table")
        self.by.observe(self._sort, "value")
        self.down.observe(self._sort, "value")
        self.table.observe(self._show_cell, "value")
        viewer.on_cell = self._choose_row
        assumed = ", their size assumed" * (result.facts["voxel_size_source"] == "assumed")
        file = f"<code>{escape(str(result.folder / CELLS))}</code>"
        where = widgets.HTML(paragraph(f"z, y, x in voxels{assumed}. All columns are in {file}"))
        top = widgets.HBox([self.by, self.down], layout={"flex_flow": "row wrap"})
        super().__init__(
            [top, header, self.table, where],
            words=lambda: "<br>".join([head, *(line for line, _ in self.table.options[:20])]),
        )
        self._sort()

    def _sort(self, _: object = None) -> None:
        chosen = self.table.value
        rows = sorted(self.rows, key=lambda row: row[self.by.value], reverse=self.down.value)
        self.table.unobserve(self._show_cell, "value")  # new options choose the first of them
        self.table.options = [(_line(row), int(row["label"])) for row in rows]
        self.table.value = chosen
        self.table.observe(self._show_cell, "value")

    def _show_cell(self, change: Mapping[str, Any]) -> None:
        row = next((r for r in self.rows if r["label"] == change["new"]), None)
        if row is not None and self.viewer.chosen != (self.overlay, change["new"]):
            point = [row[f"centroid_{axis}_voxels"] for axis in "zyx"]
            self.viewer.choose(self.overlay, int(row["label"]), point)

    def _choose_row(self, overlay: str, cell: int) -> None:
        if overlay == self.overlay and any(row["label"] == cell for row in self.rows):
            self.table.value = cell


def _line(row: Mapping[str, Any]) -> str:
    words = [f"{_word(row[name], form):>{width}}" for name, _, width, form in COLUMNS]
    return "".join(words).replace(" ", "\u00a0")


def _word(value: float | bool, form: str) -> str:
    return format(value, form) if form else ("yes" if value else "no")
