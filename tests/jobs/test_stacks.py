import tracemalloc
import weakref

import numpy as np
import pytest
import tifffile
import torch

from tests.benchmarks.nuclei import make_nuclei
from wnet_nb import config
from wnet_nb.errors import UserError
from wnet_nb.files.writing import write_volume
from wnet_nb.jobs import check, segment, stacks, train
from wnet_nb.jobs.stacks import read_stacks

QUICK = config.preset("quick")
TINY = config.preset(
    "scratch", base_channels=4, patch_size=16, epochs=1, patches_per_volume=2, tile_size=32
)


@pytest.fixture(autouse=True)
def _one_thread():  # two are slower on a network this small, and wait for each other
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("data")
    for seed, name in enumerate(("a.tif", "b.tif")):
        image, _ = make_nuclei(seed, shape=(32, 36, 40), n_cells=8)
        write_volume(path / name, image, voxel_size_um=(1, 1, 1))
    return path


def compressed(folder, n, shape=(64, 128, 128)):
    random = np.random.default_rng(0)
    for number in range(n):
        array = random.integers(0, 60_000, shape).astype(np.uint16)
        write_volume(folder / f"{number}.tif", array, voxel_size_um=(1, 1, 1))
    return int(np.prod(shape)) * 2


def test_a_folder_of_compressed_stacks_is_never_decoded_and_held_at_once(tmp_path):
    bytes_each = compressed(tmp_path, 8)
    tracemalloc.start()
    try:
        found = read_stacks(tmp_path, QUICK, check=False)
        assert len(found) == 8 and all(stack.array.max() > 0 for stack in found)
        now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert now < 2 * bytes_each  # the one that was used last
    assert peak < 4 * bytes_each


def test_a_stack_in_use_is_not_decoded_again(tmp_path, monkeypatch):
    compressed(tmp_path, 3, (16, 16, 16))
    first, second, _ = read_stacks(tmp_path, QUICK, check=False)
    held = first.array
    assert second.array.max() > 0  # lets go of everything that nobody holds
    assert first.array is held


def test_the_stack_that_was_read_last_is_not_decoded_again(tmp_path, monkeypatch):
    compressed(tmp_path, 1, (16, 16, 16))
    (stack,) = read_stacks(tmp_path, QUICK)
    monkeypatch.setattr(stacks, "read_volume", lambda *_, **__: pytest.fail("decoded again"))
    assert stack.array.max() > 0


def test_an_uncompressed_stack_stays_on_the_disk(tmp_path):
    array = np.arange(16**3, dtype=np.uint16).reshape(16, 16, 16)
    tifffile.imwrite(tmp_path / "a.tif", array)
    (stack,) = read_stacks(tmp_path, QUICK, check=False)
    assert isinstance(stack.array, np.memmap)


def test_prepared_volumes_are_kept_up_to_a_size_and_found_while_they_are_in_use(
    folder, monkeypatch
):
    first, second = read_stacks(folder, QUICK)
    monkeypatch.setattr(stacks, "KEPT_BYTES", first.prepared(QUICK).array.nbytes)
    weak = weakref.ref(first.prepared(QUICK))
    held = second.prepared(QUICK)
    assert weak() is None  # nobody uses it, and there is room for one only
    first.prepared(QUICK)
    assert second.prepared(QUICK) is held


def test_a_prepared_volume_of_any_size_is_let_go_when_it_does_not_fit(folder, monkeypatch):
    monkeypatch.setattr(stacks, "KEPT_BYTES", 1)
    (stack, _) = read_stacks(folder, QUICK)
    weak = weakref.ref(stack.prepared(QUICK))
    assert weak() is None


def test_facts_are_there_without_the_voxels(folder):
    stack = read_stacks(folder, QUICK)[0]
    assert (stack.name, stack.shape, stack.dtype) == ("a", (32, 36, 40), np.uint16)
    assert stack.voxel_size_um == (1, 1, 1) and stack.voxel_size_source == "metadata"
    assert (
        stack.words
        == "a: 32 × 36 × 40 voxels (z, y, x), uint16, 1 × 1 × 1 µm (z, y, x) from the file"
    )


def test_run_all_prepares_and_estimates_each_volume_once_and_hashes_each_file_once(
    folder, tmp_path, monkeypatch
):
    calls = []

    def counted(module, name):
        before = getattr(module, name)

        def count(*arguments, **options):
            calls.append(name)
            return before(*arguments, **options)

        monkeypatch.setattr(module, name, count)

    counted(stacks, "prepare")
    counted(stacks, "estimate_cell_radius")
    counted(stacks, "sha256")
    found = read_stacks(folder, TINY)
    for stack in found:
        check.check_cell_size(stack.cell_size, TINY)
    train.estimate_training(found, TINY)
    train.measure_patch(found, TINY)
    train.train(found, tmp_path / "run", TINY)
    results = segment.segment(tmp_path / "run", found)
    results += segment.segment("none", found, out=tmp_path / "plain")
    assert len(results) == 4
    counts = {name: calls.count(name) for name in set(calls)}
    assert counts == {"prepare": 2, "estimate_cell_radius": 2, "sha256": 2}


def test_a_volume_is_prepared_anew_for_other_options(folder):
    stack = read_stacks(folder, QUICK)[0]
    assert stack.prepared(QUICK) is stack.prepared(QUICK.replace(epochs=3, radius=3))
    other = stack.prepared(QUICK.replace(cell_radius_um=9.0))
    assert other.factors == (2, 2, 2) and stack.prepared(QUICK).factors == (1, 1, 1)


def test_what_cannot_be_read_is_named_and_the_rest_is_used(folder, tmp_path):
    for name in ("a.tif", "b.tif"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "cut.tif").write_bytes((folder / "a.tif").read_bytes()[:3000])
    tifffile.imwrite(tmp_path / "flat.tif", np.full((16, 16, 16), 3, np.uint8))
    found = read_stacks(tmp_path, QUICK)
    assert [stack.name for stack in found] == ["a", "b"]
    reasons = {path.name: reason for path, reason in found.skipped}
    assert "incomplete" in reasons["cut.tif"] and "same value" in reasons["flat.tif"]


def test_without_a_usable_volume_the_reasons_are_told(tmp_path):
    (tmp_path / "x.tif").write_bytes(b"")
    with pytest.raises(UserError, match=r"no usable volume: 'x\.tif'"):
        read_stacks(tmp_path, QUICK).require()
    with pytest.raises(UserError, match="holds no TIFF"):
        (tmp_path / "x.tif").unlink()
        read_stacks(tmp_path, QUICK).require()


def test_a_volume_without_cells_says_that_it_is_taken_as_it_is(tmp_path, monkeypatch):
    def none(*arguments, **options):
        raise UserError("no blob stands out of the noise")

    monkeypatch.setattr(stacks, "estimate_cell_radius", none)
    write_volume(tmp_path / "a.tif", make_nuclei(shape=(24, 24, 24))[0], voxel_size_um=(1, 1, 1))
    (stack,) = read_stacks(tmp_path, QUICK, check=False)
    assert stack.prepared(QUICK).factors == (1, 1, 1)
    assert "no cells stand out" in stack.remark_on_preparation(QUICK)
    assert not stack.remark_on_preparation(QUICK.replace(cell_radius_um=3.0))
    assert not stack.remark_on_preparation(config.preset("published"))


def test_a_mistake_of_ours_in_the_estimate_is_not_taken_for_a_volume_without_cells(
    folder, monkeypatch
):
    def broken(*arguments, **options):
        raise ValueError("operands could not be broadcast together")

    monkeypatch.setattr(stacks, "estimate_cell_radius", broken)
    with pytest.raises(ValueError, match="broadcast"):
        _ = read_stacks(folder, QUICK)[0].cell_size


def test_a_voxel_size_that_is_assumed_is_replaced_by_that_of_the_training(tmp_path):
    image = make_nuclei(shape=(24, 24, 24), n_cells=4)[0]
    tifffile.imwrite(tmp_path / "bare.tif", image)
    write_volume(tmp_path / "told.tif", image, voxel_size_um=(2, 1, 1))
    found = read_stacks(tmp_path, QUICK, check=False, trained_size_um=(3.0, 0.5, 0.5))
    assert [stack.voxel_size_um for stack in found] == [(3.0, 0.5, 0.5), (2, 1, 1)]
    assert found[0].voxel_size_source == "option"
    assert "given for the training" in found[0].findings[0].text
    assert read_stacks(tmp_path, QUICK, check=False)[0].words.endswith("µm (z, y, x) assumed")
