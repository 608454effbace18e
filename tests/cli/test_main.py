import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tifffile
import torch

from tests.benchmarks.nuclei import make_nuclei
from wnet_nb import config
from wnet_nb.checkpoint import load_checkpoint
from wnet_nb.cli.main import build_parser, main
from wnet_nb.files.volumes import read_volume
from wnet_nb.files.writing import write_volume

TINY = {
    "base_channels": 4,
    "patch_size": 16,
    "epochs": 2,
    "patches_per_volume": 3,
    "tile_size": 32,
}
SET = [word for name, value in TINY.items() for word in ("--set", f"{name}={value}")]
QUICK = ["--preset", "scratch", *SET]


@pytest.fixture(autouse=True)
def _one_thread():  # two are slower on a network this small, and wait for each other
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two good volumes, of uint16 and float32, among files that are none."""
    path = tmp_path_factory.mktemp("data") / "in"
    for seed, name, dtype in ((0, "a.tif", np.uint16), (1, "b.tif", np.float32)):
        image, labels = make_nuclei(seed, shape=(32, 36, 40), n_cells=8)
        write_volume(path / name, image.astype(dtype), voxel_size_um=(1, 1, 1))
        write_volume(path.parent / "truth" / name, labels, voxel_size_um=(1, 1, 1))
    (path / "notes.txt").write_text("not an image")
    (path / "cut.tif").write_bytes((path / "a.tif").read_bytes()[:9000])
    tifffile.imwrite(path / "flat.tif", np.zeros((64, 64), np.uint8))
    tifffile.imwrite(path / "colours.tif", np.zeros((9, 32, 32, 3), np.uint8), photometric="rgb")
    return path


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    torch.set_num_threads(1)  # before the fixture of the single test
    run = tmp_path_factory.mktemp("runs") / "trained"
    assert main(["train", str(folder), "--run", str(run), *QUICK]) == 0
    return run


def call(capsys, *words):
    """Run the command and return its status, its output and its errors."""
    status = main([str(word) for word in words])
    told = capsys.readouterr()
    return status, told.out, told.err


def one_line(errors):
    lines = [line for line in re.split(r"[\r\n]+", errors) if line.startswith("wnet-nb")]
    assert len(lines) == 1, errors
    assert "Traceback" not in errors
    return lines[0]


def test_training_on_a_folder_names_bad_files_and_goes_on_with_the_good(folder, tmp_path, capsys):
    status, out, err = call(capsys, "train", folder, "--run", tmp_path / "run", *QUICK)
    assert status == 0
    for name in ("cut.tif", "notes.txt", "flat.tif", "colours.tif"):
        assert f"skipped {name}: " in out
    files = ("report.html", "settings.json", "history.csv", "progress.png", "weights.safetensors")
    for name in files:
        assert f"wrote {tmp_path / 'run' / name}" in out
        assert (tmp_path / "run" / name).exists()
    assert "training" in err and "left" in err
    record = json.loads((tmp_path / "run" / "settings.json").read_text(encoding="utf-8"))
    assert [item["file"] for item in record["inputs"]] == ["a.tif", "b.tif"]
    assert record["preset"] == "scratch"


def test_training_prints_json_and_nothing_else_on_request(folder, tmp_path, capsys):
    words = ["train", folder / "a.tif", "--run", tmp_path / "run", *QUICK]
    status, out, _ = call(capsys, "--json", *words)
    result = json.loads(out)
    assert status == 0 and result["finished"] and result["epochs"] == 2
    assert np.isfinite([result["soft_ncut"], result["reconstruction"], result["total"]]).all()


def test_a_run_goes_on_with_its_own_settings(trained, folder, tmp_path, capsys):
    run = shutil.copytree(trained, tmp_path / "run")
    words = ["train", folder, "--run", run, "--resume", "--set", "epochs=3", "--json"]
    status, out, _ = call(capsys, *words)
    assert status == 0 and json.loads(out)["epochs"] == 3
    assert config.load_settings(run / "settings.json").base_channels == 4


def test_a_settings_file_replays_a_run(trained, folder, tmp_path, capsys):
    words = ["train", folder, "--run", tmp_path / "run", "--settings", trained / "settings.json"]
    status, _, _ = call(capsys, *words)
    assert status == 0
    first, second = (
        [line.split(",")[2:5] for line in (run / "history.csv").read_text().splitlines()]
        for run in (trained, tmp_path / "run")
    )
    assert first == second


def test_labels_are_followed_during_training(folder, tmp_path, capsys):
    words = ["train", folder, "--run", tmp_path / "run", *QUICK]
    status, out, _ = call(capsys, *words, "--labels", folder.parent / "truth")
    assert status == 0
    assert re.search(r"epoch 2: Dice 0\.\d+ against the labels", out)


def test_a_folder_of_slices_is_one_volume(folder, tmp_path, capsys):
    (tmp_path / "slices").mkdir()
    for n, plane in enumerate(read_volume(folder / "a.tif").array):
        tifffile.imwrite(tmp_path / "slices" / f"s{n}.tif", np.asarray(plane))
    words = ["check", tmp_path / "slices", "--slices", "--set", "voxel_size_um=1,1,1"]
    status, out, _ = call(capsys, *words)
    assert status == 0 and "slices: 32 × 36 × 40 voxels" in out and "1 usable" in out


def test_checking_names_what_is_wrong_file_by_file(folder, capsys):
    status, out, _ = call(capsys, "check", folder, "--json")
    result = json.loads(out)
    assert status == 0
    assert [item["file"] for item in result["usable"]] == ["a.tif", "b.tif"]
    reasons = {os.path.basename(item["path"]): item["reason"] for item in result["skipped"]}
    assert "incomplete" in reasons["cut.tif"]
    assert "2D" in reasons["flat.tif"] or "z" in reasons["flat.tif"]
    assert "RGB" in reasons["colours.tif"]


@pytest.mark.parametrize("name", ["cut.tif", "notes.txt", "flat.tif", "colours.tif"])
def test_checking_a_single_bad_file_ends_with_one(folder, capsys, name):
    status, out, _ = call(capsys, "check", folder / name)
    assert status == 1 and "0 usable" in out and f"skipped {name}: " in out


def test_checking_an_empty_folder_ends_with_one(tmp_path, capsys):
    status, _, said = call(capsys, "check", tmp_path)
    assert status == 1 and "holds no TIFF; give" in said


@pytest.mark.parametrize(
    "words, said",
    [
        ("train nowhere --run RUN", "does not exist"),
        ("train IN/cut.tif --run RUN", "incomplete"),
        ("train IN/notes.txt --run RUN", "cannot be read as a TIFF"),
        ("train IN/flat.tif --run RUN", "flat.tif"),
        ("train IN/colours.tif --run RUN", "RGB"),
        ("train IN --run RUN --set sigma=3", "there is no option 'sigma'"),
        ("train IN --run RUN --set epochs=0", "epochs=0"),
        ("train IN --run RUN --set epochs", "option=value"),
        ("train IN --run RUN --preset best", "there is no preset 'best'"),
        ("train IN --run RUN --settings nowhere.json", "there is no settings file"),
        ("train IN --run IN", "is not empty"),
        ("train IN/a.tif --run RUN --set channel=1", "channel"),
        ("train IN/a.tif --run RUN --labels IN/notes.txt", "notes.txt"),
        ("train IN --run RUN --preset quick --settings x.json", "exclude each other"),
        ("check nowhere", "does not exist"),
        ("segment nowhere IN", "there is no model"),
        ("segment IN IN", "not a run folder"),
        ("segment IN/notes.txt IN", "neither a run folder"),
        ("segment TRAINED nowhere", "does not exist"),
        ("segment TRAINED IN --set radius=3", "radius belongs to the training"),
        ("segment TRAINED IN/cut.tif", "incomplete"),
        ("evaluate nowhere IN/a.tif", "does not exist"),
        ("evaluate IN/a.tif nowhere", "does not exist"),
        ("evaluate IN/a.tif TRUTH/a.tif", "looks like an image"),
        ("evaluate TRUTH/b.tif IN/notes.txt", "notes.txt"),
        ("train IN/a.tif --run RUN --labels IN/a.tif", "looks like an image"),
        ("train IN/a.tif --run RUN --resume", "there is no run"),
        ("segment starters IN/a.tif", "there is no model"),
        ("starter --out RUN --set size=3", "there is no range 'size'"),
        ("starter --out RUN --set radius=three", "of the form range=low,high"),
        ("demo --out IN", "is not empty"),
        ("train IN", "--run"),
        ("guess IN", "guess"),
        ("train IN --run RUN --presett quick", "--presett"),
    ],
)
def test_wrong_use_ends_with_two_and_one_line(words, said, folder, trained, tmp_path, capsys):
    places = {"IN": folder, "RUN": tmp_path / "run", "TRAINED": trained}
    places["TRUTH"] = folder.parent / "truth"
    words = [
        re.sub("^(IN|RUN|TRAINED|TRUTH)", lambda m: str(places[m[1]]), w) for w in words.split()
    ]
    before = sorted(folder.iterdir())
    status, _, err = call(capsys, *words)
    assert status == 2
    assert said in one_line(err)
    assert not (tmp_path / "run").exists()
    assert sorted(folder.iterdir()) == before


def test_damaged_weights_are_one_line(trained, folder, tmp_path, capsys):
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes((trained / "weights.safetensors").read_bytes()[:5000])
    status, _, err = call(capsys, "segment", weights, folder / "a.tif")
    assert status == 2 and "damaged" in one_line(err)


def test_a_full_or_forbidden_place_is_one_line(folder, tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    status, _, err = call(capsys, "train", folder, "--run", tmp_path / "file" / "run", *QUICK)
    assert status == 2 and str(tmp_path / "file") in one_line(err)


def test_evaluating_prints_a_table_and_json(folder, capsys):
    truth = folder.parent / "truth"
    status, out, _ = call(capsys, "evaluate", truth, truth)
    assert status == 0 and "Dice 1.000" in out and "mean over 2 volumes: F1 1.000" in out
    status, out, _ = call(capsys, "evaluate", truth / "a.tif", truth / "a.tif", "--json")
    (one,) = json.loads(out)["volumes"]
    assert [row["threshold"] for row in one["scores"]["rows"]] == pytest.approx(
        [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    )


def test_the_demonstration_goes_from_nothing_to_scores_and_a_report(tmp_path, capsys):
    out = tmp_path / "demo"
    status, said, _ = call(capsys, "demo", "--out", out, *SET[2:], "--set", "tile_size=96")
    assert status == 0
    cells = out / "run" / "predictions" / "example"
    scores = json.loads((cells / "scores.json").read_text(encoding="utf-8"))
    assert scores["scores"]["n_true"] == 130
    assert scores["baseline"] is not None
    for name in ("example.tif", "example_labels.tif", "run/weights.safetensors"):
        assert (out / name).exists()
    assert (cells / "scores.png").exists()
    first = said.partition("look at these first:\n")[2].splitlines()[0]
    assert first == f"  wrote {out / 'run' / 'report.html'}"
    assert "example_labels.tif" in (out / "run" / "report.html").read_text("utf-8")


def test_segmenting_into_a_run_names_its_report(trained, folder, tmp_path, capsys):
    run = shutil.copytree(trained, tmp_path / "run")
    status, said, _ = call(capsys, "segment", run, folder / "a.tif")
    assert status == 0 and f"wrote {run / 'report.html'}" in said


def test_every_verb_has_a_help_with_an_example_and_the_options_that_matter(capsys):
    for verb in ("demo", "check", "train", "segment", "evaluate", "starter"):
        assert main([verb, "--help"]) == 0
        assert f"python -m wnet_nb {verb}" in capsys.readouterr().out
    main(["train", "--help"])
    assert "learning_rate (default 2e-05)" in capsys.readouterr().out
    assert build_parser().prog == "wnet-nb"


def test_help_is_quick_as_it_loads_nothing_heavy():
    code = "import sys; from wnet_nb.cli.main import main; main(['--help']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert (
        loaded & {"torch", "numpy", "scipy", "skimage", "tifffile", "matplotlib", "tqdm"} == set()
    )


def test_going_on_with_a_name_that_is_not_there_lists_the_runs(trained, folder, capsys):
    run = trained.with_name("traned")
    status, _, err = call(capsys, "train", folder, "--run", run, "--resume")
    assert status == 2 and f"the runs in '{trained.parent}' are: trained" in one_line(err)
    assert not run.exists()


def test_resume_starts_a_training_where_preset_says_which(folder, tmp_path, capsys):
    words = ["train", folder / "a.tif", "--run", tmp_path / "run", "--resume", *QUICK]
    assert call(capsys, *words)[0] == 0
    assert (tmp_path / "run" / "weights.safetensors").exists()


def test_progress_that_is_piped_is_one_line_per_ten_percent(folder, tmp_path, capsys):
    words = ["train", folder / "a.tif", "--run", tmp_path / "run", *QUICK, "--set", "batch_size=1"]
    _, _, err = call(capsys, *words, "--set", "patches_per_volume=40")  # 80 steps
    shares = re.findall(r"^training (\d+) %: (\d+)/80 steps, [0-9:]+ left", err, re.MULTILINE)
    assert [int(share) for share, _ in shares] == list(range(10, 101, 10))


def test_weights_for_the_plugin_are_written_beside_a_training(trained, folder, tmp_path, capsys):
    run, plugin = shutil.copytree(trained, tmp_path / "run"), tmp_path / "plugin.pth"
    words = ["train", folder, "--run", run, "--resume", "--cellseg3d", plugin]
    status, out, _ = call(capsys, *words)
    assert status == 0 and f"wrote {plugin}" in out
    ours, theirs = load_checkpoint(run).model, load_checkpoint(plugin).model
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(one, other)
    status, _, err = call(capsys, *words)
    assert status == 2 and "not overwritten" in one_line(err)


def test_the_word_none_segments_without_a_network(folder, tmp_path, capsys):
    words = ["segment", "none", folder / "a.tif", "--out", tmp_path / "out"]
    status, out, _ = call(capsys, *words, "--labels", folder.parent / "truth")
    assert status == 0 and "Otsu" in out and "at IoU 0.5; mean over IoU 0.1 to 0.9: 0." in out
    assert f"wrote {tmp_path / 'out' / 'volumes.csv'}" in out


def test_a_mistake_of_ours_shows_its_traceback(monkeypatch, folder):
    def broken(*arguments, **options):
        raise ValueError("operands could not be broadcast together")

    monkeypatch.setattr("wnet_nb.cli.verbs.read_stacks", broken)
    with pytest.raises(ValueError, match="broadcast"):
        main(["check", str(folder)])


def test_ctrl_c_keeps_the_model_and_says_how_to_go_on(folder, tmp_path):
    run = tmp_path / "run"
    words = ["train", folder / "a.tif", "--run", run, *QUICK, "--set", "epochs=1000"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "wnet_nb", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    deadline = time.monotonic() + 120
    while not (run / "progress.png").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "--resume" in err and "Traceback" not in err
    assert (run / "weights.safetensors").exists()
    done = len((run / "history.csv").read_text().splitlines()) - 1
    assert f"stopped after {done} of 1000 epochs" in err
    words = ["train", folder / "a.tif", "--run", run, "--resume", "--set", f"epochs={done + 1}"]
    assert main([str(word) for word in words]) == 0
