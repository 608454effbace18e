import threading

import ipywidgets
import numpy as np
import pytest

from wnet_nb import training
from wnet_nb.events import EpochEnd, Preview, Started, StepEnd
from wnet_nb.widgets import training_view
from wnet_nb.widgets.training_view import TrainingView


@pytest.fixture
def view(settings):
    return TrainingView(settings)


def step(number, **facts):
    return StepEnd(number, 1, 0.5, 100.0, 0.75, 0.1, 5.0, **facts)


def row(epoch, changes=""):
    return {
        "epoch": epoch, "step": 3 * epoch, "soft_ncut": 0.5, "reconstruction": 100.0, "total": 0.75,
        "learning_rate": 1e-3, "seconds": 1.0, "peak_memory_mb": 900, "changes": changes,
    }  # fmt: skip


def take(view, event):
    view.show(event, view.draw(event))


def started(*history):
    return Started(5, len(history), 3, 1000, (16, 16, 16), "CPU", "float32", (), history)


def epoch_end(epoch, changes="", dice=None):
    image = np.random.default_rng(0).random((16, 16, 16), np.float32)
    preview = Preview(100 * image, np.stack([image, 1 - image]), 100 * image)
    return EpochEnd(epoch, row(epoch, changes), 5.0, preview, dice)


def test_it_shows_a_training_from_its_events(view, settings, stacks):
    empty = view.curves.value
    for event in training.fit([stacks[0].array], settings):
        take(view, event)
    assert view.curves.value != empty
    assert bytes(view.preview.value[:4]) == b"\x89PNG" and view.preview.layout.display == ""
    assert "step 6 of 6" in view.status.value


def test_a_change_is_marked_at_the_step_it_holds_from(view):
    take(view, started())
    for number in (1, 2):
        take(view, step(number))
    take(view, step(3, changes=(("radius", 3), ("ncut_weight", 0.7))))
    assert view.changes == {3: "radius=3; ncut_weight=0.7"}
    assert "1: from step 3, radius=3; ncut_weight=0.7" in view.note.value
    assert view.settings.radius == 3


def test_changes_of_earlier_epochs_are_drawn_when_a_run_is_resumed(view):
    before = view.curves.value
    take(view, started(row(1), row(2, "step 5: radius=3 | step 6: ncut_weight=1")))
    assert view.changes == {5: "radius=3", 6: "ncut_weight=1"}
    assert view.curves.value != before and "2: from step 6" in view.note.value


def test_the_dice_against_the_users_labels_stands_in_the_status(view):
    take(view, started())
    take(view, epoch_end(1, dice=0.714))
    take(view, step(4))
    assert "Dice against your labels 0.71" in view.status.value


def test_what_was_done_otherwise_than_asked_is_said_when_it_happens(view):
    take(view, started())
    take(view, step(1, remarks=("the loss was not finite; the learning rate is halved",)))
    take(view, step(2))
    assert "the learning rate is halved." in view.facts.value


def test_a_preview_without_cells_says_why(view, monkeypatch):
    titles = []
    real = training_view.overlay.preview_png
    monkeypatch.setattr(
        training_view.overlay,
        "preview_png",
        lambda *a, title, **k: titles.append(title) or real(*a, title=title, **k),
    )
    take(view, epoch_end(1))
    assert titles == ["one patch after epoch 1 (no cells yet: the image shows no cell size)"]


def test_an_error_of_ours_in_the_preview_is_not_hidden(view, monkeypatch):
    def broken(*_, **__):
        raise ValueError("operands could not be broadcast together")

    view.cell = (3.0, (1.0, 1.0, 1.0))
    monkeypatch.setattr(training_view, "segment_instances", broken)
    with pytest.raises(ValueError, match="broadcast"):
        view.draw(epoch_end(1))


def test_drawing_reads_and_sets_no_widget_so_that_a_thread_may_do_it(view, monkeypatch):
    touched, widget = [], ipywidgets.Widget

    def read(self, name):
        if name == "value":
            touched.append(threading.current_thread())
        return object.__getattribute__(self, name)

    def write(self, name, value):
        if name == "value":
            touched.append(threading.current_thread())
        object.__setattr__(self, name, value)

    monkeypatch.setattr(widget, "__getattribute__", read, raising=False)
    monkeypatch.setattr(widget, "__setattr__", write, raising=False)
    events = started(), step(1), step(2, changes=(("radius", 3),)), epoch_end(1)
    thread = threading.Thread(target=lambda: [view.draw(event) for event in events])
    thread.start()
    thread.join()
    assert thread not in touched and len(view.steps) == 2
    view.say("a sentence")
    assert touched  # what is watched can be heard
