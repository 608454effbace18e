"""The folder Quality Control is whole or absent, whatever labels there are."""

import csv

import pytest

from wnet_nb.colab import quality
from wnet_nb.files.result import Result
from wnet_nb.files.run_files import HISTORY_COLUMNS

FACTS = {"made": "2026-01-01T00:00:00+00:00", "count": 9, "baseline_count": 7}
SCORES = {"truth": "t.tif", "dice": 0.5, "scores": {"mean_f1": 0.75}, "baseline": {"mean_f1": 0.25}}
POINTS = {"truth": "p.csv", "dice": None, "scores": {"f1": 1.0}, "baseline": None}


@pytest.fixture
def run(tmp_path):
    lines = [",".join(HISTORY_COLUMNS), *(f"{n},{n},1,1,1,1,1,1," for n in (1, 2))]
    (tmp_path / "history.csv").write_text("\n".join(lines))
    return tmp_path


def result(run, name, scores=None, png=None):
    with Result.write_new(run / "predictions", name) as one:
        one.write_facts(FACTS | {"name": name})
        if scores:
            one.write_scores(scores, png)
    return one


def rows(folder):
    with (folder / "quality_metrics.csv").open(newline="", encoding="utf-8") as file:
        return [tuple(row.values()) for row in csv.DictReader(file)]


def test_without_labels_there_are_curves_counts_and_versions(run):
    folder = quality.write_quality(run, [result(run, "a"), result(run, "b")])
    assert {p.name for p in folder.iterdir()} == {
        "training_losses.png",
        "training_evaluation.csv",
        "quality_metrics.csv",
        "version_log.txt",
    }
    assert rows(folder) == [
        (name, method, count, "", "")
        for name in "ab"
        for method, count in (("network", "9"), ("without network", "7"))
    ]
    assert "wnet_nb" in (folder / "version_log.txt").read_text()


def test_labels_for_only_some_stacks_score_those_and_leave_the_others_empty(run):
    results = [result(run, "a", SCORES, b"png"), result(run, "b"), result(run, "c", POINTS)]
    folder = quality.write_quality(run, results)
    assert [row[3:] for row in rows(folder)] == [
        *(("0.5", "0.75"), ("", "0.25")),
        *(("", ""), ("", "")),
        *(("", "1.0"), ("", "")),
    ]
    assert [p.name for p in folder.glob("*_scores.png")] == ["a_scores.png"]
    assert list(run.glob(".*")) == []


def test_an_earlier_folder_stays(run):
    folders = [quality.write_quality(run, [result(run, "a")]) for _ in range(2)]
    assert [folder.name for folder in folders] == ["Quality Control", "Quality Control-2"]
    assert rows(folders[0]) and rows(folders[1])


def test_a_failure_leaves_no_half_made_folder(run, monkeypatch):
    one = result(run, "a")
    before = sorted(run.iterdir())
    monkeypatch.setattr(quality, "version_log", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        quality.write_quality(run, [one])
    assert sorted(run.iterdir()) == before
