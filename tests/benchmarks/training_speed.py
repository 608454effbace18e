"""How quick is a training step, and how much memory does it take, against plain float32 layers?

python tests/benchmarks/training_speed.py [--preset quick published] [--rounds 5] [--out FILE.md]

Three trainers take steps in turn, so that a busy machine slows all of them alike: `plain` applies
layer by layer in float32 with torch's own dropout, `float32` and `auto` are what the package does
with that precision. The best of the rounds counts; peaks of memory come from a process for each.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from wnet_nb.config import preset
from wnet_nb.device import choose_dtype, peak_memory_mb
from wnet_nb.learner import Learner
from wnet_nb.model import Dropout, Stage

KINDS = ("plain", "float32", "auto")


def make_learner(kind, settings):
    """Return a learner of a kind on the CPU."""
    cpu = torch.device("cpu")
    dtype = choose_dtype("auto" if kind == "auto" else "float32", cpu)
    learner = Learner(settings, cpu, dtype)
    if kind == "plain":
        for module in learner.model.modules():
            if isinstance(module, Stage):
                module.forward = module.module.forward
            elif isinstance(module, Dropout):
                module.forward = nn.Dropout(module.p).forward
    return learner


def patches_of(settings, batch):
    """Return a batch of patches of noise."""
    shape = (batch, 1, *settings.patch_shape)
    return 100 * np.random.default_rng(0).random(shape, np.float32)


def measure_seconds(settings, batch, rounds):
    """Return the least seconds of a step for every kind, taken in turn."""
    learners = {kind: make_learner(kind, settings) for kind in KINDS}
    patches, seconds = patches_of(settings, batch), {kind: [] for kind in KINDS}
    for step in range(rounds + 1):  # the first one warms up
        for kind, learner in learners.items():
            began = time.perf_counter()
            learner.step(patches, settings, step)
            seconds[kind].append(time.perf_counter() - began)
    return {kind: min(times[1:]) for kind, times in seconds.items()}


def measure_memory(name, batch):
    """Return the peak memory of two steps in MB for every kind, each in a process of its own."""
    peaks = {}
    for kind in KINDS:
        command = [
            sys.executable,
            __file__,
            "--preset",
            name,
            "--batch",
            str(batch),
            "--only",
            kind,
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks[kind] = float(done.stdout)
    return peaks


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", nargs="+", default=["scratch", "published"])
    parser.add_argument("--batch", type=int, default=1, help="patches per step")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", choices=KINDS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        settings = preset(options.preset[0])
        learner = make_learner(options.only, settings)
        for step in range(2):
            learner.step(patches_of(settings, options.batch), settings, step)
        print(peak_memory_mb(torch.device("cpu")))
        return
    lines = [
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, batch {options.batch}",
        "",
        "| preset | trainer | seconds per step | of plain | peak memory (MB) | of plain |",
        "|---|---|---|---|---|---|",
    ]
    # Memory first: Linux counts what this process had used so far to the peak of its children.
    peaks = {name: measure_memory(name, options.batch) for name in options.preset}
    for name in options.preset:
        seconds = measure_seconds(preset(name), options.batch, options.rounds)
        for kind in KINDS:
            lines.append(
                f"| {name} | {kind} | {seconds[kind]:.2f} | "
                f"{seconds[kind] / seconds['plain']:.2f} | {peaks[name][kind]:.0f} | "
                f"{peaks[name][kind] / peaks[name]['plain']:.2f} |"
            )
    table = "\n".join(lines) + "\n"
    print(table)
    if options.out:
        options.out.write_text(table, encoding="utf-8")


if __name__ == "__main__":
    main()
