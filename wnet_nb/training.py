"""Training as a generator of frozen events: plain numbers and CPU arrays, no figure, no printing.

To stop is to stop iterating: closing the generator writes a full state, and a run resumed from it
goes on with the same numbers, because every step draws its chance from (seed, step) alone.
"""

import time
import warnings
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
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
    sums: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])  # of its losses
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
    """Train a WNet3D: yield Started, a StepEnd and an EpochEnd for each step and epoch, Finished.

    A loss that is not finite, or memory that runs out, takes the network back to its weights
    after the last epoch; it goes on with half the learning rate, or with smaller batches, and
    the next event says so (see the option `recover`). UserError if it cannot be done, or cannot go
    on; the last good state is kept.

    Parameters
    ----------
    volumes : sequence of ndarray or Prepared
        Images (Z, Y, X) of any real dtype; memory maps stay on disk. Give them prepared
        (`data.prepare`) where voxel size and cell radius matter and are not in the settings.
    settings : Settings
        What to train and how.
    run : Path, optional
        Run folder for full states and weights. If it holds a state, training goes on from there,
        up to `settings.epochs`; live options that are asked for anew are recorded as changes.
    validation : sequence of (Prepared, labels)
        Prepared volumes and their labels (Z, Y, X); the Dice is reported, never trained on.
    controls : Controls, optional
        Asked before every step what to change or save.
    device : str
        ``auto`` (a GPU if there is one that can), or a torch device.
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
        self.settings = self.asked = settings  # what holds now, and what was asked for this time
        self.validation, self.controls = validation, controls
        self.device = torch.device(choose_device() if device == "auto" else device)
        self.remarks: list[str] = []  # for the next event
        self.changed: dict[str, Any] = {}  # for the next step's event
        self.progress = _Progress()
        self.failures = 0
        self.keeper = None if run is None else checkpoint.StateKeeper(Path(run))
        state = self._find_state()
        self.prepared = [
            self._prepared(volume, f"volume {number} of {len(volumes)}")
            for number, volume in enumerate(volumes, 1)
        ]
        self._cut_patches()
        self.remarks += self.sampler.remarks
        self.learner = Learner(self.settings, self.device, self.dtype)
        if state:
            self.learner.take_state(state, self.keeper.run)
        elif settings.start_from:
            checkpoint.load_start_weights(self.learner.model, settings.start_from)
            if settings.hold_weight > 0:
                self.learner.hold()
        if self.keeper:
            self.keeper.check_space(self.learner.model)
        self.good = self.learner.copy_of_state()
        self.preview_patch = self.sampler.richest(np.random.default_rng([settings.seed, 1]))

    def _find_state(self) -> dict[str, Any] | None:
        """Return the newest state of the run folder, and let hold what held at its end."""
        if self.keeper is None:
            return None
        state, damaged = self.keeper.load()
        self.remarks += [f"the newest state is passed over: {words}" for words in damaged]
        if state is None:
            return None
        self.progress = _Progress(**state["progress"])
        before, live = state["settings"], self.progress.live
        anew = {  # live options that are asked for anew
            name: value
            for name in names_with("live")
            if name in before and (value := getattr(self.asked, name)) != before[name]
        }
        self.settings = self.asked.replace(**{name: before[name] for name in anew} | live)
        self._change(anew)
        self.progress.live = {k: v for k, v in self.progress.live.items() if k not in anew}
        return state

    def _prepared(self, volume: np.ndarray | Prepared, name: str) -> Prepared:
        if isinstance(volume, Prepared):
            return volume
        volume = prepare(volume, self.settings, name=name)
        if self.settings.needs_radius and volume.cell_radius_um is None:
            self.remarks.append(
                f"{name} is taken as it is, as no cell radius is known; set cell_radius_um"
            )
        return volume

    def _cut_patches(self) -> None:
        """Begin to draw patches as large as the settings say, for a number format that suits."""
        self.sampler = PatchSampler(self.prepared, self.settings)
        precision, planes = self.settings.precision, self.sampler.shape[0]
        self.dtype = choose_dtype(precision, self.device)
        if self.device.type != "cpu" or self.dtype != torch.bfloat16:
            return
        # torch 2.13: the bfloat16 weight gradient of a Conv3d on 2 planes is unwritten memory
        thin = planes < BFLOAT16_PLANES
        enough = f"at least {BFLOAT16_PLANES} planes, not {planes}"
        if thin and precision != "auto":
            raise UserError(f"bfloat16 on a CPU needs patches of {enough}; set precision=auto")
        if thin:
            self.dtype = torch.float32
            self.remarks.append(f"computes in float32: bfloat16 needs patches of {enough}")
        elif precision == "auto":
            self.remarks.append(
                "computes in bfloat16, as this processor can: in about half of the time, with "
                "losses that differ from float32 by about 1 %"
            )

    @property
    def per_epoch(self) -> int:
        return -(-self.settings.patches_per_volume * len(self.prepared) // self.settings.batch_size)

    def events(self) -> Iterator[Event]:
        """Yield the whole training."""
        began, p = time.perf_counter(), self.progress
        yield Started(
            epochs=self.settings.epochs,
            epochs_done=p.epoch,
            steps_per_epoch=self.per_epoch,
            parameters=sum(weight.numel() for weight in self.learner.model.parameters()),
            patch_shape=self.sampler.shape,
            device=describe_device(self.device),
            precision=str(self.dtype).removeprefix("torch."),
            remarks=self._take_remarks(),
            history=tuple(map(dict, p.history)),
        )
        while p.epoch < self.settings.epochs:
            random = np.random.default_rng([self.settings.seed, 2, p.epoch])
            order = self.sampler.epoch(self.settings.patches_per_volume, random)
            while p.patches < len(order):
                yield self._step(order)
            yield self._end_epoch()
        self._save()
        yield Finished(
            epochs=p.epoch,
            steps=p.step,
            seconds=time.perf_counter() - began,
            model=self.learner.model.eval(),
            settings=self.settings,
            history=tuple(map(dict, p.history)),
            remarks=self._take_remarks(),
        )

    def _take_remarks(self) -> tuple[str, ...]:
        remarks, self.remarks = tuple(self.remarks), []
        return remarks

    def _step(self, order: list[int]) -> StepEnd:
        p, began, values = self.progress, time.perf_counter(), None
        self._obey()
        while values is None:
            batch = order[p.patches : p.patches + self.settings.batch_size]
            values = self._try(batch)
        seconds = time.perf_counter() - began
        p.step, p.batch, p.seconds = p.step + 1, p.batch + 1, p.seconds + seconds
        p.patches += len(batch)
        p.sums = [s + v for s, v in zip(p.sums, values, strict=True)]
        self._save_if_due()
        changes = tuple((k, v) for k, v in self.changed.items() if k in names_with("live"))
        self.changed = {}
        left, remarks = self._seconds_left(), self._take_remarks()
        return StepEnd(p.step, p.epoch + 1, *values, seconds, left, changes, remarks)

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
        self.settings = settings
        self.progress.live |= changed
        self.changed |= changed
        if changed:
            words = "; ".join(f"{k}={_word(v)}" for k, v in changed.items())
            self.progress.changes.append(f"step {self.progress.step + 1}: {words}")

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
            self._save_memory()  # not above, where the error still holds the memory
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
        half = max(rate / 2, 1e-8)
        self._go_back(failure, {"learning_rate": half}, f"learning_rate={half:g}, half of before")

    def _save_memory(self) -> None:
        """Go back to the last good weights with smaller batches, then patches, or give up."""
        batch, patch = self.settings.batch_size, self.sampler.shape
        smaller = tuple(
            min(n, max(SMALLEST_EDGE, n // 2 // DEPTH_FACTOR * DEPTH_FACTOR)) for n in patch
        )
        if batch > 1:
            batch, change = batch // 2, {"batch_size": batch // 2}
        elif smaller != patch and self.settings.radius < min(smaller) // 2:
            patch, change = smaller, {"patch_size": smaller}
        else:
            raise UserError(
                f"memory runs out with patches of {times(patch)} voxels, one at a time; set "
                "base_channels lower, or close other programs"
            )
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        failure = f"memory ran out at step {self.progress.step + 1}"
        self._go_back(failure, change, f"{batch} patches of {times(patch)} voxels at once")
        if "patch_size" in change:
            self._cut_patches()
            self.learner.dtype = self.dtype
            self.preview_patch = self.preview_patch[tuple(map(slice, patch))]

    def _go_back(self, failure: str, change: dict[str, Any], words: str) -> None:
        self.progress.recoveries += 1
        self.learner.take_state(self.good, "the state in memory")
        self._change(change)
        self.remarks.append(
            f"{failure}: the network went back to its weights of the last epoch and goes on with "
            f"{words}"
        )

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
        left, remarks = self._seconds_left(), self._take_remarks()
        return EpochEnd(p.epoch, dict(row), left, preview, dice, remarks)

    def _seconds_left(self) -> float:
        p = self.progress
        done = sum(row["seconds"] for row in p.history[-3:]) + p.seconds
        steps = min(len(p.history), 3) * self.per_epoch + p.batch
        left = (self.settings.epochs - p.epoch) * self.per_epoch - p.batch
        return max(0.0, done / max(1, steps) * left)

    def _save_if_due(self, *, epoch_over: bool = False) -> None:
        minutes = self.settings.save_interval_minutes
        if self.keeper and self.keeper.is_due(minutes, epoch_over=epoch_over):
            self._save()

    def _save(self) -> None:
        """Write weights and a full state to the run folder, or remark why that failed."""
        p = self.progress
        if self.keeper is None or not p.step:
            return
        now = {"step": p.step, "settings": self.asked.as_dict(), "progress": dict(vars(p))}
        try:
            self.keeper.save(now | self.learner.state(), self.learner.model, self.settings)
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


def _word(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
