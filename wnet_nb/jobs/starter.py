"""Starter weights: a W trained on simulated cells only, from which a training on a stack starts.

The encoder learns background, core and rim of cells that `cells.simulate` draws; the decoder then
learns to give the image back from these classes. Every step draws its chance from (seed, step)
alone, so that a training repeats bit for bit, also when it was interrupted.
"""

from __future__ import annotations

import copy
import csv
import math
import multiprocessing
import os
import time
from collections.abc import Generator, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from wnet_nb import checkpoint
from wnet_nb.cells.simulate import BACKGROUND, CORE, Ranges
from wnet_nb.device import choose_device, choose_dtype
from wnet_nb.errors import UserError
from wnet_nb.jobs.starter_volumes import (
    VOLUME_SIZE,
    Pool,
    draw_patches,
    prepared_volume,
    starter_settings,
)
from wnet_nb.losses import reconstruction_loss
from wnet_nb.model import WNet3D

STEPS, VOLUMES = 13_000, 1_200  # of the weights in the package
LEARNING_RATE, WARM_UP = 1.5e-3, 300
GRADIENT_LIMIT = 1.0
AVERAGE_DECAY = 0.999  # the weights that are kept are a running mean over about 1,000 steps
DECODER_SHARE = 0.06  # of the encoder's steps, trained after them
DECODER_RATE = 1e-3
SAVE_EVERY, LOG_EVERY = 1_000, 100


@dataclass(frozen=True)
class StarterProgress:
    """Where the making of a starter is."""

    phase: str  # "volumes", "encoder", "decoder" or "finished"
    done: int  # volumes or steps of the phase
    total: int
    loss: float  # of this step; nan where there is none
    seconds_left: float  # of the phase


def make_starter(
    out: str | os.PathLike[str],
    *,
    steps: int = STEPS,
    seed: int = 0,
    ranges: Ranges | None = None,
    volumes: int = VOLUMES,
    workers: int | None = None,
) -> Generator[StarterProgress, None, None]:
    """Train starter weights and write them to `out`, yielding after every volume and step.

    The folder ``out`` + ``.training`` keeps the last states and ``history.csv``; a training that
    was interrupted goes on from there when called again with the same arguments.

    Parameters
    ----------
    out : path
        The ``.safetensors`` file to write; float16.
    steps : int
        Of the encoder; the decoder gets 6 % more.
    seed : int
        Of volumes, weights and patches.
    ranges : Ranges, optional
        What the cells look like; narrower ranges make a starter for cells of one kind.
    volumes : int
        How many are simulated; 0.5 MB of memory each.
    workers : int, optional
        Processes that simulate; one for every processor if not given, none where 0.

    Raises
    ------
    UserError
        If `out` is not a new ``.safetensors`` file, or a number is not positive.
    """
    out = Path(out)
    if out.suffix != ".safetensors":
        raise UserError(f"'{out}' must end in .safetensors")
    if out.exists():
        raise UserError(f"'{out}' exists and is not overwritten; choose another name")
    if steps < 1 or volumes < 1:
        raise UserError(f"steps={steps} and volumes={volumes} must be positive")
    ranges = ranges or Ranges()
    pool = yield from _make_pool(volumes, seed, ranges, workers)
    training = StarterTraining(pool, out.with_name(f"{out.name}.training"), steps, seed, ranges)
    yield from training.train()
    model = copy.deepcopy(training.model)
    model.encoder.load_state_dict(training.average)
    rows = [row for row in training.history if row["step"] % (10 * LOG_EVERY) == 0]
    checkpoint.save_weights(out, model.half(), starter_settings(seed), rows)
    yield StarterProgress("finished", 1, 1, math.nan, 0.0)


def _make_pool(
    volumes: int, seed: int, ranges: Ranges, workers: int | None
) -> Generator[StarterProgress, None, Pool]:
    began = time.monotonic()
    pool = Pool(*(np.empty((volumes, *[VOLUME_SIZE] * 3), np.uint8) for _ in range(2)))
    make = partial(prepared_volume, seed=seed, ranges=ranges)
    workers = (os.cpu_count() or 1) if workers is None else workers
    executor = None
    if workers:  # not forked: the parent may hold threads
        context = multiprocessing.get_context("spawn")
        executor = ProcessPoolExecutor(workers, mp_context=context)
    try:
        numbers = range(volumes)
        made = executor.map(make, numbers, chunksize=8) if executor else map(make, numbers)
        for number, (image, classes) in enumerate(made):
            pool.images[number], pool.classes[number] = image, classes
            left = (time.monotonic() - began) / (number + 1) * (volumes - number - 1)
            yield StarterProgress("volumes", number + 1, volumes, math.nan, left)
    finally:
        if executor:
            executor.shutdown(cancel_futures=True)
    return pool


def class_loss(logits: Tensor, classes: Tensor) -> Tensor:
    """Cross entropy plus the soft Dice losses of core and of the whole cell, a scalar.

    Parameters
    ----------
    logits : Tensor
        (N, 3, Z, Y, X), before the softmax.
    classes : Tensor
        (N, Z, Y, X) int64.
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
        self.plan = [steps, seed, len(pool.images), str(ranges)]
        self.steps, self.decoder_steps = steps, max(1, round(DECODER_SHARE * steps))
        self.device = torch.device(choose_device())
        # With patches of 32 planes bfloat16 is safe in training too (see `training`).
        self.dtype = choose_dtype("auto", self.device)
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            self.model: WNet3D = checkpoint.build_model(starter_settings(seed))
        self.model.to(self.device, memory_format=torch.channels_last_3d)
        self.encoder_optimizer = torch.optim.Adam(self.model.encoder.parameters(), LEARNING_RATE)
        self.decoder_optimizer = torch.optim.Adam(self.model.decoder.parameters(), DECODER_RATE)
        self.average = copy.deepcopy(self.model.encoder.state_dict())
        self.step, self.history, self.sums = 0, [], [0.0, 0]
        self._restore()

    def train(self) -> Iterator[StarterProgress]:
        """Train what is left, yielding after every step."""
        began, first = time.monotonic(), self.step
        total = self.steps + self.decoder_steps
        try:
            while self.step < total:
                encoder = self.step < self.steps
                loss = self._encoder_step() if encoder else self._decoder_step()
                if not math.isfinite(loss):
                    raise RuntimeError(f"the loss is not finite at step {self.step + 1}")
                self.step += 1
                self._log(loss)
                if self.step % SAVE_EVERY == 0 or self.step in (self.steps, total):
                    self.save()
                per_step = (time.monotonic() - began) / (self.step - first)
                done, of = (
                    (self.step, self.steps)
                    if encoder
                    else (self.step - self.steps, self.decoder_steps)
                )
                phase = "encoder" if encoder else "decoder"
                yield StarterProgress(phase, done, of, loss, per_step * (of - done))
        except GeneratorExit:
            self.save()
            raise

    def _encoder_step(self) -> float:
        images, classes = (t.to(self.device) for t in draw_patches(self.pool, self.seed, self.step))
        self._set_rate(self.encoder_optimizer, LEARNING_RATE, self.step, self.steps)
        with self._autocast():
            logits = self.model.encoder(images.to(memory_format=torch.channels_last_3d))
        loss = class_loss(logits, classes)
        self._update(loss, self.model.encoder, self.encoder_optimizer)
        with torch.no_grad():
            # A short memory at first, or the random start would weigh in for thousands of steps.
            decay = min(AVERAGE_DECAY, (1 + self.step) / (10 + self.step))
            for name, tensor in self.model.encoder.state_dict().items():
                self.average[name].lerp_(tensor, 1 - decay)
        return float(loss.detach())

    def _decoder_step(self) -> float:
        images, _ = draw_patches(self.pool, self.seed, self.step)
        images = images.to(self.device, memory_format=torch.channels_last_3d)
        self.model.encoder.load_state_dict(self.average)
        self._set_rate(
            self.decoder_optimizer, DECODER_RATE, self.step - self.steps, self.decoder_steps
        )
        with self._autocast():
            with torch.no_grad():
                probabilities = self.model.encode(images)
            rebuilt = self.model.decode(probabilities)
        kind = starter_settings().reconstruction_loss
        loss = reconstruction_loss(rebuilt.float(), images, kind)
        self._update(loss, self.model.decoder, self.decoder_optimizer)
        return float(loss.detach())

    def _autocast(self) -> torch.autocast:
        enabled = self.dtype != torch.float32
        return torch.autocast(self.device.type, self.dtype, enabled=enabled)

    @staticmethod
    def _set_rate(optimizer: torch.optim.Optimizer, rate: float, step: int, steps: int) -> None:
        """Warm up, then fall along a cosine to a hundredth."""
        warm_up = min(WARM_UP, max(1, steps // 10))
        share = 0.5 * (1 + math.cos(math.pi * step / steps))
        rate *= min(1.0, (step + 1) / warm_up) * (0.01 + 0.99 * share)
        for group in optimizer.param_groups:
            group["lr"] = rate

    @staticmethod
    def _update(loss: Tensor, half: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(half.parameters(), GRADIENT_LIMIT)
        optimizer.step()

    def _log(self, loss: float) -> None:
        self.sums[0] += loss
        self.sums[1] += 1
        if self.step % LOG_EVERY and self.step != self.steps:
            return
        phase = "encoder" if self.step <= self.steps else "decoder"
        mean = self.sums[0] / self.sums[1]
        self.history.append({"step": self.step, "phase": phase, "loss": round(mean, 5)})
        self.sums = [0.0, 0]

    def save(self) -> None:
        """Write a full state, and the history as a table."""
        state: dict[str, Any] = {
            "step": self.step,
            "model": self.model.state_dict(),
            "average": self.average,
            "encoder_optimizer": self.encoder_optimizer.state_dict(),
            "decoder_optimizer": self.decoder_optimizer.state_dict(),
            "history": self.history,
            "sums": self.sums,
            "plan": self.plan,
        }
        checkpoint.save_state(self.folder, state)
        with (self.folder / "history.csv").open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, ["step", "phase", "loss"])
            table.writeheader()
            table.writerows(self.history)

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
        self.encoder_optimizer.load_state_dict(state["encoder_optimizer"])
        self.decoder_optimizer.load_state_dict(state["decoder_optimizer"])
        self.step, self.history, self.sums = state["step"], state["history"], state["sums"]
