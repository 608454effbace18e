import numpy as np
import pytest

from wnet_nb.jobs.store import Store


def fail():
    pytest.fail("it is there and is not to be made again")


def test_older_values_are_kept_up_to_a_size():
    store = Store(100)
    arrays = [store.get(n, lambda n=n: np.full(40, n), lambda array: 40) for n in range(4)]
    kept = [array[0] for array, _ in store._kept.values()]
    assert kept == [2, 3]
    assert store.get(0, fail, lambda array: 40) is arrays[0]


def test_the_newest_value_is_kept_however_large_it_is():
    store = Store(0)
    for n in range(3):
        store.get(n, lambda n=n: np.full(1000, n), lambda array: array.nbytes)
    assert store.get(2, fail, lambda array: array.nbytes)[0] == 2
    assert len(store._in_use) == 1  # nobody holds the others


def test_what_is_too_large_is_found_only_while_it_is_in_use():
    store = Store(100, largest=100)
    value = store.get("a", lambda: np.zeros(4), lambda array: 100)
    assert store.get("a", fail, lambda array: 100) is value
    del value
    assert store.get("a", lambda: np.ones(4), lambda array: 1)[0] == 1
