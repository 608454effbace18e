"""The losses of WNet3D: soft N-cut in two forms, reconstruction, and their weighted sum."""

import functools
import itertools
import math
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from wnet_nb.config import Settings

MEAN_EPSILON = 1e-5  # as published
CUT_EPSILON = 1e-6  # as published
SMALLEST_CLASS = 1e-3  # of the voxels: the hold of a class with fewer gets weaker


class Losses(NamedTuple):
    """The three terms of a step, scalars with a graph."""

    soft_ncut: Tensor
    reconstruction: Tensor
    total: Tensor


def soft_ncut_loss(
    probabilities: Tensor,
    image: Tensor,
    *,
    intensity_sigma: float,
    spatial_sigma: float,
    radius: float,
    affinity: str = "class_mean",
) -> Tensor:
    """Soft normalised cut of class probabilities on an image: a scalar from 0 (perfect) to K.

    Parameters
    ----------
    probabilities : Tensor
        (N, K, Z, Y, X), each in 0-1, summing to 1 over K.
    image : Tensor
        (N, 1, Z, Y, X), in 0-100. No gradient flows to it.
    intensity_sigma, spatial_sigma, radius : float
        Of 0-100, in voxels, and in voxels; the radius a whole number for ``class_mean``.
    affinity : str
        ``class_mean`` (the form CellSeg3D trains with) or ``pairwise`` (Xia & Kulis 2017, eq. 3).
    """
    expected = (probabilities.shape[0], 1, *probabilities.shape[2:])
    if probabilities.ndim != 5 or tuple(image.shape) != expected:
        raise ValueError(
            f"probabilities {tuple(probabilities.shape)} need an image {expected}, "
            f"not {tuple(image.shape)}"
        )
    if affinity == "class_mean":
        return _class_mean_ncut(probabilities, image, intensity_sigma, spatial_sigma, radius)
    if affinity == "pairwise":
        return _PairwiseNcut.apply(probabilities, image, intensity_sigma, spatial_sigma, radius)
    raise ValueError(f"affinity='{affinity}' must be class_mean or pairwise")


def intensity_exponent(difference: Any, sigma: float, affinity: str) -> Any:
    """Return the logarithm of how alike brightnesses count that differ by `difference` (of 0-100).

    For ``class_mean`` -d^4 / sigma^2, where d is the distance from the mean of the class; the
    fourth power is the published behaviour (CellSeg3D), kept so that sigmas mean the same. For
    ``pairwise`` -d^2 / sigma^2. Takes and returns a Tensor, an ndarray or a number.
    """
    power = 4 if affinity == "class_mean" else 2
    return difference**power / -(sigma**2)


def spatial_exponent(squared_distance: Any, sigma: float, affinity: str) -> Any:
    """Return the logarithm of how near voxels count, from the square of their distance in voxels.

    For ``class_mean`` -d^2 / (2 sigma^2), for ``pairwise`` -d^2 / sigma^2.
    """
    return squared_distance / -((2 if affinity == "class_mean" else 1) * sigma**2)


def within_reach(offset: Sequence[Any], radius: float, affinity: str) -> Any:
    """Say whether voxels `offset` apart (one number or array per axis) are compared at all.

    For ``class_mean`` inside a cube of side 2 radius + 1, for ``pairwise`` closer than `radius`.
    """
    if affinity == "pairwise":
        return sum(d * d for d in offset) < radius**2
    return functools.reduce(operator.and_, (abs(d) <= radius for d in offset))


def _class_mean_ncut(
    p: Tensor, image: Tensor, intensity_sigma: float, spatial_sigma: float, radius: int
) -> Tensor:
    """Class-mean form: a voxel's weight falls with its distance from the mean of the class.

    mu_k = mean(I p_k) / (mean(p_k) + 1e-5);  w_k = exp(-(I - mu_k)^4 / sigma_I^2)
    L = K - mean over the batch of sum_k [sum p_k (G * (p_k w_k))] / [sum p_k (G * w_k) + 1e-6]
    """
    space = (2, 3, 4)
    mean = (image * p).mean(space, keepdim=True) / (p.mean(space, keepdim=True) + MEAN_EPSILON)
    weight = intensity_exponent(image - mean, intensity_sigma, "class_mean").exp()  # (N, K, ZYX)
    # G is symmetric, so sum p (G * w) = sum (G * p) w: one pass over p serves both sums.
    smooth = gaussian_sum(p, spatial_sigma, radius)
    association = (smooth * p * weight).sum(space)  # (N, K)
    degree = (smooth * weight).sum(space)
    return p.shape[1] - (association / (degree + CUT_EPSILON)).sum(1).mean()


def gaussian_sum(x: Tensor, sigma: float, radius: int) -> Tensor:
    """Sum x (..., Z, Y, X) over a cube of side 2 radius + 1, weighted by exp(-d^2 / (2 sigma^2)).

    With zero padding. The kernel is a product over axes, and each axis is a product with a banded
    symmetric matrix: the cost does not depend on the radius.
    """
    along_z, along_y, along_x = (_band(n, sigma, radius, x) for n in x.shape[-3:])
    planes = along_y @ (x @ along_x)
    return (along_z @ planes.reshape(*x.shape[:-2], -1)).view(x.shape)


def _band(n: int, sigma: float, radius: int, like: Tensor) -> Tensor:
    position = torch.arange(n, device=like.device, dtype=like.dtype)
    distance = (position[:, None] - position[None, :]).abs()
    kernel = spatial_exponent(distance**2, sigma, "class_mean").exp()
    return torch.where(within_reach((distance,), radius, "class_mean"), kernel, 0)


class _PairwiseNcut(torch.autograd.Function):
    """Pairwise form with its closed-form gradient (Xia & Kulis 2017, arXiv:1711.08506, eq. 3).

    w_uv = exp(-(I_u - I_v)^2 / sigma_I^2) exp(-|x_u - x_v|^2 / sigma_X^2) for |x_u - x_v| < r
    L = K - mean over the batch of sum_k (p_k' W p_k) / (p_k' d),  d = W 1
    W is symmetric and constant, so dL/dp_k = -(2 W p_k / D_k - (A_k / D_k^2) d) / N: nothing but
    W p and d is kept, however many offsets there are.
    """

    @staticmethod
    def forward(
        ctx: Any,
        p: Tensor,
        image: Tensor,
        intensity_sigma: float,
        spatial_sigma: float,
        radius: float,
    ) -> Tensor:
        product = p.clone()  # W p, started with the pair of each voxel with itself (weight 1)
        degree = torch.ones_like(image)
        for offset in _half_offsets(radius, image.shape[2:]):
            spatial = spatial_exponent(sum(d * d for d in offset), spatial_sigma, "pairwise")
            here, there = _overlap(offset, image.shape[2:])
            weight = intensity_exponent(image[here] - image[there], intensity_sigma, "pairwise")
            weight = weight.add_(spatial).exp_()
            product[here].addcmul_(weight, p[there])
            product[there].addcmul_(weight, p[here])
            degree[here] += weight
            degree[there] += weight
        space = (2, 3, 4)
        association = (p * product).sum(space, keepdim=True)  # (N, K, 1, 1, 1)
        total = (p * degree).sum(space, keepdim=True).clamp_min(CUT_EPSILON)
        ctx.save_for_backward(product, degree, association, total)
        return p.shape[1] - (association / total).sum(1).mean()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        product, degree, association, total = ctx.saved_tensors
        slope = (association / total**2) * degree - 2 * product / total
        return grad * slope / product.shape[0], None, None, None, None


def _half_offsets(radius: float, shape: torch.Size) -> list[tuple[int, ...]]:
    """Offsets closer than `radius`, one of each pair of opposite ones, that fit in `shape`."""
    reach = range(-math.ceil(radius) + 1, math.ceil(radius))
    return [
        offset
        for offset in itertools.product(reach, repeat=3)
        if offset > (0, 0, 0)
        and within_reach(offset, radius, "pairwise")
        and all(abs(d) < n for d, n in zip(offset, shape, strict=True))
    ]


def _overlap(offset: tuple[int, ...], shape: torch.Size) -> tuple[tuple, tuple]:
    """Slices of the voxels that have a neighbour at `offset`, and of those neighbours."""
    here = tuple(slice(max(0, -d), n - max(0, d)) for d, n in zip(offset, shape, strict=True))
    there = tuple(slice(max(0, d), n - max(0, -d)) for d, n in zip(offset, shape, strict=True))
    return (..., *here), (..., *there)


def reconstruction_loss(reconstruction: Tensor, image: Tensor, kind: str) -> Tensor:
    """Difference between the decoder's output and the image in 0-100, both (N, 1, Z, Y, X).

    ``MSE`` on 0-100, or ``BCE`` between sigmoid(reconstruction) and the image in 0-1.
    """
    if kind == "BCE":
        target = (image / 100).clamp(0, 1)
        return functional.binary_cross_entropy_with_logits(reconstruction, target)
    return functional.mse_loss(reconstruction, image)


def hold_loss(probabilities: Tensor, start: Tensor) -> Tensor:
    """How far class probabilities (N, K, Z, Y, X) moved from `start`: a scalar, 0 for nowhere.

    The Kullback-Leibler divergence, as its mean over each class of `start` in an image, and then
    over the classes: as in the soft N-cut, few voxels of cells count as much as many of background.
    """
    tiny = 1e-6  # bfloat16 probabilities can be 0
    ratio = start.clamp_min(tiny).log() - probabilities.clamp_min(tiny).log()
    divergence = (start * ratio).sum(1, keepdim=True)  # (N, 1, Z, Y, X)
    voxels = start.sum((2, 3, 4)) + SMALLEST_CLASS * divergence[0].numel()  # (N, K)
    return ((start * divergence).sum((2, 3, 4)) / voxels).mean()


def wnet_losses(
    probabilities: Tensor,
    reconstruction: Tensor,
    image: Tensor,
    settings: Settings,
    *,
    start: Tensor | None = None,
) -> Losses:
    """Both losses and their weighted sum, in float32 whatever the network's precision.

    Where the settings name a core class, the classes of cells count as one in the soft N-cut: cut
    apart, core and rim would drift. The total holds a pull towards `start`, the class probabilities
    (N, K, Z, Y, X) of the weights that training started from.
    """
    with torch.autocast(image.device.type, enabled=False):
        probabilities = probabilities.float()
        classes = probabilities
        if settings.core_class is not None:
            cells = probabilities[:, list(settings.foreground_classes)].sum(1, keepdim=True)
            classes = torch.cat((1 - cells, cells), dim=1)
        soft_ncut = soft_ncut_loss(
            classes,
            image,
            intensity_sigma=settings.intensity_sigma,
            spatial_sigma=settings.spatial_sigma,
            radius=settings.radius,
            affinity=settings.affinity,
        )
        rebuilt = reconstruction_loss(reconstruction.float(), image, settings.reconstruction_loss)
        total = settings.ncut_weight * soft_ncut + settings.reconstruction_weight * rebuilt
        if start is not None:
            total = total + settings.hold_weight * hold_loss(probabilities, start.float())
    return Losses(soft_ncut, rebuilt, total)
