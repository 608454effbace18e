"""Tables that are written plainly come back, also when a spreadsheet program saved them again."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wnet_nb.errors import UserError
from wnet_nb.files.tables import read_points, read_table, write_table
from wnet_nb.whole_file import sha256

ANYWHERE = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def test_a_table_is_plain_csv(tmp_path):
    rows = [
        {"label": np.uint16(1), "volume_um3": 0.5, "remark": "a, b", "z": np.float64("nan")},
        {"label": np.uint16(2), "volume_um3": np.float32(0.1), "remark": None, "z": 1.25},
        {"label": 3},
    ]
    write_table(tmp_path / "a.csv", ("label", "volume_um3", "remark", "z"), rows)
    assert (tmp_path / "a.csv").read_bytes() == (
        b'label,volume_um3,remark,z\n1,0.5,"a, b",\n2,0.1,,1.25\n3,,,\n'
    )


def test_a_row_with_a_name_that_is_no_column_leaves_the_earlier_table(tmp_path):
    write_table(tmp_path / "a.csv", ["a"], [{"a": 1}])
    with pytest.raises(ValueError, match="not in fieldnames"):
        write_table(tmp_path / "a.csv", ["a"], [{"a": 2}, {"b": 3}])
    assert (tmp_path / "a.csv").read_text() == "a\n1\n"
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


@pytest.mark.parametrize(
    "text",
    [
        "z,y,x,cell\n1,2,3,a\n4,5.5,6,b\n",
        "cell, X ,y,Z\na,3,2,1\nb,6,5.5,4\n",
        "\ufeffz;y;x\r\n1;2;3\r\n\r\n4;5.5;6\r\n",
        "index,axis-0,axis-1,axis-2\n0,1,2,3\n1,4,5.5,6\n",
    ],
)
def test_points_are_z_y_x_whatever_the_order_of_the_columns(tmp_path, text):
    (tmp_path / "a.csv").write_text(text, encoding="utf-8", newline="")
    np.testing.assert_array_equal(read_points(tmp_path / "a.csv"), [[1, 2, 3], [4, 5.5, 6]])


def test_a_written_table_of_points_is_read_again(tmp_path):
    write_table(tmp_path / "a.csv", "xyz", [{"x": 3.0, "y": 2.0, "z": 1.0}])
    np.testing.assert_array_equal(read_points(tmp_path / "a.csv"), [[1, 2, 3]])


def test_no_points_are_an_empty_array(tmp_path):
    (tmp_path / "a.csv").write_text("z,y,x\n")
    assert read_points(tmp_path / "a.csv").shape == (0, 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no columns z, y and x"),
        ("a,b,c\n1,2,3\n", "no columns z, y and x"),
        ("z,y,x\n1,2,3\n1,,3\n", "y in line 3 of .*a.csv'"),
        ("z,y,x\n1,2\n", "line 2 of .*a.csv' is cut short"),
        ("z,y,x\n1,nan,3\n", "line 2 of .*a.csv'"),
    ],
)
def test_a_table_without_points_says_where(tmp_path, text, message):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        read_points(tmp_path / "a.csv")


def test_missing_files_are_refused_by_name(tmp_path):
    for read in (read_points, sha256):
        with pytest.raises(UserError, match=r"missing' cannot be read"):
            read(tmp_path / "missing")


@settings(ANYWHERE, max_examples=50)
@given(rows=st.lists(st.tuples(st.integers(), st.floats(allow_nan=False)), max_size=9))
def test_any_table_of_numbers_comes_back(tmp_path, rows):
    path = tmp_path / f"{len(list(tmp_path.iterdir()))}.csv"
    write_table(path, "ab", [{"a": a, "b": b} for a, b in rows])
    names, found = read_table(path)
    assert names == ["a", "b"]
    assert [(int(row["a"]), float(row["b"])) for _, row in found] == rows


@given(text=st.text(max_size=200))
@settings(ANYWHERE, max_examples=100)
def test_any_text_is_points_or_one_sentence(tmp_path, text):
    (tmp_path / "a.csv").write_text("z,y,x\n" + text, encoding="utf-8")
    try:
        points = read_points(tmp_path / "a.csv")
    except UserError as error:
        assert "a.csv'" in str(error) and "\n" not in str(error)
    else:
        assert points.shape[1] == 3 and np.isfinite(points).all()
