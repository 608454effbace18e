import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from dask.distributed import Client, LocalCluster
from scipy import ndimage

from tests.benchmarks.nuclei import make_nuclei
from wnet_nb import segment_large
from wnet_nb.cells.scores import match_instances
from wnet_nb.cli.main import main
from wnet_nb.errors import UserError
from wnet_nb.files.writing import write_volume
from wnet_nb.jobs.segment import segment
from wnet_nb.scale import cluster as cluster_module
from wnet_nb.scale.job import WORK
from wnet_nb.scale.result import LargeResult
from wnet_nb.scale.stages import run_stage

STAGES = ("maps", "grounds", "cells", "labels", "table")


@pytest.fixture(scope="module")
def chunked(nuclei, address, tmp_path_factory):
    """Return the volume in 18 chunks."""
    out = tmp_path_factory.mktemp("chunked") / "cells.zarr"
    return segment_large("none", nuclei[0], out, scheduler=address, chunk=32)


def test_chunks_give_the_very_cells_of_the_whole(chunked, whole, same_cells):
    assert len(np.unique(whole.labels())) > 40
    assert same_cells(chunked.labels(), whole.labels())
    assert chunked.facts["count"] == whole.facts["count"]
    assert chunked.facts["cut_by_edge"] == whole.facts["cut_by_edge"]


def test_chunks_of_a_network_give_the_cells_of_the_whole(tmp_path, address):
    image, _ = make_nuclei(3, shape=(48, 48, 56), cell_radius_um=4, n_cells=40)
    path = write_volume(tmp_path / "a.tif", image, voxel_size_um=(1, 1, 1))
    wanted = segment("starter", path, out=tmp_path / "whole")[0].labels()
    found = segment_large("starter", path, tmp_path / "a.zarr", scheduler=address, chunk=32)
    scores = match_instances(found.labels()[:].astype(int), wanted, thresholds=[0.5, 0.9])
    assert scores.true_positives == (scores.n_true, scores.n_true)
    assert scores.n_predicted == scores.n_true == wanted.max() > 20


def test_a_cell_on_a_face_an_edge_or_a_corner_of_chunks_is_one_cell(tmp_path, address):
    image = np.full((64, 64, 64), 100, np.uint16)
    centres = [(32, 32, 32), (32, 32, 12), (32, 12, 16), (12, 12, 12), (32, 12, 50), (50, 50, 32)]
    for centre in centres:
        image[centre] = 60_000
    image = ndimage.gaussian_filter(image.astype(np.float32), 3)
    image = (image + np.random.default_rng(0).normal(0, 0.5, image.shape)).astype(np.uint16)
    path = write_volume(tmp_path / "a.tif", image, voxel_size_um=(1, 1, 1))
    result = segment_large(
        "none", path, tmp_path / "a.zarr", scheduler=address, chunk=32, cell_radius_um=5
    )
    labels = result.labels()[:]
    assert result.facts["count"] == len(centres) == len(np.unique(labels)) - 1
    assert len({int(labels[centre]) for centre in centres} - {0}) == len(centres)
    assert all(ndimage.label(labels == n)[1] == 1 for n in np.unique(labels)[1:])


def test_the_table_has_the_numbers_of_the_whole(chunked, whole):
    found = pq.read_table(chunked.table).to_pydict()
    cells = whole.cells()
    labels, wanted = chunked.labels()[:], whole.labels()
    number = {wanted[labels == n][0]: row for row, n in enumerate(found["label"])}
    assert len(number) == len(cells)
    for cell in cells:
        row = number[int(cell["label"])]
        for name, value in cell.items():
            if name != "label":
                assert found[name][row] == pytest.approx(float(value), rel=1e-5, nan_ok=True), name


def test_order_of_the_chunks_does_not_matter_and_what_is_done_is_kept(
    nuclei, address, tmp_path, chunked
):
    out = tmp_path / "cells.zarr"
    arguments = {"scheduler": address, "chunk": 32}
    with pytest.raises(UserError, match="stopped; the same call goes on"):
        segment_large("none", nuclei[0], out, observe=lambda p: p.stage == "sample", **arguments)
    for stage in ("maps", "grounds", "cells"):
        for number in reversed(range(18)):
            run_stage(str(out), stage, number)
    seen = []
    again = segment_large("none", nuclei[0], out, observe=seen.append, **arguments)
    first = {progress.stage: progress.done for progress in reversed(seen)}
    assert first["class maps"] == first["cells"] == 18 and first["labels"] == 0
    assert (again.labels()[:] == chunked.labels()[:]).all()


def test_number_of_workers_does_not_matter(nuclei, chunked, tmp_path):
    alone = segment_large("none", nuclei[0], tmp_path / "a.zarr", workers=1, chunk=32)
    assert (alone.labels()[:] == chunked.labels()[:]).all()
    assert (alone.foreground()[:] == chunked.foreground()[:]).all()
    assert pq.read_table(alone.table).equals(pq.read_table(chunked.table))


def test_a_worker_killed_in_the_middle_changes_nothing(nuclei, chunked, tmp_path):
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        pids = list(client.run(os.getpid).values())
        killed = []

        def kill(progress):
            if progress.stage == "cells" and progress.done == 2 and not killed:
                killed.append(pids[0])
                os.kill(pids[0], signal.SIGKILL)

        found = segment_large(
            "none",
            nuclei[0],
            tmp_path / "cells.zarr",
            scheduler=cluster.scheduler_address,
            chunk=32,
            observe=kill,
        )
        assert killed and set(client.run(os.getpid).values()) != set(pids)
    assert (found.labels()[:] == chunked.labels()[:]).all()


def test_a_command_that_was_killed_goes_on_when_given_again(nuclei, address, chunked, tmp_path):
    out = tmp_path / "cells.zarr"
    arguments = ["segment", "none", str(nuclei[0]), "--out", str(out), "--scheduler", address]
    command = [sys.executable, "-m", "wnet_nb", *arguments, "--chunk", "32"]
    running = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while len(list((out / WORK / "maps").glob("*.json"))) < 3:
        assert running.poll() is None, "it ended before it was killed"
        time.sleep(0.02)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert not (out / "result.json").exists()
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["count"] == chunked.facts["count"]
    assert not (out / WORK).exists()
    assert (LargeResult(out).labels()[:] == chunked.labels()[:]).all()


def test_a_full_disk_is_a_sentence_and_the_same_call_goes_on(nuclei, address, chunked, tmp_path):
    out = tmp_path / "cells.zarr"

    def run(observe=None):
        return segment_large("none", nuclei[0], out, scheduler=address, chunk=32, observe=observe)

    def fill_the_disk(progress):
        if progress.stage == "class maps":  # what is written for chunk 5 finds no room
            (out / WORK / "cells").mkdir(exist_ok=True)
            part = out / WORK / "cells" / ".5.npz.part"
            if not part.is_symlink():
                part.symlink_to("/dev/full")

    with pytest.raises(UserError, match="is full; free some room and give the same command again"):
        run(fill_the_disk)
    assert not (out / "result.json").exists()
    assert (run().labels()[:] == chunked.labels()[:]).all()


def test_empty_chunks_are_skipped_and_the_cells_are_the_same(tmp_path, address, whole, nuclei):
    image = np.pad(nuclei[1], [(0, 0), (0, 24), (0, 80)], mode="minimum")
    path = write_volume(tmp_path / "a.tif", image, voxel_size_um=(2, 1, 1))
    result = segment_large("none", path, tmp_path / "a.zarr", scheduler=address, chunk=32)
    assert 6 <= result.facts["empty_chunks"] <= 12
    written = result.folder / "0" / "1" / "2"
    assert sorted(part.name for part in written.iterdir())[-1] < "4"
    assert abs(result.facts["count"] - whole.facts["count"]) <= 0.1 * whole.facts["count"]


def test_a_cell_larger_than_a_chunk_can_see_is_reported(tmp_path, address):
    image = np.zeros((40, 40, 160), np.float32)
    along = np.arange(20, 140)  # a rod, 12 times as long as the cells that were asked for
    image[16:24, 16:24, 20:140] = 2000 - 15 * abs(along - 85)
    image = ndimage.gaussian_filter(image, 1).astype(np.uint16)
    path = write_volume(tmp_path / "a.tif", image, voxel_size_um=(1, 1, 1))
    result = segment_large(
        "none", path, tmp_path / "a.zarr", scheduler=address, chunk=40, cell_radius_um=5
    )
    assert result.facts["cut_by_halo"] >= 1


def test_the_result_of_others_is_refused(nuclei, address, tmp_path):
    for name in ("a.tif", "cells"):
        with pytest.raises(UserError, match=r"must be called NAME\.zarr"):
            segment_large("none", nuclei[0], tmp_path / name)
    (tmp_path / "mine.zarr").mkdir()
    with pytest.raises(UserError, match="exists and is never overwritten"):
        segment_large("none", nuclei[0], tmp_path / "mine.zarr")


def test_a_run_does_not_go_on_with_other_settings(nuclei, address, tmp_path):
    out = tmp_path / "cells.zarr"

    def stop(progress):
        return progress.stage == "cluster"

    for changes, words in (({}, "stopped"), ({"minimum_size": 0.5}, "begun with another settings")):
        with pytest.raises(UserError, match=words):
            segment_large("none", nuclei[0], out, scheduler=address, observe=stop, **changes)


def test_an_address_where_nobody_answers_is_a_sentence(nuclei, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster_module, "CONNECT_SECONDS", 1)
    with pytest.raises(UserError, match="no Dask scheduler answers at"):
        segment_large("none", nuclei[0], tmp_path / "a.zarr", scheduler="tcp://127.0.0.1:9")


def test_chunks_too_small_for_the_cells_are_refused(nuclei, address, tmp_path):
    with pytest.raises(UserError, match="chunks of 16 voxels are too small for cells of 5"):
        segment_large("none", nuclei[0], tmp_path / "a.zarr", scheduler=address, chunk=16)


def test_the_command_line_says_what_it_will_take_and_what_it_wrote(
    nuclei, address, tmp_path, capsys
):
    out = tmp_path / "cells.zarr"
    arguments = ["segment", "none", str(nuclei[0]), "--out", str(out), "--scheduler", address]
    assert main([*arguments, "--chunk", "64"]) == 0
    said = capsys.readouterr()
    assert "cells" in said.out and f"wrote {out}" in said.out and "cells.csv" in said.out
    assert "dashboard of the 2 workers" in said.err and "GB on the disk" in said.err
    assert main([*arguments[:3], "--workers", "1"]) == 2
    assert "go with --out NAME.zarr" in capsys.readouterr().err
    assert Path(out, "cells.csv").read_text().startswith('"label"')
