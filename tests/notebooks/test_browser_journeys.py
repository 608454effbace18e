"""What goes wrong on the way from a stack to a result, and how a user gets on, in a real browser.

Section by section with small volumes and short trainings, with the newest ipykernel; what differs
between kernels is tested in test_browser_local.py. By hand, with `-m long`, also with ipykernel 6
(see there), and with the widgets of Google Colab in the front end that goes with them: JupyterLab 3
in the environment whose folder WNET_NB_COLAB_LAB names, made like this:

    python -m venv colab_lab && source colab_lab/bin/activate
    pip install -r requirements.txt -r .ci/colab.txt "jupyterlab<4" "jupyterlab_widgets<2"
"""

import csv
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import tifffile

import wnet_nb
from tests.benchmarks.nuclei import make_nuclei
from tests.notebooks.browser import (
    COLAB,
    KERNEL6,
    NEWEST,
    NOTEBOOK,
    ROOT,
    TOKEN,
    epoch,
    fill,
    is_done,
    open_notebook,
    press,
    run_and_wait,
    run_cell,
    says,
    source_of,
    start_lab,
    status,
    trains,
    wait_until,
)
from wnet_nb import config
from wnet_nb.files.run_files import read_history
from wnet_nb.files.writing import write_volume
from wnet_nb.whole_file import sha256

SIZE = (2.0, 1.0, 1.0)
EPOCHS = 'config.preset("quick", '
SHORT = f"{EPOCHS}epochs=300, patches_per_volume=4, "
DATA = ("import wnet_nb", "data = widgets.DataField(")
TRAINING = ("settings = config.preset", "training = widgets.TrainingPanel", "trained = await")
APPLYING = ("chosen = ", "tuner = ", "target = ", "results = await", "view_cells(results")
APPLYING += ("show_scores(results)",)
BY_HAND = [pytest.param(kernel, marks=pytest.mark.long) for kernel in (KERNEL6, COLAB)]


@pytest.fixture(scope="module", params=[NEWEST, *BY_HAND])
def kernel(request):
    return request.param


@pytest.fixture(scope="module")
def lab(kernel, tmp_path_factory):
    yield from start_lab(tmp_path_factory.mktemp("lab"), kernel)


@pytest.fixture(scope="module")
def volume():
    return make_nuclei(1, shape=(48, 64, 64), voxel_size_um=SIZE, n_cells=30)


def write_stack(folder, name, array):
    folder.mkdir(exist_ok=True)
    write_volume(folder / f"{name}.tif", array, voxel_size_um=SIZE)


def open_with_data(page, address, path="mine/stack.tif", words="1 volume"):
    """Open a local notebook, run its first two cells, and name the data; wait for the answer."""
    open_notebook(page, address)
    run_cell(page, "import wnet_nb")
    run_and_wait(page, "data = widgets")
    fill(page, ".wnet-datafield", path)
    says(page, ".wnet-datafield", words)


def options_of(page, place):
    texts = page.locator(place).locator("option").all_inner_texts()
    return [text.replace("\u00a0", " ") for text in texts]


def scores_of(page):
    outputs = page.locator(".jp-OutputArea-output")
    return outputs.filter(has_text=re.compile(r"F1 \d\.\d\d for")).first.inner_text()


def change(page, place, act):
    """Do something in a place of the page, and wait until its picture is another."""
    picture = source_of(page, place)
    act(page.locator(place))
    wait_until(lambda: source_of(page, place) != picture, 180)


def test_labels_named_in_section_2_follow_to_panel_tuner_overlay_and_scores(page, lab, volume):
    short = f"{EPOCHS}epochs=2, patches_per_volume=4, "
    cells = (*DATA, "view_stacks", *TRAINING, *APPLYING)
    folder, address = lab.new_notebook((EPOCHS, short), only=cells)
    write_stack(folder / "mine", "stack", volume[0])
    write_stack(folder / "by hand", "stack", volume[1])
    open_with_data(page, address)
    fill(page, ".wnet-datafield", "by hand", 1)
    says(page, ".wnet-datafield", "results are scored")

    run_and_wait(page, "view_stacks", below=True)
    assert "true labels" in options_of(page, ".wnet-viewer >> nth=0")
    assert re.search(r"^Finished.* Dice against your labels 0\.\d\d", status(page))
    says(page, ".wnet-celltuner", r"F1 \d\.\d\d at IoU 0.5 for \d+ true cells")
    assert "true labels" in options_of(page, ".wnet-celltuner .wnet-viewer")
    scores = scores_of(page)
    assert re.search(r"F1 [01]\.\d\d for \d+ true cells.*without the network", scores)

    # What does not exist is refused in the tuner too.
    fill(page, ".wnet-celltuner .wnet-option-foreground_classes", "1,7")
    says(page, ".wnet-celltuner", "7.*does not fit n_classes=3")


def test_a_panel_cell_run_again_shows_its_training_and_a_stopped_one_is_extended_by_two(
    page, lab, volume
):
    large = "import numpy\n\nnumpy.ones(300_000_000).sum()\nimport wnet_nb"
    folder, address = lab.new_notebook(
        ("import wnet_nb", large), (EPOCHS, SHORT), only=(*DATA, *TRAINING)
    )
    write_stack(folder / "mine", "stack", volume[0])
    open_with_data(page, address)
    run_cell(page, "settings = config.preset", below=True)
    wait_until(lambda: trains(page) and epoch(page) > 1, 180)

    run_cell(page, "training = widgets.TrainingPanel")  # waits until the training is over
    wait_until(lambda: trains(page) and epoch(page) > 3, 180)
    press(page, "Stop and keep")
    kept = "The next cell starts the training. Until then, the cells below work with 'runs/stack'"
    says(page, ".wnet-trainingpanel", f"Fits: .* {kept}")
    wait_until(lambda: is_done(page), 30)
    run = folder / "runs" / "stack"
    assert list(run.parent.iterdir()) == [run] and 2 < len(read_history(run)) < 300

    # What the kernel held before (2.4 GB) is not what this training takes.
    assert float(re.search(r"Fits: ([\d.]+) of", status(page)).group(1)) < 2.4

    run_cell(page, "trained = await")
    wait_until(lambda: trains(page) and epoch(page) > 2, 180)
    press(page, "Stop and keep")
    wait_until(lambda: status(page).startswith("Stopped, and") and is_done(page), 180)
    done = len(read_history(run.with_name("stack-2")))
    page.locator(".wnet-trainingpanel input[type=number]").fill("2")
    press(page, "Extend by")
    says(page, ".wnet-trainingview", f"goes on to epoch {done + 2} when its cell is run again")
    run_and_wait(page, "trained = await")
    assert status(page).startswith(f"Finished: {done + 2} epochs")
    assert len(read_history(run.with_name("stack-2"))) == done + 2


def test_several_volumes_are_chosen_from_and_come_together_in_one_table(page, lab, volume):
    folder, address = lab.new_notebook(only=(*DATA, "view_stacks", *APPLYING))
    mine = folder / "mine"
    for number, name in enumerate(("first", "second")):
        image, labels = make_nuclei(number, shape=(32, 64, 64), voxel_size_um=SIZE, n_cells=20)
        write_stack(mine, name, image)
    write_stack(mine, "second_labels", labels)
    known = "2 volumes(.|\n)*second_labels.tif' is known: results are scored"
    open_with_data(page, address, "mine", known)
    run_and_wait(page, "view_stacks", below=True)

    viewer = ".wnet-chooser >> nth=0"
    for place in (viewer, ".wnet-celltuner .wnet-chooser", ".wnet-chooser >> nth=-1"):
        assert options_of(page, place)[:2] == ["1: first", "2: second"]
        change(page, place, lambda box: box.locator("select").first.select_option(index=1))
    assert "true labels" in options_of(page, viewer)
    says(page, ".wnet-celltuner", r"F1 \d\.\d\d at IoU 0.5 for")
    scores = scores_of(page)
    assert "second" in scores and "first" not in scores

    counts = {}
    for result in (folder / "predictions").glob("*/result.json"):
        facts = json.loads(result.read_text())
        counts[facts["name"]] = facts["count"]
    rows = read_rows(folder / "predictions" / "cells.csv")
    assert Counter(row["volume"] for row in rows) == counts and min(counts.values()) > 5
    table = read_rows(folder / "predictions" / "volumes.csv")
    assert {row["volume"]: int(row["cells"]) for row in table} == counts


def test_yesterdays_run_a_weights_file_and_words_find_cells_without_training(page, lab, volume):
    folder, address = lab.new_notebook(only=(*DATA, "network = widgets", *APPLYING))
    write_stack(folder / "mine", "stack", volume[0])
    yesterday = folder / "runs" / "yesterday"
    small = config.preset("quick", epochs=1, patches_per_volume=4)
    wnet_nb.train(folder / "mine" / "stack.tif", yesterday, small)
    open_with_data(page, address)
    run_and_wait(page, "network = widgets")
    listed = [text for text in options_of(page, ".wnet-modelfield") if "yesterday" in text]
    assert re.search(r"runs/yesterday: \d\d \w+ \d{4} \d\d:\d\d, stack, no cells yet", listed[0])

    run_and_wait(page, "chosen = ")
    field = ".wnet-modelfield >> nth=-1"
    page.locator(field).locator("select").select_option(label=listed[0])
    says(page, field, "A network of 16 channels and 3 classes")
    run_and_wait(page, "tuner = ", below=True)
    (made,) = yesterday.glob("predictions/*/result.json")
    assert json.loads(made.read_text())["count"] > 5
    page.locator(".wnet-celltable").wait_for()

    for name in ("runs/yesterday/weights.safetensors", "starter", "none"):
        fill(page, field, name)
        before = set(folder.rglob("result.json"))
        run_and_wait(page, "results = await")
        (made,) = set(folder.rglob("result.json")) - before
        assert Path(json.loads(made.read_text())["model"]).stem == Path(name).stem
    assert [path.name for path in yesterday.parent.iterdir()] == ["yesterday"]


def test_lab_opens_a_copy_in_the_users_folder_and_leaves_the_checkout_as_it_was(
    page, kernel, tmp_path, volume
):
    if kernel == COLAB:
        pytest.skip("colab_setup.sh brings a JupyterLab of its own, version 4")
    checkout, own = tmp_path / "checkout", tmp_path / "own"
    own.mkdir()
    skip = shutil.ignore_patterns("__pycache__")
    for name in ("wnet_nb", "notebooks"):
        shutil.copytree(ROOT / name, checkout / name, ignore=skip)
    for name in ("colab_setup.sh", "requirements.txt", "constraints.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, checkout)
    make_environment(checkout)
    write_stack(own / "mine", "stack", volume[0])
    before = contents(checkout)
    command = (kernel, "bash", str(checkout / "colab_setup.sh"), "lab")
    notebook = own / "WNet3D_local.ipynb"
    with contextmanager(start_lab)(own, *command, package=checkout) as lab:
        fresh = notebook.read_bytes()
        assert sha256(notebook) == before[Path("notebooks/WNet3D_local.ipynb")]
        address = f"{lab.address}/lab/tree/{notebook.name}?token={TOKEN}"
        open_with_data(page, address, "stack.tif", f"looked for in '{re.escape(str(own))}'")
        fill(page, ".wnet-datafield", "mine/stack.tif")
        says(page, ".wnet-datafield", "1 volume")
        run_cell(page, "network = widgets")
        run_and_wait(page, "cells = await")
        page.keyboard.press("Control+s")
        wait_until(lambda: notebook.read_bytes() != fresh, 60)
    assert (own / "predictions" / "stack" / "cells.csv").exists()
    assert contents(checkout) == before


def make_environment(checkout):
    """Make what colab_setup.sh takes for its finished environment; it is the one of this test."""
    python = checkout / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -B "$@"\n')
    python.chmod(0o755)
    asked = [checkout / name for name in ("requirements.txt", "constraints.txt", "pyproject.toml")]
    files = b"".join(path.read_bytes() for path in asked)
    sums = subprocess.run(["cksum"], input=files, capture_output=True, check=True).stdout.decode()
    version = "{}.{}".format(*sys.version_info)
    (checkout / ".venv" / "wnet_nb_setup").write_text(f"{version} {checkout}\n{sums}lab\n")


def contents(folder):
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc")
    return {path.relative_to(folder): sha256(path) for path in files}


def test_section_6_of_colab_knows_voxel_size_channel_and_time_and_lets_them_be_changed(
    page, lab, volume
):
    own = ('data_source = "example volume"', 'data_source = "own folder"')
    path = ('\nfolder = ""', '\nfolder = "mine/many.tif"')
    titles = ("# @title 1. Install", "# @title 2. GPU", "data = session.choose_data")
    folder, address = lab.new_notebook(
        own,
        path,
        ('\nmodel = ""', '\nmodel = "none"'),
        source=NOTEBOOK.with_name("WNet3D_colab.ipynb"),
        only=(*titles, "# @title 6.1 Preview", "predictions, stacks ="),
    )
    noise = make_nuclei(2, shape=(48, 64, 64), n_cells=0)[0]
    planes = np.stack([np.stack([noise, noise], 1), np.stack([noise, volume[0]], 1)])
    (folder / "mine").mkdir()
    tifffile.imwrite(folder / "mine" / "many.tif", planes, imagej=True, metadata={"axes": "TZCYX"})
    open_notebook(page, address)
    run_cell(page, "# @title 1. Install")
    run_cell(page, "# @title 2. GPU")
    run_and_wait(page, "data = session.choose_data")
    said = {"channel": "1", "time": "1", "voxel_size_um": "2,1,1"}
    opened = page.locator(".wnet-datafield").get_by_text("Channel, time point")
    if not page.locator(".wnet-datafield .wnet-option-channel").is_visible():
        opened.click()
    for name, entry in said.items():
        fill(page, f".wnet-datafield .wnet-option-{name}", entry)
    says(page, ".wnet-datafield", r"48 × 64 × 64 voxels .* 2 × 1 × 1 µm")

    run_cell(page, "# @title 6.1 Preview")
    run_and_wait(page, "predictions, stacks =")
    shown = ".wnet-datafield >> nth=-1"
    for name, entry in said.items():
        field = page.locator(shown).locator(f".wnet-option-{name} input[type=text]")
        assert field.input_value() in (entry, "2.0,1.0,1.0")
    (first,) = folder.rglob("result.json")
    facts = json.loads(first.read_text())
    assert facts["voxel_size_um"] == [2, 1, 1] and facts["count"] > 15

    fill(page, f"{shown} >> .wnet-option-voxel_size_um", "3,1,1")
    run_cell(page, "# @title 6.1 Preview")
    run_and_wait(page, "predictions, stacks =")
    (second,) = set(folder.rglob("result.json")) - {first}
    assert json.loads(second.read_text())["voxel_size_um"] == [3, 1, 1]


def read_rows(path):
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))
