"""Training as a generator of frozen events: plain numbers and CPU arrays, no figure, no printing.

To stop is to stop iterating: closing the generator writes a full state, and a run resumed from it
goes on with the same numbers, because every step draws its chance from (seed, step) alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wnet_nb import checkpoint
from wnet_nb.config import LIVE, Settings
from wnet_nb.data import PatchSampler, Prepared, prepare
from wnet_nb.device import choose_device, choose_dtype, describe_device, peak_memory_mb
from wnet_nb.errors import UserError
from wnet_nb.events import EpochEnd, Event, Finished, Preview, Started, StepEnd
from wnet_nb.inference import predict_volume
from wnet_nb.losses import Losses, wnet_losses
from wnet_nb.model import WNet3D

SCALED_STEPS_REFUSED = 10  # a float16 gradient scaler may refuse a few steps while it settles


@dataclass
class _Progress:
    """All that changes while a training runs, and that a full state must hold."""

    step: int = 0
    epoch: int = 0  # epochs completed
    batch: int = 0  # batches completed in the current epoch
    sums: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    seconds: float = 0.0  # of the current epoch so far
    changes: list[str] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)
    best: float = math.inf
    live: dict[str, float] = field(default_factory=dict)


def fit(
    volumes: Sequence[np.ndarray | Prepared],
    settings: Settings,
    *,
    run: Path | None = None,
    validation: Sequence[tuple[Prepared, np.ndarray]] = (),
    live: Callable[[], Mapping[str, float]] | None = None,
    device: str = "auto",
) -> Generator[Event, None, None]:
    """Train a WNet3D and yield an event for every step and epoch.

    Parameters
    ----------
    volumes : sequence of ndarray or Prepared
        Images (Z, Y, X) of any real dtype; memory maps stay on disk. Give them prepared
        (`preparation.prepare`) where the voxel size matters and is not in the settings.
    settings : Settings
        What to train and how.
    run : Path, optional
        Run folder for full states and weights. If it holds a state, training goes on from there,
        up to `settings.epochs`.
    validation : sequence of (Prepared, labels)
        Prepared volumes and their labels (Z, Y, X); the Dice is reported, never trained on.
    live : callable, optional
        Asked before every step; returns those options of `config.LIVE` that should hold from now.
    device : str
        ``auto`` (a CUDA GPU if there is one), or a torch device.

    Yields
    ------
    Started, StepEnd, EpochEnd, Finished

    Raises
    ------
    UserError
        If a loss or gradient is not finite; the last good state is kept.
    """
    trainer = _Trainer(volumes, settings, run, validation, live, device)
    try:
        yield from trainer.events()
    finally:
        trainer.save_state()


def run(events: Iterable[Event], observe: Callable[[Event], None]) -> WNet3D:
    """Drive a training to its end, hand every event to `observe`, and return the model."""
    try:
        for event in events:
            observe(event)
            if isinstance(event, Finished):
                return event.model
    finally:
        if isinstance(events, Generator):  # at once, not when the traceback is thrown away
            events.close()
    raise UserError("the training ended without a model")


class _Trainer:
    def __init__(
        self,
        volumes: Sequence[np.ndarray | Prepared],
        settings: Settings,
        run: Path | None,
        validation: Sequence[tuple[Prepared, np.ndarray]],
        live: Callable[[], Mapping[str, float]] | None,
        device: str,
    ) -> None:
        if not volumes:
            raise UserError("there is no volume to train on")
        self.settings, self.validation, self.live = settings, validation, live
        self.run = None if run is None else Path(run)
        self.device = torch.device(choose_device() if device == "auto" else device)
        self.dtype = choose_dtype(settings.precision, self.device, training=True)
        prepared = [
            v
            if isinstance(v, Prepared)
            else prepare(v, settings, name=f"volume {i} of {len(volumes)}")
            for i, v in enumerate(volumes, 1)
        ]
        self.shapes = [p.array.shape for p in prepared]
        self.sampler = PatchSampler(
            [p.array for p in prepared], [p.normalisation for p in prepared], settings
        )
        if (
            self.device.type == "cpu"
            and self.dtype == torch.bfloat16
            and self.sampler.shape[0] < 24
        ):
            # torch 2.13: the bfloat16 weight gradient of a Conv3d on 2 planes is unwritten memory
            raise UserError(
                f"precision=bfloat16 on a CPU needs patches of at least 24 planes, not "
                f"{self.sampler.shape[0]}; set precision=float32"
            )
        with torch.random.fork_rng([]):  # the caller's random numbers stay as they were
            torch.manual_seed(settings.seed)
            self.model = checkpoint.build_model(settings)
            if settings.start_from:
                checkpoint.load_start_weights(self.model, settings.start_from)
        self.model.to(self.device)
        self.optimizer = torch.optim.Adam(
            self.model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        self.scaler = torch.amp.GradScaler(
            self.device.type, enabled=self.dtype == torch.float16, init_scale=2.0**12
        )
        self.refused = 0
        self.progress = _Progress()
        self.saved = (0, 0)  # step and epoch of the newest state on disk
        self._restore()
        self.preview_patch = self.sampler.richest(np.random.default_rng([settings.seed, 1]))

    @property
    def per_epoch(self) -> int:
        patches = self.settings.patches_per_volume * len(self.sampler.arrays)
        return -(-patches // self.settings.batch_size)

    def events(self) -> Iterator[Event]:
        """Yield the whole training."""
        began, p = time.perf_counter(), self.progress
        yield self._started()
        while p.epoch < self.settings.epochs:
            order = self.sampler.epoch(
                self.settings.patches_per_volume,
                self.settings.batch_size,
                np.random.default_rng([self.settings.seed, 2, p.epoch]),
            )
            for batch in order[p.batch :]:
                yield self._step(batch)
            yield self._end_epoch()
        self.model.eval()
        seconds = time.perf_counter() - began
        yield Finished(
            p.epoch, p.step, seconds, self.model, self.settings, tuple(dict(r) for r in p.history)
        )

    def _started(self) -> Started:
        remarks = [
            f"volume {i} is smaller than a patch and is enlarged to {_times(now.shape)} voxels by "
            "reflection"
            for i, (now, given) in enumerate(zip(self.sampler.arrays, self.shapes, strict=True), 1)
            if now.shape != given
        ]
        if self.sampler.shape != self.settings.patch_shape:
            remarks.append(
                f"patches are {_times(self.sampler.shape)} voxels, as no volume is "
                f"as large as patch_size={self.settings.patch_size} in every axis"
            )
        return Started(
            epochs=self.settings.epochs,
            epochs_done=self.progress.epoch,
            steps_per_epoch=self.per_epoch,
            parameters=sum(p.numel() for p in self.model.parameters()),
            patch_shape=self.sampler.shape,
            device=describe_device(self.device),
            precision=str(self.dtype).removeprefix("torch."),
            remarks=tuple(remarks),
            history=tuple(dict(r) for r in self.progress.history),
        )

    def _step(self, batch: list[int]) -> StepEnd:
        p, began = self.progress, time.perf_counter()
        self._take_live_changes()
        random = np.random.default_rng([self.settings.seed, 3, p.step])
        patches = np.stack([self.sampler.draw(v, random) for v in batch])[:, None]
        image = torch.from_numpy(patches).to(self.device)  # (N, 1, Z, Y, X)
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):  # the caller's random numbers stay as they were
            torch.manual_seed(self.settings.seed * 1_000_003 + p.step)
            losses = self._losses(image)
        self._update(losses)
        values = [float(term.detach()) for term in losses]
        seconds = time.perf_counter() - began
        p.step, p.batch, p.seconds = p.step + 1, p.batch + 1, p.seconds + seconds
        p.sums = [s + v for s, v in zip(p.sums, values, strict=True)]
        return StepEnd(p.step, p.epoch + 1, *values, seconds, self._seconds_left())

    def _losses(self, image: Tensor) -> Losses:
        self.model.train()
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            probabilities, reconstruction = self.model(image)
        return wnet_losses(probabilities, reconstruction, image, self.settings)

    def _update(self, losses: Losses) -> None:
        if not all(torch.isfinite(term) for term in losses):
            raise self._not_finite("a loss", losses)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(losses.total).backward()
        self.scaler.unscale_(self.optimizer)
        limit = self.settings.gradient_clipping or math.inf
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), limit)
        if not torch.isfinite(norm):
            self.refused += 1
            if not self.scaler.is_enabled() or self.refused > SCALED_STEPS_REFUSED:
                raise self._not_finite("the gradient", losses)
        else:
            self.refused = 0
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _not_finite(self, what: str, losses: Losses) -> UserError:
        terms = ", ".join(f"{k} {float(v.detach()):.4g}" for k, v in losses._asdict().items())
        return UserError(
            f"{what} is not finite at step {self.progress.step + 1} ({terms}); the network keeps "
            "the state before it; lower learning_rate, or set gradient_clipping=1 or "
            "precision=float32"
        )

    def _take_live_changes(self) -> None:
        wanted = dict(self.live()) if self.live else {}
        unknown = set(wanted) - set(LIVE)
        if unknown:
            raise UserError(f"{', '.join(sorted(unknown))} cannot change during training")
        changed = {k: v for k, v in wanted.items() if v != getattr(self.settings, k)}
        if changed:
            self.settings = self.settings.replace(**changed)
            changed = {k: getattr(self.settings, k) for k in changed}  # as checked, not numpy's
            self.progress.live.update(changed)
            words = "; ".join(f"{k}={v:g}" for k, v in changed.items())
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
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "seconds": round(p.seconds, 3),
            "peak_memory_mb": round(peak_memory_mb(self.device)),
            "changes": " | ".join(p.changes),
        }
        p.history.append(row)
        p.batch, p.sums, p.seconds, p.changes = 0, [0.0, 0.0, 0.0], 0.0, []
        dice = self._validate() if p.epoch % self.settings.validation_interval == 0 else None
        better = total < p.best
        p.best = min(p.best, total)
        self.save_state(best=better)
        return EpochEnd(p.epoch, dict(row), self._seconds_left(), self._preview(), dice)

    def _seconds_left(self) -> float:
        p = self.progress
        done = sum(row["seconds"] for row in p.history[-3:]) + p.seconds
        steps = min(len(p.history), 3) * self.per_epoch + p.batch
        left = (self.settings.epochs - p.epoch) * self.per_epoch - p.batch
        return done / max(1, steps) * left

    def _preview(self) -> Preview:
        self.model.eval()
        image = torch.from_numpy(self.preview_patch)[None, None].to(self.device)
        with torch.no_grad():
            probabilities, reconstruction = self.model(image)
        if self.settings.reconstruction_loss == "BCE":
            reconstruction = reconstruction.sigmoid() * 100
        self.model.train()
        return Preview(
            self.preview_patch,
            probabilities[0].float().cpu().numpy(),
            reconstruction[0, 0].float().cpu().numpy(),
        )

    def _validate(self) -> float | None:
        if not self.validation:
            return None
        scores = []
        for image, truth in self.validation:
            probabilities = predict_volume(
                self.model,
                image,
                tile_size=self.settings.tile_size,
                precision=self.settings.precision,
            )
            scores.append(best_class_dice(probabilities, truth))
        self.model.train()
        return float(np.mean(scores))

    def save_state(self, *, best: bool = False) -> None:
        """Write a full state and the weights to the run folder, unless they are there already."""
        p = self.progress
        if self.run is None or not p.step + p.epoch:
            return
        if (p.step, p.epoch) == self.saved and (self.run / checkpoint.WEIGHTS).exists():
            return
        state = {
            "step": p.step,
            "settings": self.settings.as_dict(),
            "progress": {k: v for k, v in vars(p).items()},
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }
        checkpoint.save_state(self.run, state, best=best)
        checkpoint.save_weights(self.run / checkpoint.WEIGHTS, self.model, self.settings, p.history)
        self.saved = (p.step, p.epoch)

    def _restore(self) -> None:
        state = checkpoint.load_newest_state(self.run) if self.run else None
        if state is None:
            return
        checkpoint.load_tensors(self.model, state["model"], self.run)
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.progress = _Progress(**state["progress"])
        self.saved = (self.progress.step, self.progress.epoch)
        self.settings = self.settings.replace(**self.progress.live)


def _times(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))


def best_class_dice(probabilities: np.ndarray, truth: np.ndarray) -> float:
    """Return the Dice of the class whose argmax map fits the truth best: classes have no order.

    Parameters
    ----------
    probabilities : ndarray
        (K, Z, Y, X).
    truth : ndarray
        (Z, Y, X) labels; everything above 0 is a cell.
    """
    winner, cells = probabilities.argmax(0), truth > 0
    masks = [winner == k for k in range(len(probabilities))]
    return max(2 * (mask & cells).sum() / max(1, mask.sum() + cells.sum()) for mask in masks)
