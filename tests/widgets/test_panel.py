import asyncio
from html.parser import HTMLParser

import ipywidgets

from wnet_nb import widgets
from wnet_nb.files.writing import write_volume
from wnet_nb.widgets.panel import Panel, message

SIZE = (2.0, 1.0, 1.0)


def test_a_panel_carries_a_picture_and_words_for_places_without_widgets():
    panel = Panel([ipywidgets.HTML("live")], lambda: b"PNG", lambda: "<b>57</b> cells<br>here")
    bundle = panel._repr_mimebundle_()
    assert bundle["image/png"] == "UE5H" and bundle["text/plain"] == "57 cells\nhere"
    assert "application/vnd.jupyter.widget-view+json" in bundle


def test_its_still_is_hidden_by_a_rule_that_only_a_live_panel_brings(monkeypatch):
    shown = []
    monkeypatch.setattr("wnet_nb.widgets.panel.display", lambda data, raw: shown.append(data))
    panel = Panel([ipywidgets.HTML("live")], lambda: b"PNG")
    panel._ipython_display_()
    still = shown[1]["text/html"]
    classes = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: classes.extend(
        value for name, value in attributes if name == "class"
    )
    parser.feed(still)
    rules = [child.value for child in panel.children if isinstance(child, ipywidgets.HTML)]
    assert "UE5H" in still
    assert any(f".{classes[0]} {{display:none}}" in rule for rule in rules)


HOSTILE = "<img src=x onerror=alert(1)>"


def html_of(widget):
    """Return the HTML of a widget and all that are in it."""
    own = [widget.value] if isinstance(widget, ipywidgets.HTML) else []
    return own + [text for child in getattr(widget, "children", ()) for text in html_of(child)]


def test_a_hostile_name_of_a_stack_is_text_in_every_panel(example, tmp_path, capsys):
    folder = tmp_path / HOSTILE.replace("/", "")
    write_volume(folder / f"{HOSTILE}.tif", example[0], voxel_size_um=SIZE)
    (folder / f"{HOSTILE}.txt").write_text("not an image")
    field = widgets.DataField(folder)
    shown = [field, widgets.view_stacks(field.stacks)]
    results = asyncio.run(widgets.find_cells("none", field.stacks, {}, folder=tmp_path / HOSTILE))
    shown.append(widgets.view_cells(results, field.stacks))
    texts = [text for panel in shown for text in html_of(panel)]
    texts += [bundle.get("text/html", "") for bundle in (p._repr_mimebundle_() for p in shown)]
    assert any("onerror" in text for text in texts)
    tags = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: tags.append((tag, dict(attributes)))
    parser.feed("".join(texts))
    assert not [tag for tag, attributes in tags if tag == "script" or "onerror" in attributes]
    assert HOSTILE in {result.name for result in results}


def test_what_comes_from_a_file_is_escaped():
    assert "<img" not in message("<img onerror=alert(1)>.tif")
