"""Time the soft N-cut against the radius, beside a dense cube convolution, as ratios in one run.

Run from the repository root: ``python -m tests.benchmarks.loss_speed``; it prints a table.
"""

import statistics
import time

import torch
from torch.nn import functional

from wnet_nb.losses import soft_ncut_loss

SHAPE = (2, 2, 64, 64, 64)
RADII = (2, 5, 10)
SIGMAS = {"intensity_sigma": 10.0, "spatial_sigma": 4.0}


def dense_class_mean(p, image, *, intensity_sigma, spatial_sigma, radius):
    """Return the class-mean soft N-cut with the whole cube as one kernel, as published."""
    d = torch.arange(-radius, radius + 1.0)
    kernel = torch.exp(-(d[:, None, None] ** 2 + d[:, None] ** 2 + d**2) / (2 * spatial_sigma**2))
    loss = p.shape[1]
    for k in range(p.shape[1]):
        q = p[:, k : k + 1]
        mean = (image * q).mean((2, 3, 4), keepdim=True) / (q.mean((2, 3, 4), keepdim=True) + 1e-5)
        weight = torch.exp(-((image - mean) ** 4) / intensity_sigma**2)
        above = q * functional.conv3d(q * weight, kernel[None, None], padding=radius)
        below = q * functional.conv3d(weight, kernel[None, None], padding=radius)
        loss = loss - (above.sum((1, 2, 3, 4)) / (below.sum((1, 2, 3, 4)) + 1e-6)).mean()
    return loss


def class_mean(p, image, **sizes):
    """Return the package's class-mean form."""
    return soft_ncut_loss(p, image, affinity="class_mean", **sizes)


def pairwise(p, image, **sizes):
    """Return the package's pairwise form."""
    return soft_ncut_loss(p, image, affinity="pairwise", **sizes)


def seconds(loss, logits, image, radius, repeats):
    """Return the median time of forward and backward, and the loss."""
    times = []
    for _ in range(repeats):
        p = logits.softmax(1).requires_grad_()
        began = time.perf_counter()
        value = loss(p, image, radius=radius, **SIGMAS)
        value.backward()
        times.append(time.perf_counter() - began)
    return statistics.median(times), value.item()


def main():
    """Print the table."""
    torch.manual_seed(0)
    logits, image = torch.randn(SHAPE), 100 * torch.rand(SHAPE[0], 1, *SHAPE[2:])
    class_mean(logits.softmax(1), image, radius=2, **SIGMAS)  # threads and memory wake up
    print(f"torch {torch.__version__}, {torch.get_num_threads()} thread(s), {SHAPE}")
    print("| form | radius | repeats | seconds (median) | against class_mean, radius 2 | loss |")
    print("|---|---|---|---|---|---|")
    base = None
    for loss, repeats in (
        (class_mean, (15, 15, 15)),
        (pairwise, (7, 3, 1)),
        (dense_class_mean, (5, 3, 1)),
    ):
        for radius, n in zip(RADII, repeats, strict=True):
            took, value = seconds(loss, logits, image, radius, n)
            base = base or took
            print(
                f"| {loss.__name__} | {radius} | {n} | {took:.3f} | {took / base:.2f} "
                f"| {value:.6f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
