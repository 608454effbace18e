import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from wnet_nb.errors import UserError
from wnet_nb.files.result import Result
from wnet_nb.files.volumes import read_volume

TABLE = {"label": [1, 2], "volume_um3": [12.5, 7.0], "touches_border": [0, 1]}
FACTS = {"name": "a", "made": "2026-01-01T00:00:00+00:00", "count": 2}


def make(parent, name="a", **facts):
    with Result.write_new(parent, name) as result:
        result.write_labels(np.arange(27).reshape(3, 3, 3) % 3, (1, 1, 1))
        result.write_cells(TABLE)
        result.write_facts(FACTS | facts)
    return result


def test_a_result_appears_under_its_name_when_it_is_whole(tmp_path):
    with Result.write_new(tmp_path, "a") as result:
        result.write_facts(FACTS)
        assert not (tmp_path / "a").exists()
    assert result.folder == tmp_path / "a"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert Result(tmp_path / "a").facts == FACTS


def test_the_table_says_yes_and_no_and_six_digits(tmp_path):
    with Result.write_new(tmp_path, "a") as result:
        values = np.array([8.625201938610662, 1234567.0])
        result.write_cells(TABLE | {"volume_um3": values, "touches_border": np.array([0, 1])})
        result.write_facts(FACTS)
    lines = (result.folder / "cells.csv").read_text().splitlines()
    assert lines == ["label,volume_um3,touches_border", "1,8.6252,no", "2,1234567.0,yes"]


def test_a_result_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), Result.write_new(tmp_path, "a") as result:
        result.write_facts(FACTS)
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_a_second_result_of_a_volume_gets_a_name_of_its_own(tmp_path):
    assert [make(tmp_path).folder.name for _ in range(3)] == ["a", "a-2", "a-3"]


def test_a_name_that_somebody_takes_meanwhile_stays_theirs(tmp_path, monkeypatch):
    rename = Path.rename

    def lose(folder, final):
        final.mkdir()
        (final / "theirs.txt").touch()
        monkeypatch.setattr(Path, "rename", rename)
        return rename(folder, final)

    monkeypatch.setattr(Path, "rename", lose)
    assert make(tmp_path).folder == tmp_path / "a-2"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["theirs.txt"]


def test_a_result_gives_back_every_volume_that_was_written(tmp_path):
    cells, plain = np.arange(27).reshape(3, 3, 3) % 3, np.arange(27).reshape(3, 3, 3) % 2
    with Result.write_new(tmp_path, "a") as result:
        result.write_labels(cells, (1, 1, 1))
        result.write_baseline_labels(plain, (1, 1, 1))
        result.write_foreground(np.float32(cells > 0) / 2, (1, 1, 1))
    np.testing.assert_array_equal(result.labels(), cells)
    np.testing.assert_array_equal(result.baseline_labels(), plain)
    np.testing.assert_array_equal(result.foreground(), (cells > 0) / 2)


@pytest.mark.parametrize("name, folder", [(".hidden", "hidden"), ("..", "volume"), ("ü b", "ü b")])
def test_a_name_never_leads_out_of_the_folder_and_never_hides(tmp_path, name, folder):
    assert make(tmp_path, name).folder == tmp_path / folder


def test_the_table_of_all_cells_keeps_its_name(tmp_path):
    assert make(tmp_path, "cells.csv").folder.name == "cells.csv-2"


@pytest.fixture
def writer(tmp_path):
    """A process that writes a result and waits in the middle of it."""
    code = (
        "import sys, time\nfrom wnet_nb.files.result import Result\n"
        f"with Result.write_new({str(tmp_path)!r}, 'a') as one:\n"
        f"    one.write_facts({FACTS!r})\n    print('there', flush=True)\n    time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "there\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_killed_process_leaves_nothing_under_a_final_name(tmp_path, writer):
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    assert [path.name for path in tmp_path.glob("[!.]*")] == []
    assert Result.find_all(tmp_path.parent) == []
    assert make(tmp_path).folder == tmp_path / "a"


def test_what_a_killed_process_left_is_cleared_away_by_the_next_one(tmp_path, writer):
    (left,) = tmp_path.glob(".a-*.part")
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    assert (left / "result.json").exists()
    make(tmp_path, "b")
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_the_folder_of_a_living_writer_and_those_of_users_stay(tmp_path, writer):
    (tmp_path / ".mine.part").mkdir()
    (tmp_path / ".mine.part" / "notes.txt").write_text("mine")
    (tmp_path / ".file.part").write_text("mine")
    (left,) = tmp_path.glob(".a-*.part")
    with Result.write_new(tmp_path, "c") as one:  # in this process, too
        one.write_facts(FACTS)
        make(tmp_path, "b")
        assert (one.folder / "result.json").exists()
    assert (left / "result.json").exists()
    assert (tmp_path / ".mine.part" / "notes.txt").exists() and (tmp_path / ".file.part").exists()


def test_where_nothing_can_be_locked_results_are_written_and_nothing_is_cleared_away(
    tmp_path, monkeypatch
):
    def refuse(*arguments, **options):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("wnet_nb.files.result.FileLock.acquire", refuse)
    (tmp_path / ".a-12345678.part").mkdir()
    (tmp_path / ".a-12345678.lock").touch()
    assert make(tmp_path).folder == tmp_path / "a"
    assert (tmp_path / ".a-12345678.part").exists()


def test_all_results_of_a_run_come_with_the_newest_last(tmp_path):
    for hour, name in ((3, "b"), (1, "a"), (2, "c")):
        make(tmp_path / "predictions", name, made=f"2026-01-01T0{hour}:00:00+00:00")
    assert [one.folder.name for one in Result.find_all(tmp_path)] == ["a", "c", "b"]


def test_a_result_that_cannot_be_read_is_left_aside_with_a_warning(tmp_path):
    make(tmp_path / "predictions", "a")
    broken = make(tmp_path / "predictions", "b")
    (broken.folder / "result.json").write_text("{")
    with pytest.warns(UserWarning, match=r"result\.json"):
        found = Result.find_all(tmp_path)
    assert [one.folder.name for one in found] == ["a"]


def test_more_labels_than_uint16_holds_are_written_as_uint32(tmp_path):
    labels = np.zeros((8, 8, 8), np.int32)
    labels[0, 0, 0] = 65_536
    with Result.write_new(tmp_path, "a") as result:
        result.write_labels(labels, (1, 1, 1))
    assert result.labels().dtype == np.uint32 and result.labels().max() == 65_536
    assert read_volume(result.folder / "labels.tif").shape == (8, 8, 8)


def test_cells_are_read_back_as_numbers(tmp_path):
    first, second = make(tmp_path).cells()
    assert first == {"label": 1, "volume_um3": 12.5, "touches_border": 0}
    assert second["touches_border"] == 1


@pytest.mark.parametrize(
    "text",
    [
        "label;volume_um3;touches_border\n1;12,5;no\n2;7;yes\n",
        "\ufefflabel;volume_um3;touches_border\r\n1;12.5;0\r\n2;7,0;1\r\n;;\r\n",
        "label\tvolume_um3\ttouches_border\n1\t12,5\tno\n2\t7\tyes\n",
    ],
    ids=["semicolons", "with a mark of the byte order and an empty line", "tabs"],
)
def test_a_table_that_a_spreadsheet_saved_again_is_read_the_same(tmp_path, text):
    result = make(tmp_path)
    before = result.cells()
    (result.folder / "cells.csv").write_text(text, encoding="utf-8", newline="")
    assert result.cells() == before


@pytest.mark.parametrize(
    "text, words",
    [
        ("label,volume_um3\n1,1. Feb\n", "'volume_um3' in line 2"),
        ("label,volume_um3\n1\n", "line 2 .* is cut short"),
        ("hello\n", "no column 'label'"),
        (None, "cannot be read"),
    ],
)
def test_a_table_that_is_none_any_more_is_named(tmp_path, text, words):
    result = make(tmp_path)
    (result.folder / "cells.csv").unlink()
    if text:
        (result.folder / "cells.csv").write_text(text)
    with pytest.raises(UserError, match=words):
        result.cells()


def test_scores_are_there_once_they_were_written(tmp_path):
    result = make(tmp_path)
    assert result.scores is None
    result.write_scores({"scores": {}, "truth": "t.tif"}, b"png")
    assert result.scores["truth"] == "t.tif"
    assert [path.name for path in result.files][-2:] == ["scores.json", "scores.png"]
