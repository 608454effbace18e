"""Tests of `wnet_nb.device`: number formats by device, and which errors mean too little memory."""

import pytest
import torch

from wnet_nb.device import (
    choose_dtype,
    describe_device,
    is_out_of_memory,
    peak_memory_mb,
    what_fails_on,
)


@pytest.mark.parametrize("able", [{"avx512_bf16": True}, {"amx_bf16": True}, {"avx2": True}, None])
def test_auto_takes_bfloat16_only_where_the_processor_has_it(able, monkeypatch):
    if able is None:
        monkeypatch.delattr(torch.cpu, "get_capabilities")  # as in older releases
    else:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    native = bool(able) and "avx2" not in able
    cpu = torch.device("cpu")
    assert choose_dtype("auto", cpu) == (torch.bfloat16 if native else torch.float32)
    assert choose_dtype("float32", cpu) == torch.float32


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("could not create a primitive"), True),  # as oneDNN has it
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("The size of tensor a (2) must match"), False),
        (ValueError("not enough memory"), False),
    ],
)
def test_only_errors_of_an_allocator_mean_too_little_memory(error, expected):
    assert is_out_of_memory(error) is expected


def test_allocation_that_torch_refuses_is_known_as_one():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


def test_device_and_its_memory_are_told_in_words_and_numbers():
    cpu = torch.device("cpu")
    assert describe_device(cpu) == f"CPU, {torch.get_num_threads()} threads"
    assert 10 < peak_memory_mb(cpu) < 1e6


def test_a_device_that_cannot_do_a_step_of_the_network_is_known_with_the_reason():
    assert what_fails_on("cpu") == ""
    reason = what_fails_on("mps")  # no machine that tests this has one
    assert reason and "\n" not in reason
    assert "MPS" in reason or "mps" in reason
