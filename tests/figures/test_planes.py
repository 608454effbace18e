import numpy as np
import pytest

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


def test_outlines_go_around_every_label_and_part_touching_ones():
    labels = np.zeros((16, 16, 16), np.int32)
    labels[4:12, 4:8, 4:12], labels[4:12, 8:12, 4:12] = 1, 2
    layout = planes.Layout.of(labels.shape, (1, 1, 1))
    xy = layout.outline(labels, (8, 8, 8))[layout.places[0]]
    step = xy.shape[0] / 16
    line = xy[:, round(8 * step)]  # down through both cells
    crossings = np.flatnonzero(np.diff(line.astype(int)) == 1) / step
    assert crossings == pytest.approx([4, 8, 12], abs=0.5)


def test_the_densest_point_lies_where_most_cells_are_and_in_the_middle_without_any():
    labels = np.zeros((40, 40, 40), np.int32)
    labels[5, 5, 5] = 1
    for n, x in enumerate(range(2, 38, 4), start=2):
        labels[28:31, 18:21, x : x + 2] = n
    z, y, _ = planes.densest_point(labels)
    assert 28 <= z <= 30 and 18 <= y <= 20
    assert planes.densest_point(np.zeros((40, 20, 10), np.int32)) == (20, 10, 5)


def test_the_window_is_inside_the_volume_around_the_point_and_no_deeper_than_wide():
    window = planes.window_around((295, 1000, 3), (300, 2000, 2000), (5.0, 1.0, 1.0))
    for part, n, p in zip(window, (300, 2000, 2000), (295, 1000, 3), strict=True):
        assert 0 <= part.start <= p < part.stop <= n
    depth, height, width = (part.stop - part.start for part in window)
    assert height == width == planes.SHOWN_VOXELS
    assert depth * 5.0 <= width
