import os
import signal
import time

import pytest

from wnet_nb.cli import terminal


def test_lines_come_once_every_ten_percent_and_not_before_something_is_done(capsys):
    progress = terminal.Bar("steps")
    for done in (0, 5, 9, 10, 11, 35, 36, 100):
        progress.show("working", done, 100, "note")
    said = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in said] == [
        "working 10 %: 10/100 steps",
        "working 35 %: 35/100 steps",
        "working 100 %: 100/100 steps",
    ]
    assert said[0].endswith("left, note")


def test_what_was_done_before_says_nothing_of_the_speed(capsys):
    progress = terminal.Bar("steps")
    progress.show("going on", 980_000, 1_000_000)
    time.sleep(0.3)
    progress.show("going on", 980_001)
    assert capsys.readouterr().err == ""
    assert float(progress._bar.format_dict["rate"] or 0) < 100


def test_the_first_interrupt_is_a_wish_and_the_second_ends_the_work(capsys):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), terminal.stop_between_events() as stopped:
        os.kill(os.getpid(), signal.SIGINT)
        assert stopped.is_set()
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
