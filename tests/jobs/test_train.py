import multiprocessing
import shutil
import time

import numpy as np
import psutil
import pytest
import torch

from tests.benchmarks.nuclei import make_nuclei
from wnet_nb import checkpoint, config
from wnet_nb.checkpoint import load_newest_state
from wnet_nb.errors import UserError
from wnet_nb.events import EpochEnd, Finished, Started, StepEnd
from wnet_nb.files.run_files import read_history
from wnet_nb.files.writing import write_volume
from wnet_nb.jobs import train as job
from wnet_nb.jobs.run_folder import lock_run
from wnet_nb.jobs.stacks import read_stacks

TINY = config.preset(
    "scratch", base_channels=4, patch_size=16, epochs=2, patches_per_volume=2, batch_size=2
)
ESTIMATED = config.preset(
    "scratch", base_channels=4, patch_size=16, patches_per_volume=4, batch_size=2
)


@pytest.fixture(autouse=True)
def _one_thread():  # two are slower on a network this small, and wait for each other
    torch.set_num_threads(1)


@pytest.fixture
def image(tmp_path):
    array, _ = make_nuclei(shape=(24, 40, 40), n_cells=8, voxel_size_um=(3.0, 1.0, 1.0))
    return write_volume(tmp_path / "a.tif", array, voxel_size_um=(3.0, 1.0, 1.0))


def test_three_lines_train_to_the_end(image, tmp_path):
    done = job.train(image, tmp_path / "run", TINY)
    assert isinstance(done, Finished) and done.epochs == 2
    assert len(read_history(tmp_path / "run")) == 2


def test_an_observer_that_returns_true_stops_and_the_model_is_kept(image, tmp_path):
    run = tmp_path / "run"
    last = job.train(image, run, TINY, observe=lambda event: isinstance(event, StepEnd))
    assert isinstance(last, StepEnd)
    assert (run / "weights.safetensors").exists()
    assert (run / "report.html").exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_an_observer_that_raises_closes_the_training_and_frees_the_run(image, tmp_path, error):
    run = tmp_path / "run"

    def observe(event):
        if isinstance(event, StepEnd):
            raise error

    with pytest.raises(error):
        job.train(image, run, TINY, observe=observe)
    assert (run / "weights.safetensors").exists()
    lock_run(run).release()
    job.train(image, run, TINY, resume=True)


def test_validation_is_prepared_as_the_training_is(image, tmp_path, monkeypatch):
    seen = {}
    fit = job.training.fit

    def spy(volumes, settings, **options):
        seen.update(trained=volumes, validation=options["validation"])
        return fit(volumes, settings, **options)

    monkeypatch.setattr(job.training, "fit", spy)
    labels = (np.asarray(read_stacks(image, TINY)[0].array) > 300).astype(np.uint8)
    truth = write_volume(tmp_path / "a_labels.tif", labels, voxel_size_um=(3.0, 1.0, 1.0))
    stacks = read_stacks(image, TINY, labels=truth)
    done = [e for e in job.train_events(stacks, tmp_path / "run", TINY) if isinstance(e, EpochEnd)]
    assert done[0].validation_dice is not None
    ((prepared, told),) = seen["validation"]
    assert prepared is seen["trained"][0]  # averaged for voxels of 3 × 1 × 1 µm, not 1 × 1 × 1
    assert np.array_equal(told, labels)


def test_a_volume_without_cells_is_remarked_when_the_training_starts(image, tmp_path, monkeypatch):
    def none(*arguments, **options):
        raise UserError("no blob stands out of the noise")

    monkeypatch.setattr("wnet_nb.jobs.stacks.estimate_cell_radius", none)
    events = job.train_events(image, tmp_path / "run", TINY)
    started = next(events)
    events.close()
    assert isinstance(started, Started)
    assert any("no cells stand out" in remark for remark in started.remarks)


def test_training_goes_on_while_a_full_disk_takes_neither_state_nor_table(image, small_disk):
    run, said = small_disk / "run", []

    def observe(event):
        said.extend(getattr(event, "remarks", ()))
        if isinstance(event, StepEnd) and event.step == 2:
            (small_disk / "other").write_bytes(bytes(shutil.disk_usage(small_disk).free))
        if isinstance(event, EpochEnd) and event.epoch == 2:
            (small_disk / "other").unlink()

    done = job.train(image, run, TINY.replace(epochs=3), observe=observe)
    words = " ".join(said)
    assert "epoch 2 is not recorded yet" in words and "No space left" in words
    assert done.epochs == 3 and [row["epoch"] for row in read_history(run)] == [1, 2, 3]
    assert load_newest_state(run)[0]["step"] == done.steps
    assert (run / "report.html").exists()
    assert not [path for path in run.rglob(".*.part")]


def test_a_process_that_is_spawned_trains_to_the_same_numbers(image, tmp_path):
    here = job.train(image, tmp_path / "here", TINY)
    with multiprocessing.get_context("spawn").Pool(1, torch.set_num_threads, (1,)) as pool:
        there = pool.apply(job.train, (image, tmp_path / "there", TINY))
    totals = [[row["total"] for row in done.history] for done in (here, there)]
    assert totals[0] == totals[1]
    assert there.settings == TINY and not there.model.training


def test_there_is_nothing_to_train_on_without_volumes(tmp_path):
    with pytest.raises(UserError, match="holds no TIFF"):
        job.train(tmp_path, tmp_path / "run", TINY)


@pytest.fixture(scope="module")
def stacks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    array, _ = make_nuclei(shape=(48, 48, 48), n_cells=16, cell_radius_um=8.0)
    write_volume(folder / "a.tif", array, voxel_size_um=(1, 1, 1))
    return read_stacks(folder, ESTIMATED)


def test_the_memory_is_that_of_the_plan_and_not_of_what_was_before(stacks):
    before = np.ones(2**27, np.float64)  # a gigabyte, which the process held once
    del before
    holds = psutil.Process().memory_info().rss / 1e9
    found = job.estimate_training(stacks, ESTIMATED)
    assert 0 < found.memory_gb < holds + 0.5 < found.of_gb


def test_the_time_grows_with_the_epochs_and_counts_saving(stacks, monkeypatch):
    short, long = (
        job.estimate_training(stacks, ESTIMATED.replace(epochs=n)).seconds for n in (2, 200)
    )
    assert 20 < long / short < 500
    assert "saving included" in job.Estimate(100.0, 1.5, 16.0, 50, "CPU").words
    slow = lambda *_: time.sleep(3)  # noqa: E731
    monkeypatch.setattr(checkpoint, "save_state", slow)
    seconds = job.estimate_training(stacks, ESTIMATED.replace(epochs=1)).seconds
    assert seconds >= 3  # the last state is written however short the training is


def test_an_estimate_leaves_nothing_behind(stacks, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = torch.random.get_rng_state()
    job.estimate_training(stacks, ESTIMATED)
    assert list(tmp_path.iterdir()) == []
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_preview_patch_is_measured_as_the_network_sees_it(stacks):
    radius, size = job.measure_patch(stacks, ESTIMATED)
    assert radius == stacks[0].cell_size.radius_um
    assert size == tuple(float(factor) for factor in stacks[0].prepared(ESTIMATED).factors)
    assert job.measure_patch(stacks, ESTIMATED.replace(cell_radius_um=3.0))[0] == 3.0


@pytest.mark.parametrize("seconds, words", [(5, "5 s"), (600, "10 min"), (9000, "2.5 h")])
def test_a_time_is_said_in_words(seconds, words):
    assert job.duration(seconds) == words
