"""Copies of a training's state on Drive: the newest two, whole, and what goes on from them."""

import os
import shutil

import pytest

from wnet_nb.checkpoint import STATES
from wnet_nb.colab import backups
from wnet_nb.colab.backups import FOLDER, Backups
from wnet_nb.errors import UserError
from wnet_nb.events import EpochEnd

EPOCH = EpochEnd(1, {}, 0.0, None, None)


@pytest.fixture
def run(tmp_path):
    """A run folder with one state; `tmp_path / "drive"` plays Drive."""
    return write_state(tmp_path / "disk" / "runs" / "mine", 1)


def write_state(run, step):
    (run / STATES).mkdir(parents=True, exist_ok=True)
    (run / "settings.json").write_text("{}")
    (run / STATES / f"step-{step:08d}.pt").write_text(f"state {step}")
    return run


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_only_the_last_two_states_stay_on_drive_and_those_of_other_runs(run, tmp_path):
    other = tmp_path / "drive" / FOLDER / "mine-2 step 00000001.zip"
    other.parent.mkdir(parents=True)
    other.write_text("of another run")
    copies = Backups(tmp_path / "drive")
    for step in range(4):
        copies.copy(write_state(run, step))
    assert names(other.parent) == [
        "mine step 00000002.zip",
        "mine step 00000003.zip",
        other.name,
    ]
    assert names(run.parent) == ["mine"]


def test_without_drive_nothing_is_copied(run):
    copies = Backups(None)
    copies.copy(run)
    assert copies.of("mine") == [] and names(run.parent) == ["mine"]


def test_a_state_is_copied_at_epochs_when_it_is_due_and_at_the_end(run, tmp_path, monkeypatch):
    copies, seen = Backups(tmp_path / "drive"), []
    monkeypatch.setattr(copies, "copy", lambda run: seen.append(run))
    monkeypatch.setattr(backups, "SECONDS", 0)
    events = copies.guard((event for event in ("step", EPOCH, "step")), run)
    assert [(event, len(seen)) for event in events] == [("step", 0), (EPOCH, 1), ("step", 1)]
    assert seen == [run, run]
    monkeypatch.setattr(backups, "SECONDS", 300)
    assert [*copies.guard((event for event in (EPOCH, EPOCH)), run)] == [EPOCH, EPOCH]
    assert len(seen) == 3  # at the end only


def test_a_full_drive_does_not_end_a_training(run, tmp_path, monkeypatch, capsys):
    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    copies = Backups(tmp_path / "drive")
    assert [*copies.guard((event for event in (1, 2)), run)] == [1, 2]
    said = capsys.readouterr()
    assert "without a copy on Drive" in said.out and said.err == ""
    assert copies.of("mine") == [] and names(run.parent) == ["mine"]


def test_the_newest_whole_copy_is_gone_on_with_on_another_runtime(run, tmp_path, capsys):
    copies = Backups(tmp_path / "drive")
    for step in (1, 2):
        copies.copy(write_state(run, step))
        copy = copies.of("mine")[-1]
        os.utime(copy, (step, step))
    copy.write_bytes(copy.read_bytes()[:-50])  # a runtime that went while it wrote
    os.utime(copy, (9, 9))
    found = copies.newest_run(tmp_path / "fresh" / "runs")
    assert found == tmp_path / "fresh" / "runs" / "mine"
    assert (found / STATES / "step-00000001.pt").read_text() == "state 1"
    assert (found / "settings.json").exists()
    assert "the copy before it is taken" in capsys.readouterr().out


def test_the_newest_run_is_taken_wherever_it_is(run, tmp_path):
    copies = Backups(tmp_path / "drive")
    copies.copy(run)
    os.utime(copies.of("mine")[0], (1, 1))
    assert copies.newest_run(run.parent) == run
    os.utime(run / STATES / "step-00000001.pt", (0, 0))
    assert copies.newest_run(run.parent) == run.with_name("mine-2")


@pytest.mark.parametrize("drive", [True, False])
def test_without_a_run_there_is_nothing_to_go_on_with(tmp_path, drive):
    with pytest.raises(UserError, match="no run to go on with"):
        Backups(tmp_path / "drive" if drive else None).newest_run(tmp_path / "runs")
