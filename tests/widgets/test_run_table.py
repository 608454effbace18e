import asyncio
import json
import shutil
from pathlib import Path

import pytest

from wnet_nb import widgets
from wnet_nb.config import OPTIONS


@pytest.fixture
def runs(trained):
    """Two runs in the folder ``runs``: of the second another option is recorded."""
    made = [Path("runs") / name for name in ("first", "second")]
    for run in made:
        shutil.copytree(trained.run, run)
    return made


@pytest.fixture
def find(stacks, capsys):
    def find(network, **changes):
        return asyncio.run(widgets.find_cells(network, stacks, changes))

    return find


def rows_of(shown):
    text = shown.children[0].value.replace("<wbr>", "")
    lines = text.removeprefix("<table><tr>").split("</tr><tr>")
    cells = [[part.split("</td>")[0] for part in line.split('">')[1:]] for line in lines]
    return {first: others for first, *others in cells}


def test_two_runs_stand_beside_each_other_with_counts_scores_and_curves(runs, find):
    (result,) = find(runs[0], cell_radius_um=4.0)
    shown = widgets.compare_runs(*runs)
    rows = rows_of(shown)
    assert rows[""] == ["first", "second"] and rows["trained here"] == ["2 epochs"] * 2
    (row,) = [row for row in result.scores["scores"]["rows"] if row["threshold"] == 0.5]
    counted = f"{result.facts['count']} cells, F1 {row['f1']:.2f}"
    assert rows["cells of a"] == [counted, "not applied"]
    pictures = [box.children[1].value for box in shown.children[1].children]
    assert pictures == [(run / "progress.png").read_bytes() for run in runs]


def test_only_settings_that_differ_are_listed(runs, find):
    rows = rows_of(widgets.compare_runs("starter", runs[0]))
    assert rows["base_channels"] == ["16", "4"] and rows["core_class"] == ["1", "none"]
    assert "radius" not in rows
    assert set(rows_of(widgets.compare_runs(*runs))) & set(OPTIONS) == set()


def test_a_network_that_is_no_run_has_its_own_results_and_no_curves(runs, find):
    (with_it,), _ = find("starter"), find("none", cell_radius_um=4.0)
    shown = widgets.compare_runs(widgets.ModelField("starter"), runs[0])
    assert rows_of(shown)["cells of a"][0].startswith(f"{with_it.facts['count']} cells")
    assert len(shown.children[1].children) == 1


def test_a_long_name_may_be_broken_between_its_words_and_nowhere_else(runs):
    table = widgets.compare_runs("starter", runs[0]).children[0].value
    assert "patches_<wbr>per_<wbr>volume" in table and "anywhere" not in table


def test_without_names_the_two_newest_runs_are_taken(runs):
    assert set(rows_of(widgets.compare_runs())[""]) == {"first", "second"}
    shutil.rmtree(runs[1])
    assert "takes two" in widgets.compare_runs().value
    assert "takes two" in widgets.compare_runs(runs[0], str(runs[0])).value


def test_a_damaged_run_is_one_sentence(runs):
    (runs[1] / "history.csv").write_text("nothing")
    assert "history.csv" in widgets.compare_runs(*runs).value


def test_names_are_text_and_nothing_else(runs):
    runs[1].rename("runs/<b>x")
    assert "&lt;b&gt;x" in widgets.compare_runs(runs[0], "runs/<b>x").children[0].value
    assert json.dumps(widgets.compare_runs(runs[0], "runs/<b>x")._words()).count("<b>x") == 0
