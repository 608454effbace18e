import numpy as np
import pytest
import zarr

from tests.benchmarks.nuclei import make_nuclei
from wnet_nb import preset, scale
from wnet_nb.cli.main import main
from wnet_nb.config import Settings
from wnet_nb.errors import UserError
from wnet_nb.jobs.stacks import read_stacks
from wnet_nb.scale.sources import Source
from wnet_nb.scale.survey import EMPTY_CONTRAST, sample_boxes

TINY = "epochs=1 patch_size=16 patches_per_volume=2 base_channels=4"


@pytest.fixture(scope="module")
def brain(tmp_path_factory):
    """Return an OME-Zarr of nuclei, half of which is empty."""
    image, _ = make_nuclei(shape=(64, 64, 64), n_cells=40)
    image = np.concatenate([np.full_like(image, 100), image], axis=2)
    path = tmp_path_factory.mktemp("brain") / "brain.zarr"
    group = zarr.create_group(path, zarr_format=2)
    group.create_array("0", data=image, chunks=(48, 48, 48))
    axes = [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "zyx"]
    moves = [{"type": "scale", "scale": [1.0, 1.0, 1.0]}]
    levels = [{"path": "0", "coordinateTransformations": moves}]
    group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": levels}]
    return path, image


def of_array(array):
    return Source(None, array.shape, array.dtype, (1, 1, 1), "option", (), lambda b: array[b])


def test_a_large_volume_is_sampled_where_it_is_not_empty():
    image = np.full((256, 200, 400), 100, np.uint16)
    image[:, :, 200:] += np.random.default_rng(0).integers(0, 2000, (256, 200, 200), np.uint16)
    boxes = sample_boxes(of_array(image), count=8, edge=48)
    assert len(boxes) == 8 and all(image[box].shape == (48, 48, 48) for box in boxes)
    assert all(np.ptp(image[box]) > EMPTY_CONTRAST * 2000 for box in boxes)
    assert len({box[0].start for box in boxes}) > 2  # from all over it


def test_a_sample_is_drawn_without_reading_the_whole():
    read = []

    def note(box):
        read.append(np.prod([s.stop - s.start for s in box]))
        return np.zeros([s.stop - s.start for s in box], np.uint16)

    huge = (20_000, 30_000, 30_000)  # 36 TB
    source = Source(None, huge, np.dtype("u2"), (1, 1, 1), "option", (), note)
    assert len(sample_boxes(source)) == 1  # all of it is empty
    assert sum(read) < 1e7


def test_an_ome_zarr_is_trained_on(brain, tmp_path, capsys):
    arguments = ["train", str(brain[0]), "--run", str(tmp_path / "run"), "--preset", "scratch"]
    changes = [word for one in TINY.split() for word in ("--set", one)]
    assert main([*arguments, *changes]) == 0
    assert "brain at 0-0-0" in capsys.readouterr().out
    assert (tmp_path / "run" / "weights.safetensors").exists()


def test_an_ome_zarr_is_checked(brain, capsys):
    assert main(["check", str(brain[0]), "--preset", "quick"]) == 0
    assert "brain at 0-0-0: 64 × 64 × 128 voxels" in capsys.readouterr().out


def test_boxes_share_one_brightness_and_one_cell_size(brain, monkeypatch):
    monkeypatch.setattr("wnet_nb.scale.survey.WHOLE", 1000)
    monkeypatch.setattr("wnet_nb.scale.sampling.TRAINING_EDGE", 48)
    stacks = read_stacks(brain[0], preset("quick"))
    assert len(stacks) > 4
    assert len({stack.prepared(preset("quick")).normalisation for stack in stacks}) == 1
    assert len({stack.cell_size for stack in stacks}) == 1
    assert len({stack.sha256 for stack in stacks}) == len(stacks)


def test_an_ome_zarr_is_not_segmented_to_a_folder_of_tiffs(brain, tmp_path, capsys):
    assert main(["segment", "none", str(brain[0]), "--out", str(tmp_path / "out")]) == 2
    assert "give --out NAME.zarr" in capsys.readouterr().err


def test_without_the_extra_a_sentence_says_how_to_get_it(brain, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(scale, "PACKAGES", (*scale.PACKAGES, "a_package_nobody_has"))
    with pytest.raises(UserError, match=r"need a_package_nobody_has; run pip install \".\[scale\]"):
        read_stacks(brain[0], Settings())
    assert main(["segment", "none", str(brain[0]), "--out", str(tmp_path / "a.zarr")]) == 2
    assert 'pip install ".[scale]"' in capsys.readouterr().err
