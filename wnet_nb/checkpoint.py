"""A model on disk: full states (to go on training), weights (to segment), and CellSeg3D's own."""

import json
import os
import shutil
import time
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from wnet_nb.config import Settings
from wnet_nb.errors import UserError
from wnet_nb.model import WNet3D
from wnet_nb.whole_file import new_file, write_whole

STARTER = "starter"  # a word for the weights in the package
STARTER_FILE = Path(__file__).with_name("starter.safetensors")  # its card is beside it
WEIGHTS = "weights.safetensors"
STATES = "checkpoints"
STATES_KEPT = 2
STATE_ENTRIES = {"step", "model"}  # of every state, whatever wrote it
SPACE = 2.2  # states that must fit on the disk before one is written
STATE_PARTS = 3  # a state holds the weights and Adam's two moments of them
SAVE_SHARE = 20  # a state is written at most for one part in 20 of the time
CHEAP_SECONDS = 0.5  # a state that is written in this time is written after every epoch


@dataclass(frozen=True)
class Checkpoint:
    """A model in evaluation mode with all that is needed to use it."""

    model: WNet3D | None  # None where the image alone decides
    settings: Settings  # as trained; `normalisation` is the one the model expects
    history: list[dict[str, Any]] = field(default_factory=list)  # rows of history.csv, if ours
    source: Path = Path()  # the file the weights came from


def load_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Load a model from a run folder, a ``.safetensors``, or a published ``.pth`` file.

    The word ``starter`` stands for the weights in the package. UserError if nothing
    usable is there.
    """
    path = Path(path)
    if str(path) == STARTER and not path.exists():
        path = STARTER_FILE
    path = path / WEIGHTS if path.is_dir() else path
    if not path.exists():
        raise UserError(
            f"there is no model at '{path}': it is not a run folder with {WEIGHTS} (a training "
            "that is resumed writes it again), nor a weights file, nor starter, published or none"
        )
    if path.suffix == ".pth":
        return _load_cellseg3d(path)
    if path.suffix != ".safetensors":
        raise UserError(f"'{path}' is neither a run folder nor a .safetensors or .pth file")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise UserError(f"'{path}' is damaged or not a weights file: {error}") from None
    try:
        settings = Settings().replace(**json.loads(metadata["settings"]))
        history = json.loads(metadata["history"])
    except (KeyError, TypeError, ValueError) as error:  # UserError and JSONDecodeError too
        raise UserError(f"'{path}' holds no settings of wnet_nb: {error}") from None
    return Checkpoint(_build(settings, tensors, path), settings, history, path)


def _load_cellseg3d(path: Path) -> Checkpoint:
    """Return a published network; number of classes and base channels follow from the shapes."""
    tensors = _read_tensors(path)
    first, last = "encoder.in_b.module.0.weight", "encoder.out_b.module.8.weight"
    tensors = tensors if isinstance(tensors, dict) else {}
    wanted = [tensors.get(first), tensors.get(last), *tensors.values()]
    if not all(isinstance(t, torch.Tensor) and t.ndim for t in wanted):
        raise UserError(f"'{path}' does not hold the weights of a WNet3D")
    sizes = {"n_classes": tensors[last].shape[0], "base_channels": tensors[first].shape[0]}
    try:
        settings = Settings(normalisation="minmax", **sizes)
    except UserError as error:
        raise UserError(f"'{path}' does not fit a WNet3D: {error}") from None
    return Checkpoint(_build(settings, tensors, path), settings, source=path)


def _build(settings: Settings, tensors: dict[str, torch.Tensor], path: Path) -> WNet3D:
    model = build_model(settings)
    load_tensors(model, tensors, path)
    return model.eval()


def build_model(settings: Settings) -> WNet3D:
    """Return an untrained network as the settings describe it."""
    return WNet3D(
        settings.n_classes, base_channels=settings.base_channels, dropout=settings.dropout
    )


def save_weights(
    path: Path, model: WNet3D, settings: Settings, history: list[dict[str, Any]]
) -> None:
    """Write a model with its settings and history as one ``.safetensors`` file."""
    metadata = {"settings": json.dumps(settings.as_dict()), "history": json.dumps(history)}
    tensors = {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}
    _write(path, lambda temporary: save_file(tensors, temporary, metadata))


def _write(path: Path, write: Callable[[Path], None]) -> None:
    try:
        write_whole(path, write)
    except (RuntimeError, SafetensorError) as error:  # how torch and safetensors say: disk full
        reason = str(error).splitlines()[0]
        raise OSError(f"'{path.name}' could not be written; is the disk full? ({reason})") from None


class StateKeeper:
    """Keeps the states of a training in its run folder, at times that do not rule the training."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self._saved = (0, 0)  # step and epoch of the newest state on disk
        self._saved_at, self._seconds = time.monotonic(), 0.0

    def load(self) -> tuple[dict[str, Any] | None, list[str]]:
        """Return what `load_newest_state` does."""
        state, damaged = load_newest_state(self.run)
        self._saved = (0, 0) if state is None else _moment(state)
        return state, damaged

    def is_due(self, minutes: float, *, epoch_over: bool) -> bool:
        """Say whether to write a state: the last is old, or an epoch is over and it is cheap."""
        waited = time.monotonic() - self._saved_at
        cheap = epoch_over and self._seconds <= CHEAP_SECONDS
        return waited >= SAVE_SHARE * self._seconds and (cheap or waited >= 60 * minutes)

    def save(self, state: dict[str, Any], model: WNet3D, settings: Settings) -> None:
        """Write the weights and a state, unless they are there already.

        OSError or UserError if that failed, or there is no room; what was there before stays.
        """
        weights, began = self.run / WEIGHTS, time.monotonic()
        if _moment(state) == self._saved and weights.exists():
            return
        try:
            self.check_space(model)
            self.run.mkdir(parents=True, exist_ok=True)
            # Weights first: whoever finds a state then finds weights that are no older.
            save_weights(weights, model, settings, state["progress"]["history"])
            save_state(self.run, state)
            self._saved = _moment(state)
        finally:
            self._saved_at = time.monotonic()
            self._seconds = self._saved_at - began

    def check_space(self, model: WNet3D) -> None:
        """Check that a full state fits on the disk, more than twice; UserError if it does not."""
        size = SPACE * STATE_PARTS * sum(tensor.nbytes for tensor in model.state_dict().values())
        run = self.run.absolute()
        folder = next(path for path in (run, *run.parents) if path.exists())
        free = shutil.disk_usage(folder).free
        if free < size:
            raise UserError(
                f"there is room for {free / 1e6:,.0f} MB where '{self.run}' is, and saving a "
                f"training takes {size / 1e6:,.0f} MB; make room on the disk or choose another "
                "folder"
            )


def _moment(state: dict[str, Any]) -> tuple[int, int]:
    return state["step"], state["progress"]["epoch"]


def save_state(run: Path, state: dict[str, Any]) -> None:
    """Write a full training state to a run folder; the last two are kept.

    `state` holds `STATE_ENTRIES`: tensors, numbers, strings, dicts, lists; ``step`` names the file.
    OSError if it cannot be written; what was there before stays.
    """
    folder = run / STATES
    folder.mkdir(parents=True, exist_ok=True)
    # Left by a process that was killed while it wrote; safetensors has names of its own.
    for left in (*folder.glob(".step-*.part"), *run.glob(".tmp??????")):
        left.unlink()
    _write(folder / f"step-{state['step']:08d}.pt", lambda path: torch.save(state, path))
    for old in sorted(folder.glob("step-*.pt"))[:-STATES_KEPT]:
        old.unlink()


def load_newest_state(run: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """Return the newest full state that can be read, and what is wrong with those after it.

    None if there is none at all; UserError if there are some but none can be read, as to start
    anew is for the user to decide.
    """
    damaged: list[str] = []
    for path in sorted((run / STATES).glob("step-*.pt"), reverse=True):
        try:
            state = _read_tensors(path)
            if not (isinstance(state, dict) and STATE_ENTRIES <= state.keys()):
                raise UserError(f"'{path}' holds no state of a training")
            return state, damaged
        except UserError as error:
            damaged.append(str(error))
    if damaged:
        raise UserError(f"no state of '{run}' can be read: {damaged[0]}")
    return None, damaged


def _read_tensors(path: str | os.PathLike[str]) -> dict[str, Any]:
    try:
        with warnings.catch_warnings(action="ignore"):  # of pickles that are refused anyway
            tensors = torch.load(path, map_location="cpu", weights_only=True)
        if zipfile.is_zipfile(path):  # with checksums, which torch writes and does not look at
            with zipfile.ZipFile(path) as parts:
                if broken := parts.testzip():
                    raise ValueError(f"the checksum of {broken} does not fit")
        return tensors
    except Exception as error:  # a damaged pickle raises nearly anything, IndexError and so on
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"'{path}' is damaged or holds more than weights, and was not loaded: {reason[:200]}"
        ) from None


def save_cellseg3d_weights(path: str | os.PathLike[str], model: WNet3D) -> None:
    """Write a ``.pth`` that the CellSeg3D plugin can load; UserError if `path` exists."""
    tensors = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    with new_file(path) as temporary:
        torch.save(tensors, temporary)


def load_tensors(model: WNet3D, tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Copy named tensors into `model`; names and shapes must fit, all be finite floats."""
    expected = {name: _describe(tensor) for name, tensor in model.state_dict().items()}
    found = {name: _describe(tensor) for name, tensor in tensors.items()}
    for name in {**expected, **found}:
        if expected.get(name) != found.get(name):
            raise UserError(
                f"'{path}' does not fit this network, which may have another n_classes or "
                f"base_channels: tensor {name} is {found.get(name, 'missing')} where "
                f"{expected.get(name, 'nothing')} is expected"
            )
    broken = [name for name, tensor in tensors.items() if not torch.isfinite(tensor.float()).all()]
    if broken:
        raise UserError(f"'{path}' is damaged: {broken[0]} holds values that are not finite")
    model.load_state_dict(tensors)


def _describe(tensor: Any) -> str:
    if not isinstance(tensor, torch.Tensor):
        return type(tensor).__name__
    kind = "of floats" if tensor.is_floating_point() else str(tensor.dtype).removeprefix("torch.")
    return f"{tuple(tensor.shape)} {kind}"  # weights may be stored in fewer bits


def load_start_weights(model: WNet3D, path: str | os.PathLike[str]) -> None:
    """Copy the weights at `path`, see `load_checkpoint`, into `model`; UserError if they differ."""
    found = load_checkpoint(path)
    load_tensors(model, found.model.state_dict(), found.source)
