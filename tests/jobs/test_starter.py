import numpy as np
import pytest
import torch

from wnet_nb.cells.simulate import Ranges
from wnet_nb.checkpoint import load_checkpoint
from wnet_nb.jobs.starter import class_loss, draw_patches, make_starter

STEPS, VOLUMES = 6, 2


def train(out, **changes):
    plan = {"steps": STEPS, "volumes": VOLUMES, "seed": 5} | changes
    return make_starter(out, Ranges(), **plan)


def losses(events):
    return [event.loss for event in events if event.phase in ("encoder", "decoder")]


def test_a_training_repeated_gives_the_same_losses_bit_for_bit(tmp_path):
    first = losses(train(tmp_path / "a.safetensors"))
    assert first == losses(train(tmp_path / "b.safetensors"))
    assert len(first) == STEPS + 1  # one step of the decoder
    assert first != losses(train(tmp_path / "c.safetensors", seed=6))


@pytest.mark.long
def test_two_hundred_steps_repeat_bit_for_bit(tmp_path):
    plan = {"steps": 200, "volumes": 16}
    first = losses(train(tmp_path / "a.safetensors", **plan))
    assert len(first) >= 200
    assert first == losses(train(tmp_path / "b.safetensors", **plan))


def test_a_training_that_was_interrupted_goes_on_with_the_same_losses(tmp_path):
    whole = losses(train(tmp_path / "whole.safetensors"))
    begun = []
    events = train(tmp_path / "parts.safetensors")
    for event in events:
        if event.phase == "encoder":
            begun.append(event.loss)
        if len(begun) == 3:
            events.close()
    assert begun + losses(train(tmp_path / "parts.safetensors")) == whole
    one, two = (load_checkpoint(tmp_path / f"{n}.safetensors") for n in ("whole", "parts"))
    for name, tensor in one.model.state_dict().items():
        assert torch.equal(tensor, two.model.state_dict()[name])


def test_a_training_of_another_plan_is_not_gone_on_with(tmp_path):
    events = train(tmp_path / "a.safetensors")
    for event in events:
        if event.phase == "encoder":
            events.close()
    with pytest.raises(ValueError, match="other steps"):
        list(train(tmp_path / "a.safetensors", steps=STEPS + 1))


def test_the_file_is_small_loads_with_its_settings_and_is_never_overwritten(tmp_path):
    path = tmp_path / "starter.safetensors"
    events = list(train(path))
    ended = [e.phase for e in events if e.done == e.total]
    assert ended == ["volumes", "encoder", "decoder"]
    assert path.stat().st_size < 8_000_000
    loaded = load_checkpoint(path)
    assert loaded.settings.n_classes == 3 and loaded.settings.base_channels == 16
    assert next(loaded.model.parameters()).dtype == torch.float32
    with pytest.raises(ValueError, match="not overwritten"):
        list(train(path))


@pytest.mark.parametrize("name", ["starter.pth", "starter"])
def test_only_a_safetensors_file_is_written(tmp_path, name):
    with pytest.raises(ValueError, match="safetensors"):
        list(train(tmp_path / name))


def test_patches_keep_image_and_classes_together():
    volumes = np.random.default_rng(0).integers(0, 3, (2, 40, 40, 40)).astype(np.uint8)
    images, targets = draw_patches([(classes * 100, classes) for classes in volumes], 1, 1)
    assert images.shape == (4, 1, 32, 32, 32) and images.dtype == torch.float32
    assert targets.shape == (4, 32, 32, 32) and 0 <= images.min() <= images.max() <= 100
    for image, target in zip(images[:, 0], targets, strict=True):
        levels = [image[target == k] for k in range(3)]
        assert all(level.std() < 1e-4 for level in levels)  # brightness changes, classes do not
        assert levels[0].mean() < levels[1].mean() <= levels[2].mean()


def test_the_loss_is_small_for_the_right_classes_and_large_for_others():
    classes = torch.randint(0, 3, (2, 8, 8, 8))
    right = 20.0 * torch.nn.functional.one_hot(classes, 3).movedim(-1, 1)
    assert class_loss(right, classes) < 1e-3
    assert class_loss(right.roll(1, 1), classes) > 2
    nothing = torch.zeros_like(classes)
    empty = 20.0 * torch.nn.functional.one_hot(nothing, 3).movedim(-1, 1)
    assert class_loss(empty, nothing) < 1e-3
