import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import wnet_nb

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted((ROOT / "wnet_nb").rglob("*.py"))
MODULE_LINES, HEART_LINES, PACKAGE_LINES = 410, 1_100, 12_050
TABLES = {"config.py"}  # one entry after the other, read by looking up, not through
IMPORT_NAMES = {"pillow": "PIL", "scikit-image": "skimage"}
# Required though no module imports it (yet), and why.
NOT_IMPORTED = {
    "ipywidgets": "the sliders and the dashboard of the notebooks",
    "gdown": "the Drive links that the Colab notebook takes",
}


def requirements():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    texts = [line.partition("#")[0].strip() for line in lines]
    return [Requirement(text) for text in texts if text]


def extras():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [
        Requirement(text) for group in project["optional-dependencies"].values() for text in group
    ]


def imported_by_the_package():
    names = set()
    for module in MODULES:
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names.add(node.module.partition(".")[0])
    return names - set(sys.stdlib_module_names) - {"wnet_nb"}


def loaded_by(statement):
    command = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_every_requirement_is_imported_or_has_a_stated_reason():
    used = imported_by_the_package()
    idle = {r.name for r in requirements() if IMPORT_NAMES.get(r.name, r.name) not in used}
    assert idle - set(NOT_IMPORTED) == set()


def test_the_package_imports_nothing_that_it_does_not_require():
    required = {IMPORT_NAMES.get(r.name, r.name) for r in requirements()}
    # Comes with ipywidgets; is there on Colab only; are used where they are installed.
    with_others = {"IPython", "google", "napari", "roifile"}
    with_others |= {"dask", "numcodecs", "pyarrow", "zarr"}  # the extra `scale`
    assert imported_by_the_package() - required - with_others == set()


def test_a_plain_installation_brings_nothing_of_what_only_large_volumes_need():
    asked = {canonicalize_name(requirement.name) for requirement in requirements()}
    assert asked & {"bokeh", "dask", "distributed", "zarr", "pyarrow", "numcodecs"} == set()
    assert (
        loaded_by("import wnet_nb.cli.verbs") & {"dask", "distributed", "zarr", "pyarrow"} == set()
    )


def test_the_tested_set_pins_every_requirement_within_its_range():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    pins = {canonicalize_name(name): version for name, version in pins.items()}
    for asked in requirements() + extras():
        assert asked.specifier.contains(pins[canonicalize_name(asked.name)]), asked


def test_the_changelog_begins_with_the_version_of_the_package():
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## \[(\d[^\]]*)\]", changelog, flags=re.MULTILINE)
    assert versions[0] == wnet_nb.__version__


def test_every_module_and_the_package_stay_within_their_line_budget():
    package = ROOT / "wnet_nb"
    names = [module.relative_to(package).as_posix() for module in MODULES]
    counts = [len(module.read_text(encoding="utf-8").splitlines()) for module in MODULES]
    lines = dict(zip(names, counts, strict=True))
    assert {name: n for name, n in lines.items() if n > MODULE_LINES and name not in TABLES} == {}
    apart = {name: n for name, n in lines.items() if name.startswith("scale/")}  # an extra
    assert sum(lines.values()) - sum(apart.values()) <= PACKAGE_LINES
    heart = [lines[f"{name}.py"] for name in ("model", "losses", "data", "training")]
    assert sum(heart) <= HEART_LINES


HEART = (
    "checkpoint config data device errors events grid inference learner losses model "
    "training whole_file"
)


def test_training_loads_the_heart_and_neither_files_nor_figures_nor_the_web():
    loaded = loaded_by("import wnet_nb.training")
    ours = {name for name in loaded if name.startswith("wnet_nb.")}
    assert ours == {f"wnet_nb.{name}" for name in HEART.split()}
    others = "tifffile matplotlib ipywidgets IPython urllib.request requests pooch skimage tarfile"
    assert loaded & set(others.split()) <= loaded_by("import torch, scipy.ndimage, numpy")


def test_importing_the_package_alone_loads_nothing_heavy():
    assert loaded_by("import wnet_nb") & {"torch", "numpy", "scipy", "skimage"} == set()


@pytest.mark.parametrize(
    "name", ["Settings", "preset", "read_volume", "train", "segment", "segment_large", "evaluate"]
)
def test_public_name_is_there_and_explains_itself(name):
    assert getattr(wnet_nb, name).__doc__ and name in dir(wnet_nb)


def test_what_is_not_public_is_no_attribute():
    with pytest.raises(AttributeError, match="no attribute 'evaluation'"):
        wnet_nb.evaluation  # noqa: B018
