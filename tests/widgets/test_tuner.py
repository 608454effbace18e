import pytest

from wnet_nb import widgets
from wnet_nb.errors import UserError
from wnet_nb.jobs.models import load_model
from wnet_nb.jobs.segment import segment, segment_settings
from wnet_nb.jobs.stacks import read_stacks
from wnet_nb.widgets.viewer import TRUTH


@pytest.fixture(params=["a run", "none"])
def tuner(request, trained, stacks):
    return widgets.CellTuner(trained.run if request.param == "a run" else "none", stacks)


def test_a_field_moves_count_sizes_and_changes_and_can_be_undone(tuner):
    assert tuner.changes == {}
    sizes, words = tuner.sizes.value, tuner.count.value
    tuner.fields["minimum_size"].control.value = "0,9"
    assert tuner.sizes.value != sizes
    assert tuner.changes == {"minimum_size": 0.9}
    tuner.buttons[0].click()
    assert (tuner.changes, tuner.count.value) == ({}, words)


def test_one_click_takes_tight_or_generous_outlines(tuner):
    undo, tight, generous = tuner.buttons
    tight.click()
    small = (tuner.viewer.overlays["cells"] > 0).sum()
    generous.click()
    assert tuner.changes == {"boundary": 0.3}
    assert (tuner.viewer.overlays["cells"] > 0).sum() > small
    undo.click()
    assert tuner.changes == {}


def test_its_changes_are_options_of_the_segmentation(trained, stacks):
    tuner = widgets.CellTuner(trained.run, stacks)
    tuner.fields["boundary"].slider.value += 0.05
    settings = segment_settings(load_model(trained.run), tuner.changes)
    assert settings.boundary == tuner.changes["boundary"]


def test_it_scores_against_the_truth_and_shows_it(tuner):
    assert "for 10 true cells" in tuner.count.value
    assert TRUTH in tuner.viewer.overlays


def test_a_class_that_does_not_exist_is_said(trained, stacks):
    tuner = widgets.CellTuner(trained.run, stacks)
    tuner.fields["foreground_classes"].control.value = "7"
    assert "does not fit n_classes=2" in tuner.count.value


def test_an_entry_that_cannot_be_taken_is_said_and_not_applied(trained, stacks):
    tuner = widgets.CellTuner(trained.run, stacks)
    tuner.fields["minimum_size"].control.value = "small"
    assert "must be a number" in tuner.count.value
    with pytest.raises(UserError, match="minimum_size='small'"):
        tuner.changes  # noqa: B018


def test_another_volume_keeps_what_was_tuned(folder, settings, trained):
    tuner = widgets.CellTuner(trained.run, read_stacks(folder / "two", settings))
    tuner.fields["minimum_size"].control.value = "0.5"
    first = tuner.viewer.picture.value
    tuner.chooser.which.value = 1
    assert tuner.viewer.picture.value != first
    assert tuner.changes == {"minimum_size": 0.5}


def test_what_was_tuned_is_there_after_a_restart(trained, stacks):
    widgets.CellTuner(trained.run, stacks).fields["minimum_size"].control.value = "0.5"
    assert widgets.CellTuner(trained.run, stacks).changes == {"minimum_size": 0.5}
    assert widgets.CellTuner("none", stacks).changes == {}


@pytest.mark.parametrize("radius", ["", "6"])
@pytest.mark.parametrize("network", ["a run", "starter"])
def test_what_it_shows_of_a_small_volume_is_what_applying_gives(network, radius, trained, stacks):
    network = trained.run if network == "a run" else network
    tuner = widgets.CellTuner(network, stacks)
    if radius:
        tuner.fields["cell_radius_um"].control.value = radius
    (result,) = segment(network, stacks, out="predictions", **tuner.changes)
    assert (tuner.viewer.overlays["cells"] == result.labels()).all()


def test_of_a_large_volume_it_shows_a_part(trained, stacks, monkeypatch):
    monkeypatch.setattr("wnet_nb.widgets.tuner.WHOLE_VOXELS", 0)
    monkeypatch.setattr("wnet_nb.widgets.tuner.CROP_VOXELS", 15)
    tuner = widgets.CellTuner("starter", stacks)
    assert tuner.viewer.overlays["cells"].shape == (15, 15, 15)
    tuner.fields["cell_radius_um"].control.value = "9"
    assert "15 × 15 × 15" in tuner.count.value
