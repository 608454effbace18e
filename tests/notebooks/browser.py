"""A JupyterLab and the local notebook in it, and what a user does there, for the browser tests."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "notebooks" / "WNet3D_local.ipynb"
IMAGES = ROOT / "docs"
SHORT = 'config.preset("quick", epochs=300, patches_per_volume=4, '
FLAGS = (
    "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update "
    "--disable-sync --no-first-run --disable-quic"
).split()
TOKEN = "for-the-test"
NEWEST, KERNEL6, COLAB = "newest ipykernel", "ipykernel 6", "Colab's packages"
SIZE = {"width": 1300, "height": 900}


def missing(what):
    (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(what)


def folder_in(variable, what):
    """Return the folder that a variable of the environment names, as the tests' first lines say."""
    if variable not in os.environ:
        missing(f"{variable} names no folder with {what} (see the top of this file)")
    return Path(os.environ[variable]).absolute()


def start_lab(home, kernel=NEWEST, *command, package=ROOT):
    """Start a JupyterLab in a folder, with a kernel and the front end that goes with it."""
    packages, python = [str(package)], sys.executable
    if kernel == KERNEL6:
        packages.insert(0, str(folder_in("WNET_NB_KERNEL6", "ipykernel 6")))
    elif kernel == COLAB:
        python = str(folder_in("WNET_NB_COLAB_LAB", "Colab's packages") / "bin" / "python")
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
    command = [*(command or (python, "-m", "jupyterlab")), "--no-browser", "--allow-root"]
    command += [f"--ServerApp.port={port}"]
    command += [f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={home}"]
    command += [f"--LabApp.user_settings_dir={home / 'settings'}"]
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

    def new_notebook(self, *replacements, source=NOTEBOOK, only=()):
        """Put the notebook into a folder of its own; return the folder and its address.

        Of its code cells those that hold one of `only`, and no text then.
        """
        self.notebooks += 1
        folder = self.home / f"notebook {self.notebooks}"
        folder.mkdir()
        notebook = nbformat.read(source, as_version=4)
        if only:
            code = [cell for cell in notebook.cells if cell.cell_type == "code"]
            notebook.cells = [c for c in code if any(part in c.source for part in only)]
        for old, new in replacements:
            (cell,) = [c for c in notebook.cells if old in c.source and c.cell_type == "code"]
            cell.source = cell.source.replace(old, new)
        nbformat.write(notebook, folder / "notebook.ipynb")
        # In a workspace of its own: Jupyter opens the tabs of the notebook before again, unseen.
        place = f"tree/{folder.name}/notebook.ipynb"
        return folder, f"{self.address}/lab/workspaces/{self.notebooks}/{place}?token={TOKEN}"


def run_all(page, address):
    open_notebook(page, address)
    choose(page, "Run", "Run All Cells")


def choose(page, menu, words):
    page.get_by_role("menuitem", name=menu, exact=True).click()
    page.locator(f"#jp-mainmenu-{menu.lower()}").get_by_text(words, exact=True).click()


def open_notebook(page, address):
    page.goto(address)
    page.get_by_text(re.compile(r"ipykernel\) \| Idle")).first.wait_for()


def run_cell(page, part, below=False):
    """Run the cell that holds some code, or it and all below it, as a user does; return the last.

    That is: what its prompt says now, and the prompt.
    """
    cells = page.locator(".jp-CodeCell")
    prompt = cells.filter(has_text=part).first.locator(".jp-InputPrompt").first
    last = cells.last.locator(".jp-InputPrompt").first if below else prompt
    before = last.inner_text()
    prompt.click()
    if below:
        choose(page, "Run", "Run Selected Cell and All Below")
    else:
        page.keyboard.press("Shift+Enter")
    return before, last


def is_done(page):
    """Return whether no cell runs or waits."""
    return page.locator(".jp-CodeCell .jp-InputPrompt").filter(has_text="[*]").count() == 0


def run_and_wait(page, part, below=False):
    before, last = run_cell(page, part, below)
    wait_until(lambda: last.inner_text() != before and is_done(page), 300)


def says(page, place, words):
    """Wait until a place of the page says what matches."""
    panels = page.locator(f"{place} >> visible=true")
    try:
        wait_until(lambda: panels.count() and re.search(words, panels.last.inner_text()), 90)
    except AssertionError:
        pytest.fail(f"{place} does not say {words}, but: {panels.all_inner_texts()}")


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
    handle = page.locator(place).locator(".noUi-handle, .ui-slider-handle").first
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


def shoot(page, home, place, name, keep=None, last=None):
    """Save a picture of a place at two widths; to the repository only where asked for.

    That one ends below the place `last`, if it is given.
    """
    panel = page.locator(place).first
    for width in (1000, 1300):
        page.set_viewport_size({"width": width, "height": 1500})  # the whole panel is in sight
        panel.scroll_into_view_if_needed()
        time.sleep(0.5)
        panel.screenshot(path=home / f"{name}-{width}.png")
    if keep and os.environ.get("WNET_NB_SCREENSHOTS"):
        IMAGES.mkdir(exist_ok=True)
        shown = panel.bounding_box()
        if last:
            end = page.locator(last).first.bounding_box()
            shown["height"] = end["y"] + end["height"] - shown["y"]
        page.screenshot(path=IMAGES / keep, clip=shown)
    page.set_viewport_size(SIZE)


def fill(page, place, entry, number=0):
    """Write into a field of a place of the page, and leave it."""
    field = page.locator(place).locator("input[type=text]").nth(number)
    field.scroll_into_view_if_needed()
    field.fill(entry)
    field.press("Tab")


def notebook_of(folder):
    return nbformat.read(folder / "notebook.ipynb", as_version=4)


def notebook_text(folder):
    return (folder / "notebook.ipynb").read_text(encoding="utf-8")
