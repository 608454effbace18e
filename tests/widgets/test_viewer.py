import numpy as np
import pytest

from wnet_nb import widgets
from wnet_nb.widgets.viewer import Chooser

SIZE = (2.0, 1.0, 1.0)


@pytest.fixture
def cells(example):
    image, labels = example
    return widgets.Viewer(image, voxel_size_um=SIZE, overlays={"cells": labels, "more": labels})


def press(viewer, plane, row, column, wheel=0):
    """Click at shares of a plane, as the pane of glass tells it."""
    _, layout = viewer._window()
    rows, columns = layout.places["XY XZ YZ".split().index(plane)]
    down = (rows.start + row * (rows.stop - rows.start)) / layout.shape[0]
    across = (columns.start + column * (columns.stop - columns.start)) / layout.shape[1]
    viewer.hand.value = f"{across} {down} {wheel} {np.random.default_rng().random()}"


def test_a_slider_of_the_viewer_changes_its_picture(example):
    viewer = widgets.Viewer(example[0], voxel_size_um=SIZE)
    for slider in (viewer.z, viewer.y, viewer.x):
        before = viewer.picture.value
        slider.value += 3
        assert viewer.picture.value != before


def test_contrast_opacity_curtain_and_zoom_change_the_picture(example):
    image, labels = example
    cells = {"cells": labels, "more": labels[::-1]}
    viewer = widgets.Viewer(image, voxel_size_um=SIZE, overlays=cells)
    viewer.point = np.argwhere(labels == 1)[0]
    changes = [("opacity", 0.9), ("curtain", 0.1), ("left", "more"), ("zoom", 2)]
    changes.append(("contrast", (viewer.contrast.value[0], viewer.contrast.value[1] * 0.5)))
    for name, value in changes:
        before = viewer.picture.value
        getattr(viewer, name).value = value
        assert viewer.picture.value != before, name


def test_a_click_moves_the_cross_within_its_plane(cells):
    z = cells.z.value
    press(cells, "XY", 0.25, 0.75)
    assert cells.point == (z, 8, 30)
    press(cells, "XZ", 0.5, 0.1)
    assert cells.point == (12, 8, 4)
    press(cells, "YZ", 0.9, 0.25)
    assert cells.point == (6, 28, 4)


def test_a_click_in_an_enlarged_plane_means_what_is_seen_there(cells):
    cells.point = (12, 16, 20)
    cells.zoom.value = 2
    press(cells, "XY", 0.01, 0.01)
    assert cells.point == (12, 8, 10)


def test_the_wheel_goes_through_the_planes_under_the_mouse_and_stops_at_the_last(cells):
    cells.point = (22, 16, 20)
    for _ in range(3):
        press(cells, "XY", 0.5, 0.5, wheel=1)
    assert cells.point == (23, 16, 20)
    press(cells, "XZ", 0.5, 0.5, wheel=-1)
    assert cells.point == (23, 15, 20)


def test_a_click_on_a_cell_chooses_it_on_whichever_side_of_the_curtain(cells, example):
    told = []
    cells.on_cell = lambda *cell: told.append(cell)
    z, y, x = np.argwhere(example[1] == 3).mean(0).round().astype(int)
    cells.point = (z, y, x)
    cells.curtain.value = 1.0
    press(cells, "XY", (y + 0.5) / 32, (x + 0.5) / 40)
    cells.curtain.value = 0.0
    press(cells, "XY", (y + 0.5) / 32, (x + 0.5) / 40)
    assert told == [("cells", 3), ("more", 3)]


@pytest.mark.parametrize("overlay", ["cells", "more"])
@pytest.mark.parametrize("curtain", [0.0, 0.5, 1.0])
def test_a_cell_that_is_chosen_is_seen_whichever_side_of_the_curtain_it_is_on(
    cells, example, overlay, curtain
):
    cells.curtain.value = curtain
    cells.point = np.argwhere(example[1] == 3).mean(0)
    cells.choose(overlay, 1)
    before = cells.picture.value
    cells.choose(overlay, 3)
    assert cells.picture.value != before


def test_runs_with_long_names_can_be_told_apart_in_the_list(example):
    image, labels = example
    names = [f"run embryo_of_a_long_name_{n}, 123 cells" for n in (1, 2)]
    viewer = widgets.Viewer(image, voxel_size_um=SIZE, overlays=dict.fromkeys(names, labels))
    shown = [text for text, _ in viewer.left.options]
    assert shown[0] == "none" and len(set(shown)) == 3 and max(map(len, shown)) <= 28
    assert shown[2].startswith("run embryo") and shown[2].endswith("me_2, 123 cells")
    assert [viewer.left.value, viewer.right.value] == names
    assert names[1] in viewer.where.value


def test_a_chooser_makes_the_panel_of_a_volume_when_it_is_asked_for(folder, settings):
    made = []
    chooser = Chooser(["a", "b"], lambda n: made.append(n) or widgets.Viewer(
        np.zeros((8, 8, 8)), voxel_size_um=SIZE))  # fmt: skip
    chooser.which.value = 1
    assert made == [0, 1]
