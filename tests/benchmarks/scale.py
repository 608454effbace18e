"""What large volumes cost, and whether their chunks give the cells of the whole.

    python tests/benchmarks/scale.py chunking         # the example in chunks against the whole
    python tests/benchmarks/scale.py large FOLDER     # 8.6 GB under a cap, against its truth
    python tests/benchmarks/scale.py large FOLDER --workers 1      # the throughput of one worker
    python tests/benchmarks/scale.py large FOLDER --model starter --shape 256 384 384

Each prints a table; they stand in tests/benchmarks/scale.md. FOLDER
keeps the volume, for a run with another number of workers.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import psutil
import zarr
from dask.distributed import Client, LocalCluster, WorkerPlugin
from scipy.spatial import cKDTree

from wnet_nb.cells.scores import match_instances
from wnet_nb.data import times
from wnet_nb.jobs.example import write_example
from wnet_nb.jobs.segment import segment
from wnet_nb.scale.layout import regular_boxes
from wnet_nb.scale.result import LargeResult
from wnet_nb.scale.run import segment_large

RADIUS, SPACING, BOX = 4.0, 26, 256  # voxels: nuclei, the lattice they are shaken on, what is made
# at a time
TISSUE = 0.8  # axes of the ellipsoid of tissue, as a share of those of the volume
GREY, LIGHT, NOISE = 120, 400, 12  # of the background of the tissue, of a nucleus, of the camera


def nuclei_in(box, shape, seed=0):
    """Return the centres (n, 3) of the nuclei near a box: the same wherever it is asked."""
    counts = [n // SPACING for n in shape]
    low = [max(s.start // SPACING - 2, 0) for s in box]
    high = [min(s.stop // SPACING + 2, n) for s, n in zip(box, counts, strict=True)]
    found = []
    for z in range(low[0], high[0]):
        for y in range(low[1], high[1]):
            random = np.random.default_rng([seed, z, y])
            shaken = random.uniform(RADIUS, SPACING - RADIUS, (counts[2], 3))
            xs = np.arange(low[2], high[2])
            found.append(SPACING * np.stack([0 * xs + z, 0 * xs + y, xs], 1) + shaken[xs])
    centres = np.concatenate(found) if found else np.zeros((0, 3))
    inside = ((centres / shape - 0.5) ** 2).sum(1) < (TISSUE / 2 - 0.01) ** 2
    return centres[inside]


def make_box(box, shape, seed=0):
    """Return the voxels (uint16) of a box of the volume; what is no tissue is 0."""
    axes = [(np.arange(s.start, s.stop) + 0.5) / n - 0.5 for s, n in zip(box, shape, strict=True)]
    square = sum(
        a.reshape([-1 if i == k else 1 for k in range(3)]) ** 2 for i, a in enumerate(axes)
    )
    tissue = square < (TISSUE / 2) ** 2
    if not tissue.any():
        return np.zeros(tissue.shape, np.uint16)
    light = np.zeros(tissue.shape, np.float32)
    reach = int(2 * RADIUS)
    grid = np.stack(np.meshgrid(*[np.arange(-reach, reach + 1)] * 3, indexing="ij"), -1)
    corner = np.array([s.start for s in box])
    for centre in nuclei_in(box, shape, seed):
        place = np.round(centre).astype(int) - corner
        low, high = np.maximum(place - reach, 0), np.minimum(place + reach + 1, light.shape)
        if (low >= high).any():
            continue
        part = tuple(map(slice, low - place + reach, high - place + reach))
        away = np.linalg.norm(grid[part] + np.round(centre) - centre, axis=-1)
        brightness = 0.6 + 0.8 * ((centre.sum() * 0.618) % 1)
        light[tuple(map(slice, low, high))] += brightness / (1 + np.exp(2.0 * (away - RADIUS)))
    random = np.random.default_rng([seed, *corner])
    image = GREY + LIGHT * light + random.normal(0, NOISE, light.shape).astype(np.float32)
    return np.where(tissue, np.clip(image, 1, 65535), 0).astype(np.uint16)


def make_volume(path, shape):
    """Write an OME-Zarr 0.5 box by box, and return its gigabytes."""
    group = zarr.create_group(path, zarr_format=3)
    array = group.create_array("0", shape=shape, chunks=(128,) * 3, dtype="u2", fill_value=0)
    axes = [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "zyx"]
    levels = [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1.0] * 3}]}]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": levels}]}
    for box in regular_boxes(shape, BOX):
        image = make_box(box, shape)
        if image.any():
            array[box] = image
    return np.prod(shape, dtype=float) * 2 / 1e9


class Peak(WorkerPlugin):
    """Watches the memory of a worker's process."""

    def setup(self, worker):
        """Begin."""
        import threading

        worker.peak_bytes = 0

        def watch():
            process = psutil.Process()
            while True:
                worker.peak_bytes = max(worker.peak_bytes, process.memory_info().rss)
                time.sleep(0.05)

        threading.Thread(target=watch, daemon=True).start()


def run(word, path, out, *, workers, cap=None, chunk=None, **changes):
    """Segment on a cluster of workers of at most `cap` bytes; return facts, seconds, peak, CPU."""
    limit = cap or "auto"
    with (
        LocalCluster(n_workers=workers, threads_per_worker=1, memory_limit=limit) as cluster,
        Client(cluster) as client,
    ):
        client.register_plugin(Peak())
        began = time.perf_counter()
        said = {}

        def observe(progress):
            said.setdefault(progress.stage, time.perf_counter() - began)
            if progress.note or progress.done in (0, progress.total):
                print(f"{time.perf_counter() - began:7.0f} s  {progress}", flush=True)

        result = segment_large(
            word,
            path,
            out,
            scheduler=cluster.scheduler_address,
            chunk=chunk,
            observe=observe,
            **changes,
        )
        seconds = time.perf_counter() - began
        peaks = client.run(lambda dask_worker: dask_worker.peak_bytes).values()
        cpu = client.run(lambda: sum(psutil.Process().cpu_times()[:2])).values()
    return result, seconds, max(peaks), sum(cpu)


def chunking(_):
    """Compare the chunks of the example with the whole."""
    folder = Path("scale_chunking")
    write_example(folder)
    image = folder / "example.tif"
    print(
        "| model | chunk (voxels) | chunks | cells, whole | cells, chunks | accuracy at IoU 0.5 "
        "| at 0.9 | voxels that differ |\n|---|---|---|---|---|---|---|---|"
    )
    for word in ("none", "starter"):
        whole = segment(word, image, out=folder / word)[0].labels()
        for chunk in (32, 40, 48, 64, 96):
            result = segment_large(
                word, image, folder / f"{word}{chunk}.zarr", workers=2, chunk=chunk
            )
            labels = result.labels()[:]
            scores = match_instances(labels.astype(int), whole, thresholds=[0.5, 0.9])
            missed = [scores.n_true + scores.n_predicted - hits for hits in scores.true_positives]
            accuracy = [hits / n for hits, n in zip(scores.true_positives, missed, strict=True)]
            differ = int(((labels > 0) != (whole > 0)).sum())
            print(
                f"| `{word}` | {chunk} | {(-(-96 // chunk)) ** 3} | {whole.max()} "
                f"| {result.facts['count']} | {accuracy[0]:.3f} | {accuracy[1]:.3f} | {differ} |",
                flush=True,
            )


def large(options):
    """Segment the volume with two workers under a cap, and count against the truth."""
    folder = Path(options.folder)
    folder.mkdir(parents=True, exist_ok=True)
    path, shape = folder / "brain.zarr", tuple(options.shape)
    began = time.perf_counter()
    if not path.exists():
        make_volume(path, shape)
    gigabytes = np.prod(shape, dtype=float) * 2 / 1e9
    print(f"volume of {gigabytes:.2f} GB made in {time.perf_counter() - began:.0f} s", flush=True)
    cap = int(options.cap * 1e9)
    out = folder / f"cells{options.workers}.zarr"
    result, seconds, peak, cpu = run(options.model, path, out, workers=options.workers, cap=cap)
    tissue = 4 / 3 * np.pi * (TISSUE / 2) ** 3
    precision, recall, n_true, n_found = points(result, shape)
    used = sum(file.stat().st_size for file in result.folder.rglob("*") if file.is_file())
    rows = {
        "volume": f"{gigabytes:.2f} GB, {times(shape)} voxels uint16, tissue {tissue:.0%}",
        "model": options.model,
        "chunks": f"{result.facts['chunk']} voxels, {result.facts['empty_chunks']} empty",
        "workers and cap": f"{options.workers} processes of at most {options.cap:g} GB",
        "peak memory of a worker": f"{peak / 1e9:.2f} GB",
        "wall clock": f"{seconds:.0f} s, {seconds / gigabytes:.0f} s per GB, "
        f"{seconds / gigabytes / tissue:.0f} s per GB of tissue",
        "CPU time": f"{cpu:.0f} s, {cpu / gigabytes:.0f} s per GB, "
        f"{cpu / gigabytes / tissue:.0f} s per GB of tissue",
        "nuclei, truth and found": f"{n_true}, {n_found}",
        "precision, recall of their middles": f"{precision:.4f}, {recall:.4f}",
        "result on the disk": f"{used / 1e9:.2f} GB",
    }
    print("\n".join(f"| {name} | {value} |" for name, value in rows.items()))


def points(result: LargeResult, shape):
    """Match the middles of the cells with those of the nuclei, nearest first within a radius."""
    import pyarrow.parquet as pq

    table = pq.read_table(result.table, columns=[f"centroid_{a}_voxels" for a in "zyx"])
    found = np.stack([column.to_numpy() for column in table.columns], 1)
    truth = nuclei_in([slice(0, n) for n in shape], shape)
    away, nearest = cKDTree(found).query(truth, distance_upper_bound=RADIUS)
    hits = len(np.unique(nearest[np.isfinite(away)]))
    return hits / len(found), hits / len(truth), len(truth), len(found)


def main():
    """Do what the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["chunking", "large"])
    parser.add_argument("folder", nargs="?", default="scale_benchmark")
    parser.add_argument("--shape", type=int, nargs=3, default=(1024, 2048, 2048))
    parser.add_argument("--model", default="none")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--cap", type=float, default=2.5, help="memory of a worker in GB")
    options = parser.parse_args()
    {"chunking": chunking, "large": large}[options.what](options)


if __name__ == "__main__":
    main()
