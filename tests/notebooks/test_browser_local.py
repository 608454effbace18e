"""The local notebook in a real JupyterLab in a real Chromium, as a user would go through it.

Once with the newest ipykernel and once with version 6, which hands messages to a busy cell in
another way. Version 6 comes from the folder that WNET_NB_KERNEL6 names, made like this:

    python -m pip install --no-deps --target kernel6 ipykernel==6.31.0 nest-asyncio==1.6.0

By hand, with `-m long`, also with Colab's packages: test_browser_journeys.py says where from.

`tests/benchmarks/notebook.py` prints the times that these tests measure.
"""

import json
import re
import urllib.request

import nbformat
import pytest
import tifffile

from tests.benchmarks.nuclei import make_nuclei
from tests.notebooks.browser import (
    COLAB,
    KERNEL6,
    NEWEST,
    SHORT,
    TOKEN,
    choose,
    epoch,
    fill,
    notebook_of,
    notebook_text,
    press,
    push,
    run_all,
    shoot,
    source_of,
    start_lab,
    status,
    trains,
    wait_until,
)
from wnet_nb import checkpoint
from wnet_nb.files.run_files import read_history


@pytest.fixture(
    scope="module", params=[NEWEST, KERNEL6, pytest.param(COLAB, marks=pytest.mark.long)]
)
def lab(request, tmp_path_factory):
    """A JupyterLab in an empty folder: `address`, `home`, and which `kernel` it starts."""
    yield from start_lab(tmp_path_factory.mktemp("lab"), request.param)


def test_a_user_goes_through_the_notebook(page, lab, record_property):
    folder, address = lab.new_notebook(('config.preset("quick", ', SHORT))
    run_all(page, address)
    wait_until(lambda: trains(page))
    shoot(page, folder, ".wnet-datafield", "data")
    shoot(page, folder, ".wnet-modelfield", "network")

    # While it trains: the picture of the affinities follows its slider.
    page.locator(".wnet-settingsform").get_by_text("Soft N-cut", exact=True).click()
    place = ".wnet-settingsform .wnet-option-intensity_sigma"
    page.locator(place).scroll_into_view_if_needed()
    before = source_of(page, ".wnet-affinitypicture")
    push(page, place)
    seconds = wait_until(lambda: source_of(page, ".wnet-affinitypicture") != before, 20)
    record_property("affinity picture follows its slider, while training", seconds)
    shoot(page, folder, ".wnet-settingsform", "form")

    # The weight of a loss is changed; the training takes it.
    push(page, ".wnet-trainingpanel .wnet-option-reconstruction_weight")
    note = page.locator(".wnet-trainingpanel").get_by_text(re.compile(r"from step \d+"))
    seconds = wait_until(lambda: note.count() > 0, 20)
    record_property("a step begins with a changed loss weight", seconds)
    push(page, ".wnet-trainingpanel .wnet-option-reconstruction_weight", times=10)
    wait_until(lambda: epoch(page) > 3)
    shoot(page, folder, ".wnet-trainingpanel", "dashboard")

    # Pause, go on, stop.
    press(page, "Pause")
    wait_until(lambda: "Paused" in status(page), 10)
    press(page, "Go on")
    wait_until(lambda: trains(page), 10)
    press(page, "Stop and keep")
    seconds = wait_until(lambda: status(page).startswith("Stopped, and"), 20)
    record_property("Stop has kept the model", seconds)

    # The cells below go on with the kept model.
    page.locator(".wnet-celltable").wait_for(timeout=120_000)
    printed = page.locator(".jp-OutputArea-output").filter(has_text="results:")
    wait_until(lambda: printed.count() > 0, 60)
    shoot(page, folder, ".wnet-viewer >> nth=2", "viewer", "viewer.png")
    shoot(page, folder, ".wnet-celltuner", "tuner")
    shoot(page, folder, ".wnet-celltable", "table")

    # A row turns its cell white; a click in a plane moves the cross.
    last = ".wnet-viewer >> nth=-1"
    picture = source_of(page, last)
    page.locator(".wnet-celltable select").last.select_option(index=5)
    wait_until(lambda: source_of(page, last) != picture, 10)
    where, glass = (
        page.locator(last).get_by_text("cross at"),
        page.locator(f"{last} >> .wnet-glass"),
    )
    words, size = where.inner_text(), glass.bounding_box()
    glass.click(position={"x": size["width"] / 9, "y": size["height"] / 9})
    wait_until(lambda: where.inner_text() != words, 10)

    run = folder / "runs" / "example"
    changes = " ".join(row["changes"] for row in read_history(run))
    assert "reconstruction_weight" in changes
    assert (run / "predictions" / "example" / "cells.csv").stat().st_size > 200

    # The report shows the scores of the newest result, and the earlier one beside it with its own.
    results = [run / "predictions" / name for name in ("example", "example-2")]
    assert all((result / "scores.json").exists() for result in results)
    page.goto((run / "report.html").as_uri())
    words = page.locator("body").inner_text()
    for result in results:
        scored = json.loads((result / "scores.json").read_text())
        (half,) = [row for row in scored["scores"]["rows"] if row["threshold"] == 0.5]
        assert f"{half['f1']:.2f}" in words
    assert "example-2" in words


@pytest.mark.long
def test_the_curves_of_the_example_fall_and_the_readme_shows_them(page, lab):
    folder, address = lab.new_notebook()
    run_all(page, address)
    wait_until(lambda: epoch(page) > 5, 400)
    press(page, "Pause")
    wait_until(lambda: "Paused" in status(page), 60)
    means = [row["total"] for row in read_history(folder / "runs" / "example")]
    assert means[4] == min(means[:5]) and means[0] == max(means[:5])
    shoot(page, folder, ".wnet-trainingpanel", "curves", "dashboard.png", ".wnet-trainingview img")


def test_a_closed_tab_loses_nothing_and_the_interrupt_button_keeps_the_model(page, lab):
    folder, address = lab.new_notebook(('config.preset("quick", ', SHORT))
    run_all(page, address)
    wait_until(lambda: trains(page))
    page.keyboard.press("Control+s")
    wait_until(lambda: "WNet" not in page.title() and "widget-view" in notebook_text(folder), 20)
    run = folder / "runs" / "example"
    page.goto("about:blank")  # the tab is closed
    before = len(read_history(run))
    wait_until(lambda: len(read_history(run)) > before + 1, 60)

    page.goto(address)
    wait_until(lambda: trains(page), 60)
    step = status(page)
    wait_until(lambda: trains(page) and status(page) != step, 20)
    page.locator('.jp-Toolbar [data-command="notebook:interrupt-kernel"]').first.click()
    wait_until(lambda: status(page).startswith("Stopped, and"), 20)
    wait_until(lambda: (run / "predictions" / "example-2" / "cells.csv").exists(), 120)
    assert checkpoint.load_checkpoint(run).settings.base_channels == 16
    assert 1 < len(read_history(run)) < 300


def test_a_notebook_opened_again_without_its_kernel_shows_stills(page, lab):
    folder, address = lab.new_notebook()
    notebook = nbformat.v4.new_notebook(metadata=notebook_of(folder).metadata)
    for source in (
        "import numpy as np; from wnet_nb import widgets",
        "widgets.Viewer(np.random.default_rng(0).random((9, 9, 9)), voxel_size_um=(1, 1, 1))",
    ):
        notebook.cells.append(nbformat.v4.new_code_cell(source))
    nbformat.write(notebook, folder / "notebook.ipynb")
    run_all(page, address)
    still = page.locator("[class^=wnet-still] img")
    page.locator(".wnet-viewer img").first.wait_for(timeout=120_000)
    wait_until(lambda: still.count() == 1, 20)
    assert not still.is_visible(), "the live viewer is enough"
    page.keyboard.press("Control+s")
    wait_until(lambda: "wnet-still" in notebook_text(folder), 20)
    page.goto("about:blank")
    with urllib.request.urlopen(f"{lab.address}/api/kernels?token={TOKEN}") as answer:
        kernels = [kernel["id"] for kernel in json.load(answer)]
    for kernel in kernels:
        address_of_it = f"{lab.address}/api/kernels/{kernel}?token={TOKEN}"
        urllib.request.urlopen(urllib.request.Request(address_of_it, method="DELETE"))
    page.goto(address)
    still.wait_for(state="visible")


def test_what_is_filled_in_wrongly_is_said_and_what_is_right_is_there_after_a_restart(page, lab):
    folder, address = lab.new_notebook()
    (folder / "mine").mkdir()
    image, labels = make_nuclei(1, shape=(64, 72, 80), n_cells=30)
    tifffile.imwrite(folder / "mine" / "stack.tif", image)
    tifffile.imwrite(folder / "mine" / "stack_labels.tif", labels)
    notebook = nbformat.v4.new_notebook(metadata=notebook_of(folder).metadata)
    for source in (
        "from wnet_nb import config, widgets",
        'data = widgets.DataField("example"); data',
        "network = widgets.ModelField(); network",
        'form = widgets.SettingsForm(config.preset("quick")); form',
    ):
        notebook.cells.append(nbformat.v4.new_code_cell(source))
    nbformat.write(notebook, folder / "notebook.ipynb")
    run_all(page, address)
    data, network, form = ".wnet-datafield", ".wnet-modelfield", ".wnet-settingsform"
    page.locator(form).wait_for(timeout=120_000)

    def says(place, words):
        wait_until(lambda: re.search(words, page.locator(place).inner_text()), 20)

    fill(page, data, "nowhere.tif")
    says(data, "no 'nowhere.tif'; it was looked for in")
    fill(page, data, '"mine/stack.tif"')  # as it is pasted
    says(data, "stack_labels.tif' is known: results are scored")
    fill(page, data, "mine/stack.tif", 1)  # the image in place of its labels
    says(data, "stack.tif' .*image")
    fill(page, data, "mine/stack_labels.tif", 1)
    says(data, "known: results are scored")
    size = f"{data} .wnet-option-voxel_size_um"  # is in sight, as it had to be assumed
    fill(page, size, "0.8,0.8,1.75")
    says(data, "is the order z,y,x right")
    fill(page, size, "1750,800,800")
    says(data, "is the voxel size in nm")
    fill(page, size, "1.75,0.8,0.8")
    says(data, "1.75 × 0.8 × 0.8 µm")

    fill(page, network, "runs/nothing")
    says(network, "there is no network 'runs/nothing'")
    fill(page, network, "none")
    says(network, "the same steps on the image alone")
    for tab, option, entry, fault in (
        ("Cells", "foreground_classes", "1,7", r"foreground_classes=\(1, 7\) does not fit"),
        ("Training", "start_from", "mine/weights.pth", "no weights at 'mine/weights.pth'"),
    ):
        page.locator(form).get_by_text(tab, exact=True).click()
        before = page.locator(f"{form} .wnet-option-{option} input").first.input_value()
        fill(page, f"{form} .wnet-option-{option}", entry)
        says(form, fault)
        fill(page, f"{form} .wnet-option-{option}", before)
        wait_until(lambda: "cannot start" not in page.locator(form).inner_text(), 20)
    fill(page, f"{form} .wnet-option-epochs", "abc")
    says(form, "epochs='abc' must be a number")
    fill(page, f"{form} .wnet-option-learning_rate", "0,0003")
    fill(page, f"{form} .wnet-option-epochs", "7")
    wait_until(lambda: "must be" not in page.locator(form).inner_text(), 20)

    choose(page, "Kernel", "Restart Kernel and Run All Cells…")
    page.locator(".jp-Dialog .jp-mod-accept").click()
    page.locator(data).wait_for(state="detached")
    page.locator(form).wait_for(timeout=120_000)
    says(data, "64 × 72 × 80 voxels.* 1.75 × 0.8 × 0.8 µm")
    entries = {
        place: page.locator(f"{place} input[type=text]").first.input_value()
        for place in (data, network, f"{form} .wnet-option-epochs")
    }
    assert list(entries.values()) == ['"mine/stack.tif"', "none", "7"]
    rate = page.locator(f"{form} .wnet-option-learning_rate input").first.input_value()
    assert float(rate) == 0.0003
