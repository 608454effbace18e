"""The WNet3D network: two 3D U-Nets, an encoder to class probabilities and a decoder back.

Layer names and shapes are those of a published CellSeg3D state dict.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from wnet_nb.config import DEPTH_FACTOR

NORM_GROUPS = 4


class ReLUDropout(torch.autograd.Function):
    """ReLU and dropout in one, in place of their input; only the result is kept for the gradient.

    The gradient needs no mask: what is positive was neither negative nor dropped. Masks are drawn
    16 bits at a time, 2 to 4 times cheaper than torch's own on a CPU: the rate is kept to 1 part
    in 65,536, and what stays is scaled by exactly the share that stays.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, rate: float) -> Tensor:  # any shape and layout
        """Apply both."""
        cut = round(rate * 2**16)
        x.clamp_min_(0)
        if cut:
            device = x.device if x.device.type in ("cpu", "cuda") else "cpu"
            words = torch.empty(-(-x.numel() // 4), dtype=torch.int64, device=device)
            words.random_(-(2**63), None)
            dropped = words.view(torch.int16)[: x.numel()] < cut - 2**15
            dropped = dropped.as_strided(x.shape, torch.empty_like(x).stride())  # x's layout
            x.masked_fill_(dropped.to(x.device), 0).mul_(2**16 / (2**16 - cut))
        ctx.mark_dirty(x)
        ctx.save_for_backward(x)
        ctx.scale = 2**16 / (2**16 - cut)
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Pass the gradient on where the result is positive."""
        (y,) = ctx.saved_tensors
        return torch.ops.aten.threshold_backward(gradient, y, 0).mul_(ctx.scale), None


class Stage(nn.Module):
    """(Convolution, ReLU, dropout, group norm) twice, then 1x1x1 to `head` channels if not 0.

    Where `paired`, a "convolution" is 3x3x3 in->in followed by 1x1x1 in->out (the middle stages),
    otherwise a plain 3x3x3 in->out (the first and last stages).
    """

    def __init__(
        self, in_channels: int, out_channels: int, dropout: float, *, paired: bool, head: int = 0
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for channels in (in_channels, out_channels):
            if paired:
                layers.append(nn.Conv3d(channels, channels, 3, padding=1))
                layers.append(nn.Conv3d(channels, out_channels, 1))
            else:
                layers.append(nn.Conv3d(channels, out_channels, 3, padding=1))
            layers += [
                nn.ReLU(inplace=True),
                nn.Dropout(dropout),
                nn.GroupNorm(NORM_GROUPS, out_channels),
            ]
        if head:
            layers.append(nn.Conv3d(out_channels, head, 1))
        self.module = nn.Sequential(*layers)
        self.paired = paired

    def forward(self, x: Tensor) -> Tensor:  # (N, in, Z, Y, X) -> (N, out or head, Z, Y, X)
        """Apply the stage."""
        layers = iter(self.module)
        for layer in layers:
            if self.paired and isinstance(layer, nn.Conv3d):
                x = _composed(layer, next(layers), x)
            elif self.training and isinstance(layer, nn.ReLU):
                x = ReLUDropout.apply(x, next(layers).p)
            else:
                x = layer(x)
        return x


def _composed(wide: nn.Conv3d, point: nn.Conv3d, x: Tensor) -> Tensor:
    """Apply a 3x3x3 in->in and a 1x1x1 in->out convolution, as one where that is less work.

    The two are linear with nothing between them, so their product is one 3x3x3 in->out kernel:
    half of the operations where out = in / 2, and never more where out <= in.
    """
    if point.out_channels > wide.out_channels:
        return point(wide(x))
    mix = point.weight.flatten(1)  # (out, in)
    weight = (mix @ wide.weight.flatten(1)).view(-1, *wide.weight.shape[1:])
    bias = point.bias + mix @ wide.bias
    return functional.conv3d(x, weight, bias, padding=1)


class UNet3D(nn.Module):
    """U-Net with three poolings and channels c, 2c, 4c, 8c, where c is `base_channels`.

    With `activation_checkpointing` only what goes into a stage is kept for the gradient, which
    computes the stage again.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, base_channels: int, dropout: float
    ) -> None:
        super().__init__()
        c = base_channels
        self.activation_checkpointing = False
        self.in_b = Stage(in_channels, c, dropout, paired=False)
        self.conv1 = Stage(c, 2 * c, dropout, paired=True)
        self.conv2 = Stage(2 * c, 4 * c, dropout, paired=True)
        self.bot = Stage(4 * c, 8 * c, dropout, paired=True)
        self.deconv2 = Stage(8 * c, 4 * c, dropout, paired=True)
        self.deconv3 = Stage(4 * c, 2 * c, dropout, paired=True)
        self.out_b = Stage(2 * c, c, dropout, paired=False, head=out_channels)
        self.conv_trans2 = nn.ConvTranspose3d(8 * c, 4 * c, 2, stride=2)
        self.conv_trans3 = nn.ConvTranspose3d(4 * c, 2 * c, 2, stride=2)
        self.conv_trans_out = nn.ConvTranspose3d(2 * c, c, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:  # (N, in, Z, Y, X) -> (N, out, Z, Y, X)
        """Apply the network."""
        channels = self.in_b.module[0].in_channels
        if x.ndim != 5 or x.shape[1] != channels or any(n % DEPTH_FACTOR for n in x.shape[2:]):
            raise ValueError(
                f"the network takes (N, {channels}, Z, Y, X) with Z, Y and X multiples of "
                f"{DEPTH_FACTOR}, not {tuple(x.shape)}"
            )
        skip1 = self._run(self.in_b, x)  # c
        skip2 = self._run(self.conv1, functional.max_pool3d(skip1, 2))  # 2c, edges / 2
        skip3 = self._run(self.conv2, functional.max_pool3d(skip2, 2))  # 4c, edges / 4
        x = self._run(self.bot, functional.max_pool3d(skip3, 2))  # 8c, edges / 8
        x = self._run(self.deconv2, torch.cat((skip3, self.conv_trans2(x)), dim=1))
        x = self._run(self.deconv3, torch.cat((skip2, self.conv_trans3(x)), dim=1))
        return self._run(self.out_b, torch.cat((skip1, self.conv_trans_out(x)), dim=1))

    def _run(self, stage: Stage, x: Tensor) -> Tensor:
        if self.activation_checkpointing and self.training:
            return checkpoint(stage, x, use_reentrant=False)
        return stage(x)


class WNet3D(nn.Module):
    """Encoder U-Net with a softmax over K classes, decoder U-Net back to the image.

    After Xia & Kulis 2017 (arXiv:1711.08506) in the 3D form of CellSeg3D (Achard et al. 2024).
    The first stage has `base_channels` channels, a multiple of 4; 64 in the published network.
    """

    def __init__(
        self, n_classes: int = 2, *, base_channels: int = 64, dropout: float = 0.65
    ) -> None:
        super().__init__()
        sizes = {"base_channels": base_channels, "dropout": dropout}
        self.encoder = UNet3D(1, n_classes, **sizes)
        self.decoder = UNet3D(n_classes, 1, **sizes)

    def encode(self, image: Tensor) -> Tensor:
        """Return class probabilities (N, K, Z, Y, X) of an image (N, 1, Z, Y, X) in 0-100."""
        return self.encoder(image).softmax(dim=1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return class probabilities and reconstruction (no final activation) of an image."""
        probabilities = self.encode(image)
        return probabilities, self.decoder(probabilities)
