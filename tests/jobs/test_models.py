import pytest

from wnet_nb import checkpoint, config
from wnet_nb.errors import UserError
from wnet_nb.jobs import models
from wnet_nb.model import WNet3D

TINY = config.preset("scratch", base_channels=4)


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "weights.safetensors"
    checkpoint.save_weights(path, checkpoint.build_model(TINY), TINY, [])
    return path


def test_none_is_no_network_and_prepares_as_the_small_networks_do():
    found = models.load_model("none")
    assert found.model is None and found.settings == config.preset("scratch")


def test_a_word_is_recorded_as_the_word_and_a_file_as_its_path(weights):
    assert str(models.load_model("starter").source) == "starter"
    assert models.load_model(weights).source == weights


def test_a_loaded_model_is_taken_as_it_is(weights):
    model = models.load_model(weights)
    assert models.load_model(model) is model


def test_published_weights_are_fetched_once_they_are_asked_for(tmp_path, monkeypatch):
    path = tmp_path / "wnet_latest.pth"
    checkpoint.save_cellseg3d_weights(path, WNet3D(2, base_channels=4))
    monkeypatch.setattr(models, "fetch_published", lambda progress: path)
    assert models.load_model("published").settings.normalisation == "minmax"


def test_a_folder_named_like_a_word_is_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert models.is_word("none")
    (tmp_path / "none").mkdir()
    assert not models.is_word("none")


def test_no_training_can_start_from_none():
    with pytest.raises(UserError, match="no weights"):
        models.find_weights("none")
