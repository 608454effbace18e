"""The plain float32 forms that the package's speed is measured against, and equal to."""

import itertools

import torch
from torch.nn import functional

from wnet_nb.model import Stage


def make_plain(model):
    """Let a WNet3D apply layer by layer; return it."""
    for module in model.modules():
        if isinstance(module, Stage):
            module.forward = module.module.forward
    return model


def dense_ncut(probabilities, image, *, intensity_sigma, spatial_sigma, radius):
    """Return the class-mean soft N-cut with the whole cube as one kernel, as published."""
    d = torch.arange(-radius, radius + 1.0)
    kernel = torch.exp(-(d[:, None, None] ** 2 + d[:, None] ** 2 + d**2) / (2 * spatial_sigma**2))
    loss = probabilities.shape[1]
    for k in range(probabilities.shape[1]):
        p = probabilities[:, k : k + 1]
        mean = (image * p).mean((2, 3, 4), keepdim=True) / (p.mean((2, 3, 4), keepdim=True) + 1e-5)
        weight = torch.exp(-((image - mean) ** 4) / intensity_sigma**2)
        above = p * functional.conv3d(p * weight, kernel[None, None], padding=radius)
        below = p * functional.conv3d(weight, kernel[None, None], padding=radius)
        loss = loss - (above.sum((1, 2, 3, 4)) / (below.sum((1, 2, 3, 4)) + 1e-6)).mean()
    return loss


def shifted_ncut(probabilities, image, *, intensity_sigma, spatial_sigma, radius):
    """Return the pairwise soft N-cut by autograd through shifted copies of the volume."""
    pad, n, loss = [radius] * 6, probabilities.shape[2:], probabilities.shape[1]
    p, i, one = (functional.pad(t, pad) for t in (probabilities, image, torch.ones_like(image)))
    association = degree = 0
    for offset in itertools.product(range(-radius + 1, radius), repeat=3):
        square = sum(o * o for o in offset)
        if square >= radius**2:
            continue
        at = (..., *(slice(radius + o, radius + o + s) for o, s in zip(offset, n, strict=True)))
        weight = one[at] * torch.exp(-((image - i[at]) ** 2) / intensity_sigma**2)
        weight = weight * torch.exp(torch.tensor(-square / spatial_sigma**2))
        association = association + (probabilities * weight * p[at]).sum((2, 3, 4))
        degree = degree + (probabilities * weight).sum((2, 3, 4))
    return loss - (association / degree).sum(1).mean()
