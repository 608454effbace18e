import numpy as np
import pytest
import torch

from wnet_nb import config
from wnet_nb.errors import UserError
from wnet_nb.events import EpochEnd, Finished, Started, StepEnd
from wnet_nb.files.run_files import read_history
from wnet_nb.files.writing import write_volume
from wnet_nb.jobs import train as job
from wnet_nb.jobs.example import make_example
from wnet_nb.jobs.run_folder import lock_run
from wnet_nb.jobs.stacks import read_stacks

TINY = config.preset(
    "scratch", base_channels=4, patch_size=16, epochs=2, patches_per_volume=2, batch_size=2
)


@pytest.fixture(autouse=True)
def _one_thread():  # two are slower on a network this small, and wait for each other
    torch.set_num_threads(1)


@pytest.fixture
def image(tmp_path):
    array, _ = make_example(shape=(24, 40, 40), n_cells=8, voxel_size_um=(3.0, 1.0, 1.0))
    return write_volume(tmp_path / "a.tif", array, voxel_size_um=(3.0, 1.0, 1.0))


def test_three_lines_train_to_the_end(image, tmp_path):
    done = job.train(image, tmp_path / "run", TINY)
    assert isinstance(done, Finished) and done.epochs == 2
    assert len(read_history(tmp_path / "run")) == 2


def test_an_observer_that_returns_true_stops_and_the_model_is_kept(image, tmp_path):
    events = job.train_events(image, tmp_path / "run", TINY)
    last = job.follow(events, lambda event: isinstance(event, StepEnd))
    assert isinstance(last, StepEnd)
    assert (tmp_path / "run" / "weights.safetensors").exists()
    assert (tmp_path / "run" / "report.html").exists()


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


def test_a_training_stopped_before_its_end_says_where_the_model_is(image, tmp_path):
    with pytest.raises(UserError, match="run' keeps what was learned"):
        job.train(image, tmp_path / "run", TINY, observe=lambda event: True)


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


def test_there_is_nothing_to_train_on_without_volumes(tmp_path):
    with pytest.raises(UserError, match="holds no TIFF"):
        job.train(tmp_path, tmp_path / "run", TINY)
