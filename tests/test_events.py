"""Tests of the requests in `wnet_nb.events`: what may be asked, and that each is given once."""

import threading

import pytest

from wnet_nb.errors import UserError
from wnet_nb.events import Controls


def test_live_change_of_another_option_is_refused_by_name():
    with pytest.raises(UserError, match="batch_size cannot change during a training"):
        Controls().change(batch_size=3)


def test_live_change_out_of_limits_is_refused_by_name_and_value():
    with pytest.raises(UserError, match="radius=99"):
        Controls().change(radius=99)


def test_what_is_asked_is_given_once_and_the_last_value_counts():
    controls = Controls()
    assert controls.take() == ({}, False)
    controls.change(radius=3, ncut_weight=0.1)
    controls.change(ncut_weight=0.2)
    controls.save_now()
    assert controls.take() == ({"radius": 3, "ncut_weight": 0.2}, True)
    assert controls.take() == ({}, False)


def test_refused_change_takes_none_of_its_options():
    controls = Controls()
    with pytest.raises(UserError, match="patch_size cannot change"):
        controls.change(radius=3, patch_size=32)
    assert controls.take() == ({}, False)


def test_no_request_of_several_threads_is_lost():
    controls, taken = Controls(), {}
    names = ("radius", "spatial_sigma", "intensity_sigma", "ncut_weight", "hold_weight")
    asking = [threading.Thread(target=controls.change, kwargs={name: 2}) for name in names]
    for thread in asking:
        thread.start()
        taken |= controls.take()[0]
    for thread in asking:
        thread.join()
    assert taken | controls.take()[0] == dict.fromkeys(names, 2)
