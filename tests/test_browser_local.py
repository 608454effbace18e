"""The local notebook in a real JupyterLab in a real Chromium, as a user would go through it."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest

from wnet_nb import runs

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "notebooks" / "WNet3D_local.ipynb"
IMAGES = ROOT / "docs"
SHORT = 'config.preset("quick", base_channels=8, epochs=300, patches_per_volume=16, '
FLAGS = (
    "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update "
    "--disable-sync --no-first-run"
).split()
TOKEN = "for-the-test"


@pytest.fixture(scope="module")
def chromium():
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next((path for path in map(shutil.which, names) if path), None)
    if found is None:
        miss = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        miss("no Chromium is installed (chromium, chromium-browser or google-chrome)")
    return found


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with the notebook, its training made short-stepped and long, and quiet settings."""
    home = tmp_path_factory.mktemp("lab")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    (cell,) = [c for c in notebook.cells if 'config.preset("quick", ' in c.source]
    cell.source = cell.source.replace('config.preset("quick", ', SHORT)
    nbformat.write(notebook, home / "notebook.ipynb")
    settings = {
        "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
        "notebook-extension/tracker": {"windowingMode": "none"},
    }
    for name, values in settings.items():
        path = home / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    return home


@pytest.fixture(scope="module")
def lab(home):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "HOME": str(home),
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += [f"--ServerApp.port={port}", f"--IdentityProvider.token={TOKEN}"]
    command += [f"--ServerApp.root_dir={home}", f"--LabApp.user_settings_dir={home / 'settings'}"]
    with (home / "server.log").open("w") as log:
        server = subprocess.Popen(command, env=environment, cwd=home, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(f"{address}/api?token={TOKEN}", timeout=1)
                break
            except OSError:
                assert server.poll() is None, (home / "server.log").read_text()[-2000:]
                time.sleep(0.5)
        yield f"{address}/lab/tree/notebook.ipynb?token={TOKEN}"
    finally:
        server.terminate()
        server.wait(20)


@pytest.fixture(scope="module")
def page(lab, chromium, home):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page(viewport={"width": 1300, "height": 900})
        page.set_default_timeout(30_000)
        page.goto(lab)
        page.get_by_text(re.compile(r"ipykernel\) \| Idle")).first.wait_for()
        yield page
        page.screenshot(path=home / "last.png")
        browser.close()


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
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < seconds, "waited in vain"
        time.sleep(0.05)
    return time.monotonic() - began


def shoot(page, home, place, name, keep=None):
    """Save a picture of a place at two widths; to the repository only where asked for."""
    for width in (1100, 1300):
        page.set_viewport_size({"width": width, "height": 900})
        panel = page.locator(place).first
        panel.scroll_into_view_if_needed()
        time.sleep(0.5)
        page.screenshot(path=home / f"{name}-{width}.png")
    page.set_viewport_size({"width": 1300, "height": 1500})  # the whole panel is in sight
    panel.scroll_into_view_if_needed()
    time.sleep(0.5)
    panel.screenshot(path=home / f"{name}-panel.png")
    if keep and os.environ.get("WNET_NB_SCREENSHOTS"):
        IMAGES.mkdir(exist_ok=True)
        panel.screenshot(path=IMAGES / keep)
    page.set_viewport_size({"width": 1300, "height": 900})


def test_a_user_goes_through_the_notebook(page, home):
    times = {}
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()
    status = page.locator(".wnet-monitor .widget-html").first
    wait_until(lambda: "epoch" in status.inner_text() and "step" in status.inner_text(), 60)
    shoot(page, home, ".wnet-datafield", "data")

    # While it trains: the picture of the affinities follows its slider.
    before = source_of(page, ".wnet-affinitypicture")
    push(page, ".wnet-settingsform .wnet-option-intensity_sigma", times=8)
    seconds = wait_until(lambda: source_of(page, ".wnet-affinitypicture") != before, 20)
    times["affinity picture after"] = seconds
    shoot(page, home, ".wnet-settingsform", "form")

    # The weight of a loss is changed; the training takes it.
    push(page, ".wnet-dashboard .wnet-option-reconstruction_weight", times=10)
    note = page.locator(".wnet-dashboard").get_by_text(re.compile(r"from step \d+"))
    seconds = wait_until(lambda: note.count() > 0, 20)
    times["live change after"] = seconds
    previews = page.locator(".wnet-dashboard img")
    wait_until(lambda: previews.count() > 1 and previews.nth(1).bounding_box()["height"] > 50)
    shoot(page, home, ".wnet-dashboard", "dashboard", "dashboard.png")

    # Pause, go on, stop.
    page.get_by_role("button", name="Pause", exact=True).click()
    wait_until(lambda: "Paused" in status.inner_text(), 10)
    page.get_by_role("button", name="Start", exact=True).click()
    wait_until(lambda: "step" in status.inner_text(), 10)
    page.get_by_role("button", name="Stop and keep", exact=True).click()
    seconds = wait_until(lambda: status.inner_text().startswith("Stopped, and"), 20)
    times["stopped after"] = seconds

    # The cells below go on with the kept model.
    page.locator(".wnet-celltable").wait_for()
    wait_until(lambda: page.locator("text=/results:/").count() > 0, 60)
    shoot(page, home, ".wnet-viewer >> nth=1", "viewer", "viewer.png")
    shoot(page, home, ".wnet-celltuner", "tuner")
    shoot(page, home, ".wnet-celltable", "table")
    picture = source_of(page, ".wnet-viewer >> nth=3")
    page.locator(".wnet-celltable select").last.select_option(index=5)
    wait_until(lambda: source_of(page, ".wnet-viewer >> nth=3") != picture, 10)

    run = home / "runs" / "example"
    changes = " ".join(row["changes"] for row in runs.read_history(run))
    assert "reconstruction_weight" in changes
    assert (run / "predictions" / "example" / "cells.csv").stat().st_size > 200
    print({what: f"{seconds:.2f} s" for what, seconds in times.items()})
