"""The built-in example volume: 130 simulated nuclei of cleared tissue, with their true labels.

It is a file of the package; `make_nuclei` of `tests/benchmarks/nuclei.py` made it.
"""

import shutil
from pathlib import Path

import wnet_nb
from wnet_nb.whole_file import new_file

PACKAGE = Path(wnet_nb.__file__).parent


def write_example(folder: Path) -> Path:
    """Copy the example, 96³ voxels of 1 µm, and its true labels; return the path of the image."""
    for name in ("example_labels.tif", "example.tif"):
        with new_file(folder / name) as part:
            shutil.copyfile(PACKAGE / name, part)
    return folder / "example.tif"
