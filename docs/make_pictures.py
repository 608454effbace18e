"""Make the picture of the README anew from a demonstration.

    python -m wnet_nb demo --out wnet_demo
    python docs/make_pictures.py wnet_demo

`cells.png`: one plane of the example, plain, with the cells that the network leads to, and with
those of the same steps without it.
"""

import argparse
from pathlib import Path

import numpy as np

from wnet_nb.figures import curves, planes
from wnet_nb.files.result import Result
from wnet_nb.files.volumes import read_volume

PANEL_PIXELS = 460
FONT_POINTS = 15  # to be read on a page that shows the picture at two thirds


def draw_panels(image, results, voxel_size_um):
    """Return a figure of an image plane (Z, Y, X) beside the same with each of some labels.

    `results` maps a title to labels (Z, Y, X); `voxel_size_um` is (z, y, x).
    """
    z = planes.densest_point(next(iter(results.values())))[0]
    seen = planes.fit_plane(image[z], (PANEL_PIXELS, PANEL_PIXELS))
    plain = planes.grey(seen, np.percentile(seen, (0.5, 99.8)))
    panels = {"image": plain}
    for title, labels in results.items():
        panels[title] = planes.lay_over(plain, labels[z], 0.5, planes.cell_colours(labels))
    figure = curves.new_figure(
        len(panels) * PANEL_PIXELS / curves.DPI, PANEL_PIXELS / curves.DPI + 0.4
    )
    for n, (title, pixels) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(1, len(panels), n)
        axes.imshow(pixels.astype(np.uint8))
        axes.set_axis_off()
        axes.set_title(title, fontsize=FONT_POINTS)
    width_um = image.shape[2] * voxel_size_um[2]
    length, y = planes.round_length(width_um), PANEL_PIXELS - 20
    end = 15 + length * PANEL_PIXELS / width_um
    figure.axes[0].plot([15, end], [y, y], color="white", linewidth=4)
    figure.axes[0].text(end + 8, y, f"{length:g} µm", color="white", fontsize=12, va="center")
    return figure


def main():
    """Write the picture beside this file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("demo", type=Path, help="folder that `python -m wnet_nb demo` made")
    run, here = parser.parse_args().demo / "run", Path(__file__).parent
    result = Result.find_all(run)[-1]
    image = read_volume(result.facts["path"]).array
    labels, without = result.labels(), result.baseline_labels()
    panels = {
        f"network: {labels.max()} cells": labels,
        f"without network: {without.max()} cells": without,
    }
    figure = draw_panels(image, panels, result.facts["voxel_size_um"])
    (here / "cells.png").write_bytes(curves.figure_png(figure))
    print(f"wrote {here / 'cells.png'}")


if __name__ == "__main__":
    main()
