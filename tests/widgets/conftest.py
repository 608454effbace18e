"""A small volume with its truth, and a folder of its own for each test."""

import asyncio

import pytest
import torch

from tests.benchmarks.nuclei import make_nuclei
from wnet_nb import config, widgets
from wnet_nb.files.writing import write_volume
from wnet_nb.jobs.stacks import read_stacks
from wnet_nb.widgets import TrainingPanel

TINY = {
    "base_channels": 4,
    "patch_size": 16,
    "epochs": 2,
    "patches_per_volume": 6,
    "batch_size": 2,
    "tile_size": 32,
    "match_cell_size": False,
    "cell_radius_um": 3.0,
}
SIZE = (2.0, 1.0, 1.0)


@pytest.fixture(autouse=True)
def _by_itself(tmp_path, monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    yield
    TrainingPanel.last = None


@pytest.fixture(scope="session")
def example():
    return make_nuclei(0, shape=(24, 32, 40), n_cells=10, cell_radius_um=4.0)


@pytest.fixture(scope="session")
def folder(example, tmp_path_factory):
    """Two images and a text file in `in`, and the truth of the first in `truth`."""
    path = tmp_path_factory.mktemp("data")
    image, labels = example
    write_volume(path / "in" / "a.tif", image, voxel_size_um=SIZE)
    write_volume(path / "truth" / "a.tif", labels, voxel_size_um=SIZE)
    write_volume(path / "two" / "a.tif", image, voxel_size_um=SIZE)
    write_volume(path / "two" / "b.tif", image[:, ::-1], voxel_size_um=SIZE)
    (path / "in" / "notes.txt").write_text("not an image")
    return path


@pytest.fixture
def settings():
    return config.preset("scratch", **TINY)


@pytest.fixture
def stacks(folder, settings):
    return read_stacks(folder / "in", settings, labels=folder / "truth")


@pytest.fixture(scope="session")
def trained(folder, tmp_path_factory):
    """The run of a short training, as the panel leaves it."""
    torch.set_num_threads(1)
    settings = config.preset("scratch", **TINY)
    run = tmp_path_factory.mktemp("runs") / "a"
    panel = widgets.TrainingPanel(read_stacks(folder / "in", settings), settings, run=run)
    return asyncio.run(panel.train())


@pytest.fixture
def train(stacks, settings, capsys):
    """Return a function that trains to the end; ``act(panel)`` plays the user meanwhile."""

    def start(act=None, **changes):
        async def go():
            panel = widgets.TrainingPanel(stacks, settings.replace(**changes))
            user = asyncio.ensure_future(act(panel)) if act else None
            result = await panel.train()
            if user:
                await user
            return panel, result

        return asyncio.run(go())

    return start
