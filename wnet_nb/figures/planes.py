"""Three planes through a volume, XY, XZ and YZ, at true proportions: arrays in, pixels out.

Pixels are (rows, columns, 3), red, green and blue in 0-255.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Self

import numpy as np
from matplotlib import colormaps, get_data_path
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage
from skimage.segmentation import find_boundaries
from skimage.transform import resize

from wnet_nb.grid import thin_out

CANVAS_PIXELS = 620  # longer side
GAP_PIXELS = 8  # between the planes
NAMES = ("XY", "XZ", "YZ")
AXES = ((1, 2), (0, 2), (1, 0))  # of the rows and columns of each
CROSSHAIR, BOX = (255, 210, 60, 140), (80, 220, 255)
AROUND = 9  # pixels: the cross leaves its voxel to be seen
SURROUNDINGS = 255  # grey around the planes
VIEWER_TEXT = 22  # pixels: still to be read where a narrow page shows the picture at half its size
# Periods per voxel along z, y, x of the waves that give a cell its hue and its brightness, found by
# trying: neighbours 8 to 34 voxels apart look different, a centre that moves by one voxel does not.
WAVES = np.array([(0.0223, -0.0217, -0.0235), (0.0499, 0.0574, -0.0557)])

Overlay = tuple[np.ndarray, np.ndarray]  # integer labels (Z, Y, X), and their `cell_colours`


@dataclass(frozen=True)
class Layout:
    """Where the planes lie on the canvas: YZ to the right of XY and XZ below it.

    `pixel_um` is the edge of a pixel in µm, `places` the rows and columns of XY, XZ and YZ.
    """

    pixel_um: float
    places: tuple[tuple[slice, slice], ...]

    @classmethod
    def of(
        cls, shape: Sequence[int], voxel_size_um: Sequence[float], pixels: int = CANVAS_PIXELS
    ) -> Self:
        """Return the layout for a volume of `shape` (Z, Y, X) whose longer side has `pixels`."""
        z, y, x = (n * s for n, s in zip(shape, voxel_size_um, strict=True))
        pixel = (max(x, y) + z) / (pixels - GAP_PIXELS)
        depth, height, width = (max(1, round(length / pixel)) for length in (z, y, x))
        below = slice(height + GAP_PIXELS, height + GAP_PIXELS + depth)
        right = slice(width + GAP_PIXELS, width + GAP_PIXELS + depth)
        upper, left = slice(0, height), slice(0, width)
        return cls(pixel, ((upper, left), (below, left), (upper, right)))

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the canvas in pixels."""
        return self.places[1][0].stop, self.places[2][1].stop

    def draw(self, volume: np.ndarray, point: Sequence[int]) -> np.ndarray:
        """Return the planes of `volume` (Z, Y, X) through a voxel, float32; NaN between them."""
        canvas = np.full(self.shape, np.nan, np.float32)
        for place, plane in zip(self.places, cross(volume, point), strict=True):
            canvas[place] = fit_plane(plane, canvas[place].shape)
        return canvas

    def lay_over(
        self, pixels: np.ndarray, volume: np.ndarray, point: Sequence[int], opacity: float, colours
    ) -> np.ndarray:
        """Return the pixels of the canvas with the planes of labels over them; see `lay_over`."""
        covered = pixels.copy()
        for place, plane in zip(self.places, cross(volume, point), strict=True):
            covered[place] = lay_over(pixels[place], plane, opacity, colours)
        return covered


def cross(volume: np.ndarray, point: Sequence[int]) -> list[np.ndarray]:
    """Return the planes XY (Y, X), XZ (Z, X) and YZ, turned to (Y, Z), through a voxel."""
    z, y, x = point
    return [np.asarray(volume[z]), np.asarray(volume[:, y]), np.asarray(volume[:, :, x]).T]


def fit_plane(plane: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Return a plane of an image (rows, columns), scaled smoothly to `shape`, float32."""
    shrinks = shape[0] < plane.shape[0] or shape[1] < plane.shape[1]
    plane = plane.astype(np.float32)
    return resize(plane, shape, order=1, anti_aliasing=shrinks, preserve_range=True)


def enlarge(plane: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Return a plane (rows, columns) repeated to `shape`, so that labels stay labels."""
    rows, columns = (
        ((np.arange(n) + 0.5) * have / n).astype(int)
        for n, have in zip(shape, plane.shape, strict=True)
    )
    return plane[np.ix_(rows, columns)]


def window_around(
    point: Sequence[int], size: Sequence[int], shape: Sequence[int]
) -> tuple[slice, ...]:
    """Return the part of an image of `shape`, `size` voxels large, with a voxel in its middle."""
    window = []
    for p, n, have in zip(point, size, shape, strict=True):
        start = max(0, min(p - n // 2, have - n))
        window.append(slice(start, start + n))
    return tuple(window)


def densest_point(labels: np.ndarray) -> tuple[int, int, int]:
    """Return the voxel (z, y, x) whose planes, one by one, cut the most cells."""
    sample, point = np.asarray(thin_out(labels, 4_000_000)), []
    for axis, length in enumerate(labels.shape):
        cells = [len(np.unique(plane)) for plane in np.moveaxis(sample, axis, 0)]
        best = np.flatnonzero(np.array(cells) == max(cells))  # of equals, the one in the middle
        point.append(int((best[len(best) // 2] + 0.5) * length / len(cells)))
    return tuple(point)


def cell_colours(labels: np.ndarray) -> np.ndarray:
    """Return the colour of each cell of (Z, Y, X) labels, (largest + 1, 3) uint8, from its place.

    A cell that is cut out anew keeps its colour, whatever its number, and so do the same cells of
    two results side by side. Background is black.
    """
    centres = [
        [(part.start + part.stop) / 2 for part in box] if box else (0, 0, 0)
        for box in ndimage.find_objects(labels)
    ]
    waves = np.reshape(centres, (-1, 3)) @ WAVES.T  # (cells, 2)
    bright = 0.8 + 0.2 * np.cos(2 * np.pi * waves[:, 1:])
    colours = 255 * (0.25 + 0.75 * colormaps["hsv"](waves[:, 0] % 1)[:, :3] * bright)
    return np.concatenate([np.zeros((1, 3)), colours]).astype(np.uint8)


def grey(values: np.ndarray, limits: Sequence[float]) -> np.ndarray:
    """Return brightness (rows, columns) as pixels, black and white at `limits`; NaN is nothing."""
    low, high = limits
    shades = 255 * np.clip((values - low) / max(high - low, 1e-9), 0, 1)
    return np.repeat(np.nan_to_num(shades, nan=SURROUNDINGS)[..., None], 3, axis=2)


def lay_over(
    pixels: np.ndarray, plane: np.ndarray, opacity: float, colours: np.ndarray
) -> np.ndarray:
    """Return pixels with a plane of labels, enlarged to them, in their `cell_colours` over them.

    Edges of cells cover twice as much as `opacity` (0-1).
    """
    plane = enlarge(plane, pixels.shape[:2])
    edges = find_boundaries(plane, mode="inner")
    alpha = (np.where(edges, min(1.0, 2 * opacity), opacity) * (plane > 0))[..., None]
    return (1 - alpha) * pixels + alpha * colours[plane]


def planes_png(
    image: np.ndarray,
    point: Sequence[int],
    layout: Layout,
    *,
    limits: tuple[float, float],
    left: Overlay | None = None,
    right: Overlay | None = None,
    opacity: float = 0.45,
    curtain: float = 1.0,
    box: Sequence[slice] | None = None,
) -> bytes:
    """Draw three planes through a voxel, with crosshair, scale bar and one overlay or two, quickly.

    `image` is (Z, Y, X), any real dtype, drawn black and white at `limits`; the planes cross at the
    voxel `point` (z, y, x). `left` and `right` are on either side of the `curtain`, which hangs
    from 0 (left edge of each plane) to 1 (right edge). The edges of the part `box` are drawn.
    """
    pixels = grey(layout.draw(image, point), limits)
    share = 1.0 if right is None else curtain
    sides = [
        pixels if side is None else layout.lay_over(pixels, side[0], point, opacity, side[1])
        for side in (left, right)
    ]
    for place in layout.places:
        edge = round(pixels[place].shape[1] * share)
        pixels[place] = np.concatenate([sides[0][place][:, :edge], sides[1][place][:, edge:]], 1)
        if right is not None and 0 < edge < pixels[place].shape[1]:
            pixels[place][:, edge - 1 : edge + 1] = 255
    picture = name_planes(pixels, layout, VIEWER_TEXT)
    for (rows, columns), axes in zip(layout.places, AXES, strict=True):
        corners = (columns.start, rows.start, columns.stop, rows.stop)
        plane = picture.crop(corners)  # nothing is drawn beyond its edges
        scale = [length / image.shape[a] for length, a in zip(plane.size[::-1], axes, strict=True)]
        _draw_cross(plane, [int((point[a] + 0.5) * s) for a, s in zip(axes, scale, strict=True)])
        if box is not None:
            _draw_box(plane, [box[a] for a in axes], scale)
        picture.paste(plane, corners)
    rows, columns = layout.places[0]
    length = round_length(columns.stop * layout.pixel_um)
    bar = (8, rows.stop - 18), length / layout.pixel_um
    draw_bar(picture, *bar, f"{length:g} µm", VIEWER_TEXT, "white")
    return png_of(picture)


def _draw_cross(plane: Image.Image, place: Sequence[int]) -> None:
    (row, column), (width, height) = place, plane.size
    draw = ImageDraw.Draw(plane, "RGBA")
    draw.line((0, row, column - AROUND, row), CROSSHAIR)
    draw.line((column + AROUND, row, width, row), CROSSHAIR)
    draw.line((column, 0, column, row - AROUND), CROSSHAIR)
    draw.line((column, row + AROUND, column, height), CROSSHAIR)


def _draw_box(plane: Image.Image, box: Sequence[slice], scale: Sequence[float]) -> None:
    top, left = (round(part.start * s) for part, s in zip(box, scale, strict=True))
    bottom, right = (round(part.stop * s) - 1 for part, s in zip(box, scale, strict=True))
    corners = (left, top, max(left, right), max(top, bottom))  # of an empty box, one line
    ImageDraw.Draw(plane).rectangle(corners, outline=BOX, width=2)


def write(
    image: Image.Image, words: str, place: Sequence[float], size: int, colour="black", anchor="la"
) -> float:
    """Write words at (x, y), `size` pixels high, and return where they end; white has an edge."""
    edge = {"stroke_width": 2, "stroke_fill": "black"} if colour == "white" else {}
    draw = ImageDraw.Draw(image)
    draw.text(place, words, colour, _font(size), anchor, **edge)
    return draw.textbbox(place, words, _font(size), anchor)[2]


def draw_bar(
    image: Image.Image, place: Sequence[float], length: float, words: str, size: int, colour: str
) -> float:
    """Draw a bar from (x, y) to the right with words behind it, and return where they end."""
    x, y = place
    corners = (x, y - size // 6, x + length, y + size // 6)
    ImageDraw.Draw(image).rectangle(corners, colour, "black" if colour == "white" else None)
    return write(
        image, words, (x + length + 8, y), size, colour if colour == "white" else "black", "lm"
    )


def png_of(image: Image.Image) -> bytes:
    """Return a picture as the bytes of a PNG."""
    buffer = BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def name_planes(pixels: np.ndarray, layout: Layout, size: int) -> Image.Image:
    """Return a picture of the planes with XY, XZ and YZ in their corners."""
    image = Image.fromarray(pixels.astype(np.uint8))
    for name, (rows, columns) in zip(NAMES, layout.places, strict=True):
        write(image, name, (columns.start + 6, rows.start + 4), size, "white")
    return image


def round_length(width_um: float) -> float:
    """Return the length in µm of a scale bar: 1, 2 or 5 times a power of ten, within a quarter."""
    power = 10.0 ** math.floor(math.log10(width_um / 4))
    return power * max(n for n in (1, 2, 5) if n * power <= width_um / 4)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)
