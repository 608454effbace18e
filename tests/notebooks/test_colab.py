"""The Colab notebook, run from top to bottom with a stand-in for `google.colab`.

The kernel is the Python of this test run, or the one named by the environment variable
WNET_NB_NOTEBOOK_PYTHON. Colab's set of packages is made so, with the package's own requirements:

    python -m venv colab && colab/bin/pip install -r requirements.txt ipykernel==6.17.1 \
        ipython==7.34.0 ipywidgets==7.7.1 gdown==5.2.2
    WNET_NB_NOTEBOOK_PYTHON=colab/bin/python python -m pytest tests/notebooks/test_colab.py
"""

import ast
import csv
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import jupytext
import nbformat
import pytest
import tifffile
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError

from wnet_nb import config

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "notebooks" / "WNet3D_colab.ipynb"
TWIN = NOTEBOOK.with_suffix(".py")
CELL_LINES, CODE_LINES = 15, 150
SHORT = {
    'preset = "published"': 'preset = "scratch"',
    "use_the_preset = True": "use_the_preset = False",
    "epochs = 50": "epochs = 2",
    "batch_size = 4": "batch_size = 2",
    "patch_size = 64": "patch_size = 16",
    "patches_per_volume = 20": "patches_per_volume = 4",
    "**chosen, **data.options": "**chosen, base_channels=4, **data.options",
    "learning_rate = 2e-5": "learning_rate = 1e-3",
    "use_google_drive = False": "use_google_drive = True",
}
NOT_OPTIONS = {  # fields that are no options of `config`, and what they hold at first
    "package": "",
    "use_google_drive": False,
    "data_source": "example volume",
    "folder": "",
    "drive_link": "",
    "labels": "",
    "preset": "published",
    "use_the_preset": True,
    "run_name": "my_run",
    "continue_newest_run": False,
    "model": "",
    "images": "",
    "download_as_zip": True,
}
STAND_IN = {
    "__init__.py": "",
    "drive.py": """
import os
from pathlib import Path

def mount(point):
    Path(point).mkdir(parents=True, exist_ok=True)
    my_drive = Path(point) / "MyDrive"
    if not my_drive.exists():
        my_drive.symlink_to(os.environ["STAND_IN_DRIVE"])
    Path(os.environ["STAND_IN_LOG"] + ".pid").write_text(str(os.getpid()))
""",
    "files.py": """
import os

def download(path):
    with open(os.environ["STAND_IN_LOG"], "a") as log:
        log.write(path + "\\n")
""",
}


@pytest.fixture
def runtime(tmp_path, monkeypatch):
    """A Colab of the test's own: `start` gives a fresh disk, `drive` stays."""
    return Runtime(tmp_path, monkeypatch)


class Runtime:
    def __init__(self, folder, monkeypatch):
        self.folder, self.drive, self.log = folder, folder / "my drive", folder / "downloads"
        self.drive.mkdir()
        package = folder / "stand_in" / "google" / "colab"
        package.mkdir(parents=True)
        for name, text in STAND_IN.items():
            (package / name).write_text(text)
        python = os.environ.get("WNET_NB_NOTEBOOK_PYTHON", sys.executable)
        kernel = {
            "argv": [python, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
            "display_name": "test",
            "language": "python",
            "env": {
                "PYTHONPATH": f"{ROOT}{os.pathsep}{folder / 'stand_in'}",
                "STAND_IN_DRIVE": str(self.drive),
                "STAND_IN_LOG": str(self.log),
                "OMP_NUM_THREADS": "1",
            },
        }
        spec = folder / "jupyter" / "kernels" / "wnet_nb_test" / "kernel.json"
        spec.parent.mkdir(parents=True)
        spec.write_text(json.dumps(kernel))
        monkeypatch.setenv("JUPYTER_PATH", str(folder / "jupyter"))
        self.disks = 0

    def run(self, replacements, times=1):
        """Execute every cell of the notebook so many times on a fresh disk; return the disk."""
        self.disks += 1
        disk = self.folder / f"disk {self.disks}"
        disk.mkdir()
        notebook = nbformat.read(NOTEBOOK, 4)
        replace(notebook, SHORT | replacements)
        notebook.cells = [
            nbformat.from_dict(cell | {"id": f"{cell.id}-{n}"})
            for cell in notebook.cells
            for n in range(times)
        ]
        try:
            NotebookClient(
                notebook,
                timeout=300,
                kernel_name="wnet_nb_test",
                resources={"metadata": {"path": str(disk)}},
            ).execute()
        finally:
            nbformat.write(notebook, disk / "executed.ipynb")
        return disk

    def kill_when(self, condition):
        """Kill the kernel with SIGKILL as soon as a condition holds."""

        def watch():
            deadline = time.monotonic() + 120
            while time.monotonic() < deadline and not condition():
                time.sleep(0.01)
            os.kill(int(Path(f"{self.log}.pid").read_text()), signal.SIGKILL)

        thread = threading.Thread(target=watch)
        thread.start()
        return thread


def replace(notebook, replacements):
    for old, new in replacements.items():
        holding = [c for c in notebook.cells if c.cell_type == "code" and old in c.source]
        assert len(holding) == 1, f"{old!r} is in {len(holding)} cells"
        holding[0].source = holding[0].source.replace(old, new)


def rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def check_results(results, name, *, epochs):
    """Read the results of a run on Drive and check that they belong together."""
    for number in ("", "-2"):  # of section 5 and of section 6
        cells = results / "predictions" / f"{name}{number}"
        found = json.loads((cells / "result.json").read_text(encoding="utf-8"))
        labels = tifffile.imread(cells / "labels.tif")
        assert labels.max() == found["count"] == len(rows(cells / "cells.csv"))
        assert found["count"] > 0
        assert (cells / "scores.json").exists(), "every result of a volume with truth is scored"
    history = rows(results / "history.csv")
    assert [int(row["epoch"]) for row in history] == [*range(1, epochs + 1)]
    assert not list(results.rglob(".*")), "only finished files belong on Drive"
    quality = results / "Quality Control"
    assert {p.name for p in quality.iterdir()} == {
        "training_losses.png",
        "training_evaluation.csv",
        "quality_metrics.csv",
        f"{name}_scores.png",
        "version_log.txt",
    }
    scores = rows(quality / "quality_metrics.csv")
    assert [row["method"] for row in scores] == ["network", "without network"]
    assert all(0 <= float(row["F1"]) <= 1 for row in scores)


def test_the_example_goes_from_install_to_results_on_drive(runtime):
    disk = runtime.run({})
    results = runtime.drive / "wnet_nb" / "my_run"
    check_results(results, "example", epochs=2)
    for file in results.rglob("*.*"):
        assert file.read_bytes() == (disk / "runs/my_run" / file.relative_to(results)).read_bytes()
    assert runtime.log.read_text().splitlines() == [str(disk / "my_run.zip")]
    with zipfile.ZipFile(disk / "my_run.zip") as archive:
        assert archive.testzip() is None
        assert "predictions/example/labels.tif" in archive.namelist()


def test_every_cell_run_twice_in_a_row_leads_to_the_same_training(runtime):
    no_drive = {"use_google_drive = False": "use_google_drive = False"}
    disks = [runtime.run(no_drive, times) for times in (1, 2)]
    once, twice = (next((disk / "runs").iterdir()) for disk in disks)
    assert [p.name for p in (disks[1] / "runs").iterdir()] == ["my_run"]
    records = [json.loads((run / "settings.json").read_text()) for run in (once, twice)]
    assert records[0]["options"] == records[1]["options"]
    assert records[1]["options"]["learning_rate"] == 1e-3
    losses = [[row["total"] for row in rows(run / "history.csv")] for run in (once, twice)]
    assert losses[0] == losses[1]
    cells = [(run / "predictions/example/cells.csv").read_bytes() for run in (once, twice)]
    assert cells[0] == cells[1]


def test_an_own_folder_is_trained_killed_and_gone_on_with_on_another_runtime(runtime, shared):
    name = "gonuclear_1135"
    for kind, folder in (("image", "my images"), ("labels", "my labels")):
        (runtime.drive / folder).mkdir()
        volume = tifffile.imread(shared(f"data/{name}_{kind}.tif"))[20:68, 20:84, 20:84]
        tifffile.imwrite(runtime.drive / folder / f"{name}_{kind}.tif", volume)
    own = {
        'data_source = "example volume"': 'data_source = "own folder"',
        'folder = ""': 'folder = "my images"',
        'labels = ""': 'labels = "my labels"',
        "download_as_zip = True": "download_as_zip = False",
        "epochs = 50": "epochs = 8",
    }
    states = runtime.drive / "wnet_nb" / "training states"
    history = runtime.folder / "disk 1" / "runs" / "my_run" / "history.csv"
    killer = runtime.kill_when(lambda: history.exists() and len(rows(history)) >= 2)
    with pytest.raises(DeadKernelError):
        runtime.run(own)
    killer.join()
    assert len(rows(history)) < 8
    saved = {path: path.read_bytes() for path in states.iterdir()}
    assert saved
    disk = runtime.run(own | {"continue_newest_run = False": "continue_newest_run = True"})
    check_results(runtime.drive / "wnet_nb" / "my_run", f"{name}_image", epochs=8)
    for path, content in saved.items():  # but for those that two newer ones replaced
        assert not path.exists() or path.read_bytes() == content
    copies = [p.name for p in (disk / "data").rglob("*.tif")]
    assert sorted(copies) == [f"{name}_image.tif", f"{name}_labels.tif"]
    assert not runtime.log.exists()


def test_without_a_package_the_first_cell_says_what_to_fill_in(runtime, tmp_path):
    done = first_cell(tmp_path)
    assert done.returncode == 1
    assert "fill in the field" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("place", ["", "drive/MyDrive/"])
def test_the_first_cell_installs_from_a_zip(tmp_path, place):
    (tmp_path / place).mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(tmp_path / place / "wnet_nb-main.zip", "w") as archive:
        archive.writestr("wnet_nb-main/colab_setup.sh", "echo installed from $0")
    done = first_cell(tmp_path)
    assert done.stdout == "installed from wnet_nb_source/wnet_nb-main/colab_setup.sh\n"


def test_the_first_cell_installs_from_a_folder_and_from_an_address(tmp_path, serve):
    archive = tmp_path / "served.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("wnet_nb-main/colab_setup.sh", "echo from the address")
    address = serve(archive.read_bytes(), name="package.zip")
    (tmp_path / "a").mkdir()
    assert "from the address" in first_cell(tmp_path / "a", address).stdout
    (tmp_path / "b" / "wnet_nb").mkdir(parents=True)
    (tmp_path / "b" / "wnet_nb" / "colab_setup.sh").write_text("echo from the folder")
    assert first_cell(tmp_path / "b", address).stdout == "from the folder\n"


def first_cell(folder, package=""):
    """Run the first cell in a folder, by a Python that cannot import wnet_nb."""
    source = next(c.source for c in nbformat.read(NOTEBOOK, 4).cells if c.cell_type == "code")
    assert 'package = ""' in source
    source = source.replace('package = ""', f"package = {package!r}")
    hide = "import sys\nsys.modules['wnet_nb'] = None\n"
    hide += "import importlib.util\nimportlib.util.find_spec = lambda name: None\n"
    return subprocess.run(
        [sys.executable, "-P", "-c", hide + source], cwd=folder, capture_output=True, text=True
    )


def code_cells():
    return [c.source for c in nbformat.read(NOTEBOOK, 4).cells if c.cell_type == "code"]


def test_every_form_field_begins_with_the_default_of_its_option():
    fields = {}
    for source in code_cells():
        for line in source.splitlines():
            if "@param" in line:
                name, value = re.fullmatch(r"(\w+) = (.+?)  # @param .*", line).groups()
                fields[name] = ast.literal_eval(value)
    options = {name: value for name, value in fields.items() if name not in NOT_OPTIONS}
    assert options == {name: config.DEFAULTS[name] or "" for name in options}
    assert {name: fields[name] for name in NOT_OPTIONS} == NOT_OPTIONS


def test_the_notebook_is_short_and_has_no_functions_or_loops():
    total = 0
    for source in code_cells():
        lines = [x for x in source.splitlines() if x.strip() and not x.lstrip().startswith("#")]
        assert len([x for x in lines if "@param" not in x]) <= CELL_LINES
        total += len(lines)
        for node in ast.walk(compile(source, "cell", "exec", FLAGS)):
            assert not isinstance(
                node, ast.FunctionDef | ast.AsyncFunctionDef | ast.For | ast.While
            )
    assert total <= CODE_LINES


FLAGS = ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT


def test_the_notebook_holds_no_outputs_and_equals_its_twin():
    notebook = nbformat.read(NOTEBOOK, 4)
    for cell in notebook.cells:
        assert cell.cell_type == "markdown" or (not cell.outputs and cell.execution_count is None)
    twin = jupytext.read(TWIN)
    assert [(c.cell_type, c.source, c.metadata) for c in notebook.cells] == [
        (c.cell_type, c.source, c.metadata) for c in twin.cells
    ]


def test_a_wrong_path_stops_at_its_cell_with_one_sentence(runtime):
    wrong = {
        'data_source = "example volume"': 'data_source = "own folder"',
        'folder = ""': 'folder = "nowhere"',
    }
    with pytest.raises(CellExecutionError) as caught:
        runtime.run(wrong)
    assert "there is no 'nowhere'" in str(caught.value)
