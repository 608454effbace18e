import asyncio
import threading

import numpy as np
import pytest

from wnet_nb import widgets
from wnet_nb.jobs import segment as job
from wnet_nb.jobs.stacks import read_stacks
from wnet_nb.widgets import StopInPlace
from wnet_nb.widgets.viewer import TRUTH


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
    assert names[0].startswith(f"{trained.run.name}, ") and names[-1] == TRUTH


def test_two_results_of_a_volume_stand_side_by_side(find, stacks, trained):
    before, after = find("none", cell_radius_um=4.0), find(trained.run)
    names = list(widgets.view_cells(after, stacks, beside=before).shown.overlays)
    assert [name.split(",")[0] for name in names] == [trained.run.name, "without network", TRUTH]


def test_the_cells_in_three_dimensions_are_below_the_viewer(find, stacks):
    (result,) = find(cell_radius_um=4.0)
    *_, fold = widgets.view_cells([result], stacks).shown.children
    assert fold.get_title(0) == "the cells in three dimensions" and fold.selected_index is None
    assert fold.children[0].value == (result.folder / "projections.png").read_bytes()
    (result.folder / "projections.png").unlink()  # a result of an older version has none
    assert len(widgets.view_cells([result], stacks).shown.children) == 2


def test_a_table_below_is_bound_to_the_viewer(find, stacks):
    shown = widgets.view_cells(find(cell_radius_um=4.0), stacks, table=True).shown
    viewer, table = shown.children[:2]
    table.table.index = 1
    assert viewer.chosen[1] == table.table.value


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
    with pytest.raises(StopInPlace, match="there is no option 'radius_of_cells'"):
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
