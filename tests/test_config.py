"""Tests of `wnet_nb.config`: the guide's values, what is refused and how, and round trips."""

import dataclasses
import json
import math
import tempfile
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given

from wnet_nb.config import (
    DEFAULTS,
    GROUPS,
    OPTIONS,
    PRESETS,
    Settings,
    check_value,
    load_settings,
    names_with,
    parse_assignments,
    parse_value,
    preset,
)
from wnet_nb.errors import UserError

GUIDE = {  # the CellSeg3D guide, and the published network
    "n_classes": 2,
    "reconstruction_loss": "MSE",
    "intensity_sigma": 1,
    "spatial_sigma": 4,
    "radius": 2,
    "ncut_weight": 0.5,
    "hold_weight": 0.0,
    "reconstruction_weight": 5e-3,
    "epochs": 50,
    "batch_size": 4,
    "learning_rate": 2e-5,
    "weight_decay": 0.01,
    "dropout": 0.65,
    "base_channels": 64,
    "affinity": "class_mean",
    "normalisation": "percentile",
    "match_cell_size": False,
    "subtract_background": False,
    "gradient_clipping": 0,
    "start_from": None,
}
NUMBERS = [name for name, option in OPTIONS.items() if option.kind in (int, float)]
CHOICES = [name for name, option in OPTIONS.items() if option.choices]
OTHERS = {  # one allowed value per option that is not its default
    "n_classes": 3,
    "base_channels": 8,
    "dropout": 0.25,
    "intensity_sigma": 2.5,
    "spatial_sigma": 3.5,
    "radius": 5,
    "affinity": "pairwise",
    "ncut_weight": 1.5,
    "hold_weight": 1.0,
    "reconstruction_weight": 0.25,
    "reconstruction_loss": "BCE",
    "epochs": 7,
    "batch_size": 3,
    "learning_rate": 1e-3,
    "weight_decay": 0.5,
    "activation_checkpointing": True,
    "gradient_clipping": 1.0,
    "precision": "float32",
    "seed": 11,
    "validation_interval": 2,
    "save_interval_minutes": 1.5,
    "recover": False,
    "start_from": "my run/weights.safetensors",
    "patch_size": (32, 64, 48),
    "patches_per_volume": 9,
    "augmentation": False,
    "normalisation": "minmax",
    "match_cell_size": True,
    "subtract_background": True,
    "channel": 1,
    "time": 4,
    "voxel_size_um": (2.0, 0.5, 0.5),
    "cell_radius_um": 4.5,
    "foreground_classes": (0, 2),
    "core_class": 2,
    "boundary": 0.4,
    "minimum_size": 0.5,
    "minimum_contrast": 12.5,
    "tile_size": 64,
    "flips": True,
}


def as_word(value):
    """Return an option's value as a person types it on the command line."""
    if isinstance(value, tuple):
        return ",".join(str(item) for item in value)
    return "none" if value is None else str(value)


def refused(name, value):
    """Return the message with which the value is refused; it must name option and value."""
    with pytest.raises(UserError) as caught:
        Settings().replace(**{name: value})
    assert name in str(caught.value)
    assert str(value) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", GUIDE)
def test_default_is_that_of_the_guide(name):
    assert getattr(Settings(), name) == GUIDE[name]


def test_published_preset_is_the_defaults():
    assert preset("published") == preset() == Settings()


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_valid_and_holds_what_it_says(name):
    settings = preset(name)
    assert {k: getattr(settings, k) for k in PRESETS[name]} == PRESETS[name]


def test_a_change_wins_over_the_preset():
    assert preset("quick", base_channels=8).base_channels == 8


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_explains_itself(name):
    option = OPTIONS[name]
    assert option.group in GROUPS
    assert option.help.endswith(".") and "\n" not in option.help
    assert option.raise_when and option.lower_when
    assert not option.raise_when.endswith(".") and not option.lower_when.endswith(".")


@pytest.mark.parametrize("name", NUMBERS)
def test_every_number_has_limits_that_its_default_keeps(name):
    option = OPTIONS[name]
    assert math.isfinite(option.minimum) and math.isfinite(option.maximum)
    if DEFAULTS[name] is not None:
        assert option.minimum <= DEFAULTS[name] <= option.maximum


@pytest.mark.parametrize("name", NUMBERS)
def test_length_in_voxels_or_micrometres_states_its_unit(name):
    unit = OPTIONS[name].unit
    assert (unit == "µm") == name.endswith("_um")
    if name in ("radius", "spatial_sigma", "patch_size", "tile_size"):
        assert unit == "voxels"


def test_live_options_are_numbers_that_affect_the_training():
    assert set(names_with("live")) <= set(NUMBERS) & set(names_with("training"))
    assert {"learning_rate", "epochs", "ncut_weight", "radius"} <= set(names_with("live"))


def test_every_option_has_known_roles():
    known = {"training", "live", "segmenting", "data", "slider"}
    assert set.union(*(set(option.roles) for option in OPTIONS.values())) == known
    assert set(names_with("slider")) <= set(names_with("live"))


def test_what_decides_the_preparation_affects_the_training():
    deciding = {"cell_radius_um", "voxel_size_um", "match_cell_size", "normalisation", "channel"}
    assert deciding <= set(names_with("training"))


def test_unknown_name_is_refused_with_the_names_there_are():
    with pytest.raises(UserError, match=r"'learning_rat'.*learning_rate"):
        Settings().replace(learning_rat=1e-3)


def test_unknown_preset_is_refused_with_the_names_there_are():
    with pytest.raises(UserError, match=r"'fast'.*published, quick"):
        preset("fast")


@pytest.mark.parametrize("name", NUMBERS)
def test_value_outside_its_limits_is_refused_by_name_value_and_limit(name):
    option = OPTIONS[name]
    step = 1 if option.kind is int else 0.001
    for value, limit in (
        (option.minimum - step, option.minimum),
        (option.maximum + step, option.maximum),
    ):
        wrong = [value] * 3 if option.length == 3 else value
        with pytest.raises(UserError, match=name) as caught:
            check_value(name, wrong)
        assert str(value) in str(caught.value) and f"{limit:g}" in str(caught.value)


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize(
    "value", [math.nan, math.inf, -math.inf, "3", True, [], {}, pytest.param(10**400, id="1e400")]
)
def test_what_is_no_finite_number_is_refused_where_a_number_belongs(name, value):
    with pytest.raises(UserError, match=name):
        check_value(name, value)


@pytest.mark.parametrize("name", [n for n in NUMBERS if OPTIONS[n].kind is int])
def test_fraction_is_refused_where_a_whole_number_belongs(name):
    value = OPTIONS[name].minimum + 8.5
    with pytest.raises(UserError, match=f"{name}.*{value}.*whole number"):
        check_value(name, [value] * 3 if OPTIONS[name].length == 3 else value)


@pytest.mark.parametrize("name", CHOICES)
def test_unknown_choice_is_refused_with_the_choices(name):
    message = refused(name, "otherwise")
    assert all(choice in message for choice in OPTIONS[name].choices)
    refused(name, 1)


@pytest.mark.parametrize("name", ["augmentation", "flips", "recover"])
@pytest.mark.parametrize("value", [0, 1, "true", 2.0])
def test_only_true_and_false_are_taken_for_a_switch(name, value):
    refused(name, value)


@pytest.mark.parametrize(
    ("name", "value"), [("patch_size", 60), ("tile_size", 100), ("base_channels", 10)]
)
def test_size_that_the_network_cannot_take_is_refused(name, value):
    assert "multiple" in refused(name, value)


def test_each_edge_of_a_patch_must_be_a_multiple_of_8():
    with pytest.raises(UserError, match="patch_size=20"):
        Settings(patch_size=(16, 20, 16))


@pytest.mark.parametrize("value", [(1.0, 1.0), (1.0,) * 4, 1.0])
def test_voxel_size_of_any_other_count_than_three_is_refused(value):
    assert "z,y,x" in refused("voxel_size_um", value)


@pytest.mark.parametrize("name", OPTIONS)
def test_none_is_taken_only_where_an_option_may_be_unset(name):
    if OPTIONS[name].optional:
        assert check_value(name, None) is None
    else:
        with pytest.raises(UserError, match=name):
            check_value(name, None)


def test_path_that_is_no_text_is_refused_in_words():
    assert "text" in refused("start_from", 3)


def test_whole_number_written_as_float_becomes_an_integer():
    value = Settings(radius=3.0).radius
    assert value == 3 and type(value) is int


def test_radius_that_does_not_fit_the_patch_is_refused_with_the_largest_that_does():
    with pytest.raises(UserError, match=r"radius=8.*patch_size=16.*at most 7"):
        Settings(radius=8, patch_size=16)
    assert Settings(radius=7, patch_size=16).radius == 7


def test_two_weights_of_zero_are_refused():
    with pytest.raises(UserError, match="ncut_weight=0 and reconstruction_weight=0"):
        Settings(ncut_weight=0, reconstruction_weight=0)


def test_foreground_class_that_the_network_does_not_have_is_refused():
    with pytest.raises(UserError, match=r"foreground_classes=\(0, 2\).*n_classes=2"):
        Settings(foreground_classes=(0, 2))
    assert Settings(foreground_classes=(0, 2), n_classes=3).foreground_classes == (0, 2)


def test_settings_cannot_be_changed_in_place():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().radius = 3


def test_replace_changes_one_option_and_refuses_unknown_ones():
    assert Settings(epochs=3).replace(radius=5) == Settings(epochs=3, radius=5)
    with pytest.raises(UserError, match="radios"):
        Settings().replace(radios=5)


def test_a_single_number_stands_for_all_edges_of_a_patch():
    assert Settings(patch_size=32).patch_shape == (32, 32, 32)


def test_every_option_has_another_value_in_these_tests():
    assert set(OTHERS) == set(OPTIONS)
    assert not [n for n in OPTIONS if OTHERS[n] == DEFAULTS[n]]


@pytest.mark.parametrize("values", [DEFAULTS, OTHERS], ids=["defaults", "others"])
def test_settings_survive_json_and_the_command_line(values, tmp_path):
    settings = Settings(**values)
    file = tmp_path / "settings.json"
    for content in (settings.as_dict(), {"options": settings.as_dict(), "seed_of_tea": 1}):
        file.write_text(json.dumps(content), encoding="utf-8")
        assert load_settings(file) == settings
    words = [f"{name}={as_word(value)}" for name, value in values.items()]
    assert Settings().replace(**parse_assignments(words)) == settings


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("learning_rate=1e-3", 1e-3),
        ("hold_weight=0,3", 0.3),
        ("boundary=0,25", 0.25),
        ("voxel_size_um=4,1,1", (4.0, 1.0, 1.0)),
        ("voxel_size_um=0,284;0,127;0,127", (0.284, 0.127, 0.127)),
        ("epochs=1e2", 100),
        ("augmentation=No", False),
        ("flips=TRUE", True),
        ("channel=None", None),
        ("foreground_classes=1", (1,)),
        ("foreground_classes=1,2", (1, 2)),
        ("patch_size=48", 48),
        ("start_from=a=b.pth", "a=b.pth"),
    ],
)
def test_word_of_the_command_line_becomes_its_value(word, value):
    parsed = parse_assignments([word])[word.partition("=")[0]]
    assert parsed == value and type(parsed) is type(value)


@pytest.mark.parametrize(
    "word",
    "radius radius= radius=two radius=2,3 radius=nan radios=2 epochs=inf epochs=none flips=maybe "
    "voxel_size_um=1,1 voxel_size_um=1,1,x epochs=1,000 minimum_size=0,1,2".split(),
)
def test_malformed_word_of_the_command_line_is_refused(word):
    with pytest.raises(UserError, match=word.partition("=")[0]):
        parse_assignments([word])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[1]",
        "3",
        "\udcff",
        '{"radius": NaN}',
        '{"radius": "2"}',
        '{"radios": 1}',
        '{"options": 3}',
        '{"options": {"seed": -1}}',
    ],
)
def test_bad_settings_file_is_refused_by_name(text, tmp_path):
    file = tmp_path / "mine.json"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=r"mine\.json"):
        load_settings(file)


def test_missing_settings_file_is_refused_by_name(tmp_path):
    with pytest.raises(UserError, match=r"absent\.json"):
        load_settings(tmp_path / "absent.json")


def test_settings_file_of_the_first_version_loads_with_defaults_for_what_is_new():
    golden = Path(__file__).parent / "golden" / "settings_0.1.json"
    record = json.loads(golden.read_text(encoding="utf-8"))
    settings = load_settings(golden)
    assert {k: settings.as_dict()[k] for k in record["options"]} == record["options"]
    assert settings.recover is DEFAULTS["recover"]


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, " " * (11 * 2**20)])
def test_enormous_settings_file_is_refused_by_name(text, tmp_path):
    file = tmp_path / "mine.json"
    file.write_text(text)
    with pytest.raises(UserError, match=r"mine\.json"):
        load_settings(file)


def fields_are_sound(settings):
    """Say whether every value is of its type and within its limits, and no number is NaN."""
    return all(
        check_value(name, getattr(settings, name)) == getattr(settings, name) for name in OPTIONS
    )


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
NAMES = st.sampled_from(sorted(OPTIONS)) | st.text(max_size=12)


@given(st.dictionaries(NAMES, ANYTHING, max_size=4))
def test_any_options_whatever_give_sound_settings_or_one_clear_error(options):
    try:
        settings = Settings().replace(**options)
    except UserError as error:
        assert str(error)
    else:
        assert fields_are_sound(settings)
        assert Settings(**json.loads(json.dumps(settings.as_dict()))) == settings


def allowed(name):
    """Return a strategy of values that an option takes."""
    option = OPTIONS[name]
    if option.kind is bool:
        items = st.booleans()
    elif option.choices:
        items = st.sampled_from(option.choices)
    elif option.kind is str:
        items = st.text(max_size=8)
    elif option.kind is int:
        step = option.multiple_of or 1
        low, high = -(-option.minimum // step), option.maximum // step
        items = st.integers(int(low), int(high)).map(lambda n: n * step)
    else:
        items = st.floats(option.minimum, option.maximum)
    if option.length:
        several = st.lists(items, min_size=max(1, option.length), max_size=max(4, option.length))
        items = several.map(
            lambda found: tuple(found[: option.length] if option.length > 0 else found)
        )
    return st.none() | items if option.optional else items


@given(st.fixed_dictionaries({}, optional={name: allowed(name) for name in OPTIONS}))
def test_any_allowed_values_that_fit_each_other_survive_json_and_the_rest_is_explained(options):
    try:
        settings = Settings(**options)
    except UserError as error:
        assert "=" in str(error)  # which values do not fit each other
    else:
        assert fields_are_sound(settings)
        assert Settings(**json.loads(json.dumps(settings.as_dict()))) == settings


@given(name=NAMES, text=st.text(max_size=20))
def test_any_text_for_an_option_gives_its_value_or_one_clear_error(name, text):
    try:
        value = parse_value(name, text)
    except UserError as error:
        assert name in str(error)
    else:
        assert check_value(name, value) == value


@given(content=st.binary(max_size=60) | ANYTHING.map(lambda v: json.dumps(v).encode()))
def test_any_bytes_as_a_settings_file_are_settings_or_an_error_with_its_name(content):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "mine.json"
        file.write_bytes(content)
        try:
            assert fields_are_sound(load_settings(file))
        except UserError as error:
            assert "mine.json" in str(error)
