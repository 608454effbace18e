import numpy as np

from wnet_nb.jobs.network_added import compare, network_in_words

ADDED = {
    "count": 123,
    "without_network": 121,
    "same": 120,
    "only_with_network": 3,
    "only_without": 1,
}


def test_what_the_network_changed_is_said_in_one_line():
    assert network_in_words(ADDED) == (
        "the network changed 3 of 123, and 1 of the 121 found without it are gone (120 are the "
        "same)"
    )
    same = ADDED | {"only_with_network": 0, "only_without": 0}
    assert network_in_words(same).startswith("the network changed none of them")


def test_what_the_network_added_is_counted_by_overlap():
    labels = np.zeros((4, 4, 12), np.int32)
    baseline = labels.copy()
    labels[..., :4], labels[..., 8:] = 1, 2
    baseline[..., 1:4], baseline[..., 5:7] = 7, 9  # 3 of 4 voxels shared; nothing shared
    assert compare(labels, baseline) == {
        "count": 2,
        "without_network": 2,
        "same": 1,
        "only_with_network": 1,
        "only_without": 1,
    }
