import json
import re
import shutil
from html.parser import HTMLParser
from importlib.metadata import version
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
import tifffile
import torch

from tests.benchmarks.nuclei import make_nuclei
from wnet_nb import config, training
from wnet_nb.cli.main import main
from wnet_nb.figures import report
from wnet_nb.files.result import Result
from wnet_nb.files.volumes import read_volume
from wnet_nb.files.writing import write_volume
from wnet_nb.jobs import segment as prediction
from wnet_nb.jobs import train as pipeline
from wnet_nb.jobs.evaluate import score
from wnet_nb.whole_file import sha256

TINY = config.preset(
    "scratch", base_channels=4, patch_size=16, epochs=3, patches_per_volume=3, tile_size=32
)
HOSTILE = """<img src=x onerror=alert(1)>&'"`.tif"""


@pytest.fixture(autouse=True)
def _one_thread():  # two are slower on a network this small, and wait for each other
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A volume with its truth, and one whose file states no voxel size."""
    path = tmp_path_factory.mktemp("data")
    image, labels = make_nuclei(shape=(36, 40, 44), n_cells=10)
    write_volume(path / "a.tif", image, voxel_size_um=(1.0, 0.5, 0.5))
    write_volume(path / "truth" / "a.tif", labels, voxel_size_um=(1.0, 0.5, 0.5))
    tifffile.imwrite(path / "bare.tif", image[:, :32])
    return path


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    torch.set_num_threads(1)  # before the fixture of the single test
    run = tmp_path_factory.mktemp("runs") / "mine"
    pipeline.train(data / "a.tif", run, TINY)
    prediction.segment(run, data / "a.tif")
    return run


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "mine")


class Reader(HTMLParser):
    """Reads a page as a browser does: its elements with their attributes, and its words."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.data = [], []
        self.feed(text)
        self.words = re.sub(r"\s+", " ", " ".join(self.data))

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.data.append(data)


def read(run):
    return Reader((run / "report.html").read_text(encoding="utf-8"))


def edit(file, /, **changes):
    content = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(content | changes), encoding="utf-8")


def test_the_page_fetches_and_runs_nothing(run, data):
    score(Result(run / "predictions" / "a"), data / "truth")
    report.renew(run)
    found = read(run)
    allowed = set("html head meta title style body h1 h2 h3 p b span code pre ul li div".split())
    allowed |= set("table thead tbody tr th td figure img figcaption a".split())
    assert {name for name, _ in found.tags} <= allowed
    for _, attributes in found.tags:
        assert not {"style", "onerror", "onload"} & set(attributes)
        assert attributes.get("src", "data:image/png;base64,").startswith("data:image/png;base64,")
    assert len([name for name, _ in found.tags if name == "img"]) == 6
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "url(" not in page and "@import" not in page
    assert "default-src 'none'" in page


def test_names_from_users_are_text_and_nothing_else(run):
    inputs = json.loads((run / "settings.json").read_text(encoding="utf-8"))["inputs"]
    hostile = {"file": HOSTILE, "name": HOSTILE, "path": HOSTILE, "dtype": HOSTILE}
    edit(run / "settings.json", inputs=[inputs[0] | hostile], device=HOSTILE)
    edit(run / "predictions" / "a" / "result.json", **hostile, reason=HOSTILE, model=HOSTILE)
    (run / "predictions" / "a" / "<b>mine<b>").write_text("a file of the user")
    run = run.rename(run.with_name("<script>1"))
    report.renew(run)
    found = read(run)
    assert all(
        set(attributes) <= {"src", "alt"} for name, attributes in found.tags if name == "img"
    )
    assert "script" not in {name for name, _ in found.tags}
    assert found.words.count(HOSTILE) >= 8 and "<b>mine<b>" in found.words
    assert "Run <script>1" in found.words


def test_counts_and_sizes_are_those_of_the_results(run):
    result = json.loads((run / "predictions/a/result.json").read_text(encoding="utf-8"))
    words = read(run).words
    assert re.search(rf"{result['count']} cells found in 1 volume with the network", words)
    assert f"with the network, {result['baseline_count']} without" in words
    labels = np.asarray(read_volume(run / "predictions/a/labels.tif").array)
    median = np.median(np.bincount(labels[labels > 0])[1:]) * 0.25
    assert float(re.search(r"median ([\d.,]+) µm³", words)[1]) == pytest.approx(median, rel=0.01)
    assert f"{result['cell_radius_um']:.3g} µm" in words


def test_it_says_from_which_files_and_options_it_was_made(run, data):
    found = read(run)
    digest = sha256(data / "a.tif")
    titles = [attributes.get("title") for _, attributes in found.tags]
    assert titles.count(digest) == 2 and digest[:12] in found.words  # trained on, segmented
    assert "36 × 40 × 44" in found.words and "1 × 0.5 × 0.5 µm (z, y, x), as stated" in found.words
    assert re.search(r"base_channels\s+4\s+64\s+Channels", found.words)
    assert "weight_decay" not in found.words  # has its default
    assert f"torch {version('torch')}" in found.words and "seed 0" in found.words


def test_an_assumed_voxel_size_is_said_loudly(run, data):
    assert "may be wrong" not in read(run).words
    prediction.segment(run, data / "bare.tif")
    found = read(run)
    assert ("p", {"class": "alarm"}) in found.tags
    assert "The voxel size of bare is not fully stated" in found.words
    assert "assumed: the file does not state it" in found.words


def test_a_second_result_of_a_volume_is_shown_in_place_of_the_first(run, data):
    (second,) = prediction.segment(run, data / "a.tif", minimum_size=0.5)
    words = read(run).words
    assert f"{second.facts['count']} cells found in 1 volume" in words
    assert "Other results of a" in words and "in predictions/a-2/" in words
    assert "minimum_size=0.5" in words
    assert "segment repeated a.tif --set minimum_size=0.5" in words


def test_several_volumes_are_summed_up(run, data):
    (other,) = prediction.segment(run, data / "bare.tif")
    first = json.loads((run / "predictions/a/result.json").read_text(encoding="utf-8"))
    total = first["count"] + other.facts["count"]
    assert f"{total} cells found in 2 volumes" in read(run).words


def test_of_many_volumes_only_the_first_have_pictures(run, monkeypatch):
    for number in range(3):
        copy = run / "predictions" / f"v{number}"
        shutil.copytree(run / "predictions" / "a", copy)
        edit(copy / "result.json", name=copy.name, sha256=f"{number}")
    monkeypatch.setattr(report, "PICTURED", 2)
    report.renew(run)
    found = read(run)
    assert found.words.count("Number of cells") == 4
    assert len([name for name, _ in found.tags if name == "img"]) == 2 * 3 + 2


def test_the_scores_are_one_f1_with_its_name_and_can_be_renewed(run, data):
    folder = run / "predictions" / "a"
    scored = score(Result(folder), data / "truth")
    report.renew(run)
    words = read(run).words
    with_network, without = (one.f1[4] for one in (scored.scores, scored.baseline))
    said = f"F1 at IoU 0.5 is {with_network:.2f} with the network and {without:.2f} without"
    assert said in words and "mean f1" not in words.lower()
    assert f"{scored.dice:.2f}" in words
    score(Result(folder), folder / "labels.tif")
    report.renew(run)
    assert "F1 at IoU 0.5 is 1.00 with" in read(run).words


def test_scores_of_an_earlier_result_stay_when_a_newer_one_has_none(run, data):
    scored = score(Result(run / "predictions" / "a"), data / "truth")
    report.renew(run)
    (second,) = prediction.segment(run, data / "a.tif", minimum_size=0.5)
    (second.folder / "scores.json").unlink(missing_ok=True)
    report.renew(run)
    words = read(run).words
    assert f"F1 at IoU 0.5 is {scored.scores.f1[4]:.2f} with the network" in words
    assert "has not been compared with the truth" in words


def test_scores_against_points_are_shown(run, tmp_path):
    folder = run / "predictions" / "a"
    (tmp_path / "points.csv").write_text("z,y,x\n1,1,1\n20,20,20\n")
    scored = score(Result(folder), tmp_path / "points.csv")
    report.renew(run)
    words = read(run).words
    assert "2 cells in points.csv" in words
    assert re.search(rf"Recall[^)]*\)\s+{scored.scores.recall:.2f}", words)
    assert f"F1 against true points is {scored.scores.f1:.2f} with the network" in words


ADDED = {"count": 12, "without_network": 11, "same": 9, "only_with_network": 3, "only_without": 2}


def test_what_the_network_added_is_said_in_a_line(run):
    edit(run / "predictions" / "a" / "result.json", network_added=ADDED)
    report.renew(run)
    words = read(run).words
    assert "3 cells found only with it, 2 only without it, 9 either way" in words


def test_that_the_network_made_no_difference_is_said(run):
    none = ADDED | {"same": 12, "only_with_network": 0, "only_without": 0}
    edit(run / "predictions" / "a" / "result.json", network_added=none)
    report.renew(run)
    assert "without it: nothing. Both find the same 12 cells" in read(run).words


def test_an_old_result_says_nothing_about_what_the_network_added(run):
    file = run / "predictions" / "a" / "result.json"
    for absent in ({"network_added": None}, {}):
        content = json.loads(file.read_text(encoding="utf-8"))
        content.pop("network_added", None)
        file.write_text(json.dumps(content | absent), encoding="utf-8")
        report.renew(run)
        assert "What the network added" not in read(run).words


def test_the_page_has_the_name_of_the_data_and_no_jargon(run):
    words = read(run).words
    assert words.count("Cells in a.tif") == 2  # title and heading
    for jargon in ("classical", "Voronoi", "coherent", "white: ", "sure)", "one may ask for"):
        assert jargon not in words


def test_every_link_leads_to_a_file_beside_the_page(run, data):
    (second,) = prediction.segment(run, data / "a.tif", minimum_size=0.5)
    (second.folder / "what? 100 % #1.txt").write_text("a file of the user")
    report.renew(run)
    links = [attributes["href"] for name, attributes in read(run).tags if name == "a"]
    assert len(links) >= 10
    for link in links:
        assert not urlsplit(link).scheme and not link.startswith("/")
        assert (run / unquote(urlsplit(link).path)).exists(), link


def test_a_stopped_training_leaves_a_report_that_says_so(data, tmp_path):
    events = pipeline.train_events(data / "a.tif", tmp_path / "run", TINY)
    for event in events:
        if isinstance(event, training.EpochEnd):
            break
    events.close()
    words = read(tmp_path / "run").words
    assert "1 of 3 epochs" in words and "stopped before its end" in words
    assert "No cells have been looked for yet" in words


def test_a_training_stopped_in_its_first_epoch_has_a_report(data, tmp_path):
    events = pipeline.train_events(data / "a.tif", tmp_path / "run", TINY)
    while not isinstance(next(events), training.StepEnd):
        pass
    events.close()
    assert "0 of 3 epochs" in read(tmp_path / "run").words


def test_changes_made_live_are_listed(data, tmp_path):
    controls = training.Controls()
    for event in pipeline.train_events(data / "a.tif", tmp_path / "run", TINY, controls=controls):
        if isinstance(event, training.StepEnd) and event.step == 1:
            controls.change(radius=3)
    words = read(tmp_path / "run").words
    assert "radius=3" in words and "were changed by hand" in words


def test_the_commands_for_repeating_give_the_same_cells(run, data, tmp_path, monkeypatch):
    for file in (data / "a.tif", run / "settings.json"):
        shutil.copy(file, tmp_path)
    monkeypatch.chdir(tmp_path)
    (commands,) = (text for text in read(run).data if text.startswith("python -m"))
    for line in commands.splitlines():
        assert main(line.removeprefix("python -m wnet_nb ").split()) == 0
    first, again = (path / "predictions/a/cells.csv" for path in (run, tmp_path / "repeated"))
    assert first.read_bytes() == again.read_bytes()


def test_a_damaged_run_is_a_warning_and_the_old_report_stays(run):
    before = (run / "report.html").read_bytes()
    (run / "history.csv").write_text("{")
    with pytest.warns(UserWarning, match=r"report\.html' was not written"):
        assert report.renew(run) is None
    assert (run / "report.html").read_bytes() == before


def test_a_report_that_fails_is_a_remark_and_the_results_are_there(run, data, monkeypatch, capsys):
    def full(path, write):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report, "write_whole", full)
    assert main(["segment", str(run), str(data / "bare.tif")]) == 0
    told = capsys.readouterr()
    assert "report.html' was not written: [Errno 28] No space left" in told.err
    assert "Traceback" not in told.err and "report.html" not in told.out
    assert (run / "predictions" / "bare" / "cells.csv").exists()


def test_a_mistake_of_ours_is_not_hidden(run, monkeypatch):
    monkeypatch.setattr(report.curves, "read_losses", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        report.renew(run)


def test_results_outside_of_a_run_make_no_report(run, data, tmp_path):
    prediction.segment(run / "weights.safetensors", data / "a.tif", out=tmp_path / "o" / "p")
    assert not list(tmp_path.glob("o/**/report.html"))


def test_results_without_their_table_and_pictures_are_still_reported(run):
    for name in ("cells.csv", "overlay.png"):
        (run / "predictions" / "a" / name).unlink()
    with pytest.warns(UserWarning, match=r"cells\.csv"):
        report.renew(run)
    assert "Number of cells" in read(run).words


def test_a_result_that_lacks_what_the_page_says_is_left_aside_with_a_warning(run):
    shutil.copytree(run / "predictions" / "a", run / "predictions" / "other")
    file = run / "predictions" / "other" / "result.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    del content["cell_size"]
    file.write_text(json.dumps(content), encoding="utf-8")
    with pytest.warns(UserWarning, match="other' lacks cell_size"):
        report.renew(run)
    assert "predictions/a/" in read(run).words


def test_a_run_that_began_with_a_preset_of_another_version_has_a_report(run):
    edit(run / "settings.json", preset="no longer there")
    report.renew(run)
    assert re.search(r"base_channels\s+4\s+64", read(run).words)


def test_the_citations_are_those_of_the_readme(run):
    README = Path(__file__).parents[2] / "README.md"

    text = README.read_text(encoding="utf-8")
    for identifier in ("arXiv:1711.08506", "13:RP99848", "10.7554/eLife.99848", "12:2276"):
        assert identifier in text and identifier in read(run).words


def test_edges_of_a_large_volume_are_whole_numbers():
    assert report.times([512, 10240, 12345]) == "512 × 10240 × 12345"
    assert report.times([2.0, 0.1269841, 0.5]) == "2 × 0.127 × 0.5"
