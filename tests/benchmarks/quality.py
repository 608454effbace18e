"""How good are the cells? Train without labels on one volume, segment it, compare with the truth.

python tests/benchmarks/quality.py [--only NAME ...] [--out quality.md]

Every row trains the `quick` preset on that one volume; nothing is set by hand but the voxel size.
The baseline is Voronoi-Otsu at the same estimated cell radius. The last columns fix the level at
which cells end (`boundary`), where the network's column finds it from the volume.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from wnet_nb import config
from wnet_nb.cells.classical import voronoi_otsu
from wnet_nb.cells.outlines import segment_instances
from wnet_nb.cells.scores import match_instances, match_points
from wnet_nb.files.tables import read_points
from wnet_nb.files.volumes import read_volume
from wnet_nb.files.writing import write_volume
from wnet_nb.inference import predict_volume
from wnet_nb.jobs.example import make_example
from wnet_nb.jobs.models import load_model
from wnet_nb.jobs.segment import segment
from wnet_nb.jobs.stacks import Stack, Stacks
from wnet_nb.jobs.train import train

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
REAL = {
    "gonuclear_1135": ((0.284, 0.127, 0.127), "labels.tif"),
    "delivr_cfos_695_2": ((6.0, 1.62, 1.62), "labels.tif"),
    "delivr_cfos_1147_3": ((6.0, 1.62, 1.62), "labels.tif"),
    "celegans_t110": ((4.0, 1.0, 1.0), "points_zyx.csv"),
}
ONE = (1.0, 1.0, 1.0)
PHANTOMS = {
    "example, seed 0": {"seed": 0},
    "example, seed 1": {"seed": 1},
    "example, seed 2": {"seed": 2},
    "large nuclei, r = 16": {
        "seed": 12, "shape": (60, 160, 160), "cell_radius_um": 16, "n_cells": 14,
        "touching_fraction": 0.6,
    },
    "noisy, r = 7": {
        "seed": 11, "shape": (80, 96, 96), "cell_radius_um": 7, "n_cells": 70,
        "touching_fraction": 0.6, "noise": 3,
    },
    "dense, r = 5": {
        "seed": 16, "shape": (72, 96, 96), "n_cells": 500, "touching_fraction": 0.8,
    },
    "small, r = 2.5": {
        "seed": 13, "shape": (64, 96, 96), "cell_radius_um": 2.5, "n_cells": 250, "noise": 1.5,
    },
    "sparse, r = 4": {
        "seed": 14, "cell_radius_um": 4, "n_cells": 25, "touching_fraction": 0.2, "noise": 2,
    },
    "3:1:1 voxels, r = 6": {
        "seed": 15, "shape": (32, 128, 128), "voxel_size_um": (3, 1, 1), "cell_radius_um": 6,
        "n_cells": 120, "touching_fraction": 0.6, "noise": 1.5,
    },
}  # fmt: skip
LEVELS = (0.05, 0.3, 0.4, 0.5, 0.6)  # 0.05: nearly the class map as it is
MUST = (*list(PHANTOMS)[:3], *REAL)


def volume_and_truth(name, folder):
    """Return (volume, truth): labels, or points (n, 3) in voxels."""
    if name in PHANTOMS:
        image, labels = make_example(**PHANTOMS[name])
        size = PHANTOMS[name].get("voxel_size_um", ONE)
        write_volume(folder / "volume.tif", image, voxel_size_um=size)
        return read_volume(folder / "volume.tif"), labels
    size, truth = REAL[name]
    volume = read_volume(DATA / f"{name}_image.tif", voxel_size_um=size)
    path = DATA / f"{name}_{truth}"
    return volume, read_points(path) if path.suffix == ".csv" else read_volume(path).array


def score(labels, truth, size, radius):
    if truth.ndim == 2:
        return match_points(labels, truth, radius_um=radius, voxel_size_um=size).f1
    return match_instances(labels, truth).mean_f1


def measure(name, preset, changes):
    """Train, segment and score; return a row."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        volume, truth = volume_and_truth(name, Path(scratch))
        run = Path(scratch) / "run"
        settings = config.preset(preset, **changes)
        stack = Stack(volume)
        stacks = Stacks(volume.source, (stack,), ((),))
        done = train(stacks, run, settings)
        trained = time.perf_counter() - began
        model = load_model(run)
        (found,) = segment(model, stacks, out=Path(scratch) / "out")
        labels = found.labels()
        radius, size = found.facts["cell_radius_um"], volume.voxel_size_um
        baseline = voronoi_otsu(volume.array, voxel_size_um=size, cell_radius_um=radius)
        prepared = stack.prepared(model.settings)
        probabilities = predict_volume(model.model, prepared, precision="auto")
        fixed = [
            segment_instances(
                probabilities,
                volume.array,
                voxel_size_um=size,
                cell_radius_um=radius,
                boundary=level,
            ).labels
            for level in LEVELS
        ]
        return {
            "fixed": [score(cells, truth, size, radius) for cells in fixed],
            "name": name,
            "network": score(labels, truth, size, radius),
            "baseline": score(baseline, truth, size, radius),
            "cells": int(labels.max()),
            "baseline_cells": int(baseline.max()),
            "true_cells": len(truth) if truth.ndim == 2 else len(np.unique(truth)) - 1,
            "soft_ncut": done.history[-1]["soft_ncut"],
            "radius": radius,
            "boundary": found.facts["boundary"],
            "train_share": trained / (time.perf_counter() - began),
            "seconds": time.perf_counter() - began,
        }


def as_line(row):
    error, other = (row[k] - row["true_cells"] for k in ("cells", "baseline_cells"))
    levels = " | ".join(f"{f1:.3f}" for f1 in row["fixed"])
    return (
        f"| {row['name']} | {row['network']:.3f} | {row['baseline']:.3f} | "
        f"{row['network'] - row['baseline']:+.3f} | {row['true_cells']} | {error:+d} | {other:+d} |"
        f" {row['radius']:.2f} | {row['boundary']:.2f} | {row['soft_ncut']:.3f} | "
        f"{row['seconds']:.0f} | {levels} |"
    )


HEAD = f"""| volume | network | baseline | difference | true cells | count error, network | \
count error, baseline | radius found, µm | boundary | soft N-cut | seconds | \
{" | ".join(f"level {level}" for level in LEVELS)} |
|---|---|---|---|---|---|---|---|---|---|---|{"---|" * len(LEVELS)}"""


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", help="names of rows, or parts of names")
    parser.add_argument("--preset", default="quick")
    parser.add_argument("--set", nargs="*", default=[])
    parser.add_argument("--out", type=Path, help="a file to write the table to")
    options = parser.parse_args()
    names = [*MUST, *(n for n in PHANTOMS if n not in MUST)]
    if options.only:
        names = [n for n in names if any(part in n for part in options.only)]
    lines = [HEAD]
    rows = []
    print(HEAD)
    for name in names:
        row = measure(name, options.preset, config.parse_assignments(options.set))
        rows.append(row)
        lines.append(as_line(row))
        print(lines[-1], flush=True)
    for title, chosen in (("the seven asked for", MUST), ("all", names)):
        part = [r for r in rows if r["name"] in chosen]
        if part:
            gain = np.mean([r["network"] - r["baseline"] for r in part])
            lines.append(
                f"| mean of {title} | {np.mean([r['network'] for r in part]):.3f} | "
                f"{np.mean([r['baseline'] for r in part]):.3f} | {gain:+.3f} "
                + "| "
                * (7 + len(LEVELS))
            )
            print(lines[-1])
    if options.out:
        words = [w for w in sys.argv[1:] if w not in ("--out", str(options.out))]
        command = " ".join(["python tests/benchmarks/quality.py", *words])
        options.out.write_text(
            f"# Cells against the truth\n\n`{command}`\n\nMean F1 over IoU 0.1 to 0.9 (for "
            f"celegans: detection F1 within one cell radius). The last columns give "
            f"the same with a fixed `boundary`.\n\n" + "\n".join(lines) + "\n",
            encoding="utf-8",
        )


if __name__ == "__main__":
    main()
