"""Pictures of a volume as PNG: a preview of the training, outlines of cells, cells in 3D.

They are drawn pixel by pixel, which keeps lines sharp.
"""

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_rgb
from PIL import Image
from scipy import ndimage
from skimage.io import imread
from skimage.segmentation import find_boundaries
from skimage.transform import resize

from wnet_nb.events import Preview
from wnet_nb.figures import curves, planes

SAME_COLOUR, NETWORK_COLOUR, BASELINE_COLOUR = "#ffe119", "#ff4fd8", "#00d5e0"
COLOURS_IN_WORDS = {
    SAME_COLOUR: "yellow: found with and without the network",
    NETWORK_COLOUR: "pink: only with the network",
    BASELINE_COLOUR: "turquoise: only without it",
}
WIDTH_PIXELS, BLOCK_PIXELS = 1070, 210  # of the blocks of a row together; of one
PREVIEW_PIXELS = 320  # of a block of the preview, three of which are beside each other
MARGIN, LINE = 16, 26  # between blocks; height of a line of text, in pixels
TITLE, TEXT = 19, 15  # sizes of letters in pixels
LARGE = 20  # where a narrow page shows a picture at half its size
LEAST_PIXELS = 170  # for the words above a block
SHOWN_VOXELS = 384  # along one edge: more, and outlines of cells can no longer be told apart
CLASSES_SHOWN = 4
CLASS_COLOURS = colormaps["viridis"].with_extremes(bad="white")
PERCENTILES = (0.5, 99.5)


def preview_png(
    preview: Preview,
    *,
    voxel_size_um: Sequence[float] | None,
    title: str = "",
    cells: np.ndarray | None = None,
) -> bytes:
    """Draw the preview patch: image, class maps and reconstruction, three planes of each.

    `voxel_size_um` (z, y, x) gives true proportions in µm; where it is None, voxels count as cubes.
    `cells`, (Z, Y, X) labels of the patch, are drawn in a block of their own.
    """
    layout = planes.Layout.of(preview.image.shape, voxel_size_um or (1, 1, 1), PREVIEW_PIXELS)
    point = [n // 2 for n in preview.image.shape]

    def shades(volume: np.ndarray) -> np.ndarray:
        white = max(1.0, float(np.percentile(volume, PERCENTILES[1])))
        return planes.grey(layout.draw(volume, point), (0, white))

    blocks, image = {}, shades(preview.image)
    if cells is not None:
        colours = planes.cell_colours(cells)
        found = layout.lay_over(image, cells, point, 0.5, colours)
        blocks[f"{cells.max():,} cells in the patch"] = found
    blocks["image"] = image
    for k, probabilities in enumerate(preview.probabilities[:CLASSES_SHOWN]):
        seen = CLASS_COLOURS(layout.draw(probabilities, point))[..., :3]
        blocks[f"class {k}: how probable\n(dark 0, yellow 1)"] = 255 * seen
    blocks["reconstruction"] = shades(preview.reconstruction)
    for words, pixels in blocks.items():
        blocks[words] = np.asarray(planes.name_planes(pixels, layout, LARGE))
    unit = "voxels" if voxel_size_um is None else "µm"
    named, half = list(blocks.items()), (len(blocks) + 1) // 2  # in two rows, for narrow pages
    rows = [dict(named[:half]), dict(named[half:])]
    return _compose(rows, layout.pixel_um, title, unit=unit, text=LARGE)


def progress_png(history: Sequence[Mapping[str, Any]], preview: bytes) -> bytes:
    """Draw loss curves above the PNG of the last preview: the picture of a run."""
    below = imread(BytesIO(preview))
    figure = curves.plot_losses(history)
    figure.set_dpi((below.shape[1] + 0.5) / figure.get_figwidth())  # as large as the preview
    above = imread(BytesIO(curves.figure_png(figure)))[..., :3]
    return planes.png_of(Image.fromarray(np.concatenate([above, below])))


def overlay_png(
    image: np.ndarray,
    labels: np.ndarray,
    baseline_labels: np.ndarray | None,
    *,
    voxel_size_um: Sequence[float],
    name: str,
) -> bytes:
    """Draw the planes through most cells: XY plain and with outlines, below it XZ and YZ.

    An outline has the colour of who found the cell: `COLOURS_IN_WORDS`. Two cells count as the
    same if their overlap (IoU) is more than a half within the part that is shown; only that is read
    of `image`, any real dtype. Labels, (Z, Y, X) as it is, are 0 for background and 1 to n for
    cells; the second are None where no network was used. `voxel_size_um` is (z, y, x) in µm.
    """
    title = f"{name}: {labels.max():,} cells"
    if baseline_labels is not None:
        title += f" with the network, {baseline_labels.max():,} without"
    other = labels if baseline_labels is None else baseline_labels
    centre = planes.densest_point(labels if labels.any() else other)
    size = [min(n, SHOWN_VOXELS) for n in image.shape]
    widest = max(size[1] * voxel_size_um[1], size[2] * voxel_size_um[2])
    size[0] = max(1, min(size[0], int(widest / voxel_size_um[0])))  # no deeper than wide
    window = planes.window_around(centre, size, image.shape)
    title += "\nplanes at voxel z = {}, y = {}, x = {}".format(*centre)
    for axis, part, n in zip("zyx", window, image.shape, strict=True):
        if part.stop - part.start < n:
            title += f"; {axis} {part.start}-{part.stop - 1} of {n} are shown"
    point = [c - w.start for c, w in zip(centre, window, strict=True)]
    image, labels, other = (np.asarray(array[window]) for array in (image, labels, other))

    z, y, x = np.multiply(image.shape, voxel_size_um)
    pixels = round(WIDTH_PIXELS * (max(x, y) + z) / max(2 * x, x + y))  # two blocks fill a row
    layout = planes.Layout.of(image.shape, voxel_size_um, pixels)
    canvas = layout.draw(image, point)
    plain = planes.grey(canvas, np.nanpercentile(canvas, PERCENTILES))
    outlined, partners = plain.copy(), _find_partners(labels, other)
    crossed = planes.cross(labels, point), planes.cross(other, point)
    for place, *cells in zip(layout.places, *crossed, strict=True):
        _outline(outlined[place], cells, partners)
    xy, xz, yz = (outlined[place] for place in layout.places)
    rows = [
        {"XY, from above": plain[layout.places[0]], "XY, with the outlines of cells": xy},
        {"XZ, from the front": xz, "YZ, from the side": yz.transpose(1, 0, 2)},
    ]
    legend = {} if baseline_labels is None else COLOURS_IN_WORDS
    return _compose(rows, layout.pixel_um, title, legend)


def projections_png(labels: np.ndarray, voxel_size_um: Sequence[float]) -> bytes:
    """Draw the cells in three dimensions: from above, from the front and from the right.

    Far cells and slopes are darker, so that cells look round. z runs downwards from the front and
    the right. `labels` are (Z, Y, X) integer, 0 background; `voxel_size_um` is (z, y, x) in µm.
    """
    steps = [max(1, n // WIDTH_PIXELS) for n in labels.shape]
    labels = np.asarray(labels[tuple(slice(None, None, step) for step in steps)])
    size, colours = np.multiply(voxel_size_um, steps), planes.cell_colours(labels)
    extent = size * labels.shape
    pixel_um = (2 * extent[2] + extent[1]) / WIDTH_PIXELS
    lengths = [max(1, round(length / pixel_um)) for length in extent]  # of z, y and x
    views = {}
    for words, side, axes in (
        ("from above", labels, (0, 1, 2)),
        ("from the front", labels[:, ::-1], (1, 0, 2)),
        ("from the right", labels[..., ::-1], (2, 0, 1)),
    ):
        seen = look_at(side.transpose(axes), size[list(axes)], colours)
        views[words] = resize(seen, (lengths[axes[1]], lengths[axes[2]], 3), order=1)
    return _compose([views], pixel_um, text=LARGE)


def affinity_png(
    brightness: np.ndarray,
    intensity: np.ndarray,
    spatial: np.ndarray,
    *,
    point: Sequence[int],
    white: float,
) -> bytes:
    """Draw how alike the voxels around one voxel count: brightness, distance, and both.

    All are (Y, X): `brightness` in 0-100, of which `white` is drawn white, and the two terms of the
    affinity in 0-1. `point` is the voxel (y, x) in them; it is marked.
    """
    blocks = {"image, 0-100": planes.grey(brightness, (0, white))}
    terms = {"alike in brightness": intensity, "near enough": spatial}
    terms["both: pulls together"] = intensity * spatial
    for words, values in terms.items():
        blocks[f"{words}\n(dark 0, yellow 1)"] = 255 * CLASS_COLOURS(values)[..., :3]
    scale = BLOCK_PIXELS // max(brightness.shape)
    for words, pixels in blocks.items():
        block = Image.fromarray(pixels.repeat(scale, 0).repeat(scale, 1).astype(np.uint8))
        place = [(p + 0.5) * scale for p in point[::-1]]
        planes.write(block, "+", place, 2 * TITLE, "red", "mm")
        blocks[words] = np.asarray(block)
    return _compose([blocks], 1 / scale, unit="voxels", text=LARGE)


def look_at(labels: np.ndarray, size_um: Sequence[float], colours: np.ndarray) -> np.ndarray:
    """Return what is seen along the first axis of labels, (rows, columns, 3) in 0-255."""
    first = (labels > 0).argmax(axis=0)
    cells = np.take_along_axis(labels, first[None], axis=0)[0]
    depth_um = ndimage.gaussian_filter(first * size_um[0], 0.7)
    slopes = np.gradient(depth_um, *size_um[1:]) if min(depth_um.shape) > 1 else [0.0, 0.0]
    facing = 1 / np.sqrt(1 + slopes[0] ** 2 + slopes[1] ** 2)
    near = 1 - 0.4 * first / len(labels)
    return colours[cells] * ((0.45 + 0.55 * facing) * near)[..., None]


def _outline(pixels: np.ndarray, cells, partners) -> None:
    """Draw the outlines of a plane of labels with and without the network; see `_find_partners`."""
    found, without = (planes.enlarge(plane, pixels.shape[:2]) for plane in cells)
    same, same_without = (np.isin(*pair) for pair in zip((found, without), partners, strict=True))
    for colour, shown in (
        (BASELINE_COLOUR, np.where(same_without, 0, without)),
        (NETWORK_COLOUR, np.where(same, 0, found)),
        (SAME_COLOUR, np.where(same, found, 0)),
    ):
        pixels[find_boundaries(shown, mode="thick")] = np.multiply(255, to_rgb(colour))


def _find_partners(labels: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return which of the labels have a partner in the other, and which of those in the first."""
    sizes, other_sizes = np.bincount(labels.ravel()), np.bincount(other.ravel())
    both = (labels > 0) & (other > 0)
    pairs = labels[both].astype(np.int64) * len(other_sizes) + other[both]
    pairs, shared = np.unique(pairs, return_counts=True)
    mine, theirs = np.divmod(pairs, len(other_sizes))
    same = shared / (sizes[mine] + other_sizes[theirs] - shared) > 0.5  # one partner at most
    return mine[same], theirs[same]


def _compose(
    rows: Sequence[Mapping[str, np.ndarray]],
    pixel_um: float,
    title: str = "",
    legend: Mapping[str, str] | None = None,
    unit: str = "µm",
    text: int = TEXT,
) -> bytes:
    """Return a PNG: rows of blocks, each under its words, below a title, above a scale bar."""
    places, width, y = [], 0, MARGIN + LINE * len(title.splitlines())
    for row in rows:
        x, y = MARGIN, y + LINE * max(len(words.splitlines()) for words in row)
        for words, pixels in row.items():
            places.append((words, pixels, x, y))
            x += max(pixels.shape[1], LEAST_PIXELS) + MARGIN
        width = max(width, x)
        y += max(len(pixels) for pixels in row.values()) + MARGIN
    sheet = Image.new("RGB", (width, y + LINE * (2 if legend else 1)), "white")
    for n, line in enumerate(title.splitlines()):
        place = width / 2, MARGIN + n * LINE
        planes.write(sheet, line, place, text if n else TITLE, anchor="ma")
    for words, pixels, left, top in places:
        sheet.paste(Image.fromarray(pixels.astype(np.uint8)), (left, top))
        planes.write(sheet, words, (left, top - 4), text, anchor="ld")
    length = planes.round_length(pixel_um * places[0][1].shape[1])
    bar = (MARGIN, y + 8), length / pixel_um
    planes.draw_bar(sheet, *bar, f"{length:g} {unit}", text, "black")
    x = MARGIN
    for colour, words in (legend or {}).items():
        x = 24 + planes.draw_bar(sheet, (x, y + 8 + LINE), 18, words, text, colour)
    return planes.png_of(sheet)
