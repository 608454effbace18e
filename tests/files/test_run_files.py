import pytest

from wnet_nb.errors import UserError
from wnet_nb.files import run_files

HEADING = ",".join(run_files.HISTORY_COLUMNS)


def test_a_history_comes_back_as_numbers_and_words(tmp_path):
    line = "1,10,0.5,200,1.25,0.001,3.5,800,step 3: radius=2"
    (tmp_path / "history.csv").write_text(f"{HEADING}\n{line}\n")
    (row,) = run_files.read_history(tmp_path)
    assert (row["epoch"], row["total"], row["changes"]) == (1, 1.25, "step 3: radius=2")
    assert isinstance(row["step"], int) and isinstance(row["reconstruction"], float)


@pytest.mark.parametrize("text", [f"{HEADING}\n1,x\n", f"{HEADING}\n1,,,,\n", "{", "", None])
def test_a_history_that_is_none_is_named(tmp_path, text):
    if text is not None:
        (tmp_path / "history.csv").write_text(text)
    with pytest.raises(UserError, match=r"history\.csv"):
        run_files.read_history(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"options": {"radius": -1}}', '{"options": 3}'])
def test_a_damaged_record_is_named(tmp_path, text):
    (tmp_path / "settings.json").write_text(text)
    with pytest.raises(UserError, match=r"settings\.json"):
        run_files.read_record(tmp_path)


def test_a_folder_without_settings_is_no_run(tmp_path):
    assert not run_files.is_run(tmp_path)
    with pytest.raises(UserError, match="not a run folder"):
        run_files.read_record(tmp_path)


def test_validation_is_read_where_it_is(tmp_path):
    assert run_files.read_validation(tmp_path) == []
    (tmp_path / "validation.csv").write_text("epoch,dice\n1,0.5\n2,0.75\n")
    assert run_files.read_validation(tmp_path) == [(1, 0.5), (2, 0.75)]
    (tmp_path / "validation.csv").write_text("epoch;dice\n1;0,5\n")
    assert run_files.read_validation(tmp_path) == [(1, 0.5)]
    (tmp_path / "validation.csv").write_text("epoch,F1\n1,0.5\n")
    with pytest.raises(UserError, match=r"validation\.csv"):
        run_files.read_validation(tmp_path)
