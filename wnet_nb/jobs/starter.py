"""Starter weights: a W trained on simulated cells only, from which a training on a stack starts.

Every volume follows from (seed, number) and every step from (seed, step), so that a training
repeats bit for bit, also when it was interrupted.
"""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils import clip_grad_norm_

from wnet_nb import checkpoint
from wnet_nb.cells.simulate import BACKGROUND, CORE, RIM, Ranges, core_and_rim, simulate_cells
from wnet_nb.config import Settings, preset
from wnet_nb.data import CELL_RADIUS_VOXELS, prepare
from wnet_nb.device import choose_device, choose_dtype
from wnet_nb.errors import UserError
from wnet_nb.files.tables import write_table
from wnet_nb.losses import reconstruction_loss
from wnet_nb.model import WNet3D

CLASSES = ("background", "core", "rim")  # in the order of the channels
VOLUME_SIZE, PATCH, BATCH = 64, 32, 4
CELL_SHARE = 0.35  # patches drawn around a cell; the others anywhere, mostly background
STEPS, VOLUMES = 13_000, 1_200  # of the weights in the package
LEARNING_RATE, WARM_UP = 1.5e-3, 300
GRADIENT_LIMIT = 1.0
AVERAGE_DECAY = 0.999  # the weights that are kept are a running mean over about 1,000 steps
DECODER_SHARE = 0.06  # of the encoder's steps, trained after them
DECODER_RATE = 1e-3
SAVE_EVERY, LOG_EVERY = 1_000, 100

# Of prepared simulated volumes, images and classes: (Z, Y, X) uint8. An image is its brightness
# after the preparation, 0-100, times 2.55.
Pool = list[tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class StarterProgress:
    """Where the making of a starter is."""

    phase: str  # "volumes", "encoder" or "decoder"
    done: int  # volumes or steps of the phase
    total: int
    loss: float = math.nan  # of this step


def make_starter(
    out: Path, ranges: Ranges, *, steps: int = STEPS, seed: int = 0, volumes: int = VOLUMES
) -> Iterator[StarterProgress]:
    """Train starter weights and write them to `out`, yielding after every volume and step.

    The folder ``out`` + ``.training`` keeps the last states and ``history.csv``; a training that
    was interrupted goes on from there when called again with the same arguments. The weights are
    float16. Narrower `ranges` make a starter for cells of one kind; `steps` are the encoder's, the
    decoder gets 6 % more; each of the `volumes` takes 0.5 MB of memory.

    UserError if `out` is not a new ``.safetensors`` file, if a training with other arguments lies
    beside it, or `steps` is not positive.
    """
    if out.suffix != ".safetensors":
        raise UserError(f"'{out}' must end in .safetensors")
    if out.exists():
        raise UserError(f"'{out}' exists and is not overwritten; choose another name")
    if steps < 1:
        raise UserError(f"steps={steps} must be positive")
    pool: Pool = []
    for number in range(volumes):
        pool.append(prepared_volume(number, seed, ranges))
        yield StarterProgress("volumes", number + 1, volumes)
    training = StarterTraining(pool, out.with_name(f"{out.name}.training"), steps, seed, ranges)
    yield from training.train()
    model = copy.deepcopy(training.model)
    model.encoder.load_state_dict(training.average)
    rows = [row for row in training.history if row["step"] % (10 * LOG_EVERY) == 0]
    checkpoint.save_weights(out, model.half(), starter_settings(seed), rows)


def class_loss(logits: Tensor, classes: Tensor) -> Tensor:
    """Cross entropy plus the soft Dice losses of core and of the whole cell, a scalar.

    `logits` are (N, 3, Z, Y, X), before the softmax, and `classes` (N, Z, Y, X) int64.
    """
    logits = logits.float()
    loss = functional.cross_entropy(logits, classes)
    probabilities = logits.softmax(1)
    pairs = (
        (probabilities[:, CORE], classes == CORE),
        (1 - probabilities[:, BACKGROUND], classes != BACKGROUND),
    )
    for found, true in pairs:
        both, either = (found * true).sum(), found.sum() + true.sum()
        loss = loss + 1 - (2 * both + 1) / (either + 1)  # over the batch: a patch may be empty
    return loss


class StarterTraining:
    """The two trainings on a pool, encoder first, with states in a folder to go on from."""

    def __init__(self, pool: Pool, folder: Path, steps: int, seed: int, ranges: Ranges) -> None:
        self.pool, self.folder, self.seed = pool, folder, seed
        self.plan = [steps, seed, len(pool), str(ranges)]
        self.totals = {"encoder": steps, "decoder": max(1, round(DECODER_SHARE * steps))}
        self.device = torch.device(choose_device())
        # With patches of 32 planes bfloat16 is safe in training too (see `training`).
        dtype = choose_dtype("auto", self.device)
        self.autocast = torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32)
        self.settings = starter_settings(seed)
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            self.model: WNet3D = checkpoint.build_model(self.settings)
        self.model.to(self.device, memory_format=torch.channels_last_3d)
        self.optimizers = {
            "encoder": torch.optim.Adam(self.model.encoder.parameters(), LEARNING_RATE),
            "decoder": torch.optim.Adam(self.model.decoder.parameters(), DECODER_RATE),
        }
        self.average = copy.deepcopy(self.model.encoder.state_dict())
        self.step, self.history, self.sums = 0, [], [0.0, 0]
        self._restore()

    def train(self) -> Iterator[StarterProgress]:
        """Train what is left, yielding after every step."""
        steps, total = self.totals["encoder"], sum(self.totals.values())
        try:
            while self.step < total:
                phase = "encoder" if self.step < steps else "decoder"
                loss = self._encoder_step() if phase == "encoder" else self._decoder_step()
                if not math.isfinite(loss):
                    raise RuntimeError(f"the loss is not finite at step {self.step + 1}")
                self.step += 1
                self._log(phase, loss)
                if self.step % SAVE_EVERY == 0 or self.step in (steps, total):
                    self.save()
                done = self.step if phase == "encoder" else self.step - steps
                yield StarterProgress(phase, done, self.totals[phase], loss)
        except GeneratorExit:
            self.save()
            raise

    def _encoder_step(self) -> float:
        images, classes = self._patches()
        with self.autocast:
            logits = self.model.encoder(images)
        loss = class_loss(logits, classes)
        self._update("encoder", loss, LEARNING_RATE, self.step)
        with torch.no_grad():
            # A short memory at first, or the random start would weigh in for thousands of steps.
            decay = min(AVERAGE_DECAY, (1 + self.step) / (10 + self.step))
            for name, tensor in self.model.encoder.state_dict().items():
                self.average[name].lerp_(tensor, 1 - decay)
        return float(loss.detach())

    def _decoder_step(self) -> float:
        images, _ = self._patches()
        self.model.encoder.load_state_dict(self.average)
        with self.autocast:
            with torch.no_grad():
                probabilities = self.model.encode(images)
            rebuilt = self.model.decoder(probabilities)
        loss = reconstruction_loss(rebuilt.float(), images, self.settings.reconstruction_loss)
        self._update("decoder", loss, DECODER_RATE, self.step - self.totals["encoder"])
        return float(loss.detach())

    def _patches(self) -> tuple[Tensor, Tensor]:
        images, classes = draw_patches(self.pool, self.seed, self.step)
        images = images.to(self.device, memory_format=torch.channels_last_3d)
        return images, classes.to(self.device)

    def _update(self, half: str, loss: Tensor, rate: float, step: int) -> None:
        """Take a step with a rate that warms up, then falls along a cosine to a hundredth."""
        steps, optimizer = self.totals[half], self.optimizers[half]
        warm_up = min(WARM_UP, max(1, steps // 10))
        share = 0.5 * (1 + math.cos(math.pi * step / steps))
        rate *= min(1.0, (step + 1) / warm_up) * (0.01 + 0.99 * share)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        clip_grad_norm_(getattr(self.model, half).parameters(), GRADIENT_LIMIT)
        optimizer.step()

    def _log(self, phase: str, loss: float) -> None:
        self.sums[0] += loss
        self.sums[1] += 1
        if self.step % LOG_EVERY and self.step != self.totals["encoder"]:
            return
        mean = self.sums[0] / self.sums[1]
        self.history.append({"step": self.step, "phase": phase, "loss": round(mean, 5)})
        self.sums = [0.0, 0]

    def save(self) -> None:
        """Write a full state, and the history as a table."""
        state = {name: getattr(self, name) for name in ("step", "average", "history", "sums")}
        state |= {"plan": self.plan, "model": self.model.state_dict()}
        state["optimizers"] = {half: one.state_dict() for half, one in self.optimizers.items()}
        checkpoint.save_state(self.folder, state)
        write_table(self.folder / "history.csv", ("step", "phase", "loss"), self.history)

    def _restore(self) -> None:
        state, _ = checkpoint.load_newest_state(self.folder)
        if state is None:
            return
        if state["plan"] != self.plan:
            raise UserError(
                f"'{self.folder}' holds a training with other steps, seed, volumes or ranges "
                f"({state['plan']}); repeat these, or choose another name"
            )
        self.model.load_state_dict(state["model"])
        self.average = {name: t.to(self.device) for name, t in state["average"].items()}
        for half, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][half])
        self.step, self.history, self.sums = state["step"], state["history"], state["sums"]


def starter_settings(seed: int = 0) -> Settings:
    """Return the settings that starter weights are trained and used with."""
    return preset(
        "scratch",
        n_classes=len(CLASSES),
        foreground_classes=(CORE, RIM),
        core_class=CORE,
        patch_size=PATCH,
        seed=seed,
    )


def prepared_volume(number: int, seed: int, ranges: Ranges) -> tuple[np.ndarray, np.ndarray]:
    """Simulate a volume and prepare it as `quick` does, with a radius that is a bit off.

    Returns brightness times 2.55, and classes (background, core, rim), both (64, 64, 64) uint8.
    """
    simulated = simulate_cells(1_000_003 * seed + number, (VOLUME_SIZE,) * 3, ranges)
    # Above 1.5 times the aim voxels would be averaged; volumes are drawn as they are after that.
    radius = min(simulated.estimated_radius, 1.49 * CELL_RADIUS_VOXELS)
    settings = starter_settings().replace(cell_radius_um=max(radius, 1.2))
    prepared = prepare(simulated.image, settings, voxel_size_um=simulated.voxel_size)
    image = prepared.normalisation.apply(prepared.array)
    return np.rint(2.55 * image).astype(np.uint8), core_and_rim(simulated.labels, simulated.depth)


def draw_patches(pool: Pool, seed: int, step: int) -> tuple[Tensor, Tensor]:
    """Draw the patches of a step: images (4, 1, 32, 32, 32) in 0-100 and classes (4, 32, 32, 32).

    They are flipped, turned in the plane, and their brightness is bent (gamma) and scaled.
    """
    rng = np.random.default_rng([seed, step])
    images, targets = [], []
    for _ in range(BATCH):
        image, classes = pool[rng.integers(len(pool))]
        corner = rng.integers(0, np.array(classes.shape) - PATCH + 1)
        if rng.random() < CELL_SHARE:
            cells = np.flatnonzero(classes == CORE)
            if len(cells):
                middle = np.array(np.unravel_index(rng.choice(cells), classes.shape))
                corner = middle - rng.integers(0, PATCH, 3)
                corner = np.clip(corner, 0, np.array(classes.shape) - PATCH)
        box = tuple(slice(c, c + PATCH) for c in corner)
        flips = tuple(axis for axis in range(3) if rng.random() < 0.5)
        turns = rng.integers(4)
        image, target = (
            np.rot90(np.flip(array[box], flips), turns, (1, 2)) for array in (image, classes)
        )
        image = image.astype(np.float32) / 255
        image = image ** np.exp(rng.normal(0, 0.2)) * np.exp(rng.normal(0, 0.15))
        images.append(100 * np.clip(image, 0, 1).astype(np.float32))
        targets.append(target.astype(np.int64))
    return torch.from_numpy(np.stack(images)[:, None]), torch.from_numpy(np.stack(targets))
