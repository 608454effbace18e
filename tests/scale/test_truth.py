import pytest

from tests.benchmarks import scale

MEBI = 2**20


@pytest.mark.parametrize(
    ("shape", "tissue", "chunk", "cap"),
    [
        ((96, 192, 192), 4, 96, 1500 * MEBI),
        pytest.param(
            (1024, 2048, 2048), scale.TISSUE, None, 2500 * MEBI, marks=pytest.mark.long, id="8.6 GB"
        ),
    ],
)
def test_every_nucleus_of_a_large_volume_is_found_once_under_a_cap(
    shape, tissue, chunk, cap, tmp_path, monkeypatch
):
    monkeypatch.setattr(scale, "TISSUE", tissue)
    scale.make_volume(tmp_path / "brain.zarr", shape)
    result, _, peak, _ = scale.run(
        "none", tmp_path / "brain.zarr", tmp_path / "cells.zarr", workers=2, cap=cap, chunk=chunk
    )
    precision, recall, n_true, n_found = scale.points(result, shape)
    assert n_true > 100 and peak < cap
    assert precision >= 0.99 and recall >= 0.99 and abs(n_found - n_true) <= 0.01 * n_true
