from io import BytesIO

import numpy as np
import pytest
from skimage.io import imread

from wnet_nb.figures import planes


def test_planes_keep_the_true_proportions_of_an_anisotropic_volume():
    layout = planes.Layout.of((10, 40, 80), (4.0, 1.0, 1.0))
    sizes = [(rows.stop - rows.start, cols.stop - cols.start) for rows, cols in layout.places]
    (height, width), (depth, below), (across, right) = sizes
    assert width / height == pytest.approx(2, abs=0.02)
    assert depth / height == pytest.approx(1, abs=0.02)  # 10 slices of 4 µm are 40 µm
    assert (below, across, right) == (width, height, depth)


def test_each_plane_is_drawn_at_its_place_and_nothing_between_them():
    volume = np.zeros((24, 24, 24), np.uint8)
    volume[3], volume[:, 5], volume[:, :, 7] = 1, 2, 4  # the planes through (3, 5, 7)
    layout = planes.Layout.of(volume.shape, (1, 1, 1))
    canvas = layout.draw(volume, (3, 5, 7))
    for place, value in zip(layout.places, (1, 2, 4), strict=True):
        assert np.median(canvas[place]) == value
    assert np.isnan(canvas[layout.places[0][0].stop, 0])
    assert np.isnan(canvas[-1, -1])


def test_yz_runs_along_z_to_the_right():
    volume = np.zeros((16, 16, 16))
    volume[12:] = 100
    layout = planes.Layout.of(volume.shape, (1, 1, 1))
    yz = layout.draw(volume, (0, 8, 8))[layout.places[2]]
    assert yz[:, -1].min() > 90 and yz[:, 0].max() < 10


def test_the_densest_point_lies_where_most_cells_are_and_in_the_middle_without_any():
    labels = np.zeros((40, 40, 40), np.int32)
    labels[5, 5, 5] = 1
    for n, x in enumerate(range(2, 38, 4), start=2):
        labels[28:31, 18:21, x : x + 2] = n
    z, y, _ = planes.densest_point(labels)
    assert 28 <= z <= 30 and 18 <= y <= 20
    assert planes.densest_point(np.zeros((40, 20, 10), np.int32)) == (20, 10, 5)


def test_a_window_is_inside_the_volume_around_the_point():
    window = planes.window_around((295, 1000, 3), (20, 384, 384), (300, 2000, 2000))
    assert [(part.start, part.stop) for part in window] == [(280, 300), (808, 1192), (0, 384)]


def test_a_scale_bar_is_a_round_length_within_a_quarter_of_the_width():
    assert [planes.round_length(width) for width in (96, 40, 0.9, 2100)] == [20, 10, 0.2, 500]


def test_a_cell_keeps_its_colour_when_its_number_and_its_outline_change():
    labels = np.zeros((30, 60, 60), np.int32)
    labels[5:12, 10:20, 10:20], labels[5:12, 30:40, 10:20] = 1, 2
    again = np.zeros_like(labels)
    again[6:12, 10:21, 10:20], again[20:26, 40:50, 40:50] = 7, 1
    before, after = planes.cell_colours(labels)[1], planes.cell_colours(again)[7]
    assert np.abs(before.astype(int) - after).max() < 60


def test_neighbouring_cells_have_different_colours():
    labels = np.zeros((40, 80, 80), np.int32)
    for n, (z, y, x) in enumerate(np.ndindex(4, 8, 8), start=1):
        labels[10 * z : 10 * z + 9, 10 * y : 10 * y + 9, 10 * x : 10 * x + 9] = n
    colours = planes.cell_colours(labels)[1:].reshape(4, 8, 8, 3).astype(int)
    for axis in range(3):
        apart = np.abs(np.diff(colours, axis=axis)).max(axis=-1)
        assert np.quantile(apart, 0.1) > 60


def test_the_background_is_black_and_a_number_that_no_cell_has_is_no_matter():
    labels = np.zeros((4, 8, 8), np.uint16)
    labels[1:3, 2:5, 2:5] = 3
    colours = planes.cell_colours(labels)
    assert colours.shape == (4, 3) and not colours[0].any() and colours[3].any()
    assert planes.cell_colours(labels * 0).tolist() == [[0, 0, 0]]


def test_the_picture_of_the_viewer_has_an_overlay_on_either_side_of_the_curtain():
    image = np.zeros((24, 24, 24))
    labels = np.ones(image.shape, np.int32)
    layout = planes.Layout.of(image.shape, (1, 1, 1))
    options = {"limits": (0, 1), "opacity": 1.0, "curtain": 0.5}
    colours = planes.cell_colours(labels)
    options |= {"left": (labels, colours), "right": (labels * 0, colours)}
    png = planes.planes_png(image, (12, 12, 12), layout, **options)
    seen = imread(BytesIO(png))[..., :3].astype(int)
    rows, columns = layout.places[0]
    quarter = (columns.stop - columns.start) // 4
    assert seen[rows.stop // 4, columns.start + quarter].max() > 0
    assert seen[rows.stop // 4, columns.start + 3 * quarter].max() == 0


def test_the_picture_of_the_viewer_has_the_edges_of_a_box_where_they_are_in_sight():
    shape = (20, 20, 20)
    layout = planes.Layout.of(shape, (1, 1, 1))
    box = [slice(5, 15), slice(-4, 10), slice(5, 30)]
    png = planes.planes_png(np.zeros(shape), (19, 19, 19), layout, limits=(0, 1), box=box)
    seen = (imread(BytesIO(png))[..., :3] == planes.BOX).all(axis=-1)
    pixel = 1 / layout.pixel_um  # pixels of a voxel
    for place, (top, bottom, left, right) in zip(
        layout.places, ((-4, 10, 5, 30), (5, 15, 5, 30), (-4, 10, 5, 15)), strict=True
    ):
        rows, columns = (np.flatnonzero(seen[place].any(axis)) / pixel for axis in (1, 0))
        assert rows.min() == pytest.approx(max(0, top), abs=0.2)
        assert columns.min() == pytest.approx(left, abs=0.2)
        assert rows.max() == pytest.approx(bottom, abs=0.2)
        assert columns.max() == pytest.approx(min(right, 20), abs=0.2)
        middle = (
            round(pixel * (max(0, top) + bottom) / 2),
            round(pixel * (left + min(right, 20)) / 2),
        )
        assert not seen[place][middle]


def test_the_picture_of_the_viewer_has_a_scale_bar_of_its_length():
    for shape, size_um, wanted in (((24, 96, 96), (1, 1, 1), 20), ((90, 20, 20), (2, 0.5, 0.5), 2)):
        layout = planes.Layout.of(shape, size_um)
        png = planes.planes_png(np.zeros(shape), (0, 0, 0), layout, limits=(0, 1))
        rows = layout.places[0][0]
        row = imread(BytesIO(png))[rows.stop - 18, :, 0].astype(int)
        bar = np.flatnonzero(row[8 : 8 + 300] < 255).min()  # white from its second pixel
        inside = row[9:][: int(wanted / layout.pixel_um) - 2]
        assert inside.min() == 255 and bar == 0
