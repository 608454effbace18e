from html.parser import HTMLParser

import ipywidgets

from wnet_nb.widgets.panel import Panel, message


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


def test_what_comes_from_a_file_is_escaped():
    assert "<img" not in message("<img onerror=alert(1)>.tif")
