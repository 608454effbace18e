import asyncio
import json
import sys
import threading
import time

import numpy as np
import pytest

from wnet_nb import widgets
from wnet_nb.errors import UserError
from wnet_nb.jobs import segment as job
from wnet_nb.jobs.stacks import read_stacks
from wnet_nb.widgets.viewer import TRUTH

STAND_IN = """
import json
import os

class Viewer:
    def __init__(self, title):
        self.layers = [title]

    def add_image(self, array, name, scale):
        self.layers.append([name, array.shape, scale])
        global last
        last = self

    add_labels = add_image

def run():
    with open("part", "w") as file:
        json.dump(last.layers, file)
    os.rename("part", "window.json")
"""


@pytest.fixture
def find(stacks, tmp_path, capsys):
    def find(network="none", volumes=None, **changes):
        found = widgets.find_cells(network, volumes or stacks, changes, folder="predictions")
        return asyncio.run(found)

    return find


def test_cells_are_found_by_a_run_and_stand_beside_those_without_it_and_the_truth(
    find, stacks, trained
):
    (result,) = find(trained.run)
    assert result.facts["count"] == result.labels().max()
    names = list(widgets.view_cells([result], stacks).shown.overlays)
    assert names[0].startswith(f"run {trained.run.name}, ") and names[-1] == TRUTH


def test_two_results_of_a_volume_stand_side_by_side(find, stacks, trained):
    before, after = find("none", cell_radius_um=4.0), find(trained.run)
    names = list(widgets.view_cells(after, stacks, beside=before).shown.overlays)
    assert [name.split(",")[0] for name in names] == [
        f"run {trained.run.name}",
        "without network",
        TRUTH,
    ]


def test_the_cells_in_three_dimensions_are_below_the_viewer(find, stacks):
    (result,) = find(cell_radius_um=4.0)
    *_, fold, _ = widgets.view_cells([result], stacks).shown.children
    assert fold.get_title(0) == "the cells in three dimensions" and fold.selected_index is None
    assert fold.children[0].value == (result.folder / "projections.png").read_bytes()
    (result.folder / "projections.png").unlink()  # a result of an older version has none
    assert len(widgets.view_cells([result], stacks).shown.children) == 3


def test_a_table_below_is_bound_to_the_viewer(find, stacks):
    shown = widgets.view_cells(find(cell_radius_um=4.0), stacks, table=True).shown
    viewer, table = shown.children[:2]
    table.table.index = 1
    assert viewer.chosen[1] == table.table.value


@pytest.fixture
def elsewhere(find, stacks):
    """The result, the buttons for other programs, and what is said beside them."""

    def make():
        (result,) = find(cell_radius_um=4.0)
        *buttons, said = widgets.view_cells([result], stacks).shown.children[-1].children
        return result, {button.description: button for button in buttons}, said

    return make


def test_the_rois_are_written_beside_the_labels_once(elsewhere):
    pytest.importorskip("roifile")
    result, buttons, said = elsewhere()
    for _ in range(2):
        buttons["ROIs for Fiji"].click()
        assert str(result.rois) in said.value
    assert result.rois.stat().st_size > 1000


def test_without_roifile_it_says_what_to_install(elsewhere, monkeypatch):
    monkeypatch.setitem(sys.modules, "roifile", None)
    _, buttons, said = elsewhere()
    buttons["ROIs for Fiji"].click()
    assert "%pip install roifile" in said.value


def test_napari_is_offered_only_where_it_is_installed(elsewhere, monkeypatch):
    monkeypatch.setattr("wnet_nb.widgets.cells_panel.find_spec", lambda name: None)
    assert list(elsewhere()[1]) == ["ROIs for Fiji"]


def test_napari_opens_in_a_process_of_its_own(elsewhere, stacks, tmp_path, monkeypatch):
    (tmp_path / "napari.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(tmp_path)
    elsewhere()[1]["Open in napari"].click()
    window, deadline = tmp_path / "window.json", time.monotonic() + 60
    while not window.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    name, image, cells = json.loads(window.read_text())
    shape, size = list(stacks[0].shape), list(stacks[0].voxel_size_um)
    assert name == "a" and image == ["a", shape, size] and cells == ["cells", shape, size]
    assert "napari" not in sys.modules


def test_each_volume_of_a_folder_can_be_chosen(find, folder, settings):
    two = read_stacks(folder / "two", settings)
    chooser = widgets.view_cells(find(volumes=two, cell_radius_um=4.0), two)
    assert [words for words, _ in chooser.which.options] == ["1: a", "2: b"]
    chooser.which.value = 1
    assert np.array_equal(chooser.shown.image, two[1].array)


def test_scores_of_volumes_with_truth_are_shown(find):
    panel = widgets.show_scores(find(cell_radius_um=4.0))
    assert "for 10 true cells" in panel.children[0].value
    assert "image/png" in panel._repr_mimebundle_()


def test_scores_against_points_are_said_in_words(find, folder, settings, example, tmp_path):
    points = np.array([np.argwhere(example[1] == n).mean(0) for n in range(1, 11)])
    np.savetxt(tmp_path / "a.csv", points, delimiter=",", header="z,y,x", comments="")
    stacks = read_stacks(folder / "in", settings, labels=tmp_path / "a.csv")
    panel = widgets.show_scores(find(volumes=stacks, cell_radius_um=4.0))
    assert "10 true points" in panel.children[0].value


def test_without_truth_it_is_said_why_there_are_no_scores(find, folder, settings):
    results = find(volumes=read_stacks(folder / "in", settings), cell_radius_um=4.0)
    assert "No labels" in widgets.show_scores(results).value


def test_what_fails_is_one_sentence(find):
    with pytest.raises(UserError, match="there is no option 'radius_of_cells'"):
        find(radius_of_cells=4.0)


def test_an_interrupt_ends_it_before_the_next_volume(
    folder, settings, tmp_path, monkeypatch, capsys
):
    two, begun = read_stacks(folder / "two", settings), threading.Event()

    async def interrupted(work, interrupt):
        while not begun.is_set():
            await asyncio.sleep(0.01)
        interrupt()
        return await work

    monkeypatch.setattr("wnet_nb.widgets.cells_panel.attend", interrupted)
    one = job._segment_one
    monkeypatch.setattr(job, "_segment_one", lambda *a: begun.set() or one(*a))
    found = widgets.find_cells("none", two, {"cell_radius_um": 4.0}, folder="predictions")
    results = asyncio.run(found)
    assert [result.name for result in results] == ["a"]
