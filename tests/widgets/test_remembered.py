from pathlib import Path

from wnet_nb.widgets import remembered


def test_what_was_filled_in_is_there_for_the_same_cell_only():
    remembered.keep("data", {"path": "example"}, {"path": "my stacks"})
    assert remembered.recall("data", {"path": "example"}) == {"path": "my stacks"}
    assert remembered.recall("data", {"path": "other"}) == {}
    assert remembered.recall("settings", {"path": "example"}) == {}


def test_nothing_is_there_after_the_reset():
    remembered.keep("data", {}, {"path": "my stacks"})
    remembered.forget()
    assert remembered.recall("data", {}) == {} and not Path(remembered.FILE).exists()


def test_a_file_that_cannot_be_read_counts_as_none():
    Path(remembered.FILE).write_text("{broken")
    assert remembered.recall("data", {}) == {}
    remembered.keep("data", {}, {"path": "a"})
    assert remembered.recall("data", {}) == {"path": "a"}
