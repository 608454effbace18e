"""The pieces of an HTML page that is one file: nothing is fetched, nothing runs, all is escaped.

Words from anywhere become harmless text when they are put in; only `Html` goes in as it is.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

# Forbids a browser to fetch or run anything, should a hostile word ever get in unescaped.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1b1f24; max-width: 960px; margin: 2em auto;
  padding: 0 1em; overflow-wrap: break-word }
h1 { line-height: 1.2; margin-bottom: 0 }
h2 { border-bottom: 2px solid #1f5fa8; padding-bottom: .15em; margin-top: 2em }
h3 { margin: 1.6em 0 .4em }
.note { color: #57606a; font-size: 14px }
.lead { font-size: 18px }
.alarm { border: 2px solid #c2410c; border-left-width: 10px; background: #fff4ed;
  padding: .6em 1em }
table { border-collapse: collapse; width: 100%; font-size: 14px }
th, td { border-bottom: 1px solid #d0d7de; padding: .35em .9em .35em 0; text-align: left;
  vertical-align: top }
tbody th { font-weight: 400 }
.facts th { width: 11em; font-weight: 600 }
.wide code { white-space: nowrap }
thead th { border-bottom: 2px solid #8c959f }
.wide { overflow-x: auto }
code, pre { font: 13px/1.5 ui-monospace, monospace; background: #f2f4f6; overflow-wrap: anywhere }
code { padding: 0 .25em } pre { padding: .7em 1em; white-space: pre-wrap }
figure { margin: 1em 0 }
figure img { max-width: 100%; height: auto }
figcaption { color: #57606a; font-size: 14px }
.side { display: flex; flex-wrap: wrap; gap: 1em 2em; align-items: flex-end }
.side figure { flex: 1 1 330px; max-width: 460px; margin: .5em 0 }
@media print {
  @page { margin: 15mm }
  body { font-size: 10pt; max-width: none; margin: 0; padding: 0 }
  h1, h2, h3 { margin-top: 1.1em; break-after: avoid }
  .lead { font-size: 11pt }
  figure, tr, pre, .alarm { break-inside: avoid }
  table, .note, figcaption { font-size: 8.5pt }
}
"""


class Html(str):
    """Text that is HTML already."""


def put(*parts: Any) -> Html:
    """Return parts one after the other; all but `Html` is escaped.

    Examples
    --------
    >>> put("2 < 3 ", tag("b", "cells"))
    '2 &lt; 3 <b>cells</b>'
    """
    return Html("".join(p if isinstance(p, Html) else escape(str(p)) for p in parts))


def tag(name: str, *parts: Any, **attributes: str) -> Html:
    """Return parts in an element; ``kind`` is its class, as `class` is a word of Python."""
    names = {"kind": "class"}
    words = "".join(f' {names.get(k, k)}="{escape(v)}"' for k, v in attributes.items())
    return Html(f"<{name}{words}>{put(*parts)}</{name}>")


def table(heading: Sequence[Any], rows: Iterable[Sequence[Any]]) -> Html:
    """Return a table with a heading; the first cell of each row names it."""
    head = tag("thead", tag("tr", *(tag("th", cell) for cell in heading)))
    return tag("div", tag("table", head, tag("tbody", *map(_row, rows))), kind="wide")


def facts(rows: Iterable[tuple[str, Any]]) -> Html:
    """Return a table of names and what there is to say of each."""
    return tag("table", tag("tbody", *map(_row, rows)), kind="facts")


def _row(cells: Sequence[Any]) -> Html:
    first, *rest = cells
    return tag("tr", tag("th", first), *(tag("td", cell) for cell in rest))


def picture(png: bytes | Path, caption: Any) -> Html:
    """Return a PNG with a caption; nothing if it is a file that is not there."""
    if isinstance(png, Path):
        if not png.exists():
            return Html()
        png = png.read_bytes()
    data = b64encode(png).decode()
    image = Html(f'<img src="data:image/png;base64,{data}" alt="">')
    return tag("figure", image, tag("figcaption", caption))


def date(moment: str) -> str:
    """Return an ISO date and time for people, such as 2026-11-24 at 13:05."""
    return moment[:16].replace("T", " at ")


def page(title: str, *parts: Any) -> str:
    """Return a whole page, ready to be written as UTF-8."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n"
        f"<body>{put(*parts)}</body></html>\n"
    )
