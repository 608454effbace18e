"""The local notebook: its budgets, its twin, and one run from top to bottom."""

import ast
import csv
import json
import re
from pathlib import Path

import jupytext
import nbformat
import numpy as np
import pytest

from wnet_nb import checkpoint
from wnet_nb.files.run_files import read_history
from wnet_nb.files.volumes import read_volume

nbclient = pytest.importorskip("nbclient")
ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "notebooks" / "WNet3D_local.ipynb"
TWIN = NOTEBOOK.with_suffix(".py")
PRESET = 'config.preset("quick", '
SHORT = PRESET + "epochs=3, patches_per_volume=4, "
CELL_LINES, NOTEBOOK_LINES = 15, 60


@pytest.fixture(scope="module")
def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


def code_lines(cell):
    return [line for line in cell.source.splitlines() if line.strip() and line[0] != "#"]


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.fixture(scope="module")
def executed(notebook, tmp_path_factory):
    """The notebook after a run with a shortened training, and the folder it ran in."""
    folder = tmp_path_factory.mktemp("notebook")
    return execute(notebook, folder), folder


def execute(notebook, folder, times=1):
    """Run every cell so many times, with a shortened training."""
    notebook = nbformat.from_dict(notebook)
    (cell,) = [c for c in code_cells(notebook) if PRESET in c.source]
    cell.source = cell.source.replace(PRESET, SHORT)
    notebook.cells = [
        nbformat.from_dict(cell | {"id": f"{cell.id}-{n}"})
        for cell in notebook.cells
        for n in range(times)
    ]
    client = nbclient.NotebookClient(
        notebook, timeout=240, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    return client.execute()


def test_the_notebook_and_its_twin_say_the_same(notebook):
    twin = jupytext.read(TWIN)
    assert [(c.cell_type, c.source) for c in notebook.cells] == [
        (c.cell_type, c.source) for c in twin.cells
    ]


def test_no_outputs_are_committed(notebook):
    assert [c for c in code_cells(notebook) if c.outputs or c.execution_count] == []


def test_cells_are_short_and_hold_no_programs(notebook):
    lines = [code_lines(cell) for cell in code_cells(notebook)]
    assert max(map(len, lines)) <= CELL_LINES
    assert sum(map(len, lines)) <= NOTEBOOK_LINES
    source = "\n".join(line for cell in lines for line in cell if line[0] != "%")
    tree = compile(source, "notebook", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    refused = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.For, ast.While, ast.ListComp)
    assert [node for node in ast.walk(tree) if isinstance(node, refused)] == []


def test_every_section_of_the_guide_is_there_in_order(notebook):
    text = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    names = ("Set-up", "Data", "Look at the data", "Cells at once", "Train on your stack")
    names += ("Compare", "Apply", "Save and cite")
    places = [text.index(f"## {n}. {name}") for n, name in enumerate(names, start=1)]
    assert places == sorted(places)


def test_it_runs_from_top_to_bottom_and_leaves_a_run_that_can_be_read_back(executed):
    _, folder = executed
    run = folder / "runs" / "example"
    history = read_history(run)
    assert [row["epoch"] for row in history] == [1, 2, 3]
    assert checkpoint.load_checkpoint(run).settings.core_class == 1
    labels = read_volume(run / "predictions" / "example" / "labels.tif").array
    with (run / "predictions" / "example" / "cells.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    result = json.loads((run / "predictions" / "example" / "result.json").read_text())
    assert len(rows) == result["count"] == len(np.unique(labels)) - 1 > 10


def test_applying_again_makes_a_second_result(executed):
    _, folder = executed
    predictions = folder / "runs" / "example" / "predictions"
    made = sorted(path.name for path in predictions.iterdir() if path.is_dir())
    assert made == ["example", "example-2"]


def test_every_cell_run_twice_in_a_row_gives_the_same_training_and_the_same_cells(
    notebook, executed, tmp_path
):
    again = execute(notebook, tmp_path, times=2)
    assert [o for c in code_cells(again) for o in c.outputs if o.output_type == "error"] == []
    runs = [folder / "runs" for folder in (executed[1], tmp_path)]
    assert [[path.name for path in run.iterdir()] for run in runs] == [["example"]] * 2
    histories = [read_history(run / "example") for run in runs]
    losses = [[row["total"] for row in history] for history in histories]
    assert losses[0] == losses[1] and len(losses[0]) == 3
    once, twice = (
        [path.read_bytes() for path in sorted(run.glob("example/predictions/*/cells.csv"))]
        for run in runs
    )
    assert len(twice) == 2 * len(once) and set(once) == set(twice)


def test_the_end_says_where_to_look_after_run_all(notebook):
    headings = [
        line.lstrip("# ").replace(" ", "-")
        for cell in notebook.cells
        if cell.cell_type == "markdown"
        for line in cell.source.splitlines()
        if line.startswith("#")
    ]
    places = re.findall(r"\]\(#([^)]*)\)", notebook.cells[-1].source)
    assert len(places) >= 4 and set(places) <= set(headings)


def test_it_can_be_read_where_widgets_are_not_drawn(executed):
    notebook, _ = executed
    shown = [
        output.data
        for cell in code_cells(notebook)
        for output in cell.outputs
        if output.output_type in ("display_data", "execute_result")
    ]
    pictures = [data for data in shown if "image/png" in data]
    texts = [data["text/plain"] for data in shown]
    assert len(pictures) >= 7
    assert any("96 × 96 × 96 voxels" in text for text in texts)


def test_nothing_went_wrong_in_a_thread_or_on_the_side(executed):
    notebook, _ = executed
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    assert [o for o in outputs if o.output_type == "error"] == []
    assert [o.text for o in outputs if o.output_type == "stream" and o.name == "stderr"] == []
