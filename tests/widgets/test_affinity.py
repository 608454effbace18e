import numpy as np

from wnet_nb.jobs.stacks import read_stacks
from wnet_nb.widgets.affinity import AffinityPicture


def test_the_picture_follows_its_voxel_and_its_options(settings, stacks):
    affinity = AffinityPicture(stacks[0], settings)
    for change in (
        lambda: setattr(affinity.x, "value", affinity.x.value - 3),
        lambda: affinity.show(settings.replace(spatial_sigma=1.0)),
    ):
        before = affinity.picture.value
        change()
        assert affinity.picture.value != before


def test_it_starts_within_a_nucleus(settings, folder, example):
    (stack,) = read_stacks(folder / "in", settings)
    affinity = AffinityPicture(stack, settings)
    factors = stack.prepared(settings).factors
    z, y, x = (
        s.value * f for s, f in zip((affinity.z, affinity.y, affinity.x), factors, strict=True)
    )
    assert example[1][z, y, x] > 0
    assert np.all(np.array([y, x]) > 3)
