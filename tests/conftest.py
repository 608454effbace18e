"""For all tests: a fixed seed, two threads and the reference files of ../shared."""

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(2)
SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def shared():
    def path_of(name):
        if not (SHARED / name).exists():
            miss = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
            miss(f"the reference file ../shared/{name} is not here")
        return SHARED / name

    return path_of
