import pytest

from wnet_nb.config import DEFAULTS, names_with
from wnet_nb.errors import UserError
from wnet_nb.widgets.option_field import LINEAR, OptionField


def field(name, value, told=None):
    calls = [] if told is None else told
    return OptionField(name, value, lambda: calls.append(name))


@pytest.mark.parametrize(
    ("name", "before", "entry", "value"),
    [
        ("ncut_weight", 0.5, "0,3", 0.3),
        ("ncut_weight", 0.5, "0.3", 0.3),
        ("learning_rate", 1e-3, "2e-5", 2e-5),
        ("epochs", 5, "12", 12),
        ("patch_size", 64, "16,24,24", (16, 24, 24)),
        ("voxel_size_um", None, "0,5; 0,25; 0,25", (0.5, 0.25, 0.25)),
        ("cell_radius_um", 4.0, "", None),
        ("foreground_classes", None, "1", (1,)),
    ],
)
def test_an_entry_is_read_with_a_decimal_point_or_comma(name, before, entry, value):
    one = field(name, before)
    one.control.value = entry
    assert (one.value, one.fault) == (value, "")


def test_an_entry_that_cannot_be_taken_is_a_fault_beside_the_field():
    told = []
    one = field("epochs", 5, told)
    one.control.value = "abc"
    assert "epochs='abc' must be a number" in one.fault and one.fault in one.problem.value.replace(
        "&#x27;", "'"
    )
    assert told == ["epochs"]
    with pytest.raises(UserError, match="must be a number"):
        one.value  # noqa: B018
    one.control.value = "5"
    assert (one.fault, one.problem.value, one.value) == ("", "", 5)


def test_a_slider_writes_its_value_into_the_field_and_follows_it():
    told = []
    one = field("spatial_sigma", 4.0, told)
    one.slider.value = 5.0
    assert one.value == 5.0 and one.control.value == "5" and told == ["spatial_sigma"]
    one.control.value = "8,0"
    assert one.slider.value == 8 and told == ["spatial_sigma"] * 2


@pytest.mark.parametrize(
    ("name", "value"), [("reconstruction_weight", 0.005), ("ncut_weight", 0.513), ("radius", 30)]
)
def test_a_value_between_or_beyond_the_steps_of_its_slider_stays(name, value):
    told = []
    one = field(name, value, told)
    one.slider.value = one.slider.value  # as a browser answers
    assert one.value == value and told == []


def test_the_step_next_to_a_value_that_a_browser_answers_with_is_not_taken():
    told = []
    one = field("reconstruction_weight", 0.005, told)
    one.slider.value = 10**-2.3
    assert (one.value, one.control.value, told) == (0.005, "0.005", [])
    one.slider.value = 10**-2.28
    assert (one.value, told) == (0.00525, ["reconstruction_weight"])


def test_a_slider_of_powers_of_ten_gives_three_digits():
    one = field("reconstruction_weight", 0.005)
    one.slider.value = 10**-3.98
    assert (one.value, one.control.value) == (0.000105, "0.000105")


def test_a_slider_of_an_option_that_was_emptied_can_still_be_moved():
    one = OptionField("cell_radius_um", 4.0, lambda: None, span=(LINEAR, 1, 9, 0.1))
    one.control.value = ""
    assert one.value is None and one.slider.value == 4
    one.slider.value = 5
    assert one.value == 5


def test_every_option_that_is_to_be_a_slider_has_one():
    for name in names_with("slider"):
        assert field(name, DEFAULTS[name]).slider is not None, name


def test_a_field_that_is_set_by_the_program_tells_nobody():
    told = []
    one = field("radius", 2, told)
    one.value = 5
    assert told == [] and one.control.value == "5" and one.slider.value == 5
