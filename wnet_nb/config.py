"""Every option of the package, stated once: sliders, command line, README and errors read it."""

import dataclasses
import difflib
import json
import math
import numbers
import os
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from wnet_nb.errors import UserError

GROUPS = {
    "model": "Network",
    "ncut": "Soft N-cut",
    "weights": "Loss weights",
    "training": "Training",
    "data": "Data",
    "cells": "Cells",
}
DEPTH_FACTOR = 8  # three poolings: every patch edge is a multiple of this
LARGEST_FILE = 10 * 2**20  # bytes of a settings file; one of a thousand volumes has 1 MB

# What an option is for: it affects what is learned (training), may change while a training runs
# and when it is resumed (live) or after it (segmenting), is set with the data, or is a slider.
NEITHER, AFTER, BOTH = "", "segmenting", "training segmenting"
LIVE, SLIDER, WITH_DATA = "training live", "training live slider", "training segmenting data"


@dataclass(frozen=True)
class Option:
    """What there is to know about one option, apart from its name, default and type."""

    group: str  # key of `GROUPS`
    unit: str  # of the number, empty if it has none
    minimum: float  # limits, both included
    maximum: float
    help: str  # one line that says what the option is
    raise_when: str  # when to raise it; for a choice, when to take the other
    lower_when: str
    optional: bool  # whether None ("not set") is allowed; written `none` on the command line
    kind: type  # int, float, bool or str; of the items where `length` is set
    roles: frozenset[str]
    choices: tuple[str, ...] = ()  # allowed words; empty for numbers
    length: int = 0  # of the value, 0 for a single one, -1 for any from one up
    multiple_of: int = 0  # if not 0, the value must be a multiple of this


def _option(
    default: Any,
    group: str,
    unit: str = "",
    limits: tuple[float, float] = (-math.inf, math.inf),
    kind: type = float,
    roles: str = "training",
    **facts: Any,
) -> Callable[..., Any]:
    """Take the facts of an option, then its texts: ``_option(...)(help, raise_when=, ...)``."""

    def explain(help: str, *, raise_when: str, lower_when: str) -> Any:
        type_ = kind if default is None else type(default)
        texts, named = (help, raise_when, lower_when), frozenset(roles.split())
        option = Option(group, unit, *limits, *texts, default is None, type_, named, **facts)
        return field(default=default, metadata={"option": option})

    return explain


@dataclass(frozen=True)
class Settings:
    """All options of training and segmentation; UserError if a value is bad or two do not fit."""

    n_classes: int = _option(2, "model", limits=(2, 16))(
        "Number of classes the network sorts voxels into.",
        raise_when="cells of clearly different brightness share a class, or halos join the cells",
        lower_when="two classes show the same thing",
    )
    base_channels: int = _option(64, "model", limits=(4, 128), multiple_of=4)(
        "Channels of the first stage; the deeper ones have 2, 4 and 8 times as many.",
        raise_when="the classes stay blurred and you have a GPU",
        lower_when="training is too slow or the memory runs out",
    )
    dropout: float = _option(0.65, "model", limits=(0.0, 0.95))(
        "Share of activations switched off at random in training.",
        raise_when="you train for long on few or small volumes",
        lower_when="the network is small or the training short",
    )
    intensity_sigma: float = _option(1.0, "ncut", "of 0-100", limits=(0.01, 1e4), roles=SLIDER)(
        "How different two brightnesses may be and still count as alike.",
        raise_when="the image is noisy and cells come out with holes",
        lower_when="dim surroundings are taken into the cells",
    )
    spatial_sigma: float = _option(4.0, "ncut", "voxels", limits=(0.1, 100.0), roles=SLIDER)(
        "How far apart two voxels may be and still belong together.",
        raise_when="cells come out in pieces",
        lower_when="small or thin cells vanish",
    )
    radius: int = _option(2, "ncut", "voxels", limits=(1, 30), roles=SLIDER)(
        "Distance up to which voxels are compared.",
        raise_when="cells are large, more than about 10 voxels across",
        lower_when="small or thin cells vanish",
    )
    affinity: str = _option("class_mean", "ncut", choices=("class_mean", "pairwise"))(
        "class_mean compares a voxel with the mean of its class, as CellSeg3D does; pairwise "
        "compares voxels with each other, as in the paper.",
        raise_when="take pairwise for images of large regions or fidelity to the paper",
        lower_when="keep class_mean for small objects: the exact cut tends to split a volume of "
        "nuclei into two halves",
    )
    ncut_weight: float = _option(0.5, "weights", limits=(0.0, 100.0), roles=SLIDER)(
        "Weight of the soft N-cut in the total loss.",
        raise_when="the classes look like a copy of the image, with no clear regions",
        lower_when="the classes collapse into one",
    )
    reconstruction_weight: float = _option(5e-3, "weights", limits=(0.0, 100.0), roles=SLIDER)(
        "Weight of the reconstruction in the total loss.",
        raise_when="the reconstruction does not resemble the image, or all voxels get one class",
        lower_when="the classes follow noise or texture",
    )
    hold_weight: float = _option(0.0, "weights", limits=(0.0, 100.0), roles=SLIDER)(
        "Weight of the pull towards what the weights that training starts from say.",
        raise_when="training makes good cells worse",
        lower_when="training changes too little",
    )
    reconstruction_loss: str = _option("MSE", "weights", choices=("MSE", "BCE"))(
        "How image and reconstruction are compared.",
        raise_when="take BCE, with a weight near 0.5, if very bright spots rule the MSE",
        lower_when="keep MSE otherwise",
    )
    epochs: int = _option(50, "training", limits=(1, 100_000), roles=LIVE)(
        "How often training goes through its patches.",
        raise_when="the losses still fall at the end",
        lower_when="the losses have been flat for long",
    )
    batch_size: int = _option(4, "training", "patches", limits=(1, 256))(
        "Patches per training step.",
        raise_when="the losses jump about and memory is free",
        lower_when="memory runs out",
    )
    learning_rate: float = _option(2e-5, "training", limits=(1e-8, 1.0), roles=LIVE)(
        "Size of a training step.",
        raise_when="the losses fall very slowly; small networks take 1e-3",
        lower_when="the losses jump, or you start from trained weights (then 10 times lower)",
    )
    weight_decay: float = _option(0.01, "training", limits=(0.0, 1.0))(
        "Pull of the network's weights towards zero.",
        raise_when="training on a single small volume for very long",
        lower_when="the losses stop falling early",
    )
    activation_checkpointing: bool = _option(False, "training")(
        "Compute parts of a step twice, which takes less memory and more time.",
        raise_when="memory runs out although the batch has one patch",
        lower_when="memory suffices: a step is quicker",
    )
    gradient_clipping: float = _option(0.0, "training", limits=(0.0, 1e6))(
        "Largest norm of the gradient; 0 switches it off.",
        raise_when="the loss jumps up now and then: try 1",
        lower_when="training is steady: leave it off",
    )
    precision: str = _option(
        "auto", "training", choices=("auto", "float32", "bfloat16", "float16"), roles=BOTH
    )(
        "Number format of the computation; auto takes the fast safe one for the device.",
        raise_when="take float32 if a loss becomes not-a-number",
        lower_when="take bfloat16 on a recent processor to halve time and memory",
    )
    seed: int = _option(0, "training", limits=(0, 2**31 - 1))(
        "Start of the random numbers: same seed, same result.",
        raise_when="you repeat an earlier run, or want to see how much depends on chance",
        lower_when="neither matters to you",
    )
    validation_interval: int = _option(1, "training", "epochs", limits=(1, 10_000), roles=NEITHER)(
        "Epochs from one check against labelled volumes to the next, where there are any.",
        raise_when="the check takes a large share of the time",
        lower_when="you want a finer curve",
    )
    save_interval_minutes: float = _option(5.0, "training", "min", limits=(0, 1440), roles=NEITHER)(
        "Longest time from one state on disk to the next; at most 5 % of the time goes into it.",
        raise_when="the disk is slow or small",
        lower_when="the computer may be taken away at any moment",
    )
    recover: bool = _option(True, "training", roles=NEITHER)(
        "Go back to the last good weights and halve the learning rate if a loss is not finite.",
        raise_when="you are not watching the training",
        lower_when="you want it to stop at once and see why",
    )
    start_from: str | None = _option(None, "training", kind=str)(
        "Weights to start from: a run folder, a .safetensors or a CellSeg3D .pth file.",
        raise_when="a trained network for similar images exists",
        lower_when="the images differ much from those it was trained on",
    )
    patch_size: int | tuple[int, int, int] = _option(
        64, "data", "voxels", limits=(8, 512), multiple_of=DEPTH_FACTOR, length=3
    )(
        "Edge of the cubes cut from the volumes for training, or its z,y,x edges.",
        raise_when="a patch holds fewer than about five cells",
        lower_when="memory runs out, or the volumes are thin",
    )
    patches_per_volume: int = _option(20, "data", "patches", limits=(1, 100_000))(
        "Patches cut from each volume in one epoch.",
        raise_when="the volumes are large or varied",
        lower_when="there are many volumes",
    )
    augmentation: bool = _option(True, "data")(
        "Flip patches in every axis and turn them by 90 degrees in YX.",
        raise_when="there are few volumes, as usual",
        lower_when="the direction of structures matters",
    )
    normalisation: str = _option(
        "percentile", "data", choices=("percentile", "minmax", "square_root")
    )(
        "How brightness is mapped to 0-100: percentile is robust, minmax as published, "
        "square_root brings dim and bright cells together.",
        raise_when="take square_root if cells differ much in brightness, minmax to use "
        "CellSeg3D's published weights",
        lower_when="keep percentile otherwise: single hot pixels do not matter to it",
    )
    match_cell_size: bool = _option(False, "data")(
        "Average voxels until a cell is about 4 voxels in radius: less noise, faster.",
        raise_when="cells are larger than about 6 voxels in radius",
        lower_when="you want the network to see every voxel, as published",
    )
    subtract_background: bool = _option(False, "data")(
        "Take away what is wider than about two cells before the network looks.",
        raise_when="the background is uneven, striped or brighter than dim cells",
        lower_when="the cells fill wide areas without gaps",
    )
    channel: int | None = _option(None, "data", limits=(0, 1000), kind=int, roles=WITH_DATA)(
        "Which channel to read, from 0, where a file has several.",
        raise_when="the nuclei are in another channel",
        lower_when="the file has one channel: leave it unset",
    )
    time: int | None = _option(None, "data", limits=(0, 1_000_000), kind=int, roles=WITH_DATA)(
        "Which time point to read, from 0, where a file has several.",
        raise_when="another time point shows more cells",
        lower_when="the file has one time point: leave it unset",
    )
    voxel_size_um: tuple[float, float, float] | None = _option(
        None, "data", "µm", limits=(1e-4, 1e4), length=3, roles=WITH_DATA
    )(
        "Voxel size z,y,x; taken from the file if not set.",
        raise_when="the file has no voxel size of its own, or a wrong one",
        lower_when="the file has the right one: leave it unset",
    )
    cell_radius_um: float | None = _option(None, "cells", "µm", limits=(0.01, 1000.0), roles=BOTH)(
        "Typical radius of a cell; estimated from the image if not set.",
        raise_when="cells come out in pieces",
        lower_when="neighbouring cells come out as one",
    )
    foreground_classes: tuple[int, ...] | None = _option(
        None, "cells", limits=(0, 15), kind=int, length=-1, roles=AFTER
    )(
        "The classes that are cells, from 0; found from the image if not set.",
        raise_when="the wrong class was taken: name the right one",
        lower_when="the choice is right: leave it unset",
    )
    core_class: int | None = _option(None, "cells", limits=(0, 15), kind=int, roles=BOTH)(
        "The class that is the middle of cells, where the network knows it, as the starter does; "
        "seeds and outlines then come from the network.",
        raise_when="leave it as the weights have it",
        lower_when="take none to look for cells in the image, within the class map",
    )
    boundary: float | None = _option(None, "cells", limits=(0.05, 0.95), roles=AFTER)(
        "Where a cell ends between its surroundings (0) and its core (1); found if not set.",
        raise_when="cells come out too fat",
        lower_when="cells come out too thin",
    )
    minimum_size: float = _option(0.1, "cells", "of a cell", limits=(0.0, 1.0), roles=AFTER)(
        "Smallest object kept, as a share of the typical cell's volume.",
        raise_when="specks are counted as cells",
        lower_when="small cells are missing",
    )
    minimum_contrast: float = _option(0.0, "cells", "grey levels", limits=(0.0, 1e9), roles=AFTER)(
        "How much brighter than its background the middle of a cell must be.",
        raise_when="dim specks or texture are counted as cells",
        lower_when="dim cells are missing",
    )
    tile_size: int = _option(
        144, "cells", "voxels", limits=(16, 512), multiple_of=DEPTH_FACTOR, roles=AFTER
    )(
        "Edge of the blocks in which a volume is segmented.",
        raise_when="memory is free",
        lower_when="memory runs out",
    )
    flips: bool = _option(False, "cells", roles=AFTER)(
        "Average over mirrored copies of each block: smoother, eight times slower.",
        raise_when="class maps are rough",
        lower_when="time matters",
    )

    def __post_init__(self) -> None:
        """Check and tidy every value."""
        for name in OPTIONS:
            object.__setattr__(self, name, check_value(name, getattr(self, name)))
        patch, cells = min(self.patch_shape), self.foreground_classes or ()
        if self.radius >= patch // 2:
            raise UserError(
                f"radius={self.radius} does not fit patch_size={self.patch_size}; choose a radius "
                f"of at most {patch // 2 - 1} or larger patches"
            )
        if self.ncut_weight == 0 and self.reconstruction_weight == 0:
            raise UserError(
                "ncut_weight=0 and reconstruction_weight=0 leave nothing to learn; raise one"
            )
        if max(cells, default=0) >= self.n_classes:
            raise UserError(
                f"foreground_classes={cells} does not fit n_classes={self.n_classes}; classes "
                "count from 0"
            )
        if self.core_class is not None and self.core_class not in cells:
            raise UserError(
                f"core_class={self.core_class} must be among foreground_classes={cells}; set it to "
                "none to find cells in the image"
            )

    @property
    def patch_shape(self) -> tuple[int, int, int]:
        """Patch edges (z, y, x) in voxels."""
        size = self.patch_size
        return size if isinstance(size, tuple) else (size, size, size)

    @property
    def needs_radius(self) -> bool:
        """Whether preparing a volume needs the radius of its cells."""
        return self.match_cell_size or self.subtract_background

    def replace(self, /, **changes: Any) -> Self:
        """Return a copy with some options changed; UserError as from `check_value`."""
        for name in changes:
            _find_option(name)
        return dataclasses.replace(self, **changes)

    def as_dict(self) -> dict[str, Any]:
        """Return all options as plain JSON values."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in vars(self).items()}


OPTIONS: dict[str, Option] = {f.name: f.metadata["option"] for f in fields(Settings)}
DEFAULTS: dict[str, Any] = {f.name: f.default for f in fields(Settings)}


def names_with(role: str) -> tuple[str, ...]:
    """Return the names of the options that have a role, in their order."""
    return tuple(name for name, option in OPTIONS.items() if role in option.roles)


_SMALL: dict[str, Any] = {
    "base_channels": 16,
    "dropout": 0.0,
    "intensity_sigma": 10.0,
    "epochs": 6,
    "batch_size": 4,
    "learning_rate": 1e-3,
    "patch_size": 32,
    "patches_per_volume": 40,
    "normalisation": "square_root",
    "match_cell_size": True,
    "subtract_background": True,
}
PRESETS: dict[str, dict[str, Any]] = {
    "published": {},
    "quick": _SMALL
    | {
        "n_classes": 3,
        "start_from": "starter",
        "core_class": 1,
        "foreground_classes": (1, 2),
        "hold_weight": 0.15,
        "learning_rate": 1e-4,
    },
    "scratch": _SMALL,
}
"""Named sets of options, found by experiment: `quick` adapts the starter weights to a stack
(tests/benchmarks/quality.md), `scratch` trains as small a network from nothing
(tests/benchmarks/quick_preset.md)."""


def preset(name: str = "published", **changes: Any) -> Settings:
    """Return the settings of a preset with `changes` applied; UserError if that is not possible."""
    if name not in PRESETS:
        raise UserError(f"there is no preset '{name}'; there are: {', '.join(PRESETS)}")
    return Settings().replace(**PRESETS[name] | changes)


def _find_option(name: str) -> Option:
    if name in OPTIONS:
        return OPTIONS[name]
    near = difflib.get_close_matches(name, OPTIONS, 1)
    hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(OPTIONS)}"
    raise UserError(f"there is no option '{name}'; {hint}")


def check_value(name: str, value: Any) -> Any:
    """Return `value` in the type of option `name`; UserError if it cannot take the value."""
    option = _find_option(name)
    if value is None and option.optional:
        return None
    several = isinstance(value, list | tuple)
    if not option.length or (not several and isinstance(DEFAULTS[name], int)):
        return _check_item(name, option, value)  # a single value, which may stand for z, y and x
    items = value if several else [value]
    if not items or (option.length > 0 and len(items) != option.length):
        count = "three values: z,y,x" if option.length > 0 else "at least one value"
        raise UserError(f"{name}={value!r} must have {count}")
    return tuple(_check_item(name, option, item) for item in items)


def _check_item(name: str, option: Option, value: Any) -> Any:
    if wanted := _wanted_instead(option, value):
        raise UserError(f"{name}={value!r} must be {wanted}")
    return option.kind(value)


def _wanted_instead(option: Option, value: Any) -> str:
    """Say what an option takes, where it does not take `value`."""
    if option.kind is bool:
        return "" if isinstance(value, bool) else "true or false"
    if option.kind is str:
        known = isinstance(value, str) and (not option.choices or value in option.choices)
        words = f"one of: {', '.join(option.choices)}" if option.choices else "text"
        return "" if known else words
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return "a number"
    if not option.minimum <= value <= option.maximum:  # nor is not-a-number
        return f"between {option.minimum:g} and {option.maximum:g} {option.unit}".rstrip()
    if option.kind(value) != value:
        return "a whole number"
    if option.multiple_of and value % option.multiple_of:
        return f"a multiple of {option.multiple_of}"
    return ""


def parse_assignments(assignments: list[str]) -> dict[str, Any]:
    """Turn words such as ``radius=3`` or ``voxel_size_um=4,1,1`` into checked values by name."""
    changes = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise UserError(f"'{assignment}' is not of the form option=value")
        changes[name] = parse_value(name, text)
    return changes


def parse_value(name: str, text: str) -> Any:
    """Return the checked value of option `name` written as `text`."""
    option, text = _find_option(name), text.strip()
    if option.optional and text.lower() in ("none", ""):
        return None
    if option.kind is bool:
        words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        return check_value(name, words.get(text.lower(), text))
    if option.kind is str:
        return check_value(name, text)
    if option.kind is float and (not option.length or ";" in text):
        text = text.replace(",", ".")  # 0,3 and 0,284;0,127;0,127 as much of Europe writes it
    items = [_to_number(item) for item in text.replace(";", " ").replace(",", " ").split()]
    return check_value(name, items[0] if len(items) == 1 else items)


def _to_number(text: str) -> Any:
    try:
        number = float(text)
    except ValueError:
        return text
    return int(number) if number.is_integer() else number


def load_settings(path: str | os.PathLike[str]) -> Settings:
    """Read settings from a JSON file, a plain mapping or a run's ``settings.json``.

    UserError if it is missing, is not JSON, or holds an unknown option or a bad value.
    """
    path = Path(path)
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise UserError(f"it has {path.stat().st_size:,} bytes")
        content = json.loads(path.read_text(encoding="utf-8"))
        options = content.get("options", content) if isinstance(content, dict) else None
        if not isinstance(options, dict):
            raise UserError("it has no options")
        return Settings().replace(**options)
    except FileNotFoundError:
        raise UserError(f"there is no settings file '{path}'; check the path") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"'{path}' holds no settings: {error}") from None
