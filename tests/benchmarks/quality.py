"""How good are the cells, and what did the network add? All ways on all volumes with a truth.

python tests/benchmarks/quality.py [--only NAME ...] [--out tests/benchmarks/quality.md]

Nothing is set by hand but the voxel size. `none` is the same steps without a network; `scratch`
trains a small network on the one volume, `starter` uses the weights in the package as they are, and
`quick` adapts these to the one volume. Three columns leave one thing out of `quick`: "cells from
the image" takes seeds and outlines from the image within the network's foreground, "one boundary"
does not look at how soft the edges are, "one look" does not look again with the size of the cells
that it found. What the starter's weights and the adaptation are worth, say `scratch` and `starter`.
"starter, true radius" is told the median radius of the true cells.
"""

import argparse
import shlex
import sys
from pathlib import Path

import numpy as np
from nuclei import make_nuclei
from voronoi_otsu import voronoi_otsu

from wnet_nb.cells.outlines import segment_instances
from wnet_nb.cells.scores import dice, match_instances, match_points
from wnet_nb.checkpoint import Checkpoint
from wnet_nb.config import preset
from wnet_nb.files.tables import read_points
from wnet_nb.files.volumes import Volume, read_volume
from wnet_nb.inference import predict_probabilities
from wnet_nb.jobs.models import (
    find_cells,
    for_cells,
    load_model,
    no_network,
    predict_classes,
    size_to_look_again,
    with_weights,
)
from wnet_nb.jobs.stacks import Stack
from wnet_nb.training import fit

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
EMBRYO, BRAIN = (1.75, 0.8, 0.8), (6.0, 1.62, 1.62)
REAL = {  # voxel size, truth, and whether a choice was made on it
    "bbbc050_Emb01_t401": (EMBRYO, "labels.tif", True),
    "bbbc050_Emb03_t501": (EMBRYO, "labels.tif", True),
    "bbbc050_Emb07_t501": (EMBRYO, "labels.tif", True),
    "gonuclear_1135": ((0.284, 0.127, 0.127), "labels.tif", True),
    "delivr_cfos_695_2": (BRAIN, "labels.tif", True),
    "delivr_cfos_1147_3": (BRAIN, "labels.tif", True),
    "delivr_cfos_1008_3": (BRAIN, "labels.tif", True),
    "delivr_cfos_969_4": (BRAIN, "labels.tif", True),
    "celegans_t110": ((4.0, 1.0, 1.0), "points_zyx.csv", False),
}
ONE = (1.0, 1.0, 1.0)
KINDS = {  # of nuclei, and the seed of the volume that choices were made on
    "large nuclei, r = 16": (
        {"shape": (60, 160, 160), "cell_radius_um": 16, "n_cells": 14, "touching_fraction": 0.6},
        12,
    ),
    "noisy, r = 7": (
        {
            "shape": (80, 96, 96), "cell_radius_um": 7, "n_cells": 70, "touching_fraction": 0.6,
            "noise": 3,
        },
        11,
    ),
    "dense, r = 5": ({"shape": (72, 96, 96), "n_cells": 500, "touching_fraction": 0.8}, 16),
    "small, r = 2.5": (
        {"shape": (64, 96, 96), "cell_radius_um": 2.5, "n_cells": 250, "noise": 1.5},
        13,
    ),
    "sparse, r = 4": (
        {"cell_radius_um": 4, "n_cells": 25, "touching_fraction": 0.2, "noise": 2},
        14,
    ),
    "3:1:1 voxels, r = 6": (
        {
            "shape": (32, 128, 128), "voxel_size_um": (3, 1, 1), "cell_radius_um": 6,
            "n_cells": 120, "touching_fraction": 0.6, "noise": 1.5,
        },
        15,
    ),
    "plain, r = 5": ({}, 0),
}  # fmt: skip
SIMULATED = {kind: options | {"seed": seed} for kind, (options, seed) in KINDS.items()}
# The same kinds again, other volumes, that no choice was made on.
UNTOUCHED = {
    f"{kind}, seed {seed + 100}": options | {"seed": seed + 100}
    for kind, (options, seed) in KINDS.items()
}
EXAMPLES = {f"example, seed {seed}": seed for seed in range(3)}
WAYS = (
    "Voronoi-Otsu", "none", "scratch", "starter", "quick", "quick, cells from the image",
    "quick, one boundary", "quick, one look", "starter, true radius",
)  # fmt: skip


def stack_and_truth(name):
    """Return (Stack, truth): labels, or points (n, 3) in voxels."""
    if name not in REAL:
        options = (SIMULATED | UNTOUCHED).get(name)
        image, labels = make_nuclei(**options) if options else make_nuclei(EXAMPLES[name])
        size = (options or {}).get("voxel_size_um", ONE)
        return Stack(Volume(image, size, "option", Path(f"{name}.tif"))), labels
    size, truth, _ = REAL[name]
    volume = read_volume(DATA / f"{name}_image.tif", voxel_size_um=size)
    path = DATA / f"{name}_{truth}"
    return Stack(volume), read_points(path) if path.suffix == ".csv" else read_volume(path).array


def find(stack, model, radius=None, again=True, **options):
    """Return the labels that a `Checkpoint` leads to, for cells of a radius in µm or as found.

    If not `again`, without the second look.
    """
    settings = model.settings.replace(cell_radius_um=radius)
    options = {"core_class": settings.core_class} | options

    def look(size):
        prepared = stack.prepared(for_cells(settings, size))
        return segment_instances(
            predict_probabilities(model.model, prepared, precision="auto"),
            stack.array,
            voxel_size_um=stack.voxel_size_um,
            cell_radius_um=size,
            foreground_classes=settings.foreground_classes,
            **options,
        )

    cells = look(radius or stack.cell_size)
    if again and (size := size_to_look_again(cells, stack, model, settings)):
        cells = look(size)
    return cells.labels


def find_without(stack):
    """Return the labels of the same steps without a network."""
    none = no_network()
    classes = predict_classes(stack.prepared(none.settings), none, none.settings)
    radius = stack.cell_size
    return find_cells(
        classes, stack.array, stack, none, none.settings, cell_radius_um=radius
    ).labels


def train(stack, name):
    """Return the `Checkpoint` of a training with a preset on the one volume."""
    settings = preset(name)
    *_, finished = fit([stack.prepared(settings)], with_weights(settings))
    return Checkpoint(finished.model, settings)


def measure(name):
    """Return the scores of all ways: {way: (mean F1, F1 at IoU 0.5, Dice, count)}."""
    stack, truth = stack_and_truth(name)
    quick = train(stack, "quick")
    size, radius = stack.voxel_size_um, stack.cell_size.radius_um
    labels = {
        "Voronoi-Otsu": voronoi_otsu(stack.array, voxel_size_um=size, cell_radius_um=radius),
        "none": find_without(stack),
        "scratch": find(stack, train(stack, "scratch")),
        "starter": find(stack, load_model("starter")),
        "starter, true radius": find(stack, load_model("starter"), true_radius(truth, size)),
        "quick": find(stack, quick),
        "quick, cells from the image": find(stack, quick, core_class=None),
        "quick, one look": find(stack, quick, again=False),
        "quick, one boundary": find(stack, quick, boundary=0.4),
    }
    row = {way: score(found, truth, size, radius) for way, found in labels.items()}
    row["true"] = len(truth) if truth.ndim == 2 else len(np.unique(truth)) - 1
    row["radius"] = radius
    return row


def true_radius(truth, size):
    """Return the radius in µm of a sphere as large as the median true cell; None for points."""
    if truth.ndim == 2:
        return None
    volumes = np.bincount(truth.ravel())[1:]
    return float(np.cbrt(np.median(volumes[volumes > 0]) * np.prod(size) * 3 / 4 / np.pi))


def score(labels, truth, size, radius):
    count = int(labels.max(initial=0))
    if truth.ndim == 2:
        f1 = match_points(labels, truth, radius_um=radius, voxel_size_um=size).f1
        return f1, f1, np.nan, count
    scores = match_instances(labels, truth)
    half = next(row["f1"] for row in scores.as_rows() if row["threshold"] == 0.5)
    return scores.mean_f1, half, dice(labels > 0, truth > 0), count


def as_line(name, row):
    chosen = REAL[name][2] if name in REAL else name in SIMULATED or name == "example, seed 0"
    cells = " | ".join(
        f"{row[way][0]:.3f} ({row[way][1]:.2f}, {row[way][2]:.2f}, {row[way][3]})" for way in WAYS
    )
    mark = "*" if chosen else ""
    return f"| {name}{mark} | {row['true']} | {row['radius']:.3g} | {cells} |"


def mean_line(title, rows):
    means = " | ".join(f"**{np.mean([row[way][0] for row in rows]):.3f}**" for way in WAYS)
    return f"| **{title}** | | | {means} |"


HEAD = (
    f"| volume | true cells | radius found, µm | {' | '.join(WAYS)} |\n"
    f"|---|---|---|{'---|' * len(WAYS)}"
)
INTRO = """# Cells against the truth

`python tests/benchmarks/quality.py{words} --out tests/benchmarks/quality.md`

Mean F1 over IoU 0.1 to 0.9 (in brackets: F1 at IoU 0.5, Dice, number of cells); for celegans, which
has points, the detection F1 within one cell radius. A star marks volumes that constants or the
simulator were chosen on; the others were only measured.

"""


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", help="names of rows, or parts of names")
    parser.add_argument("--out", type=Path, help="a file to write the table to")
    options = parser.parse_args()
    names = [*REAL, *EXAMPLES, *SIMULATED, *UNTOUCHED]
    if options.only:
        names = [n for n in names if any(part in n for part in options.only)]
    lines, rows = [HEAD], {}
    for name in names:
        rows[name] = measure(name)
        lines.append(as_line(name, rows[name]))
        print(lines[-1], flush=True)
    for title, chosen in (
        ("mean, real", [n for n in REAL if n != "celegans_t110"]),
        ("mean, embryos", [n for n in REAL if n.startswith("bbbc")]),
        ("mean, examples", EXAMPLES),
        ("mean, simulated", SIMULATED),
        ("mean, simulated, untouched", UNTOUCHED),
    ):
        part = [rows[n] for n in chosen if n in rows]
        if part:
            lines.append(mean_line(title, part))
            print(lines[-1])
    if options.out:
        given = [w for w in sys.argv[1:] if w not in ("--out", str(options.out))]
        words = f" {shlex.join(given)}" if given else ""
        text = INTRO.format(words=words) + "\n".join(lines) + "\n"
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
