import shutil
from pathlib import Path

import pytest

from wnet_nb import config, widgets
from wnet_nb.errors import UserError


def test_settings_go_through_the_form_unchanged(settings):
    assert widgets.SettingsForm(settings).settings == settings


@pytest.mark.parametrize(
    ("name", "shown", "value"),
    [("radius", "4", 4), ("affinity", "pairwise", "pairwise"), ("augmentation", False, False)],
)
def test_what_is_set_in_a_field_is_in_the_settings(settings, name, shown, value):
    form = widgets.SettingsForm(settings)
    form.fields[name].control.value = shown
    assert getattr(form.settings, name) == value


def test_every_option_has_a_field_with_its_help(settings):
    form = widgets.SettingsForm(settings)
    elsewhere = {"channel", "time", "voxel_size_um"}  # of the data field
    assert set(form.fields) == set(config.OPTIONS) - elsewhere


@pytest.mark.parametrize(
    ("name", "entry", "reason"),
    [
        ("epochs", "abc", "epochs='abc' must be a number"),
        ("patch_size", "17", "multiple of 8"),
        ("radius", "9", "radius=9 does not fit patch_size=16"),
        ("foreground_classes", "7", "does not fit n_classes=2"),
        ("start_from", "nowhere.pth", "no weights at 'nowhere.pth', looked for in"),
    ],
)
def test_what_cannot_be_taken_is_said_and_stops_the_cell_that_asks(settings, name, entry, reason):
    form = widgets.SettingsForm(settings)
    form.fields[name].control.value = entry
    assert reason in form.problem.value
    with pytest.raises(UserError, match=reason.split("(")[0]):
        form.settings  # noqa: B018
    form.fields[name].value = getattr(settings, name)
    form.fields["seed"].control.value = "3"
    assert form.problem.value == "" and form.settings == settings.replace(seed=3)


def test_a_preset_fills_the_fields_and_is_told_on(settings):
    told = []
    form = widgets.SettingsForm(settings, on_preset=told.append)
    form.preset.value = "published"
    assert form.settings == config.preset("published") == told[0]


def test_the_preset_that_the_fields_are_is_named():
    form = widgets.SettingsForm(config.preset("quick"))
    assert form.preset.value == "quick" and not form.note.value
    form.fields["radius"].control.value = "5"
    assert form.preset.value == ""


def test_the_settings_of_a_run_that_is_there_can_be_taken(settings, trained):
    shutil.copytree(trained.run, "runs/yesterday")
    sized = {"voxel_size_um": (3.0, 1.0, 1.0)}
    form = widgets.SettingsForm(config.preset("published", **sized))
    form.preset.value = str(Path("runs/yesterday/settings.json"))
    assert form.settings == settings.replace(**sized)
    assert form.preset.value == ""
    Path("runs/yesterday/settings.json").write_text("{")
    form.preset.value = str(Path("runs/yesterday/settings.json"))
    assert "settings.json" in form.note.value and form.settings == settings.replace(**sized)


def test_what_was_filled_in_is_there_after_a_restart_unless_the_cell_was_edited(settings):
    widgets.SettingsForm(settings).fields["radius"].control.value = "5"
    sized = settings.replace(voxel_size_um=(3.0, 1.0, 1.0))
    assert widgets.SettingsForm(sized).settings == sized.replace(radius=5)
    other = settings.replace(epochs=9)
    assert widgets.SettingsForm(other).settings == other


def test_the_tab_of_the_affinities_is_not_the_one_that_opens(settings, stacks):
    form = widgets.SettingsForm(settings, stacks[0])
    (tab,) = [child for child in form.children if type(child).__name__ == "Tab"]
    shown = [group for group in tab.children if "wnet-affinitypicture" in str(group.children)]
    assert len(shown) == 1 and shown[0] is not tab.children[tab.selected_index]
