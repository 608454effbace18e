"""What the `quick` preset was chosen from: one option changed at a time, on three unlike volumes.

python tests/benchmarks/quick_preset.py [--out tests/benchmarks/quick_preset.md]

Mean F1 over IoU 0.1 to 0.9 of the network's cells, and the time in units of the preset's own.
"""

import argparse
from pathlib import Path

import numpy as np
from quality import measure

VOLUMES = ("gonuclear_1135", "dense, r = 5", "delivr_cfos_1147_3")
VARIANTS = {
    "quick": {},
    "epochs=2 (20 steps)": {"epochs": 2},
    "epochs=12 (120 steps)": {"epochs": 12},
    "base_channels=8": {"base_channels": 8},
    "dropout=0.65": {"dropout": 0.65},
    "intensity_sigma=1": {"intensity_sigma": 1.0},
    "intensity_sigma=100": {"intensity_sigma": 100.0},
    "normalisation=percentile": {"normalisation": "percentile"},
    "subtract_background=false": {"subtract_background": False},
    "match_cell_size=false": {"match_cell_size": False},
    "both false, percentile (as published)": {
        "match_cell_size": False,
        "subtract_background": False,
        "normalisation": "percentile",
    },
    "patch_size=48, batch_size=2": {"patch_size": 48, "batch_size": 2, "patches_per_volume": 20},
    "affinity=pairwise": {"affinity": "pairwise"},
}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="a file to write the table to")
    options = parser.parse_args()
    head = (
        f"| variant | {' | '.join(VOLUMES)} | mean | time |\n|---|{'---|' * len(VOLUMES)}---|---|"
    )
    lines, unit = [head], None
    print(head)
    for name, changes in VARIANTS.items():
        rows = [measure(volume, "quick", changes) for volume in VOLUMES]
        seconds = sum(row["seconds"] for row in rows)
        unit = unit or seconds
        scores = [row["network"] for row in rows]
        cells = " | ".join(f"{s:.3f}" for s in scores)
        lines.append(f"| {name} | {cells} | {np.mean(scores):.3f} | {seconds / unit:.1f} |")
        print(lines[-1], flush=True)
    if options.out:
        text = "# Choosing the quick preset\n\n`python tests/benchmarks/quick_preset.py`\n\n"
        options.out.write_text(text + __doc__.split("\n\n")[2] + "\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
