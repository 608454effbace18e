"""The network with its optimiser: one training step, and the state to keep and to go back to."""

import copy
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wnet_nb import checkpoint
from wnet_nb.config import Settings
from wnet_nb.errors import UserError
from wnet_nb.events import Preview
from wnet_nb.losses import Losses, wnet_losses
from wnet_nb.model import UNet3D

SCALED_STEPS_REFUSED = 10  # a float16 gradient scaler may refuse a few steps while it settles


class NotFiniteError(ArithmeticError):
    """What is not finite, and the losses in words; the weights are those before the step."""


class Learner:
    """A WNet3D in training; it computes in `dtype`, weights and losses are float32."""

    def __init__(self, settings: Settings, device: torch.device, dtype: torch.dtype) -> None:
        self.device, self.dtype = device, dtype
        with torch.random.fork_rng([]):  # the caller's random numbers stay as they were
            torch.manual_seed(settings.seed)
            self.model = checkpoint.build_model(settings)
        for half in (self.model.encoder, self.model.decoder):
            half.activation_checkpointing = settings.activation_checkpointing
        # Convolutions in bfloat16 are twice as quick with the channels last, in float32 slower.
        last = device.type == "cpu" and dtype == torch.bfloat16
        layout = torch.channels_last_3d if last else torch.contiguous_format
        self.model.to(device, memory_format=layout)
        self.optimizer = torch.optim.Adam(
            self.model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        self.scaler = torch.amp.GradScaler(
            device.type, enabled=dtype == torch.float16, init_scale=2.0**12
        )
        self.refused = 0
        if device.type == "cuda":
            torch.backends.cudnn.benchmark = True  # all patches have one shape
        self.start: UNet3D | None = None  # the encoder that training started from

    def hold(self) -> None:
        """Keep the encoder as it is now, for `hold_weight` pulls towards what it says."""
        self.start = copy.deepcopy(self.model.encoder).requires_grad_(False).eval()

    def step(self, patches: np.ndarray, settings: Settings, seed: int) -> list[float]:
        """Take one step; return soft N-cut, reconstruction and total, as they were before it.

        `patches` are (N, 1, Z, Y, X) float32 in 0-100, `settings` what holds now, `seed` that of
        the dropout. NotFiniteError if a loss or the gradient is not finite.
        """
        image, devices, start = torch.from_numpy(patches), [], None
        if self.device.type == "cuda":  # the copy goes on while the first kernels are queued
            image, devices = image.pin_memory(), [self.device]
        image = image.to(self.device, non_blocking=bool(devices))
        reduced = torch.autocast(self.device.type, self.dtype, self.dtype != torch.float32)
        self.model.train()
        with torch.random.fork_rng(devices), reduced:
            torch.manual_seed(seed)
            probabilities, reconstruction = self.model(image)
            if self.start is not None and settings.hold_weight > 0:
                start = self.start(image).softmax(dim=1)
        losses = wnet_losses(probabilities, reconstruction, image, settings, start=start)
        return self._update(losses, settings)

    def _update(self, losses: Losses, settings: Settings) -> list[float]:
        for group in self.optimizer.param_groups:
            group["lr"] = settings.learning_rate
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(losses.total).backward()
        self.scaler.unscale_(self.optimizer)
        limit = settings.gradient_clipping or math.inf
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), limit)
        numbers = torch.stack([*(term.detach() for term in losses), norm])
        *values, norm = numbers.tolist()  # the one wait of a step for a GPU
        words = ", ".join(f"{n} {v:.4g}" for n, v in zip(Losses._fields, values, strict=True))
        if not all(map(math.isfinite, values)):
            raise NotFiniteError("a loss", words)
        finite = math.isfinite(norm)
        self.refused = 0 if finite else self.refused + 1
        if not finite and (not self.scaler.is_enabled() or self.refused > SCALED_STEPS_REFUSED):
            raise NotFiniteError("the gradient", words)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return values

    def preview(self, patch: np.ndarray, settings: Settings) -> Preview:
        """Return a patch (Z, Y, X) in 0-100 as the network sees it now."""
        self.model.eval()
        with torch.no_grad():
            image = torch.from_numpy(patch)[None, None].to(self.device)
            probabilities, reconstruction = self.model(image)
        self.model.train()
        if settings.reconstruction_loss == "BCE":
            reconstruction = reconstruction.sigmoid() * 100
        shown = (probabilities[0], reconstruction[0, 0])
        return Preview(patch, *(part.float().cpu().numpy() for part in shown))

    def state(self) -> dict[str, Any]:
        """Return weights, optimiser and scaler; the tensors are those in use, not copies."""
        parts = {"model": self.model, "optimizer": self.optimizer, "scaler": self.scaler}
        parts |= {"start": self.start} if self.start is not None else {}
        return {name: part.state_dict() for name, part in parts.items()}

    def copy_of_state(self) -> dict[str, Any]:
        """Return `state` as it is now, in main memory."""
        return _copied(self.state())

    def take_state(self, state: dict[str, Any], source: Any) -> None:
        """Go back to a state; UserError naming `source` if it is that of another network."""
        checkpoint.load_tensors(self.model, state["model"], source)
        for number, weight in enumerate(self.model.parameters()):
            moments = state["optimizer"]["state"].get(number, {})
            if any(moments[n].shape != weight.shape for n in moments if n.startswith("exp_avg")):
                raise UserError(f"'{source}' is damaged: its optimiser is that of another network")
        self.optimizer.load_state_dict(_copied(state["optimizer"]))  # it would work in the state
        self.scaler.load_state_dict(state["scaler"])
        if "start" in state and self.start is None:
            self.hold()
            self.start.load_state_dict(state["start"])
        self.optimizer.zero_grad(set_to_none=True)
        self.refused = 0


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value
