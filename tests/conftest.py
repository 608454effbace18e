"""For all tests: a fixed seed, two threads and the reference files of ../shared."""

import os
from pathlib import Path

import pytest
import torch


@pytest.fixture(autouse=True)
def _same_conditions():
    torch.set_num_threads(2)
    torch.manual_seed(0)


@pytest.fixture
def shared():
    def path_of(name):
        path = Path(__file__).resolve().parents[2] / "shared" / name
        if not path.exists():
            miss = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
            miss(f"the reference file ../shared/{name} is not here")
        return path

    return path_of
