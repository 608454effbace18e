import pytest

from wnet_nb.jobs.stacks import read_stacks
from wnet_nb.widgets.affinity import _nucleus, affinity_png


@pytest.mark.parametrize(
    "change", [{"spatial_sigma": 1.0}, {"intensity_sigma": 0.5}, {"radius": 3}, {"dropout": 0.1}]
)
def test_the_picture_follows_the_options_of_the_soft_ncut(settings, stacks, change):
    before = affinity_png(stacks[0], settings)
    after = affinity_png(stacks[0], settings.replace(**change))
    assert (after == before) == ("dropout" in change)


def test_its_voxel_lies_within_a_nucleus(settings, folder, example):
    (stack,) = read_stacks(folder / "in", settings)
    prepared = stack.prepared(settings)
    z, y, x = (p * f for p, f in zip(_nucleus(prepared.array), prepared.factors, strict=True))
    assert example[1][z, y, x] > 0 and min(y, x) > 3
