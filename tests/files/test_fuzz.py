"""Mutated real files: every outcome is a volume or one UserError, in little memory and time."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tifffile

WORKER = Path(__file__).with_name("fuzz_tiff.py")
ROOT = WORKER.parents[2]
DIALECTS = {
    "imagej": {"imagej": True, "metadata": {"axes": "ZYX", "unit": "um", "spacing": 2.0}},
    "ome": {"ome": True, "metadata": {"axes": "ZYX", "PhysicalSizeZ": 3.0}},
    "ome_zlib": {"ome": True, "metadata": {"axes": "ZYX"}, "compression": "zlib"},
    "plain": {"metadata": None},
    "lzw": {"compression": "lzw"},
    "tiled": {"tile": (16, 16), "compression": "zlib", "predictor": True},
    "big": {"byteorder": ">", "bigtiff": True},
}


@pytest.fixture
def real_files(shared, tmp_path):
    """Real files as they are, and a part of one in every dialect."""
    names = ("gonuclear_1135_labels", "bbbc050_Emb03_t501_labels", "neubias_nuclei")
    files = [shared(f"data/{name}.tif") for name in names]
    part = tifffile.imread(files[-1])[:12, 30:78, 30:84]
    for name, options in DIALECTS.items():
        files.append(tmp_path / f"{name}.tif")
        tifffile.imwrite(files[-1], part, **options)
    return files


def read_mutations(folder, files, first, count):
    command = [sys.executable, WORKER, folder, first, count, *files]
    done = subprocess.run(
        [str(word) for word in command],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def assert_all_ended_well(found, count):
    assert found["failures"] == []
    assert sum(found["seen"].values()) == count
    assert min(found["seen"]["volume"], found["seen"]["UserError"]) > count / 20


def test_two_thousand_mutations_are_a_volume_or_one_sentence(real_files, tmp_path):
    assert_all_ended_well(read_mutations(tmp_path, real_files, 0, 2000), 2000)


@pytest.mark.long
def test_fifty_thousand_mutations_are_a_volume_or_one_sentence(real_files, tmp_path):
    assert_all_ended_well(read_mutations(tmp_path, real_files, 2000, 50_000), 50_000)
