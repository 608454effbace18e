"""The local notebook in a real JupyterLab in a real Chromium, as a user would go through it.

Once with the newest ipykernel and once with version 6, which hands messages to a busy cell in
another way. Version 6 comes from the folder that WNET_NB_KERNEL6 names, made like this:

    python -m pip install --no-deps --target kernel6 ipykernel==6.31.0 nest-asyncio==1.6.0

`tests/benchmarks/notebook.py` prints the times that these tests measure.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest
import tifffile

from tests.benchmarks.nuclei import make_nuclei
from wnet_nb import checkpoint
from wnet_nb.files.run_files import read_history

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "notebooks" / "WNet3D_local.ipynb"
IMAGES = ROOT / "docs"
SHORT = 'config.preset("quick", epochs=300, patches_per_volume=4, '
FLAGS = (
    "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update "
    "--disable-sync --no-first-run --disable-quic"
).split()
TOKEN = "for-the-test"
SIZE = {"width": 1300, "height": 900}


def missing(what):
    (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(what)


@pytest.fixture(scope="module")
def chromium():
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next((path for path in map(shutil.which, names) if path), None)
    if found is None:
        missing("no Chromium is installed (chromium, chromium-browser or google-chrome)")
    return found


@pytest.fixture(scope="module", params=["newest ipykernel", "ipykernel 6"])
def lab(request, tmp_path_factory):
    """A JupyterLab in an empty folder: `address`, `home`, and which `kernel` it starts."""
    packages = [str(ROOT)]
    if request.param == "ipykernel 6":
        if "WNET_NB_KERNEL6" not in os.environ:
            missing("WNET_NB_KERNEL6 names no folder with ipykernel 6 (see the top of this file)")
        packages.insert(0, str(Path(os.environ["WNET_NB_KERNEL6"]).resolve()))
    home = tmp_path_factory.mktemp("lab")
    yield from start_lab(home, packages, request.param)


def start_lab(home, packages, kernel):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {
        "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
        "notebook-extension/tracker": {"windowingMode": "none"},
    }
    for name, values in settings.items():
        path = home / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    environment = os.environ | {
        "HOME": str(home),
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "PYTHONPATH": os.pathsep.join(packages),
        "OMP_NUM_THREADS": "1",  # the browser needs a processor too
    }
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += [f"--ServerApp.port={port}", f"--IdentityProvider.token={TOKEN}"]
    command += [f"--ServerApp.root_dir={home}", f"--LabApp.user_settings_dir={home / 'settings'}"]
    with (home / "server.log").open("w") as log:
        server = subprocess.Popen(
            command, env=environment, cwd=home, stdout=log, stderr=log, start_new_session=True
        )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(f"{address}/api?token={TOKEN}", timeout=1)
                break
            except OSError:
                assert server.poll() is None, (home / "server.log").read_text()[-2000:]
                time.sleep(0.5)
        yield Lab(address, home, kernel)
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:  # it waits for a kernel that is still at work
            os.killpg(server.pid, signal.SIGKILL)
            server.wait(20)


class Lab:
    def __init__(self, address, home, kernel):
        self.address, self.home, self.kernel, self.notebooks = address, home, kernel, 0

    def new_notebook(self, *replacements):
        """Put the notebook into a folder of its own; return the folder and its address."""
        self.notebooks += 1
        folder = self.home / f"notebook {self.notebooks}"
        folder.mkdir()
        notebook = nbformat.read(NOTEBOOK, as_version=4)
        for old, new in replacements:
            (cell,) = [c for c in notebook.cells if old in c.source and c.cell_type == "code"]
            cell.source = cell.source.replace(old, new)
        nbformat.write(notebook, folder / "notebook.ipynb")
        # In a workspace of its own: Jupyter opens the tabs of the notebook before again, unseen.
        place = f"tree/{folder.name}/notebook.ipynb"
        return folder, f"{self.address}/lab/workspaces/{self.notebooks}/{place}?token={TOKEN}"


@pytest.fixture
def page(chromium):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page(viewport=SIZE)
        page.set_default_timeout(30_000)
        yield page
        browser.close()


def run_all(page, address):
    page.goto(address)
    page.get_by_text(re.compile(r"ipykernel\) \| Idle")).first.wait_for()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()


def status(page):
    return page.locator(".wnet-trainingview .widget-html").first.inner_text()


def trains(page):
    panel = page.locator(".wnet-trainingview .widget-html")
    return panel.count() > 0 and re.search("epoch.*step", status(page)) is not None


def epoch(page):
    return int(re.search(r"epoch (\d+)", status(page)).group(1)) if trains(page) else 0


def press(page, name):
    page.get_by_role("button", name=name, exact=True).click()


def push(page, place, key="ArrowRight", times=1):
    """Move the slider in a place of the page by the keyboard."""
    handle = page.locator(f"{place} .noUi-handle").first
    handle.scroll_into_view_if_needed()
    handle.focus()
    for _ in range(times):
        page.keyboard.press(key)


def source_of(page, place):
    return page.locator(place).locator("img").first.get_attribute("src")


def wait_until(true, seconds=60.0):
    """Wait until something is so, and return for how long."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < seconds, "waited in vain"
        time.sleep(0.02)
    return time.monotonic() - began


def shoot(page, home, place, name, keep=None):
    """Save a picture of a place at two widths; to the repository only where asked for."""
    panel = page.locator(place).first
    for width in (1000, 1300):
        page.set_viewport_size({"width": width, "height": 1500})  # the whole panel is in sight
        panel.scroll_into_view_if_needed()
        time.sleep(0.5)
        panel.screenshot(path=home / f"{name}-{width}.png")
    if keep and os.environ.get("WNET_NB_SCREENSHOTS"):
        IMAGES.mkdir(exist_ok=True)
        panel.screenshot(path=IMAGES / keep)
    page.set_viewport_size(SIZE)


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
    shoot(page, folder, ".wnet-trainingpanel", "dashboard", "dashboard.png")

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
    page.locator('[data-command="notebook:interrupt-kernel"]').first.click()
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


def fill(page, place, entry, number=0):
    """Write into a field of a place of the page, and leave it."""
    field = page.locator(f"{place} input[type=text]").nth(number)
    field.scroll_into_view_if_needed()
    field.fill(entry)
    field.press("Tab")


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
    fill(page, size, "1.75,0.8,0.8")
    says(data, "1.75 × 0.8 × 0.8 µm")

    fill(page, network, "runs/nothing")
    says(network, "there is no network 'runs/nothing'")
    fill(page, network, "none")
    says(network, "the same steps on the image alone")
    fill(page, f"{form} .wnet-option-epochs", "abc")
    says(form, "epochs='abc' must be a number")
    fill(page, f"{form} .wnet-option-learning_rate", "0,0003")
    fill(page, f"{form} .wnet-option-epochs", "7")
    wait_until(lambda: "must be" not in page.locator(form).inner_text(), 20)

    page.get_by_role("menuitem", name="Kernel", exact=True).click()
    page.get_by_text("Restart Kernel and Run All Cells…", exact=True).click()
    press(page, "Confirm Kernel Restart")
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


def notebook_of(folder):
    return nbformat.read(folder / "notebook.ipynb", as_version=4)


def notebook_text(folder):
    return (folder / "notebook.ipynb").read_text(encoding="utf-8")
