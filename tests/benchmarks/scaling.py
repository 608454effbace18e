"""How do time and memory grow? With patches, channels, batches, classes, and with the volume.

python tests/benchmarks/scaling.py [--rounds 3] [--out tests/benchmarks/scaling.png]

A step is that of `quick` with one thing changed at a time; volumes are repeated example cells,
segmented with the starter. Peaks are those of processes of their own, above what the imports hold.
Beside the picture, a table of the same name is written.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.benchmarks.nuclei import make_nuclei
from tests.benchmarks.speed import CPU, processor
from wnet_nb.cells.measure import measure_cells
from wnet_nb.config import preset
from wnet_nb.device import choose_dtype
from wnet_nb.files.volumes import Volume
from wnet_nb.jobs.models import find_cells, load_model, predict_classes
from wnet_nb.jobs.stacks import Stack
from wnet_nb.learner import Learner

STEPS = {  # what is changed, and to what; the others are those of `quick`
    "patch_size": (32, 48, 64, 96),
    "base_channels": (8, 16, 32, 64),
    "batch_size": (1, 2, 4, 8),
    "n_classes": (2, 3, 5, 8),
}
VOLUMES = (64, 96, 128, 192, 256)  # edges, in voxels
TITLES = {
    "patch_size": "edge of a patch, voxels", "base_channels": "channels of the first stage",
    "batch_size": "patches in a step", "n_classes": "classes", "volume": "edge of a volume, voxels",
}  # fmt: skip


def peak_mb():
    """Return the most memory that this process held so far, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def step(name, value, rounds):
    """Return the median seconds of a step."""
    settings = preset("quick", start_from=None, hold_weight=0)
    if name == "n_classes":
        settings = settings.replace(core_class=None, foreground_classes=None)
    settings = settings.replace(**{name: value})
    learner = Learner(settings, CPU, choose_dtype("auto", CPU))
    shape = (settings.batch_size, 1, *settings.patch_shape)
    patches = 100 * np.random.default_rng(0).random(shape, np.float32)
    seconds = []
    for number in range(rounds + 1):
        began = time.perf_counter()
        learner.step(patches, settings, number)
        seconds.append(time.perf_counter() - began)
    return [float(np.median(seconds[1:]))]


def volume(edge):
    """Return the seconds of the class map, and of the cells and their table, of a cube."""
    block = make_nuclei(seed=0, shape=(64, 64, 64), n_cells=38)[0]
    image = np.tile(block, [-(-edge // 64)] * 3)[:edge, :edge, :edge]
    stack, model = (
        Stack(Volume(image, (1.0, 1.0, 1.0), "option", Path("cells.tif"))),
        load_model("starter"),
    )
    settings = model.settings.replace(cell_radius_um=5.0)
    prepared = stack.prepared(settings)
    began = time.perf_counter()
    classes = predict_classes(prepared, model, settings)
    between = time.perf_counter()
    cells = find_cells(classes, image, stack, model, settings, cell_radius_um=5.0)
    measure_cells(cells.labels, image, voxel_size_um=stack.voxel_size_um)
    return [between - began, time.perf_counter() - between]


def measured(what, value, rounds):
    """Return seconds and peak MB of one case, in a process of its own."""
    words = [sys.executable, __file__, "--case", what, str(value), "--rounds", str(rounds)]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    return [float(word) for word in said.split()]


def draw(found, path):
    """Draw seconds above, memory below; a straight line through the origin is grey."""
    figure = Figure((15, 6), layout="constrained")
    axes = figure.subplots(2, len(found))
    for column, (name, rows) in enumerate(found.items()):
        values = np.array([row[0] for row in rows], float)
        work = {"patch_size": values**3, "base_channels": values**2, "volume": values**3 / 1e6}
        along = work["volume"] if name == "volume" else values
        top, below = axes[0, column], axes[1, column]
        labels = ("class map", "cells and table") if name == "volume" else ("a step",)
        for number, label in enumerate(labels, start=1):
            top.plot(along, [row[number] for row in rows], "o-", label=label)
        of_work = work.get(name, values)
        line = rows[-1][1] * of_work / of_work[-1]
        power = {"patch_size": "edge³", "base_channels": "channels²"}.get(name, "")
        top.plot(along, line, color="0.6", ls="--", label=f"in proportion {power}".strip())
        top.set(ylabel="seconds" if column == 0 else None, ylim=(0, None))
        top.legend(frameon=False)
        below.plot(along, [row[-1] / 1000 for row in rows], "s-", color="tab:red")
        title = "volume, megavoxels" if name == "volume" else TITLES[name]
        below.set(xlabel=title, ylim=(0, 1.1 * max(row[-1] for row in rows) / 1000))
        below.set_ylabel("GB above the imports" if column == 0 else None)
    figure.savefig(path, dpi=80)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--case", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        name, value = options.case[0], int(options.case[1])
        torch.zeros(1).sum()
        before = peak_mb()
        seconds = volume(value) if name == "volume" else step(name, value, options.rounds)
        print(*seconds, peak_mb() - before)
        return
    found, lines = {}, [
        f"`python tests/benchmarks/scaling.py --rounds {options.rounds}`; {processor()}; torch "
        f"{torch.__version__}.", "",
        "| what | value | seconds | peak above the imports, MB |", "|---|---|---|---|",
    ]  # fmt: skip
    for name, values in (STEPS | {"volume": VOLUMES}).items():
        found[name] = [(value, *measured(name, value, options.rounds)) for value in values]
        for value, *seconds, memory in found[name]:
            words = " + ".join(f"{s:.2f}" for s in seconds)
            lines.append(f"| {TITLES[name]} | {value} | {words} | {memory:.0f} |")
            print(lines[-1], flush=True)
    if options.out:
        draw(found, options.out)
        head = f"# How time and memory grow\n\n![Seconds and memory]({options.out.name})\n\n"
        note = "\n\nOf a volume, the seconds are those of the class map and of the cells.\n"
        options.out.with_suffix(".md").write_text(head + "\n".join(lines) + note, "utf-8")


if __name__ == "__main__":
    main()
