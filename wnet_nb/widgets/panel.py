"""A box of widgets that leaves a picture or words where widgets are not drawn.

That is so on a code-hosting page, and in a notebook that is opened again without its kernel.
"""

import base64
import re
from collections.abc import Callable, Sequence
from html import escape, unescape
from typing import Any

import ipywidgets as widgets
from IPython.display import display

RED, ORANGE = "#b91c1c", "#b45309"
LINES = "line-height:1.4"  # else text of several lines stands as far apart as fields do
WIDGET = "application/vnd.jupyter.widget-view+json"
WIDE = {"width": "98%", "max_width": "800px"}  # of a field for a path
SIDE = {"description_width": "110px"}


def message(text: str, colour: str = "inherit") -> str:
    """Return text as HTML in a colour; nothing for no text."""
    words = escape(text, quote=False)
    style = f"color:{colour};display:inline-block;{LINES}"
    return f'<span style="{style}">{words}</span>' if text else ""


def paragraph(html: str) -> str:
    """Return HTML of more than one line."""
    return f'<div style="{LINES}">{html}</div>'


class Panel(widgets.VBox):
    """A box that is displayed together with a still of itself, which hides while the box lives.

    `picture` returns the PNG of the still and `words` its HTML, when the box is displayed.
    """

    def __init__(
        self,
        children: Sequence[widgets.Widget],
        picture: Callable[[], bytes] = bytes,
        words: Callable[[], str] = str,
    ) -> None:
        # A live box brings this rule into the page; a dead one does not, and its still is seen.
        super().__init__()
        self._still = f"wnet-still-{self.model_id}"
        rule = f"<style>.{self._still} {{display:none}}</style>"
        self.children = [*children, widgets.HTML(rule, layout={"display": "none"})]
        self.layout.width = "100%"
        self.add_class(f"wnet-{type(self).__name__.lower()}")
        self._picture, self._words = picture, words

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        view = {"version_major": 2, "version_minor": 0, "model_id": self.model_id}
        words = re.sub("<(br|/div)[^>]*>", "\n", self._words() or type(self).__name__)
        bundle = {WIDGET: view, "text/plain": unescape(re.sub("<[^>]+>", "", words))}
        if picture := self._picture():
            bundle["image/png"] = base64.b64encode(picture).decode()
        return bundle

    def _ipython_display_(self, **_: Any) -> None:
        """Show the box; ipywidgets 7 calls this in place of the bundle."""
        display(self._repr_mimebundle_(), raw=True)
        self.show_still()

    def show_still(self) -> None:
        """Leave a still of what the box shows now below the cell that is running."""
        bundle = self._repr_mimebundle_()
        text, inside = bundle["text/plain"], ""
        if "image/png" in bundle:
            inside = f'<img src="data:image/png;base64,{bundle["image/png"]}">'
        if self._words():
            inside += f"<pre>{escape(text)}</pre>"
        if inside:
            still = f'<div class="{self._still}">{inside}</div>'
            display({"text/html": still, "text/plain": text}, raw=True)
