from pathlib import Path

import pytest
import tifffile

from wnet_nb import config, widgets
from wnet_nb.errors import UserError
from wnet_nb.widgets.data_field import clean_path

SIZE = (2.0, 1.0, 1.0)


def test_it_says_what_it_found_and_what_it_skipped(folder):
    data = widgets.DataField(folder / "in")
    assert "24 × 32 × 40 voxels" in data.found.value
    assert "skipped notes.txt" in data.found.value
    assert data.stack.voxel_size_um == SIZE


def test_each_thing_that_is_said_has_a_line_of_its_own_and_no_empty_ones_between(folder):
    field = widgets.DataField(folder / "in", folder / "truth")
    lines = field._repr_mimebundle_()["text/plain"].rstrip().split("\n")
    assert lines[0] == "1 volume" and all(lines)
    assert lines[-1].startswith("skipped notes.txt: ")
    assert lines[2].startswith("info: ") and lines[-2].startswith("info: its truth ")


def test_it_answers_at_once_when_its_path_changes(folder, tmp_path):
    data = widgets.DataField(folder / "in")
    data.path.value = "nowhere"
    assert f"no 'nowhere'; it was looked for in '{tmp_path}'" in data.found.value.replace(
        "&#x27;", "'"
    )
    with pytest.raises(UserError, match="nowhere"):
        data.stacks  # noqa: B018


@pytest.mark.parametrize("text", ["x" * 5000, "~nobody_of_this_name/in", "C:\\no\\such", "a\nb"])
def test_text_that_is_no_path_is_told_and_ends_nothing(folder, text):
    data = widgets.DataField(folder / "in")
    for field in (data.path, data.labels):
        field.value = text
        with pytest.raises(UserError):
            _ = data.stacks
    data.path.value, data.labels.value = str(folder / "in"), ""
    assert len(data.stacks) == 1


@pytest.mark.parametrize("form", ["'{}'", '"{}"', "file://{}", " {} ", "file://{} "])
def test_a_path_may_be_pasted_with_quotes_or_as_a_file_address(folder, form):
    data = widgets.DataField(folder / "in")
    data.path.value = form.format(folder / "two")
    assert len(data.stacks) == 2


def test_a_file_address_is_decoded():
    assert clean_path("file:///home/a%20b/x.tif") == Path("/home/a b/x.tif")


def test_the_path_offers_what_lies_beside_it(folder):
    data = widgets.DataField(folder / "in")
    data.path.value = str(folder)
    offered = set(data.path.options)
    assert {str(folder / "in"), str(folder / "two")} <= offered
    data.path.value = str(folder / "two")
    assert str(folder / "two" / "b.tif") in data.path.options


def test_the_voxel_size_reaches_volume_and_settings(folder):
    data = widgets.DataField(folder / "in")
    data.fields["voxel_size_um"].control.value = "3,2,2"
    assert data.stack.voxel_size_um == (3.0, 2.0, 2.0)
    assert config.preset("quick", **data.options).voxel_size_um == (3.0, 2.0, 2.0)


def test_the_field_for_the_voxel_size_opens_where_it_had_to_be_assumed(folder, example, tmp_path):
    assert widgets.DataField(folder / "in").more.selected_index is None
    tifffile.imwrite(tmp_path / "x.tif", example[0])
    assert widgets.DataField(tmp_path / "x.tif").more.selected_index == 0


def test_an_entry_that_cannot_be_read_stops_the_cell_that_asks_for_the_volumes(folder):
    data = widgets.DataField(folder / "in")
    data.fields["voxel_size_um"].control.value = "large"
    with pytest.raises(UserError, match="voxel_size_um='large' must have three values"):
        data.stacks  # noqa: B018


def test_the_example_is_there_without_a_file_and_with_its_truth():
    data = widgets.DataField("example")
    assert data.stack.shape == (96, 96, 96) and data.stack.truth.max() > 50


def test_labels_follow_the_volumes(folder):
    data = widgets.DataField(folder / "in", folder / "truth")
    assert data.stack.truth.max() == 10
    assert "never trained on" in data.found.value


def test_the_volumes_are_judged_for_the_preset_that_is_chosen(folder):
    data = widgets.DataField(folder / "in")
    quick = data.found.value
    data.judge(config.preset("published"))
    assert data.found.value != quick


def test_what_was_filled_in_is_there_after_a_restart(folder):
    first = widgets.DataField("example")
    first.path.value = str(folder / "in")
    first.fields["voxel_size_um"].control.value = "3; 0,5; 0,5"
    again = widgets.DataField("example")
    assert again.stack.name == "a" and again.options["voxel_size_um"] == (3.0, 0.5, 0.5)
    assert widgets.DataField(folder / "truth").path.value == str(folder / "truth")


def test_reset_goes_back_to_what_the_cell_says(folder):
    first = widgets.DataField(folder / "in")
    first.path.value = str(folder / "two")
    first.reset.click()
    assert first.path.value == str(folder / "in")
    assert widgets.DataField(folder / "in").path.value == str(folder / "in")


def test_the_first_volume_can_be_taken_alone(folder):
    assert [s.name for s in widgets.DataField(folder / "two").first] == ["a"]


def test_what_is_said_of_the_data_holds_in_a_later_field_until_it_is_said_anew(folder):
    data = widgets.DataField(folder / "in")
    data.fields["voxel_size_um"].control.value = "3,2,2"
    later = widgets.DataField(like=data, part="target")
    assert later.stack.voxel_size_um == (3.0, 2.0, 2.0) and later.entries == data.entries
    later.fields["voxel_size_um"].control.value = "5,2,2"
    assert widgets.DataField(like=data, part="target").stack.voxel_size_um == (5.0, 2.0, 2.0)
    data.fields["voxel_size_um"].control.value = "4,2,2"
    assert widgets.DataField(like=data, part="target").stack.voxel_size_um == (4.0, 2.0, 2.0)
