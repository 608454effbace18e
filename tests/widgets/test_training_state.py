"""The state machine of the training panel, without a widget."""

import pytest

from wnet_nb.errors import UserError
from wnet_nb.widgets.training_state import NEXT, TrainingState

ASKED = ("check", "start", "pause", "resume", "stop", "snapshot", "extend")


def state_in(phase, *, epochs=6, done=4):
    state = TrainingState(epochs)
    state.phase, state.done, state.begun = phase, done, True
    return state


def test_a_training_is_checked_started_paused_and_stopped_in_turn():
    state = TrainingState(5)
    phases = [state.phase]
    for asked in ("check", None, "start", "pause", "resume", "stop", None):
        state.ask(asked) if asked else state.end()
        phases.append(state.phase)
    assert phases == [
        "idle", "checking", "idle", "training", "paused", "training", "stopping", "idle"
    ]  # fmt: skip


def test_nothing_can_be_started_while_the_check_is_on():
    state = TrainingState(5)
    state.ask("check")
    with pytest.raises(UserError, match="'start' is not possible now: the training is checking"):
        state.ask("start")
    assert state.phase == "checking"


@pytest.mark.parametrize("phase", NEXT)
def test_what_may_not_be_asked_for_is_refused_and_changes_nothing(phase):
    for asked in ASKED:
        state = state_in(phase)
        if not state.may(asked):
            with pytest.raises(UserError):
                state.ask(asked, 1)
            assert (state.phase, state.epochs) == (phase, 6)


def test_a_training_that_reached_its_epochs_is_finished_and_can_only_be_extended():
    state = state_in("training", done=6)
    state.end()
    assert state.phase == "finished"
    assert [asked for asked in ASKED if state.may(asked)] == ["extend"]


def test_a_stopped_training_can_go_on():
    state = state_in("stopping")
    state.end()
    assert state.phase == "stopped" and state.may("start")


@pytest.mark.parametrize(("phase", "epochs"), [("stopped", 50), ("finished", 4)])
def test_extending_by_two_after_the_end_at_epoch_four_lets_it_be_started_to_six(phase, epochs):
    state = state_in(phase, epochs=epochs)
    state.ask("extend", 2)
    assert (state.epochs, state.phase) == (6, "stopped") and state.may("start")


@pytest.mark.parametrize("phase", ["training", "paused"])
def test_extending_while_it_trains_counts_from_the_epochs_asked_for(phase):
    state = state_in(phase, epochs=50)
    state.ask("extend", 2)
    assert (state.epochs, state.phase) == (52, phase)


def test_what_was_never_begun_cannot_be_extended():
    assert not TrainingState(5).may("extend")
