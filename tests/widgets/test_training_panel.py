import asyncio
import re
import threading
import time

import pytest

from wnet_nb import checkpoint, widgets
from wnet_nb.errors import UserError
from wnet_nb.files.run_files import read_history, read_record
from wnet_nb.jobs.segment import segment
from wnet_nb.widgets import busy_cell, last_trained, training_panel


async def until(true, seconds=30.0):
    for _ in range(int(seconds / 0.005)):
        if true():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("waited in vain")


def last_step(panel):
    return panel.view.steps[-1][0] if panel.view.steps else 0


def totals(result):
    return [row["total"] for row in result.history]


def run_panel(stacks, settings, act):
    async def go():
        return await act(widgets.TrainingPanel(stacks, settings))

    return asyncio.run(go())


def test_training_returns_the_model_and_leaves_its_folder(trained):
    assert len(trained.history) == 2
    assert checkpoint.load_checkpoint(trained.run).settings == trained.source.settings
    assert trained.advice


def test_the_preset_is_recorded(trained):
    assert read_record(trained.run)["preset"] == "scratch"


def test_the_check_says_what_the_training_will_take(stacks, settings, tmp_path, capsys):
    panel = widgets.TrainingPanel(stacks, settings)
    asyncio.run(panel.check())
    assert re.search("GB, about .* for 2 epochs", panel.view.status.value)
    assert not (tmp_path / "runs").exists()


def test_an_interrupt_during_the_check_ends_the_check_and_run_all(stacks, settings, monkeypatch):
    real = busy_cell.attend

    async def interrupted(work, interrupt):
        asyncio.get_running_loop().call_later(0.05, interrupt)
        return await real(work, interrupt)

    going = threading.Event()
    monkeypatch.setattr(training_panel, "estimate_training", lambda *_: going.wait(10))
    monkeypatch.setattr(training_panel, "attend", interrupted)

    async def act(panel):
        with pytest.raises(UserError, match="The check was interrupted"):
            await panel.check()
        going.set()
        return panel.state.phase

    assert run_panel(stacks, settings, act) == "idle"


def test_a_live_change_is_marked_at_the_step_the_trainer_took_it_up(train):
    async def user(panel):
        await until(lambda: last_step(panel) >= 1)
        panel.live["reconstruction_weight"].control.value = "0,1"
        panel.live["radius"].slider.value = 3

    panel, result = train(user, epochs=1, patches_per_volume=60)
    recorded = " | ".join(row["changes"] for row in read_history(result.run) if row["changes"])
    taken = dict(re.findall(r"step (\d+): ([^|]+?)(?: \||$)", recorded))
    assert {str(step): words for step, words in panel.view.changes.items()} == taken
    assert "reconstruction_weight=0.1" in recorded and "radius=3" in recorded
    assert result.source.settings.radius == 3


def test_stop_keeps_a_model_that_segments(train, stacks):
    async def user(panel):
        await until(lambda: last_step(panel) >= 3)
        panel.buttons["stop"].click()

    panel, result = train(user, epochs=5000)
    assert panel.state.phase == "stopped"
    assert "Stopped" in panel.view.status.value
    (found,) = segment(result.run, stacks)
    assert found.labels().shape == stacks[0].shape


def test_pause_and_start_continue_with_the_same_numbers(train, trained):
    async def user(panel):
        await until(lambda: last_step(panel) >= 2)
        panel.buttons["pause"].click()
        await until(lambda: "Paused" in panel.view.status.value)
        step = last_step(panel)
        await asyncio.sleep(0.3)
        assert last_step(panel) == step
        panel.buttons["resume"].click()

    _, result = train(user)
    assert totals(result) == totals(trained)


def test_save_now_writes_the_weights_and_changes_nothing(train, trained):
    seen = []

    async def user(panel):
        await until(lambda: last_step(panel) >= 2)
        assert not (panel.run / checkpoint.WEIGHTS).exists()
        panel.buttons["snapshot"].click()
        await until(lambda: (panel.run / checkpoint.WEIGHTS).exists())
        seen.append(checkpoint.load_checkpoint(panel.run).settings.base_channels)

    _, result = train(user, patches_per_volume=40)
    assert seen == [4]
    assert totals(result) == totals(train(patches_per_volume=40)[1])


def test_its_cell_run_again_after_the_end_leaves_it_as_it_is_until_it_is_extended(stacks, settings):
    async def act(panel):
        first, again = await panel.train(), await panel.train()
        panel.more.value = 1
        panel.buttons["extend"].click()
        await until(lambda: "when its cell is run again" in panel.view.status.value)
        return first, again, await panel.train()

    first, again, longer = run_panel(stacks, settings, act)
    assert (len(first.history), len(again.history), len(longer.history)) == (2, 2, 3)
    assert longer.run == again.run == first.run
    assert longer.history[:2] == first.history == again.history


def test_its_cell_run_again_after_a_stop_goes_on_from_there(stacks, settings):
    async def act(panel):
        cell = asyncio.ensure_future(panel.train())
        await until(lambda: last_step(panel) >= 2)
        panel.buttons["stop"].click()
        await cell
        return panel.state.phase, await panel.train()

    phase, longer = run_panel(stacks, settings.replace(patches_per_volume=40), act)
    assert phase == "stopped" and len(longer.history) == 2


def test_extend_while_it_trains_goes_on_in_the_same_run(train):
    async def user(panel):
        await until(lambda: last_step(panel) >= 2)
        panel.more.value = 1
        panel.buttons["extend"].click()

    panel, result = train(user)
    assert [row["epoch"] for row in result.history] == [1, 2, 3]
    assert panel.state.phase == "finished"


def test_a_second_training_takes_a_second_folder(train):
    assert [train()[1].run.name for _ in range(2)] == ["a", "a-2"]


def test_an_error_stands_in_the_panel_in_one_sentence(stacks, settings, tmp_path):
    (tmp_path / "runs").write_text("in the way")
    panel = widgets.TrainingPanel(stacks, settings)
    with pytest.raises(UserError) as stopped:
        asyncio.run(panel.train())
    assert str(stopped.value) in panel.view.status.value.replace("&#x27;", "'")
    assert stopped.value._render_traceback_() == [str(stopped.value)]


def test_there_is_no_model_before_the_training_and_the_last_trained_is_known_after_it(
    stacks, settings
):
    async def act(panel):
        with pytest.raises(UserError, match="no model yet"):
            panel.trained  # noqa: B018
        before = last_trained()
        trained = await panel.train()
        return before, trained.run == panel.source == last_trained()

    assert run_panel(stacks, settings, act) == ("", True)


def test_a_fresh_panel_goes_on_with_what_was_trained_before_until_it_trains_itself(
    train, stacks, settings, tmp_path
):
    before = train()[1].run
    panel = widgets.TrainingPanel(stacks, settings)
    asyncio.run(panel.check())
    assert panel.source == panel.trained.run == before
    assert f"the cells below work with '{before}'" in panel.view.status.value
    panel.run = tmp_path / "in the way"
    panel.run.write_text("")
    with pytest.raises(UserError, match="in the way"):
        asyncio.run(panel.train())
    with pytest.raises(UserError, match="no model yet"):
        panel.trained  # noqa: B018


def test_what_was_broken_off_really_ends_and_keeps_the_last_step(stacks, settings):
    async def act(panel):
        cell = asyncio.ensure_future(panel.train())
        await until(lambda: last_step(panel) >= 3)
        (work,) = [task for task in asyncio.all_tasks() if "_train" in repr(task.get_coro())]
        work.cancel()  # as `attend` does at a second interrupt
        with pytest.raises(asyncio.CancelledError):
            await cell
        await until(lambda: panel.state.phase == "stopped")
        step = last_step(panel)
        time.sleep(0.3)
        await asyncio.sleep(0.1)
        return last_step(panel) == step, panel.trained.run == panel.run, panel.state.phase

    assert run_panel(stacks, settings.replace(epochs=5000), act) == (True, True, "stopped")


def test_a_form_with_a_fault_starts_nothing_and_says_why(stacks, settings, tmp_path):
    form = widgets.SettingsForm(settings)

    async def act(_):
        panel = widgets.TrainingPanel(stacks, form)
        form.fields["epochs"].control.value = "abc"
        with pytest.raises(UserError, match="epochs='abc' must be a number"):
            await panel.train()
        return panel.state.phase

    assert run_panel(stacks, settings, act) == "idle" and not (tmp_path / "runs").exists()


def test_the_dice_against_the_users_labels_is_followed(train):
    panel, _ = train()
    assert "Dice against your labels" in panel.view.status.value
