import numpy as np
import pytest
import tifffile

from tests.benchmarks.nuclei import make_nuclei
from tests.benchmarks.scale import make_box, nuclei_in
from wnet_nb.config import preset
from wnet_nb.jobs.segment import segment
from wnet_nb.jobs.stacks import read_stacks
from wnet_nb.jobs.void import fill_void

SHAPE = (96, 192, 192)


@pytest.fixture(scope="module")
def tissue():
    """An ellipsoid of tissue with nuclei of radius 4; all around it exactly 0."""
    return make_box(tuple(slice(0, n) for n in SHAPE), SHAPE)


def test_tissue_in_a_void_is_segmented_as_if_the_void_were_tissue(tissue, tmp_path):
    path = tmp_path / "fused.tif"
    tifffile.imwrite(path, tissue)
    result = segment("none", path, out=tmp_path / "out", voxel_size_um=(1, 1, 1))[0]
    found, true = result.labels().max(), len(nuclei_in([slice(0, n) for n in SHAPE], SHAPE))
    assert abs(int(found) - true) <= 0.05 * true


@pytest.mark.parametrize("trained_size_um", [None, (1, 1, 1)])
def test_only_the_void_is_changed_and_it_is_said(tissue, tmp_path, trained_size_um):
    tifffile.imwrite(tmp_path / "fused.tif", tissue)
    path, settings = tmp_path / "fused.tif", preset("quick")
    (stack,) = read_stacks(path, settings, trained_size_um=trained_size_um)
    assert (stack.array[tissue > 0] == tissue[tissue > 0]).all()
    level = np.unique(stack.array[tissue == 0])
    assert len(level) == 1 and np.quantile(tissue[tissue > 0], 0.2) > level[0] > 80
    assert any("exactly 0" in one.text and "no data" in one.text for one in stack.findings)
    assert stack.array.dtype == tissue.dtype


def black_background():
    return np.clip(make_nuclei(0)[0].astype(int) - 150, 0, None).astype(np.uint16)


def cells_on_black():
    image, labels = make_nuclei(0)
    return np.where(labels > 0, image, 0)


@pytest.mark.parametrize(
    "image",
    [
        make_nuclei(0)[0],
        black_background(),
        cells_on_black(),
        np.where(make_nuclei(0)[1] > 0, 1000, 0).astype(np.uint16),
        np.zeros((8, 8, 8), np.uint8),
        np.full((8, 8, 8), np.nan, np.float32),
    ],
    ids=["camera", "black background", "cells on black", "balls", "empty", "nan"],
)
def test_what_has_no_void_comes_back_as_it_is(image):
    array, words = fill_void(image)
    assert array is image and words == ""
