"""Training as a generator of frozen events: plain numbers and CPU arrays, no figure, no printing.

To stop is to stop iterating: closing the generator writes a full state, and a run resumed from it
goes on with the same numbers, because every step draws its chance from (seed, step) alone.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wnet_nb import checkpoint
from wnet_nb.config import DEPTH_FACTOR, Settings, names_with
from wnet_nb.data import PatchSampler, Prepared, prepare, times
from wnet_nb.device import (
    choose_device,
    choose_dtype,
    describe_device,
    is_out_of_memory,
    peak_memory_mb,
)
from wnet_nb.errors import UserError
from wnet_nb.events import Controls, EpochEnd, Event, Finished, Started, StepEnd
from wnet_nb.inference import mean_dice
from wnet_nb.learner import Learner, NotFiniteError

RECOVERIES = 2  # how often a training goes back to good weights before it stops with advice
BFLOAT16_PLANES = 24  # of a patch, at least, on a CPU
SMALLEST_EDGE = 16  # of a patch, when memory runs out


@dataclass
class _Progress:
    """All that changes while a training runs, and that a full state must hold."""

    step: int = 0
    epoch: int = 0  # epochs completed
    batch: int = 0  # steps taken in the current epoch
    patches: int = 0  # patches seen in the current epoch
    sums: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    seconds: float = 0.0  # of the current epoch so far
    changes: list[str] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)
    live: dict[str, Any] = field(default_factory=dict)  # options that hold now but did not at first
    recoveries: int = 0


def fit(
    volumes: Sequence[np.ndarray | Prepared],
    settings: Settings,
    *,
    run: Path | None = None,
    validation: Sequence[tuple[Prepared, np.ndarray]] = (),
    controls: Controls | None = None,
    device: str = "auto",
) -> Generator[Event, None, None]:
    """Train a WNet3D and yield an event for every step and epoch.

    A loss that is not finite, or memory that runs out, takes the network back to its weights
    after the last epoch; it goes on with half the learning rate, or with smaller batches, and
    the next event says so (see the option `recover`).

    Parameters
    ----------
    volumes : sequence of ndarray or Prepared
        Images (Z, Y, X) of any real dtype; memory maps stay on disk. Give them prepared
        (`data.prepare`) where voxel size and cell radius matter and are not in the settings.
    settings : Settings
        What to train and how.
    run : Path, optional
        Run folder for full states and weights. If it holds a state, training goes on from there,
        up to `settings.epochs`. Live options that differ from those it was started with are
        taken up, and recorded as changes.
    validation : sequence of (Prepared, labels)
        Prepared volumes and their labels (Z, Y, X); the Dice is reported, never trained on.
    controls : Controls, optional
        Asked before every step what to change or save.
    device : str
        ``auto`` (a CUDA GPU if there is one), or a torch device.

    Yields
    ------
    Started, StepEnd, EpochEnd, Finished

    Raises
    ------
    UserError
        If it cannot be done, or cannot go on; the last good state is kept.
    """
    trainer = _Trainer(volumes, settings, run, validation, controls or Controls(), device)
    try:
        yield from trainer.events()
    finally:
        trainer.close()


class _Trainer:
    def __init__(
        self,
        volumes: Sequence[np.ndarray | Prepared],
        settings: Settings,
        run: Path | None,
        validation: Sequence[tuple[Prepared, np.ndarray]],
        controls: Controls,
        device: str,
    ) -> None:
        if not volumes:
            raise UserError("there is no volume to train on")
        self.settings, self.validation, self.controls = settings, validation, controls
        self.asked = settings  # what the training was started with this time
        self.device = torch.device(choose_device() if device == "auto" else device)
        self.remarks: list[str] = []  # for the next event
        self.changed: dict[str, Any] = {}  # for the next step's event
        self.progress = _Progress()
        self.failures = 0
        self.prepared = self._prepare(volumes)
        self.sampler = PatchSampler(self.prepared, settings)
        self.remarks += self.sampler.remarks
        self.dtype = self._choose_dtype()
        self.learner = Learner(settings, self.device, self.dtype)
        self.keeper = None if run is None else checkpoint.StateKeeper(Path(run))
        self._restore()
        self.good = self.learner.copy_of_state()
        self.preview_patch = self.sampler.richest(np.random.default_rng([settings.seed, 1]))

    def _prepare(self, volumes: Sequence[np.ndarray | Prepared]) -> list[Prepared]:
        prepared, settings = [], self.settings
        for number, volume in enumerate(volumes, 1):
            name = f"volume {number} of {len(volumes)}"
            if isinstance(volume, Prepared):
                prepared.append(volume)
                continue
            prepared.append(prepare(volume, settings, name=name))
            wanted = settings.match_cell_size or settings.subtract_background
            if wanted and prepared[-1].cell_radius_um is None:
                self.remarks.append(
                    f"{name} is taken as it is, as no cell radius is known; set cell_radius_um"
                )
        return prepared

    def _choose_dtype(self) -> torch.dtype:
        dtype = choose_dtype(self.settings.precision, self.device)
        planes = self.sampler.shape[0]
        if self.device.type != "cpu" or dtype != torch.bfloat16:
            return dtype
        # torch 2.13: the bfloat16 weight gradient of a Conv3d on 2 planes is unwritten memory
        wanted = "computing in bfloat16 on a CPU needs patches of at least"
        if planes < BFLOAT16_PLANES and self.settings.precision == "auto":
            self.remarks.append(
                f"computes in float32: {wanted} {BFLOAT16_PLANES} planes, these have {planes}"
            )
            return torch.float32
        if planes < BFLOAT16_PLANES:
            raise UserError(f"{wanted} {BFLOAT16_PLANES} planes, not {planes}; set precision=auto")
        if self.settings.precision == "auto":
            self.remarks.append(
                "computes in bfloat16, as this processor can: in about half of the time, with "
                "losses that differ from float32 by about 1 %"
            )
        return dtype

    @property
    def per_epoch(self) -> int:
        return -(-self.settings.patches_per_volume * len(self.prepared) // self.settings.batch_size)

    def events(self) -> Iterator[Event]:
        """Yield the whole training."""
        began, p = time.perf_counter(), self.progress
        yield self._started()
        while p.epoch < self.settings.epochs:
            order = self.sampler.epoch(
                self.settings.patches_per_volume,
                np.random.default_rng([self.settings.seed, 2, p.epoch]),
            )
            while p.patches < len(order):
                yield self._step(order)
            yield self._end_epoch()
        self._save()
        yield Finished(
            p.epoch,
            p.step,
            time.perf_counter() - began,
            self.learner.model.eval(),
            self.settings,
            tuple(dict(r) for r in p.history),
            self._take_remarks(),
        )

    def _started(self) -> Started:
        return Started(
            epochs=self.settings.epochs,
            epochs_done=self.progress.epoch,
            steps_per_epoch=self.per_epoch,
            parameters=sum(p.numel() for p in self.learner.model.parameters()),
            patch_shape=self.sampler.shape,
            device=describe_device(self.device),
            precision=str(self.dtype).removeprefix("torch."),
            remarks=self._take_remarks(),
            history=tuple(dict(r) for r in self.progress.history),
        )

    def _take_remarks(self) -> tuple[str, ...]:
        remarks, self.remarks = tuple(self.remarks), []
        return remarks

    def _step(self, order: list[int]) -> StepEnd:
        p, began = self.progress, time.perf_counter()
        self._obey()
        values = None
        while values is None:
            batch = order[p.patches : p.patches + self.settings.batch_size]
            values = self._try(batch)
        seconds = time.perf_counter() - began
        p.step, p.batch, p.seconds = p.step + 1, p.batch + 1, p.seconds + seconds
        p.patches += len(batch)
        p.sums = [s + v for s, v in zip(p.sums, values, strict=True)]
        self._save_if_due()
        numbers = {k: v for k, v in self.changed.items() if k in names_with("live")}
        self.changed = {}
        return StepEnd(
            p.step,
            p.epoch + 1,
            *values,
            seconds,
            self._seconds_left(),
            changes=tuple(numbers.items()),
            remarks=self._take_remarks(),
        )

    def _try(self, batch: list[int]) -> list[float] | None:
        """Take a step; return its losses, or None if it failed and is to be taken again."""
        p, seed = self.progress, self.settings.seed
        again = [p.recoveries] if p.recoveries else []  # other patches than those that failed
        random = np.random.default_rng([seed, 3, p.step, *again])
        try:
            patches = np.stack([self.sampler.draw(v, random) for v in batch])[:, None]
            dropout_seed = seed * 1_000_003 + p.step + 7919 * p.recoveries
            return self.learner.step(patches, self.settings, dropout_seed)
        except NotFiniteError as error:
            what, terms = error.args
            failure = f"{what} is not finite at step {p.step + 1} ({terms})"
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            failure = None
        if failure is None:
            self._save_memory()
        else:
            self._slow_down(failure)
        return None

    def _slow_down(self, failure: str) -> None:
        """Go back to the last good weights with half the learning rate, or give up."""
        rate = self.settings.learning_rate
        if not self.settings.recover or self.failures >= RECOVERIES:
            raise UserError(
                f"{failure}; the network keeps the state before it; lower learning_rate (it was "
                f"{rate:g}), or set gradient_clipping=1 or precision=float32"
            )
        self.failures += 1
        self._go_back()
        self._change({"learning_rate": max(rate / 2, 1e-8)})
        self.remarks.append(
            f"{failure}: the network went back to its weights of the last epoch and goes on with "
            f"learning_rate={self.settings.learning_rate:g}, half of what it was"
        )

    def _save_memory(self) -> None:
        """Go back to the last good weights with smaller batches, then patches, or give up."""
        batch, patch = self.settings.batch_size, self.sampler.shape
        halves = (max(SMALLEST_EDGE, n // 2 // DEPTH_FACTOR * DEPTH_FACTOR) for n in patch)
        smaller = tuple(min(pair) for pair in zip(patch, halves, strict=True))
        if batch > 1:
            change = {"batch_size": batch // 2}
        elif smaller != patch and self.settings.radius < min(smaller) // 2:
            change = {"patch_size": smaller}
        else:
            raise UserError(
                f"memory runs out with patches of {times(patch)} voxels, one at a time; set "
                "base_channels lower, or close other programs"
            )
        self._go_back()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self._change(change)
        if "patch_size" in change:
            self._cut_patches_anew()
            self.preview_patch = self.preview_patch[tuple(map(slice, self.sampler.shape))]
        self.remarks.append(
            f"memory ran out at step {self.progress.step + 1}: the network went back to its "
            f"weights of the last epoch and goes on with {self.settings.batch_size} patches of "
            f"{times(self.sampler.shape)} voxels at once"
        )

    def _cut_patches_anew(self) -> None:
        self.sampler = PatchSampler(self.prepared, self.settings)
        self.dtype = self.learner.dtype = self._choose_dtype()

    def _go_back(self) -> None:
        self.progress.recoveries += 1
        self.learner.take_state(self.good, "the state in memory")

    def _obey(self) -> None:
        """Do what was asked for since the last step."""
        wanted, save = self.controls.take()
        try:
            self._change(wanted)
        except UserError as error:  # two options that do not fit each other
            self.remarks.append(f"not taken: {error}")
        if save:
            self._save()

    def _change(self, wanted: dict[str, Any]) -> None:
        """Let other options hold from the next step on."""
        settings = self.settings.replace(**wanted)
        values = {name: getattr(settings, name) for name in wanted}  # as checked, not numpy's
        changed = {k: v for k, v in values.items() if v != getattr(self.settings, k)}
        if not changed:
            return
        self.settings = settings
        self.progress.live |= changed
        self.changed |= changed
        words = "; ".join(f"{k}={_word(v)}" for k, v in changed.items())
        self.progress.changes.append(f"step {self.progress.step + 1}: {words}")

    def _end_epoch(self) -> EpochEnd:
        p = self.progress
        soft_ncut, reconstruction, total = (s / max(1, p.batch) for s in p.sums)
        p.epoch += 1
        row = {
            "epoch": p.epoch,
            "step": p.step,
            "soft_ncut": soft_ncut,
            "reconstruction": reconstruction,
            "total": total,
            "learning_rate": self.settings.learning_rate,
            "seconds": round(p.seconds, 3),
            "peak_memory_mb": round(peak_memory_mb(self.device)),
            "changes": " | ".join(p.changes),
        }
        p.history.append(row)
        p.batch, p.patches, p.seconds = 0, 0, 0.0
        p.sums, p.changes = [0.0, 0.0, 0.0], []
        dice = None
        if self.validation and p.epoch % self.settings.validation_interval == 0:
            dice = mean_dice(self.learner.model, self.validation, self.settings)
        self.good = self.learner.copy_of_state()
        self._save_if_due(epoch_over=True)
        preview = self.learner.preview(self.preview_patch, self.settings)
        left = self._seconds_left()
        return EpochEnd(p.epoch, dict(row), left, preview, dice, remarks=self._take_remarks())

    def _seconds_left(self) -> float:
        p = self.progress
        done = sum(row["seconds"] for row in p.history[-3:]) + p.seconds
        steps = min(len(p.history), 3) * self.per_epoch + p.batch
        left = (self.settings.epochs - p.epoch) * self.per_epoch - p.batch
        return max(0.0, done / max(1, steps) * left)

    def _save_if_due(self, *, epoch_over: bool = False) -> None:
        minutes = self.settings.save_interval_minutes
        if self.keeper is not None and self.keeper.is_due(minutes, epoch_over=epoch_over):
            self._save()

    def _save(self) -> None:
        """Write weights and a full state to the run folder, or remark why that failed."""
        p = self.progress
        if self.keeper is None or not p.step:
            return
        state = {
            "step": p.step,
            "settings": self.asked.as_dict(),
            "progress": dict(vars(p)),
            **self.learner.state(),
        }
        try:
            self.keeper.save(state, self.learner.model, self.settings)
        except (OSError, UserError) as error:
            self.remarks.append(
                f"the state after step {p.step} was not written: {error}; the one before it is "
                "kept, and the training goes on"
            )

    def close(self) -> None:
        """Write the last state, if it is not there yet."""
        self.remarks = []
        self._save()
        for remark in self.remarks:
            warnings.warn(remark, stacklevel=3)

    def _restore(self) -> None:
        """Take up the newest state of the run folder, or the weights to start from."""
        state, model = None, self.learner.model
        if self.keeper is not None:
            state, damaged = self.keeper.load(model)
            self.remarks += [f"the newest state is passed over: {words}" for words in damaged]
        if state is None:
            if self.settings.start_from:
                checkpoint.load_start_weights(model, self.settings.start_from)
                if self.settings.hold_weight > 0:
                    self.learner.hold()
            return
        self.learner.take_state(state, self.keeper.run)
        known = {f.name for f in fields(_Progress)}
        progress = {k: v for k, v in state["progress"].items() if k in known}
        seen = progress["batch"] * self.settings.batch_size  # as states of version 0.1 count
        self.progress = _Progress(**{"patches": seen, **progress})
        self._take_up(state["settings"])

    def _take_up(self, before: dict[str, Any]) -> None:
        """Let hold what held at the end, but for the live options that are asked for anew."""
        live, asked = self.progress.live, self.asked
        anew = {
            name: getattr(asked, name)
            for name in names_with("live")
            if name in before and getattr(asked, name) != before[name]
        }
        held = {name: before[name] for name in anew} | live
        self.settings = asked.replace(**held)
        if self.settings.patch_size != asked.patch_size:
            self._cut_patches_anew()
        self._change(anew)
        self.progress.live = {k: v for k, v in self.progress.live.items() if k not in anew}


def _word(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
