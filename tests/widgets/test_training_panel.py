import asyncio
import re
import threading
import time

import pytest

from wnet_nb import checkpoint, widgets
from wnet_nb.files.run_files import read_history, read_record
from wnet_nb.jobs.segment import segment
from wnet_nb.widgets import StopInPlace, TrainingPanel, busy_cell, open_training, training_panel


async def until(true, seconds=30.0):
    for _ in range(int(seconds / 0.005)):
        if true():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("waited in vain")


def totals(result):
    return [row["total"] for row in result.history]


def run_panel(stacks, settings, act):
    async def go():
        return await act(widgets.TrainingPanel(stacks, settings))

    return asyncio.run(go())


def test_training_returns_the_model_and_leaves_its_folder(trained):
    assert trained.finished and len(trained.history) == 2
    assert checkpoint.load_checkpoint(trained.run).settings == trained.model.settings
    assert trained.advice


def test_the_preset_is_recorded(trained):
    assert read_record(trained.run)["preset"] == "scratch"


def test_the_check_says_what_the_training_will_take(stacks, settings, tmp_path, capsys):
    panel = widgets.TrainingPanel(stacks, settings)
    asyncio.run(panel.check())
    assert re.search("GB, about .* for 2 epochs", panel.view.status.value)
    assert not (tmp_path / "runs").exists()


def test_start_does_nothing_while_the_check_is_on(stacks, settings, monkeypatch):
    going = threading.Event()

    def slow(*_):
        going.wait(10)
        raise StopInPlace("the check was let go")

    monkeypatch.setattr(training_panel, "estimate_training", slow)

    async def act(panel):
        check = asyncio.ensure_future(panel.check())
        await until(lambda: panel.state.phase == "checking")
        disabled = panel.start.disabled
        panel.start.click()
        await asyncio.sleep(0.1)
        phase = panel.state.phase
        going.set()
        with pytest.raises(StopInPlace):
            await check
        return disabled, phase, panel.run, panel.start.disabled

    assert run_panel(stacks, settings, act) == (True, "checking", None, False)


def test_an_interrupt_during_the_check_ends_the_check_and_run_all(stacks, settings, monkeypatch):
    real = busy_cell.attend

    async def interrupted(work, interrupt):
        asyncio.get_running_loop().call_later(0.05, interrupt)
        return await real(work, interrupt)

    going = threading.Event()
    monkeypatch.setattr(training_panel, "estimate_training", lambda *_: going.wait(10))
    monkeypatch.setattr(training_panel, "attend", interrupted)

    async def act(panel):
        with pytest.raises(StopInPlace, match="The check was interrupted"):
            await panel.check()
        going.set()
        return panel.state.phase

    assert run_panel(stacks, settings, act) == "idle"


def test_a_live_change_is_marked_at_the_step_the_trainer_took_it_up(train):
    async def user(panel):
        await until(lambda: panel.view.last_step >= 1)
        panel.live["reconstruction_weight"].control.value = "0,1"
        panel.live["radius"].slider.value = 2

    panel, result = train(user, epochs=1, patches_per_volume=60)
    recorded = " | ".join(row["changes"] for row in read_history(result.run) if row["changes"])
    taken = dict(re.findall(r"step (\d+): ([^|]+?)(?: \||$)", recorded))
    assert {str(step): words for step, words in panel.view.changes.items()} == taken
    assert "reconstruction_weight=0.1" in recorded and "radius=3" in recorded
    assert result.model.settings.radius == 3


def test_stop_keeps_a_model_that_segments(train, stacks):
    async def user(panel):
        await until(lambda: panel.view.last_step >= 3)
        panel.stop.click()

    panel, result = train(user, epochs=5000)
    assert not result.finished
    assert "Stopped" in panel.view.status.value
    (found,) = segment(result.run, stacks)
    assert found.labels().shape == stacks[0].shape


def test_pause_and_start_continue_with_the_same_numbers(train, trained):
    async def user(panel):
        await until(lambda: panel.view.last_step >= 2)
        panel.pause.click()
        await until(lambda: "Paused" in panel.view.status.value)
        step = panel.view.last_step
        await asyncio.sleep(0.3)
        assert panel.view.last_step == step
        panel.start.click()

    _, result = train(user)
    assert totals(result) == totals(trained)


def test_save_now_writes_the_weights_and_changes_nothing(train, trained):
    seen = []

    async def user(panel):
        await until(lambda: panel.view.last_step >= 2)
        assert not (panel.run / checkpoint.WEIGHTS).exists()
        panel.snapshot.click()
        await until(lambda: (panel.run / checkpoint.WEIGHTS).exists())
        seen.append(checkpoint.load_checkpoint(panel.run).settings.base_channels)

    _, result = train(user, patches_per_volume=40)
    assert seen == [4]
    assert totals(result) == totals(train(patches_per_volume=40)[1])


def test_extend_goes_on_after_the_end(stacks, settings):
    async def act(panel):
        first = await panel.train()
        panel.more.value = 1
        panel.extend.click()
        await until(lambda: panel.state.going)
        return first, await panel.train()

    first, second = run_panel(stacks, settings, act)
    assert (len(first.history), len(second.history)) == (2, 3)
    assert second.run == first.run and second.finished
    assert second.history[:2] == first.history


def test_extend_while_it_trains_goes_on_in_the_same_run(train):
    async def user(panel):
        await until(lambda: panel.view.last_step >= 2)
        panel.more.value = 1
        panel.extend.click()

    _, result = train(user)
    assert [row["epoch"] for row in result.history] == [1, 2, 3] and result.finished


def test_a_second_training_takes_a_second_folder(train):
    assert [train()[1].run.name for _ in range(2)] == ["a", "a-2"]


def test_an_error_stands_in_the_panel_in_one_sentence(stacks, settings, tmp_path):
    (tmp_path / "runs").write_text("in the way")
    panel = widgets.TrainingPanel(stacks, settings)
    with pytest.raises(StopInPlace) as stopped:
        asyncio.run(panel.train())
    assert str(stopped.value) in panel.view.status.value.replace("&#x27;", "'")
    assert stopped.value._render_traceback_() == [str(stopped.value)]


def test_a_panel_cell_that_is_run_again_attaches_to_the_training_that_is_running(
    stacks, settings, monkeypatch
):
    async def act(_):
        first = open_training(stacks, settings.replace(epochs=5000))
        first.start.click()
        await until(lambda: first.view.last_step >= 1)
        again = open_training(stacks, settings)
        attached = again is first
        again.stop.click()
        trained = await again.train()
        fresh = open_training(stacks, settings)
        return attached, trained.run == first.run, fresh is first

    assert run_panel(stacks, settings, act) == (True, True, False)


def test_two_panels_do_not_train_at_once(stacks, settings):
    async def act(first):
        second = widgets.TrainingPanel(stacks, settings)
        first.start.click()
        await until(lambda: first.view.last_step >= 1)
        second.start.click()
        await asyncio.sleep(0.1)
        idle = second.state.phase
        first.stop.click()
        await first.train()
        return idle, "Another training is running" in second.view.status.value

    assert run_panel(stacks, settings.replace(epochs=5000), act) == ("idle", True)


def test_trained_is_the_one_on_the_screen_also_after_start(stacks, settings):
    async def act(panel):
        with pytest.raises(StopInPlace, match="no model yet"):
            panel.trained  # noqa: B018
        panel.start.click()
        await until(lambda: panel.state.phase == "finished")
        return panel.trained, panel.source

    trained, source = run_panel(stacks, settings, act)
    assert trained.finished and len(trained.history) == 2 and source == trained.run


def test_what_was_broken_off_really_ends_and_keeps_the_last_step(stacks, settings):
    async def act(panel):
        cell = asyncio.ensure_future(panel.train())
        await until(lambda: panel.view.last_step >= 3)
        panel._task.cancel()  # as `attend` does at a second interrupt
        with pytest.raises(asyncio.CancelledError):
            await cell
        await until(lambda: not panel.state.going)
        step = panel.view.last_step
        time.sleep(0.3)
        await asyncio.sleep(0.1)
        return panel.view.last_step == step, panel.trained.run == panel.run, panel.state.phase

    assert run_panel(stacks, settings.replace(epochs=5000), act) == (True, True, "stopped")


def test_a_form_with_a_fault_starts_nothing_and_says_why(stacks, settings, tmp_path):
    form = widgets.SettingsForm(settings)

    async def act(_):
        panel = widgets.TrainingPanel(stacks, form)
        form.fields["epochs"].control.value = "abc"
        panel.start.click()
        await asyncio.sleep(0.1)
        return panel.state.phase, panel.view.status.value

    phase, words = run_panel(stacks, settings, act)
    assert phase == "idle" and "epochs=" in words and not (tmp_path / "runs").exists()


def test_the_dice_against_the_users_labels_is_followed(train):
    panel, _ = train()
    assert "Dice against your labels" in panel.view.status.value
    assert TrainingPanel.running is panel
