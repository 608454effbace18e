import shutil

import pytest

from wnet_nb import widgets
from wnet_nb.errors import UserError


@pytest.fixture
def runs(trained, tmp_path):
    shutil.copytree(trained.run, tmp_path / "runs" / "yesterday")
    return tmp_path / "runs"


def test_yesterdays_run_is_listed_with_date_volumes_and_count_and_opens(runs):
    field = widgets.ModelField("none")
    ((words, value),) = [option for option in field.list.options if "yesterday" in option[0]]
    assert "202" in words and ", a, no cells yet" in words
    field.list.value = value
    assert field.choice.value == value == "runs/yesterday"
    assert "4 channels and 2 classes" in field.found.value
    assert str(field.source) == "runs/yesterday"


def test_it_takes_a_weights_file_pasted_with_quotes(runs):
    field = widgets.ModelField("none")
    field.choice.value = f"'{runs / 'yesterday' / 'weights.safetensors'}'"
    assert field.source == runs / "yesterday" / "weights.safetensors"


def test_no_network_is_a_choice():
    assert widgets.ModelField("none").source == "none"


def test_what_is_not_there_is_said_and_stops_the_cell_that_asks(tmp_path):
    field = widgets.ModelField("nowhere")
    assert f"no network 'nowhere', looked for in '{tmp_path}'" in field.found.value.replace(
        "&#x27;", "'"
    )
    with pytest.raises(UserError, match="nowhere"):
        field.source  # noqa: B018


def test_a_run_without_readable_settings_is_named_and_hinders_no_other(runs):
    shutil.copytree(runs / "yesterday", runs / "broken")
    (runs / "broken" / "settings.json").write_text("{")
    words = [words for words, _ in widgets.ModelField("none").list.options]
    assert any("yesterday" in w for w in words) and any("not readable" in w for w in words)


def test_the_choice_is_there_after_a_restart(runs):
    widgets.ModelField("none").choice.value = "runs/yesterday"
    assert str(widgets.ModelField("none").source) == "runs/yesterday"
