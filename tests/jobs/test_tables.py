import csv

import pytest

from wnet_nb.files.result import Result
from wnet_nb.jobs.tables import write_tables

TABLE = {"label": [1, 2, 3], "volume_um3": [12.5, 7.0, 9.0]}


def make(folder, name, hour=1, **columns):
    facts = {"name": name, "made": f"2026-01-01T0{hour}:00:00+00:00", "count": 3, "sha256": name}
    with Result.write_new(folder, name) as result:
        result.write_cells(TABLE | columns)
        result.write_facts(facts | {"cell_radius_um": 5.123456, "baseline_count": 2})
    return result


def read(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_cell_has_its_volume_and_every_volume_a_row(tmp_path):
    make(tmp_path, "b")
    make(tmp_path, "a")
    cells, volumes = map(read, write_tables(tmp_path))
    assert [(row["volume"], row["label"]) for row in cells] == [
        (name, label) for name in "ab" for label in "123"
    ]
    assert volumes[0] == {
        "volume": "a",
        "folder": "a",
        "cells": "3",
        "cells_cut_by_edge": "",
        "cells_without_network": "2",
        "cell_radius_um": "5.123",
        "median_volume_um3": "9",
        "f1": "",
    }


def test_the_newest_result_of_a_volume_stands_for_it(tmp_path):
    make(tmp_path, "a", hour=1)
    make(tmp_path, "a", hour=2)
    (row,) = read(write_tables(tmp_path)[1])
    assert row["folder"] == "a-2"


def test_the_scores_of_a_volume_are_in_its_row(tmp_path):
    make(tmp_path, "a").write_scores({"scores": {"mean_f1": 0.75}, "truth": "t.tif"})
    assert read(write_tables(tmp_path)[1])[0]["f1"] == "0.7500"


def test_a_table_with_decimal_commas_joins_with_points(tmp_path):
    table = make(tmp_path, "a").folder / "cells.csv"
    table.write_text(table.read_text().replace(",", ";").replace(".", ","))
    assert read(write_tables(tmp_path)[0])[0]["volume_um3"] == "12.5"


def test_a_result_whose_table_is_gone_is_left_out_with_a_warning(tmp_path):
    make(tmp_path, "a")
    (make(tmp_path, "b").folder / "cells.csv").unlink()
    with pytest.warns(UserWarning, match="goes without 'b'"):
        cells, volumes = map(read, write_tables(tmp_path))
    assert {row["volume"] for row in cells} == {row["volume"] for row in volumes} == {"a"}


def test_results_with_other_columns_share_a_table(tmp_path):
    make(tmp_path, "a")
    make(tmp_path, "b", sphericity=[0.5, 0.6, 0.7])
    rows = read(write_tables(tmp_path)[0])
    assert [row["sphericity"] for row in rows] == ["", "", "", "0.5", "0.6", "0.7"]
