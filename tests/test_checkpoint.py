"""Tests of `wnet_nb.checkpoint`: what comes back is what was saved, or a clear error."""

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from wnet_nb import checkpoint
from wnet_nb.checkpoint import (
    STATES,
    WEIGHTS,
    StateKeeper,
    build_model,
    load_checkpoint,
    load_newest_state,
    load_start_weights,
    save_cellseg3d_weights,
    save_state,
    save_weights,
)
from wnet_nb.config import Settings
from wnet_nb.errors import UserError
from wnet_nb.model import WNet3D

SETTINGS = Settings(
    base_channels=4, n_classes=3, normalisation="minmax", voxel_size_um=(2.0, 0.5, 0.5), dropout=0.2
)
HISTORY = [{"epoch": 1, "step": 4, "soft_ncut": 0.1 + 0.2, "changes": "step 2: radius=3 é"}]


@pytest.fixture
def model():
    return build_model(SETTINGS)


@pytest.fixture
def run(model, tmp_path):
    save_weights(tmp_path / WEIGHTS, model, SETTINGS, HISTORY)
    return tmp_path


@pytest.fixture
def pth(model, tmp_path):
    save_cellseg3d_weights(tmp_path / "wnet_latest.pth", model)
    return tmp_path / "wnet_latest.pth"


def outputs(model):
    """Return both outputs of a network in evaluation mode."""
    image = torch.rand(1, 1, 8, 16, 8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return model.eval()(image)


def same(one, other):
    """Say whether two networks give the same bits."""
    return all(torch.equal(a, b) for a, b in zip(outputs(one), outputs(other), strict=True))


@pytest.mark.parametrize("name", ["", WEIGHTS])
def test_saved_model_comes_back_bit_for_bit_with_settings_and_history(name, model, run):
    found = load_checkpoint(run / name)
    assert same(model, found.model)
    assert found.settings == SETTINGS and found.history == HISTORY
    assert found.source == run / WEIGHTS


def test_loaded_model_is_in_evaluation_mode_and_can_be_trained_on(run):
    model = load_checkpoint(run).model
    assert not model.training and all(p.requires_grad for p in model.parameters())


def test_published_weights_come_back_bit_for_bit(model, pth):
    found = load_checkpoint(pth).model
    assert same(model, found) and not found.training


def test_published_weights_expect_the_published_normalisation(pth):
    settings = load_checkpoint(pth).settings
    assert (settings.n_classes, settings.base_channels) == (3, 4)
    assert settings.normalisation == "minmax"


def test_written_pth_has_the_published_names_and_shapes(tmp_path):
    save_cellseg3d_weights(tmp_path / "full.pth", WNet3D())
    state = torch.load(tmp_path / "full.pth", weights_only=True)
    golden = Path(__file__).parent / "golden" / "cellseg3d_state_dict.json"
    assert [[n, list(t.shape)] for n, t in state.items()] == json.loads(golden.read_text())


def test_existing_pth_is_not_overwritten(model, pth):
    before = pth.read_bytes()
    with pytest.raises(UserError, match=r"wnet_latest\.pth.*never overwritten"):
        save_cellseg3d_weights(pth, model)
    assert pth.read_bytes() == before


NAME = "encoder.conv1.module.0.weight"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda state: state.pop(NAME),
        lambda state: state.update(extra=torch.zeros(2)),
        lambda state: state.update({NAME: state[NAME][:, :2]}),
        lambda state: state[NAME].view(-1)[5:6].fill_(float("nan")),
        lambda state: state[NAME].view(-1)[5:6].fill_(float("inf")),
        lambda state: state.update({NAME: 3}),
        lambda state: state.update({NAME: "weights"}),
        lambda state: state.update({"encoder.in_b.module.0.weight": torch.tensor(4.0)}),
        lambda state: state.update({"encoder.in_b.module.0.weight": torch.zeros(0, 1, 3, 3, 3)}),
        lambda state: state.pop("encoder.out_b.module.8.weight"),
        lambda state: state.clear(),
    ],
    ids="missing extra shape nan inf number word scalar empty head nothing".split(),
)
def test_pth_that_does_not_fit_to_the_letter_is_refused_by_name(spoil, pth):
    state = torch.load(pth, weights_only=True)
    spoil(state)
    torch.save(state, pth)
    with pytest.raises(UserError, match=r"wnet_latest\.pth"):
        load_checkpoint(pth)


@pytest.mark.parametrize("content", [[torch.zeros(2)], torch.zeros(2), "words", None])
def test_pth_that_holds_no_state_dict_is_refused_by_name(content, pth):
    torch.save(content, pth)
    with pytest.raises(UserError, match=r"wnet_latest\.pth"):
        load_checkpoint(pth)


class Hostile:
    """An object whose pickle makes a folder when it is loaded."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return os.mkdir, (self.mark,)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pth_does_not_run(zipped, model, tmp_path):
    path, mark = tmp_path / "hostile.pth", tmp_path / "it ran"
    content = {**model.state_dict(), NAME: Hostile(mark)}
    if zipped:
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    with pytest.raises(UserError, match=r"hostile\.pth.*more than weights"):
        load_checkpoint(path)
    assert not mark.exists()
    torch.load(path, weights_only=False) if zipped else pickle.loads(path.read_bytes())
    assert mark.exists()  # the file is as hostile as it should be


@pytest.mark.parametrize("kind", ["pth", "safetensors"])
def test_truncated_file_is_refused_by_name_wherever_it_ends(kind, pth, run):
    path = pth if kind == "pth" else run / WEIGHTS
    whole = path.read_bytes()
    for share in (0, 0.001, 0.1, 0.5, 0.9, 0.999):
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(UserError, match=path.name):
            load_checkpoint(path)


def test_spoilt_bytes_in_a_pth_give_a_clear_error_and_no_other(pth):
    torch.save(torch.load(pth), pth, _use_new_zipfile_serialization=False)  # the oldest layout
    whole, random = pth.read_bytes(), np.random.default_rng(0)
    for _ in range(150):
        spoilt = bytearray(whole)
        for place in random.integers(0, 2000, 5):  # the pickle's head
            spoilt[place] = random.integers(256)
        pth.write_bytes(spoilt)
        try:
            load_checkpoint(pth)
        except UserError as error:
            assert pth.name in str(error)


@pytest.mark.parametrize("name", ["model.pth", "model.safetensors"])
@pytest.mark.parametrize(
    "content", [b"<!DOCTYPE html><html>Quota exceeded</html>", b"\x80\x04N.", bytes(range(256)) * 9]
)
def test_file_of_another_kind_is_refused_by_name(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=name):
        load_checkpoint(tmp_path / name)


@pytest.mark.parametrize(
    "metadata",
    [
        {"format": "pt"},  # as other libraries write it
        {"settings": "{", "history": "[]"},
        {"settings": "[1]", "history": "[]"},
        {"settings": '{"of_the_future": 1}', "history": "[]"},
        {"settings": "{}", "history": "["},
    ],
)
def test_safetensors_without_usable_settings_is_refused_by_name(metadata, run):
    save_file(load_file(run / WEIGHTS), run / WEIGHTS, metadata)
    with pytest.raises(UserError, match=WEIGHTS):
        load_checkpoint(run)


def test_safetensors_with_a_value_that_is_not_finite_is_refused(model, run):
    with torch.no_grad():
        model.decoder.bot.module[0].bias[1] = float("nan")
    save_weights(run / WEIGHTS, model, SETTINGS, HISTORY)
    with pytest.raises(UserError, match=r"decoder\.bot\.module\.0\.bias"):
        load_checkpoint(run)


def test_absent_model_is_refused_in_words(tmp_path):
    (tmp_path / "a.txt").write_text("no model")
    for path, words in ((tmp_path, "run folder"), (tmp_path / "b.pth", "there is no model")):
        with pytest.raises(UserError, match=words):
            load_checkpoint(path)
    with pytest.raises(UserError, match=r"a\.txt"):
        load_checkpoint(tmp_path / "a.txt")


@pytest.mark.parametrize("start", [".", WEIGHTS, "wnet_latest.pth"])
def test_training_can_start_from_any_kind_of_weights(start, model, run, pth):
    other = build_model(SETTINGS)
    assert not same(other, model)
    load_start_weights(other, run / start)
    assert same(other, model)


def test_weights_of_another_size_are_no_start(run):
    with pytest.raises(UserError, match=f"{WEIGHTS}.*does not fit.*n_classes"):
        load_start_weights(WNet3D(2, base_channels=4), run)


def state_at(step):
    """Return a small full state."""
    parts = {name: {} for name in checkpoint.STATE_ENTRIES}
    tensors = {"model": {"w": torch.full((3,), float(step))}}
    return parts | tensors | {"step": step, "history": [{"a": 1.5}]}


def test_state_comes_back_as_saved(tmp_path):
    save_state(tmp_path / "run", state_at(7))
    found, damaged = load_newest_state(tmp_path / "run")
    assert not damaged
    assert found["step"] == 7 and found["history"] == [{"a": 1.5}]
    assert torch.equal(found["model"]["w"], torch.full((3,), 7.0))


def test_last_two_states_are_kept(tmp_path):
    for step in (5, 10, 95, 100, 1000):
        save_state(tmp_path, state_at(step))
    names = [p.name for p in sorted((tmp_path / STATES).iterdir())]
    assert names == ["step-00000100.pt", "step-00001000.pt"]


def test_half_a_state_of_a_killed_process_does_not_stay_for_ever(tmp_path):
    save_state(tmp_path, state_at(1))
    (tmp_path / STATES / ".step-00000002.pt.part").write_bytes(b"half")
    assert load_newest_state(tmp_path)[0]["step"] == 1
    save_state(tmp_path, state_at(3))
    names = [p.name for p in sorted((tmp_path / STATES).iterdir())]
    assert names == ["step-00000001.pt", "step-00000003.pt"]


def keeper_at(monkeypatch, seconds_to_write, tmp_path, model):
    """Return a keeper that has just written a state in the given time, and its clock."""
    now = [1000.0]
    monkeypatch.setattr("wnet_nb.checkpoint.time.monotonic", lambda: now[0])
    keeper = StateKeeper(tmp_path)
    write = checkpoint.save_state

    def slowly(*arguments):
        write(*arguments)
        now[0] += seconds_to_write

    monkeypatch.setattr(checkpoint, "save_state", slowly)
    state = state_at(3) | {"progress": {"epoch": 1, "history": []}}
    keeper.save(state, model, SETTINGS)
    return keeper, now


@pytest.mark.parametrize(
    ("seconds_to_write", "waited", "epoch_over", "expected"),
    [
        (0.1, 1.9, True, False),  # in less than 20 times what writing takes
        (0.1, 2.1, True, True),  # cheap: after every epoch
        (0.1, 2.1, False, False),
        (4.0, 100.0, True, False),  # not cheap: every five minutes
        (4.0, 299.0, True, False),
        (4.0, 301.0, True, True),
        (4.0, 301.0, False, True),
        (30.0, 301.0, True, False),  # five minutes would be 10 % of the time
        (30.0, 601.0, True, True),
    ],
)
def test_state_is_due_when_it_is_old_or_cheap_and_never_for_more_than_5_percent_of_the_time(
    seconds_to_write, waited, epoch_over, expected, monkeypatch, tmp_path, model
):
    keeper, now = keeper_at(monkeypatch, seconds_to_write, tmp_path, model)
    now[0] += waited
    assert keeper.is_due(5.0, epoch_over=epoch_over) is expected


def test_state_that_is_on_disk_is_not_written_again_but_lost_weights_are(tmp_path, model):
    keeper = StateKeeper(tmp_path)
    state = state_at(3) | {"progress": {"epoch": 1, "history": []}}
    keeper.save(state, model, SETTINGS)
    (tmp_path / STATES / "step-00000003.pt").unlink()
    keeper.save(state, model, SETTINGS)
    assert not list((tmp_path / STATES).iterdir())
    (tmp_path / WEIGHTS).unlink()
    keeper.save(state, model, SETTINGS)
    assert (tmp_path / WEIGHTS).exists() and list((tmp_path / STATES).iterdir())


def test_weights_that_are_no_floats_are_refused_and_those_of_fewer_bits_are_taken(model, pth):
    torch.save({name: tensor.int() for name, tensor in model.state_dict().items()}, pth)
    with pytest.raises(UserError, match=r"in_b\.module\.0\.weight is .*int32 where .*floats"):
        load_checkpoint(pth)
    torch.save({name: tensor.half() for name, tensor in model.state_dict().items()}, pth)
    weight = load_checkpoint(pth).model.encoder.in_b.module[0].weight
    assert weight.dtype == torch.float32
    torch.testing.assert_close(weight, model.encoder.in_b.module[0].weight, atol=1e-3, rtol=1e-3)


def test_weight_that_is_too_large_for_the_network_is_refused(model, pth):
    state = {name: tensor.double() for name, tensor in model.state_dict().items()}
    state[NAME][:] = 1e300
    torch.save(state, pth)
    with pytest.raises(UserError, match=f"{NAME} holds values that are not finite"):
        load_checkpoint(pth)


def test_weights_that_claim_an_enormous_network_are_refused(model, pth):
    claim = torch.zeros(1).expand(4_000_000, 1, 3, 3, 3)  # one number on the disk
    torch.save({**model.state_dict(), "encoder.in_b.module.0.weight": claim}, pth)
    with pytest.raises(UserError, match=r"wnet_latest\.pth.*base_channels=4000000"):
        load_checkpoint(pth)


def test_there_is_no_state_in_a_new_folder(tmp_path):
    assert load_newest_state(tmp_path) == (None, [])


def test_damaged_newest_state_gives_way_to_the_one_before_and_is_named(tmp_path):
    for step in (1, 2):
        save_state(tmp_path, state_at(step))
    newest = tmp_path / STATES / "step-00000002.pt"
    newest.write_bytes(newest.read_bytes()[:-40])
    state, (words,) = load_newest_state(tmp_path)
    assert state["step"] == 1 and "step-00000002.pt" in words


@pytest.mark.parametrize("content", [{"step": 2}, [1], torch.zeros(2), None])
def test_file_of_something_else_is_no_state(content, tmp_path):
    save_state(tmp_path, state_at(1))
    torch.save(content, tmp_path / STATES / "step-00000002.pt")
    state, (words,) = load_newest_state(tmp_path)
    assert state["step"] == 1 and "holds no state of a training" in words


def test_code_in_a_state_does_not_run(tmp_path):
    mark = tmp_path / "it ran"
    (tmp_path / STATES).mkdir()
    torch.save(state_at(1) | {"model": Hostile(mark)}, tmp_path / STATES / "step-00000001.pt")
    with pytest.raises(UserError, match=r"step-00000001\.pt.*more than weights"):
        load_newest_state(tmp_path)
    assert not mark.exists()


def test_states_that_are_all_damaged_are_not_taken_for_none(tmp_path):
    for step in (1, 2):
        save_state(tmp_path, state_at(step))
        (tmp_path / STATES / f"step-{step:08d}.pt").write_bytes(b"")
    with pytest.raises(UserError, match=r"step-00000002\.pt"):
        load_newest_state(tmp_path)


def test_a_bit_that_is_lost_anywhere_in_a_state_is_noticed(tmp_path):
    random = np.random.default_rng(0)
    for step in (1, 2):
        weights = torch.from_numpy(random.random(200))
        save_state(tmp_path, {"step": step, "model": {"w": weights}, "history": [{"a": 1.5}]})
    newest, noticed = tmp_path / STATES / "step-00000002.pt", 0
    whole = newest.read_bytes()
    for place in range(0, len(whole), 7):
        spoilt = bytearray(whole)
        spoilt[place] ^= 1 << int(random.integers(8))
        newest.write_bytes(spoilt)
        state, damaged = load_newest_state(tmp_path)
        noticed += len(damaged)
        if not damaged:  # it was in what fills the gaps between the parts
            assert torch.equal(state["model"]["w"], weights) and state["history"] == [{"a": 1.5}]
    assert noticed > 200 * 8 / 7  # all of the weights


@pytest.mark.parametrize("content", ["a list", "the weights alone", "code"])
def test_what_is_no_state_is_passed_over_and_its_code_does_not_run(content, model, tmp_path):
    save_state(tmp_path, state_at(1))
    mark = tmp_path / "it ran"
    contents = {
        "a list": [torch.zeros(2)],
        "the weights alone": model.state_dict(),
        "code": state_at(2) | {"history": Hostile(mark)},
    }
    torch.save(contents[content], tmp_path / STATES / "step-00000002.pt")
    state, (words,) = load_newest_state(tmp_path)
    assert state["step"] == 1 and "step-00000002.pt" in words and not mark.exists()


def test_history_numbers_survive_exactly(model, tmp_path):
    history = [{"total": float(np.float32(0.1)), "seconds": 1e-17}]
    save_weights(tmp_path / WEIGHTS, model, SETTINGS, history)
    assert load_checkpoint(tmp_path).history == history


def test_state_that_torch_cannot_write_is_told_as_a_full_disk_and_the_one_before_stays(
    tmp_path, monkeypatch
):
    save_state(tmp_path, state_at(1))

    def full(state, path):
        Path(path).write_bytes(b"half")
        raise RuntimeError("PytorchStreamWriter failed writing file\nException raised from valid")

    monkeypatch.setattr(checkpoint.torch, "save", full)
    with pytest.raises(OSError, match=r"step-00000002\.pt.*disk full\? \(PytorchStream[^\n]*\)$"):
        save_state(tmp_path, state_at(2))
    assert [p.name for p in (tmp_path / STATES).iterdir()] == ["step-00000001.pt"]
    assert load_newest_state(tmp_path)[0]["step"] == 1


def test_state_is_not_begun_where_2_2_of_it_have_no_room(tmp_path, monkeypatch, model):
    adam = torch.optim.Adam(model.parameters())
    sum(weight.sum() for weight in model.parameters()).backward()
    adam.step()
    state = state_at(3) | {"progress": {"epoch": 1, "history": []}, "model": model.state_dict()}
    state["optimizer"] = adam.state_dict()
    torch.save(state, tmp_path / "whole.pt")
    needed = 2.2 * (tmp_path / "whole.pt").stat().st_size
    free = [needed * 0.7]  # the file has a tenth of other things in it, the network is so small
    disk = lambda folder: type("Usage", (), {"free": free[0]})  # noqa: E731
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", disk)
    keeper = StateKeeper(tmp_path / "deep" / "run")
    with pytest.raises(UserError, match=r"there is room for \d MB .*make room"):
        keeper.save(state, model, SETTINGS)
    assert not (tmp_path / "deep").exists()
    free[0] = needed
    keeper.save(state, model, SETTINGS)
    assert load_newest_state(tmp_path / "deep" / "run")[0]["step"] == 3


def test_state_that_was_taken_up_is_not_written_again(tmp_path, model):
    state = state_at(3) | {"progress": {"epoch": 1, "history": []}}
    StateKeeper(tmp_path).save(state, model, SETTINGS)
    before = (tmp_path / STATES / "step-00000003.pt").stat().st_mtime_ns
    keeper = StateKeeper(tmp_path)
    assert keeper.load()[0]["step"] == 3
    keeper.save(state, model, SETTINGS)
    assert (tmp_path / STATES / "step-00000003.pt").stat().st_mtime_ns == before
    assert StateKeeper(tmp_path / "new").load() == (None, [])
