"""Tests of `wnet_nb.training`: repeatable, resumable, convergent, safe when a loss runs away."""

import contextlib
import dataclasses
import functools
import json
import math
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

import wnet_nb
from wnet_nb import checkpoint
from wnet_nb.config import Settings, preset
from wnet_nb.data import fit_normalisation, prepare
from wnet_nb.device import choose_dtype
from wnet_nb.errors import UserError
from wnet_nb.events import Controls, EpochEnd, Finished, Started, StepEnd
from wnet_nb.inference import best_class_dice
from wnet_nb.learner import Learner
from wnet_nb.training import fit

TINY = Settings(
    base_channels=4,
    dropout=0.3,
    intensity_sigma=10,
    epochs=2,
    batch_size=2,
    learning_rate=1e-3,
    patch_size=16,
    patches_per_volume=5,
    precision="float32",
)
LIMITS = {"epochs", "learning_rate", "seconds", "peak_memory_mb"}  # no result of the arithmetic


def balls(shape=(24, 24, 24), seed=0):
    """Return bright balls of radius 4 on a dark noisy ground, uint16, and their mask."""
    random = np.random.default_rng(seed)
    grid = np.stack(np.indices(shape), -1)
    mask = np.zeros(shape, bool)
    for centre in random.uniform(4, np.array(shape) - 4, (5, 3)):
        mask |= ((grid - centre) ** 2).sum(-1) < 16
    return (100 + 800 * mask + random.normal(0, 20, shape)).astype(np.uint16), mask


VOLUME, MASK = balls()


def of_kind(events, kind):
    """Return the events of one kind."""
    return [event for event in events if isinstance(event, kind)]


def losses(events):
    """Return (step, soft N-cut, reconstruction, total) of every step."""
    return [(e.step, e.soft_ncut, e.reconstruction, e.total) for e in of_kind(events, StepEnd)]


def rows(history):
    """Return history rows without what the clock and the memory say."""
    return [{k: v for k, v in row.items() if k not in LIMITS} for row in history]


def weights(model):
    """Return all weights as bytes."""
    return b"".join(t.numpy().tobytes() for t in model.state_dict().values())


def newest(folder):
    """Return the newest state of a run folder."""
    return checkpoint.load_newest_state(folder)[0]


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)  # for networks this small a second one only costs


@functools.cache
def undisturbed():
    """Return the events of one undisturbed run of four epochs."""
    return list(fit([VOLUME], TINY.replace(epochs=4)))


@pytest.fixture
def whole():
    """Give that run, made inside a test so that it has the threads of a test."""
    return undisturbed()


def test_events_come_in_order_with_their_numbers(whole):
    kinds = [type(event) for event in whole]
    assert kinds == [Started] + ([StepEnd] * 3 + [EpochEnd]) * 4 + [Finished]
    assert [e.step for e in of_kind(whole, StepEnd)] == list(range(1, 13))
    assert [e.epoch for e in of_kind(whole, StepEnd)] == [1] * 3 + [2] * 3 + [3] * 3 + [4] * 3
    assert whole[0].steps_per_epoch == 3  # 5 patches in batches of 2, 2 and 1
    assert (whole[0].patch_shape, whole[0].precision) == ((16, 16, 16), "float32")
    assert (whole[-1].epochs, whole[-1].steps) == (4, 12)


def test_history_row_is_the_mean_of_its_steps_in_the_columns_of_the_contract(whole):
    columns = (
        "epoch step soft_ncut reconstruction total learning_rate seconds peak_memory_mb changes"
    )
    steps = np.array([e[1:] for e in losses(whole)]).reshape(4, 3, 3).mean(axis=1)
    for number, row in enumerate(whole[-1].history):
        assert list(row) == columns.split()
        assert (row["epoch"], row["step"], row["changes"]) == (number + 1, 3 * number + 3, "")
        assert row["learning_rate"] == 1e-3 and row["seconds"] > 0 and row["peak_memory_mb"] > 0
        found = [row["soft_ncut"], row["reconstruction"], row["total"]]
        np.testing.assert_allclose(found, steps[number], rtol=1e-12)
    assert [e.row for e in of_kind(whole, EpochEnd)] == list(whole[-1].history)


def test_total_is_the_weighted_sum_at_every_step(whole):
    for _, cut, rebuilt, total in losses(whole):
        assert total == pytest.approx(0.5 * cut + 5e-3 * rebuilt, rel=1e-6)


def test_time_left_falls_to_zero(whole):
    assert [e.seconds_left > 0 for e in of_kind(whole, EpochEnd)] == [True, True, True, False]
    assert of_kind(whole, EpochEnd)[-1].seconds_left == 0


def test_same_seed_gives_the_same_losses_and_weights_bit_for_bit(whole):
    torch.manual_seed(99)  # the caller's numbers play no part
    again = list(fit([VOLUME], TINY.replace(epochs=4)))
    assert losses(again) == losses(whole)
    assert weights(again[-1].model) == weights(whole[-1].model)


def test_another_seed_gives_other_losses(whole):
    other = list(fit([VOLUME], TINY.replace(epochs=1, seed=1)))
    assert not {e[3] for e in losses(other)} & {e[3] for e in losses(whole)}


def test_every_step_sees_other_patches_and_other_dropout():
    still = TINY.replace(learning_rate=1e-8, weight_decay=0, batch_size=1, epochs=1)
    for settings in (still.replace(dropout=0), still):
        volume = VOLUME if settings.dropout == 0 else VOLUME[4:20, 4:20, 4:20]
        events = fit([volume], settings.replace(augmentation=settings.dropout == 0))
        seen = [round(e[2], 2) for e in losses(events)]
        assert len(set(seen)) == len(seen)


def test_random_numbers_of_the_caller_stay_as_they_were():
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002  the global state is what is tested
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    list(fit([VOLUME], TINY.replace(epochs=1)))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002


def test_losses_fall_and_the_balls_are_found():
    settings = TINY.replace(
        base_channels=8, dropout=0, epochs=10, patches_per_volume=20, learning_rate=1e-2
    )
    events = list(fit([VOLUME], settings, validation=[(prepare(VOLUME, TINY), MASK)]))
    first, *_, last = (e.row for e in of_kind(events, EpochEnd))
    assert last["soft_ncut"] < 0.7 * first["soft_ncut"]
    assert last["reconstruction"] < first["reconstruction"]
    assert of_kind(events, EpochEnd)[-1].validation_dice > 0.6


@pytest.mark.parametrize("stop", [1, 3, 4, 8, 11, 12])
def test_closed_and_resumed_training_ends_with_the_same_bits(stop, whole, tmp_path):
    settings = TINY.replace(epochs=4)
    events = fit([VOLUME], settings, run=tmp_path)
    first = []
    for event in events:
        first.append(event)
        if isinstance(event, StepEnd) and event.step == stop:
            break
    events.close()
    assert newest(tmp_path)["step"] == stop
    second = list(fit([VOLUME], settings, run=tmp_path))
    assert losses(first) + losses(second) == losses(whole)
    assert rows(second[-1].history) == rows(whole[-1].history)
    assert weights(second[-1].model) == weights(whole[-1].model)
    saved = checkpoint.load_checkpoint(tmp_path)
    assert weights(saved.model) == weights(whole[-1].model)
    assert rows(saved.history) == rows(whole[-1].history)


def test_resumed_training_says_how_far_it_was(tmp_path):
    list(fit([VOLUME], TINY.replace(epochs=1), run=tmp_path))
    started = next(fit([VOLUME], TINY, run=tmp_path))
    assert (started.epochs, started.epochs_done) == (2, 1)
    assert [row["epoch"] for row in started.history] == [1]


def test_finished_training_that_is_resumed_only_says_so(tmp_path):
    list(fit([VOLUME], TINY.replace(epochs=1), run=tmp_path))
    events = list(fit([VOLUME], TINY.replace(epochs=1), run=tmp_path))
    assert [type(e) for e in events] == [Started, Finished]


def test_run_folder_of_another_network_is_refused(tmp_path):
    list(fit([VOLUME], TINY.replace(epochs=1), run=tmp_path))
    with pytest.raises(UserError, match="does not fit"):
        next(fit([VOLUME], TINY.replace(base_channels=8), run=tmp_path))


def test_training_closed_before_its_first_step_writes_nothing(tmp_path):
    events = fit([VOLUME], TINY, run=tmp_path)
    next(events)
    events.close()
    assert not list(tmp_path.iterdir())


def test_finished_model_is_in_evaluation_mode_and_on_disk(tmp_path):
    for event in fit([VOLUME], TINY.replace(epochs=1), run=tmp_path):
        if isinstance(event, Finished):  # before the generator is closed
            assert not event.model.training
            assert weights(checkpoint.load_checkpoint(tmp_path).model) == weights(event.model)


def run_away(folder):
    """Spoil a saved state so that the reconstruction of the next step overflows float32."""
    path = max((folder / "checkpoints").glob("step-*.pt"))
    state = torch.load(path, weights_only=True)
    state["model"]["decoder.out_b.module.8.weight"] *= 1e25  # finite, but its square is not
    torch.save(state, path)


def test_loss_that_is_not_finite_stops_with_step_and_terms_and_leaves_finite_weights(
    tmp_path,
):
    list(fit([VOLUME], TINY.replace(epochs=1), run=tmp_path))
    run_away(tmp_path)
    before = newest(tmp_path)["model"]
    with pytest.raises(UserError) as caught:
        list(fit([VOLUME], TINY, run=tmp_path))
    for words in (
        "a loss is not finite at step 4",
        "soft_ncut",
        "reconstruction inf",
        "lower learning_rate",
    ):
        assert words in str(caught.value)
    after = newest(tmp_path)["model"]
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(torch.isfinite(t).all() for t in after.values())
    assert checkpoint.load_checkpoint(tmp_path)  # refuses weights that are not finite


def test_gradient_that_is_not_finite_stops_before_it_reaches_the_weights(tmp_path):
    list(fit([VOLUME], TINY.replace(epochs=1), run=tmp_path))
    path = max((tmp_path / "checkpoints").glob("step-*.pt"))
    state = torch.load(path, weights_only=True)
    # Loss of 1e36 is finite; its gradient with respect to the layer before is not.
    state["model"]["decoder.out_b.module.8.weight"] *= 1e19
    state["model"]["decoder.out_b.module.7.weight"] *= 1e-3
    state["model"]["decoder.out_b.module.7.bias"] *= 1e-3
    torch.save(state, path)
    with pytest.raises(UserError, match=r"step 4 .*lower learning_rate"):
        list(fit([VOLUME], TINY, run=tmp_path))
    after = newest(tmp_path)["model"]
    assert all(torch.equal(state["model"][name], after[name]) for name in after)


def test_largest_learning_rate_either_stops_in_words_or_keeps_finite_weights(tmp_path):
    settings = TINY.replace(learning_rate=1, weight_decay=1, epochs=4)
    try:
        list(fit([VOLUME], settings, run=tmp_path))
    except UserError as error:
        assert "step" in str(error)
    state = newest(tmp_path)
    assert all(torch.isfinite(t).all() for t in state["model"].values())


def changed(settings, at, run=None, **change):
    """Train and ask for a change right before step `at`; return the events."""
    controls, events = Controls(), []
    for event in fit([VOLUME], settings, run=run, controls=controls):
        events.append(event)
        if isinstance(event, StepEnd) and event.step == at - 1:
            controls.change(**change)
    return events


def test_live_change_takes_effect_at_the_next_step_and_is_in_event_and_history(whole):
    events = changed(TINY, 5, ncut_weight=0.25)
    assert losses(events)[:4] == losses(whole)[:4]
    for step, cut, rebuilt, total in losses(events):
        weight = 0.5 if step < 5 else 0.25
        assert total == pytest.approx(weight * cut + 5e-3 * rebuilt, rel=1e-6)
    marks = {e.step: e.changes for e in of_kind(events, StepEnd) if e.changes}
    assert marks == {5: (("ncut_weight", 0.25),)}
    assert [row["changes"] for row in events[-1].history] == ["", "step 5: ncut_weight=0.25"]
    assert events[-1].settings == TINY.replace(ncut_weight=0.25)


def test_change_before_the_first_step_of_a_resumed_run_is_marked_at_its_true_step(tmp_path):
    list(fit([VOLUME], TINY.replace(epochs=1), run=tmp_path))
    controls = Controls()
    controls.change(radius=3)
    events = list(fit([VOLUME], TINY.replace(epochs=1), run=tmp_path, controls=controls))
    assert not of_kind(events, StepEnd)  # there is no step left
    events = list(fit([VOLUME], TINY, run=tmp_path, controls=controls))
    first = of_kind(events, StepEnd)[0]
    assert first.step == 4 and dict(first.changes)["radius"] == 3


@pytest.mark.parametrize("number", [np.float32(0.25), np.int64(3), 0.25])
def test_live_change_of_any_number_type_survives_a_resume(number, tmp_path):
    changed(TINY.replace(epochs=1), 2, tmp_path, reconstruction_weight=number)
    resumed = list(fit([VOLUME], TINY, run=tmp_path))
    assert resumed[-1].settings.reconstruction_weight == number
    assert resumed[0].history[0]["changes"].startswith("step 2: reconstruction_weight=")


def test_live_change_of_the_learning_rate_acts_at_the_next_step(whole):
    events = changed(TINY, 5, learning_rate=1e-2)
    assert losses(events)[:5] == losses(whole)[:5] and losses(events)[5] != losses(whole)[5]
    assert [row["learning_rate"] for row in events[-1].history] == [1e-3, 1e-2]


def test_more_epochs_while_it_trains_are_trained(whole):
    events = changed(TINY, 5, epochs=4)
    assert losses(events) == losses(whole)
    assert events[-1].epochs == 4


def test_live_change_that_does_not_fit_the_patches_is_told_and_the_training_goes_on(whole):
    events = changed(TINY, 5, radius=9)
    (words,) = of_kind(events, StepEnd)[4].remarks
    assert "radius=9 does not fit patch_size=16" in words
    assert losses(events) == losses(whole)[:6]


def test_state_and_weights_are_written_before_the_next_step_when_asked_for(whole, tmp_path):
    controls, events = Controls(), []
    for event in fit([VOLUME], TINY, run=tmp_path, controls=controls):
        events.append(event)
        if isinstance(event, StepEnd) and event.step == 1:
            controls.save_now()
        if isinstance(event, StepEnd) and event.step == 2:
            assert newest(tmp_path)["step"] == 1
            assert checkpoint.load_checkpoint(tmp_path)
    assert losses(events) == losses(whole)[:6]


def test_validation_dice_is_that_of_the_best_class_at_every_interval():
    settings = TINY.replace(epochs=3, validation_interval=2)
    events = list(fit([VOLUME], settings, validation=[(prepare(VOLUME, TINY), MASK)]))
    scores = [e.validation_dice for e in of_kind(events, EpochEnd)]
    assert scores[0] is None and scores[2] is None and 0 <= scores[1] <= 1


def test_validation_dice_agrees_with_the_finished_model():
    volume, mask = balls((16, 16, 16), seed=1)
    events = list(fit([VOLUME], TINY.replace(epochs=1), validation=[(prepare(volume, TINY), mask)]))
    with torch.inference_mode():
        image = torch.from_numpy(fit_normalisation(volume).apply(volume))[None, None]
        probabilities = events[-1].model.encode(image)[0].numpy()
    assert events[-2].validation_dice == best_class_dice(probabilities, mask)


def test_validation_changes_nothing_in_the_training(whole):
    events = list(fit([VOLUME], TINY, validation=[(prepare(VOLUME, TINY), MASK)]))
    assert losses(events) == losses(whole)[:6]


@pytest.mark.parametrize("kind", ["MSE", "BCE"])
def test_preview_shows_one_fixed_patch_in_plain_arrays(kind):
    settings = TINY.replace(n_classes=3, reconstruction_loss=kind)
    first, second = (e.preview for e in of_kind(fit([VOLUME], settings), EpochEnd))
    np.testing.assert_array_equal(first.image, second.image)
    assert first.image.shape == first.reconstruction.shape == (16, 16, 16)
    assert first.probabilities.shape == (3, 16, 16, 16)
    for array in (first.image, first.probabilities, first.reconstruction):
        assert type(array) is np.ndarray and array.dtype == np.float32
    np.testing.assert_allclose(first.probabilities.sum(0), 1, rtol=1e-5)
    assert first.image.min() >= 0 and first.image.max() <= 100 and first.image.any()
    if kind == "BCE":
        assert first.reconstruction.min() >= 0 and first.reconstruction.max() <= 100


def test_consumer_runs_with_gradients_on_and_in_full_precision():
    for _ in fit([VOLUME], TINY.replace(epochs=1, precision="float16")):
        assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
        assert not torch.is_autocast_enabled("cpu")


def test_consumer_may_put_the_model_in_evaluation_mode_without_harm(whole, monkeypatch):
    made = []
    build = checkpoint.build_model
    monkeypatch.setattr(checkpoint, "build_model", lambda s: made.append(build(s)) or made[0])
    seen = []
    for event in fit([VOLUME], TINY):
        seen.append(event)
        if isinstance(event, StepEnd | EpochEnd):
            assert made[0].training  # dropout is back on after every validation and preview
        made[0].eval()
    assert losses(seen) == losses(whole)[:6]


def test_events_are_frozen(whole):
    for event in (whole[0], whole[1], whole[4], whole[-1], whole[4].preview):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(event, dataclasses.fields(event)[0].name, None)


def test_changing_an_event_s_row_does_not_change_the_history():
    events = fit([VOLUME], TINY.replace(epochs=1))
    for event in events:
        if isinstance(event, EpochEnd):
            event.row["total"] = -1
        if isinstance(event, Finished):
            assert event.history[0]["total"] > 0


def test_volumes_of_several_shapes_and_dtypes_train_together():
    volumes = [VOLUME, VOLUME[:20, :17].astype(">f4"), VOLUME[:9].astype(np.uint8)]
    events = list(fit(volumes, TINY.replace(epochs=1)))
    assert events[0].steps_per_epoch == 8  # 15 patches in batches of 2
    assert all(math.isfinite(e[3]) for e in losses(events))
    assert [r for r in events[0].remarks if "volume 3" in r and "16×24×24" in r]
    assert not [r for r in events[0].remarks if "volume 1" in r or "volume 2" in r]


def test_user_is_told_when_patches_are_cut_down():
    started = next(fit([VOLUME[:, :10]], TINY.replace(patch_size=32)))
    assert started.patch_shape == (24, 16, 24)
    assert "24×16×24" in " ".join(started.remarks)


def test_volume_that_fits_gives_no_remark(whole):
    assert whole[0].remarks == ()


@pytest.mark.parametrize("option", [{"affinity": "pairwise"}, {"gradient_clipping": 1.0}])
def test_option_of_the_loss_or_step_changes_the_numbers(option, whole):
    events = list(fit([VOLUME], TINY.replace(epochs=1, **option)))
    assert losses(events)[-1] != losses(whole)[2]
    assert all(math.isfinite(e[3]) for e in losses(events))


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_stays_close_to_full(precision):
    # With patches of 16 the deepest stage works on 2³ voxels, where the bfloat16 Conv3d gradient
    # of torch 2.13 on a CPU is memory that nobody wrote; hence 32 (4³ voxels).
    settings = TINY.replace(epochs=1, patch_size=32, patches_per_volume=3)
    volume = balls((32, 32, 32))[0]
    events = list(fit([volume], settings.replace(precision=precision)))
    assert events[0].precision == precision
    for half, full in zip(losses(events), losses(fit([volume], settings)), strict=True):
        assert half[1:] == pytest.approx(full[1:], rel=0.05)


@pytest.mark.skipif(
    choose_dtype("auto", torch.device("cpu")) != torch.bfloat16,
    reason="this processor does not compute in bfloat16",
)
def test_torch_still_gets_bfloat16_gradients_of_thin_volumes_wrong():
    """When this fails, torch is mended: take BFLOAT16_PLANES out of `training`."""
    torch.manual_seed(0)
    conv = torch.nn.Conv3d(64, 64, 3, padding=1)
    image = torch.randn(1, 64, 2, 4, 4)
    gradients = []
    for reduced in (False, True):
        conv.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, reduced):
            conv(image).float().square().sum().backward()
        gradients.append(conv.weight.grad.clone())
    error = (gradients[1] - gradients[0]).norm() / gradients[0].norm()
    assert not error < 0.1


def test_thin_patches_in_bfloat16_are_refused_on_a_cpu():
    with pytest.raises(UserError, match=r"bfloat16 on a CPU.*at least 24 planes, not 16"):
        next(fit([VOLUME], TINY.replace(precision="bfloat16"), device="cpu"))


@pytest.mark.parametrize(("patch", "expected"), [(32, "bfloat16"), (16, "float32")])
def test_auto_takes_bfloat16_where_processor_and_patches_allow_and_says_why(
    patch, expected, monkeypatch
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    volume = balls((32, 32, 32))[0]
    settings = TINY.replace(precision="auto", patch_size=patch)
    started = next(fit([volume], settings, device="cpu"))
    assert started.precision == expected
    assert f"computes in {expected}" in " ".join(started.remarks)


def test_auto_is_float32_without_a_word_where_the_processor_has_nothing_else(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    started = next(fit([VOLUME], TINY.replace(precision="auto"), device="cpu"))
    assert (started.precision, started.remarks) == ("float32", ())


def test_training_in_bfloat16_resumes_with_the_same_bits(tmp_path):
    settings = TINY.replace(precision="bfloat16", patch_size=24, patches_per_volume=2)
    list(fit([VOLUME], settings, run=tmp_path / "unbroken"))
    for epochs in (1, 2):
        list(fit([VOLUME], settings.replace(epochs=epochs), run=tmp_path / "resumed"))
    one, other = (newest(tmp_path / name)["model"] for name in ("unbroken", "resumed"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_training_starts_from_given_weights(tmp_path, whole):
    path = tmp_path / "start.pth"
    checkpoint.save_cellseg3d_weights(path, whole[-1].model)
    settings = TINY.replace(start_from=str(path), epochs=1, learning_rate=1e-8, weight_decay=0)
    model = list(fit([VOLUME], settings))[-1].model
    for ours, theirs in zip(model.parameters(), whole[-1].model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_no_volume_is_an_error():
    with pytest.raises(UserError, match="no volume"):
        next(fit([], TINY))


def test_volume_with_nan_is_refused_by_its_number():
    bad = VOLUME.astype(np.float32)
    bad[3, 3, 3] = np.nan
    with pytest.raises(UserError, match="volume 2 of 2"):
        next(fit([VOLUME, bad], TINY))


def test_constant_volume_trains_without_nan():
    events = list(fit([np.full((16, 16, 16), 7, np.uint8)], TINY.replace(epochs=1)))
    assert all(math.isfinite(value) for e in losses(events) for value in e)


def test_a_hold_keeps_the_classes_near_those_of_the_start(tmp_path):
    settings = TINY.replace(n_classes=3, foreground_classes=(1, 2), core_class=1, epochs=3)
    *_, first = fit([VOLUME], settings.replace(epochs=1))
    path = tmp_path / "start.safetensors"
    checkpoint.save_weights(path, first.model, settings, [])
    image = torch.from_numpy(fit_normalisation(VOLUME).apply(VOLUME))[None, None]
    settings = settings.replace(start_from=str(path), dropout=0.0, epochs=8)

    def moved(hold):
        *_, end = fit([VOLUME], settings.replace(hold_weight=hold))
        with torch.inference_mode():
            return float((end.model.encode(image) - first.model.encode(image)).abs().mean())

    assert moved(50.0) < 0.5 * moved(0.0)


def test_a_held_training_resumes_with_the_same_numbers(tmp_path):
    settings = TINY.replace(n_classes=3, foreground_classes=(1, 2), core_class=1, hold_weight=1.0)
    *_, first = fit([VOLUME], settings.replace(epochs=1))
    path = tmp_path / "start.safetensors"
    checkpoint.save_weights(path, first.model, settings, [])
    settings = settings.replace(start_from=str(path), epochs=4)
    (tmp_path / "run").mkdir()
    whole = list(fit([VOLUME], settings))
    list(fit([VOLUME], settings.replace(epochs=2), run=tmp_path / "run"))
    path.unlink()  # the state knows what it held to
    rest = list(fit([VOLUME], settings, run=tmp_path / "run"))
    assert losses(rest) == losses(whole)[-len(losses(rest)) :]
    assert len(losses(rest)) > 0


def everything(folder):
    """Return the newest state of a run folder as one string of bytes, without times."""
    state = newest(folder)
    state["progress"]["history"] = rows(state["progress"]["history"])
    state["progress"].pop("seconds")
    return repr(_plain(state))


def _plain(value):
    if isinstance(value, torch.Tensor):
        return value.numpy().tobytes()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("stop", [2, 3])
def test_full_state_of_a_resumed_run_has_the_bits_of_an_unbroken_one(stop, tmp_path):
    settings = TINY.replace(gradient_clipping=1.0)
    list(fit([VOLUME, VOLUME[:20]], settings, run=tmp_path / "unbroken"))
    events = fit([VOLUME, VOLUME[:20]], settings, run=tmp_path / "resumed")
    while not (isinstance(event := next(events), StepEnd) and event.step == stop):
        pass
    events.close()
    list(fit([VOLUME, VOLUME[:20]], settings, run=tmp_path / "resumed"))
    assert everything(tmp_path / "resumed") == everything(tmp_path / "unbroken")


def test_what_is_asked_for_on_resume_holds_and_is_recorded(whole, tmp_path):
    list(fit([VOLUME], TINY.replace(epochs=1), run=tmp_path))
    asked = TINY.replace(epochs=3, learning_rate=1e-2, ncut_weight=0.25)
    events = list(fit([VOLUME], asked, run=tmp_path))
    first = of_kind(events, StepEnd)[0]
    assert dict(first.changes) == {"epochs": 3, "learning_rate": 1e-2, "ncut_weight": 0.25}
    assert events[-1].history[1]["changes"] == (
        "step 4: ncut_weight=0.25; epochs=3; learning_rate=0.01"
    )
    assert [row["learning_rate"] for row in events[-1].history] == [1e-3, 1e-2, 1e-2]
    assert first.total == pytest.approx(0.25 * first.soft_ncut + 5e-3 * first.reconstruction)
    assert losses(events)[1] != losses(whole)[4]  # the larger step was taken
    assert newest(tmp_path)["optimizer"]["param_groups"][0]["lr"] == 1e-2


def test_live_change_holds_on_resume_unless_something_else_is_asked_for(tmp_path):
    changed(TINY.replace(epochs=1), 2, tmp_path, learning_rate=5e-3, radius=3)
    resumed = list(fit([VOLUME], TINY.replace(radius=4), run=tmp_path))[-1].settings
    assert (resumed.learning_rate, resumed.radius) == (5e-3, 4)
    again = list(fit([VOLUME], TINY.replace(radius=4, epochs=3), run=tmp_path))[-1].settings
    assert (again.learning_rate, again.radius) == (5e-3, 4)


def test_resumed_training_does_not_need_its_start_weights_any_more(whole, tmp_path):
    start = tmp_path / "start.pth"
    checkpoint.save_cellseg3d_weights(start, whole[-1].model)
    settings = TINY.replace(start_from=str(start), epochs=1)
    first = list(fit([VOLUME], settings, run=tmp_path / "run"))
    start.unlink()  # as on a new machine
    second = list(fit([VOLUME], settings.replace(epochs=2), run=tmp_path / "run"))
    assert second[0].epochs_done == 1 and len(second[-1].history) == 2
    assert first[-1].model is not second[-1].model


def test_damaged_newest_state_is_passed_over_with_a_remark(whole, tmp_path):
    for epochs in (1, 2):
        list(fit([VOLUME], TINY.replace(epochs=epochs), run=tmp_path))
    path = tmp_path / "checkpoints" / "step-00000006.pt"
    path.write_bytes(path.read_bytes()[:-100])
    events = list(fit([VOLUME], TINY, run=tmp_path))
    (words,) = events[0].remarks
    assert "step-00000006.pt" in words and "passed over" in words
    assert events[0].epochs_done == 1
    assert losses(events) == losses(whole)[3:6]


@pytest.mark.parametrize(
    ("minutes", "to_save", "expected"),
    [(1, 2, 6), (1, 5, 10), (0, 0.1, 1), (1000, 0.1, 3)],
    ids=["every minute", "5 percent of the time", "every step", "every epoch if it is cheap"],
)
def test_training_writes_states_when_they_are_due(
    minutes, to_save, expected, monkeypatch, tmp_path
):
    now, saved, learn = [0.0], [], Learner.step
    write = checkpoint.save_state

    def step(*arguments):  # takes ten seconds, by this clock
        now[0] += 10
        return learn(*arguments)

    def save(run, state):
        now[0] += to_save
        saved.append(state["step"])
        write(run, state)

    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(Learner, "step", step)
    monkeypatch.setattr(checkpoint, "save_state", save)
    settings = TINY.replace(epochs=20, save_interval_minutes=minutes)
    for event in fit([VOLUME], settings, run=tmp_path):
        if isinstance(event, StepEnd) and event.step == 32:
            assert set(np.diff(saved)) == {expected}
            assert len(saved) * to_save <= now[0] / 20
            break


def test_change_on_resume_gives_the_numbers_of_the_same_change_in_an_unbroken_run(tmp_path):
    asked = {"learning_rate": 2e-3, "ncut_weight": 0.25, "reconstruction_weight": 0.01}
    unbroken = changed(TINY.replace(epochs=4), 7, tmp_path / "unbroken", **asked)
    list(fit([VOLUME], TINY, run=tmp_path / "resumed"))
    resumed = list(fit([VOLUME], TINY.replace(epochs=4, **asked), run=tmp_path / "resumed"))
    assert losses(resumed) == losses(unbroken)[6:]
    one, other = (newest(tmp_path / name) for name in ("resumed", "unbroken"))
    for part in ("model", "optimizer"):
        assert repr(_plain(one[part])) == repr(_plain(other[part]))
    assert [row["learning_rate"] for row in resumed[-1].history] == [1e-3, 1e-3, 2e-3, 2e-3]


def test_state_with_the_optimiser_of_another_network_is_refused(tmp_path):
    list(fit([VOLUME], TINY.replace(epochs=1), run=tmp_path))
    path = max((tmp_path / "checkpoints").glob("step-*.pt"))
    state = torch.load(path, weights_only=True)
    state["optimizer"]["state"][0]["exp_avg"] = torch.zeros(3)
    torch.save(state, path)
    with pytest.raises(UserError, match="is damaged: its optimiser is that of another network"):
        next(fit([VOLUME], TINY, run=tmp_path))


def test_volume_that_is_taken_as_it_is_for_want_of_a_cell_radius_is_named():
    started = next(fit([VOLUME], TINY.replace(match_cell_size=True)))
    assert "volume 1 of 1 is taken as it is" in " ".join(started.remarks)
    started = next(fit([VOLUME], TINY.replace(match_cell_size=True, cell_radius_um=4)))
    assert started.remarks == ()


def poisoned(steps, settings=TINY, run=None, spoil=slice(0, 1)):
    """Train while planes of the volume turn to NaN under it; return the events."""
    array = VOLUME.astype(np.float32)
    given = prepare(array.copy(), settings)
    events, step = [], 0
    for event in fit([given], settings, run=run):
        events.append(event)
        step = getattr(event, "step", step)
        given.array[spoil] = np.nan if step + 1 in steps else array[spoil]
    return events


def test_poisoned_step_is_taken_again_from_good_weights_with_half_the_learning_rate(tmp_path):
    events = poisoned({5}, TINY.replace(epochs=4), tmp_path, spoil=slice(0, 5))
    told = [e for e in of_kind(events, StepEnd) if e.remarks]
    assert [e.step for e in told] == [5]
    assert "not finite at step 5" in told[0].remarks[0] and "0.0005" in told[0].remarks[0]
    assert told[0].changes == (("learning_rate", 0.0005),)
    assert [e.step for e in of_kind(events, StepEnd)] == list(range(1, 13))
    assert all(math.isfinite(value) for e in losses(events) for value in e)
    assert [row["learning_rate"] for row in events[-1].history] == [1e-3, 5e-4, 5e-4, 5e-4]
    assert events[-1].history[1]["changes"] == "step 5: learning_rate=0.0005"
    assert all(torch.isfinite(t).all() for t in newest(tmp_path)["model"].values())


def test_poisoned_step_takes_the_optimiser_back_to_the_last_epoch_too(tmp_path):
    poisoned({5}, TINY, tmp_path, spoil=slice(0, 5))
    adam = newest(tmp_path)["optimizer"]["state"][0]
    assert int(adam["step"]) == 5  # 3 of the first epoch, not 4; then 5 and 6


def test_third_poisoned_step_stops_with_advice_and_leaves_a_finite_model(tmp_path):
    with pytest.raises(UserError, match=r"step 4 .*lower learning_rate \(it was 0\.00025\)"):
        poisoned({4}, run=tmp_path, spoil=slice(None))
    assert newest(tmp_path)["step"] == 3
    assert all(torch.isfinite(t).all() for t in newest(tmp_path)["model"].values())
    assert checkpoint.load_checkpoint(tmp_path)


def test_patches_made_smaller_for_want_of_memory_stay_so_on_resume(tmp_path):
    list(fit([VOLUME], TINY.replace(epochs=1, patch_size=24), run=tmp_path))
    path = max((tmp_path / "checkpoints").glob("step-*.pt"))
    state = torch.load(path, weights_only=True)
    state["progress"]["live"] = {"batch_size": 1, "patch_size": [16, 16, 16]}
    torch.save(state, path)
    events = list(fit([VOLUME], TINY.replace(patch_size=24, precision="auto"), run=tmp_path))
    assert events[0].patch_shape == (16, 16, 16) and events[0].precision == "float32"
    assert len(of_kind(events, StepEnd)) == 5  # one patch at a time


def test_recovery_that_is_switched_off_stops_at_the_first_poisoned_step():
    with pytest.raises(UserError, match=r"step 2 .*lower learning_rate \(it was 0\.001\)"):
        poisoned({2}, TINY.replace(recover=False), spoil=slice(None))


def run_script(script, *arguments):
    """Run a script in a process of its own that has this package; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT_HEAD + textwrap.dedent(script), *map(str, arguments)],
        cwd=Path(wnet_nb.__file__).parents[1],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()


SCRIPT_HEAD = """
import json, os, re, resource, signal, sys, time
from pathlib import Path
from types import SimpleNamespace
import numpy as np
import torch
from wnet_nb import checkpoint, whole_file
from wnet_nb.config import Settings
from wnet_nb.events import Controls, Finished, StepEnd
from wnet_nb.training import fit

torch.set_num_threads(1)
volume = (1000 * np.random.default_rng(0).random((32, 32, 32))).astype(np.uint16)
"""


LITTLE_MEMORY = """
batch, edge, megabytes = map(int, sys.argv[1:])
settings = Settings(base_channels=8, dropout=0.3, epochs=1, batch_size=batch, patch_size=edge,
                    patches_per_volume=batch, precision="float32")
events = fit([np.tile(volume, (2, 2, 2))], settings)
next(events)
size = int(re.search(r"VmSize:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
resource.setrlimit(resource.RLIMIT_AS, (1024 * size + megabytes * 2**20,) * 2)
for event in events:
    for remark in getattr(event, "remarks", ()):
        print(remark)
    if isinstance(event, Finished):
        print(event.steps, event.history[0]["changes"])
        print(all(torch.isfinite(t).all() for t in event.model.state_dict().values()))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are set as on Linux")
@pytest.mark.parametrize(
    ("batch", "edge", "megabytes", "told", "changes"),
    [
        (32, 32, 300, ["16 patches of 32×32×32"], "batch_size=16"),
        (2, 64, 150, ["1 patches of 64×64×64", "1 patches of 32×32×32"], "patch_size=(32, 32, 32)"),
    ],
)
def test_memory_that_runs_out_makes_batches_then_patches_smaller_and_is_told(
    batch, edge, megabytes, told, changes
):
    *remarks, facts, finite = run_script(LITTLE_MEMORY, batch, edge, megabytes)
    for words, remark in zip(told, remarks, strict=False):
        assert f"goes on with {words} voxels" in remark
    assert len(remarks) >= len(told)
    assert int(facts.split()[0]) > 1 and changes in facts and finite == "True"


@pytest.mark.skipif(sys.platform == "win32", reason="limits of memory are set as on Unix")
def test_memory_that_runs_out_with_one_patch_at_a_time_makes_the_patches_smaller():
    lines = run_script(
        """
        volume = (1000 * np.random.default_rng(0).random((64, 64, 64))).astype(np.uint16)
        settings = Settings(base_channels=8, epochs=1, batch_size=1, patch_size=64,
                            patches_per_volume=2, precision="float32")
        events = fit([volume], settings)
        print(*next(events).patch_shape)
        size = int(re.search(r"VmSize:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
        resource.setrlimit(resource.RLIMIT_AS, (1024 * size + 200 * 2**20,) * 2)
        for event in events:
            for remark in getattr(event, "remarks", ()):
                print(remark)
            if isinstance(event, Finished):
                print(event.steps, event.history[0]["changes"])
                print(all(torch.isfinite(t).all() for t in event.model.state_dict().values()))
        """
    )
    begun, first, *_, facts, finite = lines
    assert begun == "64 64 64"
    assert "memory ran out at step 1" in first and "goes on with 1 patches of 32×32×32" in first
    assert facts.startswith("2 step 1: patch_size=(32, 32, 32)") and finite == "True"


FULL_DISK = """
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
run = Path(sys.argv[1])
settings = Settings(base_channels=4, epochs=3, batch_size=2, patch_size=16, patches_per_volume=4,
                    precision="float32")
events, controls = [], Controls()
for event in fit([volume], settings, run=run, controls=controls):
    events.append(event)
    if isinstance(event, StepEnd) and event.step == 3:
        first = checkpoint.load_newest_state(run)[0]["step"]
        size = (run / checkpoint.WEIGHTS).stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(float(sys.argv[2]) * size), 2**62))
        controls.save_now()
    if isinstance(event, StepEnd) and event.step == 4:
        print(first, checkpoint.load_newest_state(run)[0]["step"], *event.remarks)
        checkpoint.load_checkpoint(run)
        print(len([p for p in run.rglob("*") if p.name.startswith(".")]))
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**62, 2**62))
print(type(events[-1]).__name__, events[-1].steps, checkpoint.load_newest_state(run)[0]["step"])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits of files are set as on Unix")
@pytest.mark.parametrize("weights", [0.5, 1.5], ids=["weights", "state"])
def test_disk_that_is_full_in_the_middle_of_a_save_costs_nothing(weights, tmp_path):
    told, left, last = run_script(FULL_DISK, tmp_path, weights)
    assert re.match(r"2 2 the state after step 3 was not written: .*is the disk full", told)
    assert "the training goes on" in told
    assert (left, last) == ("0", "Finished 6 6")


def test_training_goes_on_when_the_disk_has_no_room_for_the_next_state(whole, small_disk):
    controls, events = Controls(), []
    for event in fit([VOLUME], TINY, run=small_disk / "run", controls=controls):
        events.append(event)
        if isinstance(event, StepEnd) and event.step == 4:
            free = shutil.disk_usage(small_disk).free
            (small_disk / "other").write_bytes(bytes(free - 100_000))
            controls.save_now()
        if isinstance(event, StepEnd) and event.step == 5:
            (words,) = event.remarks
            assert "after step 4 was not written: there is room for" in words
            assert newest(small_disk / "run")["step"] == 3
            (small_disk / "other").unlink()
    assert losses(events) == losses(whole)[:6]
    assert newest(small_disk / "run")["step"] == 6


def test_training_is_refused_where_it_could_not_be_saved(small_disk):
    (small_disk / "other").write_bytes(bytes(15_000_000))
    with pytest.raises(UserError, match=r"there is room for 2 MB .*make room"):
        next(fit([VOLUME], TINY, run=small_disk / "run"))


TOLD = """
run = Path(sys.argv[1])
settings = Settings(base_channels=4, epochs=500, batch_size=1, patch_size=16, patches_per_volume=4,
                    precision="float32")
minutes = [0.0]  # on the clock, so that a state is due whatever this machine takes to write one
checkpoint.time = SimpleNamespace(monotonic=lambda: 60 * minutes[0])
for event in fit([volume], settings, run=run):
    minutes[0] += 1
    print(type(event).__name__, getattr(event, "epoch", 0), flush=True)
"""


def test_a_kill_costs_the_work_since_the_last_epoch_and_no_more(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT_HEAD + TOLD, str(tmp_path / "run")],
        cwd=Path(wnet_nb.__file__).parents[1],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        ended = [line.split() for _, line in zip(range(40), process.stdout, strict=False)]
        process.kill()
    told = max(int(epoch) for kind, epoch in ended if kind == "EpochEnd")
    found = newest(tmp_path / "run")["progress"]
    assert told >= 3 and found["epoch"] >= told
    assert checkpoint.load_checkpoint(tmp_path / "run").history[-1]["epoch"] >= told


KILLED = """
# A process that never computes a gradient forks the trainings: a fork after one cannot.
run, kills = Path(sys.argv[1]), int(sys.argv[2])
settings = Settings(base_channels=4, dropout=0.3, epochs=8, batch_size=2, patch_size=16,
                    patches_per_volume=4, precision="float32")
EPOCH = 2  # steps
random = np.random.default_rng(int(sys.argv[3]))
# A state at the end of every epoch, or after every step, however slow this disk is.
checkpoint.SAVE_SHARE, checkpoint.CHEAP_SECONDS = 0, 1e9
diary = run.with_name("diary")

def die_in(target, name, calls, after):
    '''Let the process be killed in the given call of a function, before or after its work.'''
    work, seen = getattr(target, name), []
    def deadly(*arguments, **options):
        seen.append(1)
        if len(seen) == calls and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = work(*arguments, **options)
        if len(seen) == calls:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    setattr(target, name, deadly)

def half(state, path):
    Path(path).write_bytes(b"PK" + bytes(5000))
    os.kill(os.getpid(), signal.SIGKILL)

def train(kind, number, epochs, minutes):
    if kind == "half":
        checkpoint.torch.save = half
    elif kind != "time":
        target = {"fsync": os, "replace": Path, "unlink": Path, "save_file": checkpoint}[kind]
        die_in(target, kind, number, after=number % 2)
    asked = settings.replace(epochs=epochs, save_interval_minutes=minutes)
    for event in fit([volume], asked, run=run):
        if isinstance(event, StepEnd):
            diary.write_text(str(event.step))
    os._exit(0)

def child(kind, number, epochs=8, minutes=5):
    diary.write_text("0")
    pid = os.fork()
    if not pid:
        train(kind, number, epochs, minutes)
    return pid

before, deaths, lost = 0, {}, []
os.waitpid(child("time", 0, epochs=1), 0)
while sum(deaths.values()) < kills:
    kind = ("time", "fsync", "half", "replace", "time", "unlink", "save_file")[len(lost) % 7]
    minutes = 5 * int(random.integers(2))
    pid = child(kind, int(random.integers(1, 5)), minutes=minutes)
    if kind == "time":
        time.sleep(random.uniform(0.02, 0.4))
        os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    deaths[kind] = deaths.get(kind, 0) + os.WIFSIGNALED(status)
    state, damaged = checkpoint.load_newest_state(run)
    assert not damaged and state["step"] >= before, (damaged, state["step"], before)
    lost.append(int(diary.read_text() or 0) - state["step"])
    assert lost[-1] <= (EPOCH if minutes else 0), (lost, minutes)
    before = state["step"]
    checkpoint.load_checkpoint(run)
    if state["progress"]["epoch"] > 6:  # nearly done: begin again, from the first state
        for path in (run / checkpoint.STATES).iterdir():
            path.unlink()
        os.waitpid(child("time", 0, epochs=1), 0)
        before = 0
assert os.waitpid(child("time", 0), 0)[1] == 0
print(json.dumps({"deaths": deaths, "lost": lost}))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("kills", [7, pytest.param(50, marks=pytest.mark.long)])
def test_run_killed_at_random_moments_ends_with_the_bits_of_an_unbroken_one(kills, tmp_path):
    (line,) = run_script(KILLED, tmp_path / "killed", kills, kills)
    found = json.loads(line)
    print(found)  # shown with -s: how they died, and how many steps each death cost
    deaths = found["deaths"]
    assert sum(deaths.values()) == kills and deaths["half"] and deaths["fsync"]
    run_script(KILLED, tmp_path / "unbroken", 0, 0)
    assert everything(tmp_path / "killed") == everything(tmp_path / "unbroken")
    names = [p.name for p in (tmp_path / "killed").rglob("*") if p.is_file()]
    assert not [name for name in names if name.startswith(".")]


def test_the_quick_preset_trains_without_anything_else():
    settings = preset("quick", epochs=1, patches_per_volume=4)
    volume = np.random.default_rng(0).random((40, 40, 40), np.float32)
    with contextlib.closing(fit([prepare(volume, settings, cell_radius_um=4)], settings)) as events:
        assert next(events).steps_per_epoch == 1
        assert np.isfinite(next(events).total)
