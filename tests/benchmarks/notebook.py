"""How quickly the notebook answers, and how long it takes: in a real JupyterLab and Chromium.

Writes nothing; prints the table of ``notebook.md``. Run it on a machine that does nothing else:

    python tests/benchmarks/notebook.py [--whole]

`--whole` also runs the local notebook from top to bottom as it is committed, without shortening.
"""

import argparse
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[2]
WANTED = {
    "affinity picture follows its slider, while training": "0.2 s",
    "a step begins with a changed loss weight": "1 s, or one step",
    "Stop has kept the model": "2 s, or one step",
}


def main() -> None:
    """Run the browser tests and print what they measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--whole", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "tests/notebooks/test_browser_local.py"]
        command += [f"--junitxml={report}", "-o", "junit_family=xunit1"]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        print("| what | kernel | wanted | measured |\n|---|---|---|---|")
        for case in ET.parse(report).iter("testcase"):
            kernel = case.get("name").partition("[")[2].rstrip("]")
            for found in case.iter("property"):
                wanted = WANTED[found.get("name")]
                value = float(found.get("value"))
                print(f"| {found.get('name')} | {kernel} | {wanted} | {value:.2f} s |")
        if options.whole:
            print(f"| Run All, unshortened | | 2 min | {run_whole(Path(folder)) / 60:.1f} min |")


def run_whole(folder: Path) -> float:
    """Run the notebook on the example, unattended; return the seconds it took."""
    notebook = nbformat.read(ROOT / "notebooks" / "WNet3D_local.ipynb", 4)
    place = {"metadata": {"path": str(folder)}}
    began = time.monotonic()
    NotebookClient(notebook, timeout=900, kernel_name="python3", resources=place).execute()
    return time.monotonic() - began


if __name__ == "__main__":
    main()
