"""How much memory does segmenting a large volume take, and how long does each stage?

OMP_NUM_THREADS=1 python tests/benchmarks/memory.py [--shape 256 512 512] [--out memory.md]

A synthetic uint16 volume (nuclei of radius 5 µm, 1 µm voxels) is written as an uncompressed TIFF
and segmented with a briefly trained `quick` network by `jobs.segment.segment` in a process of its
own. Linux only: peaks come from the kernel (VmHWM), which it resets at each stage.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import tifffile

BLOCK = 128  # voxels along the edge of what is mirrored to fill the volume
CELLS = 308  # in a block: as dense as the example volume
STAGES = ("find_cells", "measure_cells", "compare")
LIMIT_GB = 3.0


def fill(block, shape):
    """Return a volume of `shape` made of mirror images of a block, so that nothing is cut."""
    for axis, n in enumerate(shape):
        index = np.arange(n) % (2 * block.shape[axis])
        block = block.take(np.minimum(index, 2 * block.shape[axis] - 1 - index), axis)
    return block


def memory():
    """Return (peak since the last reset, now, of it anonymous, of it mapped files) in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    values = {line.split(":")[0]: line.split()[1] for line in lines if line.endswith("kB")}
    return tuple(1024 * int(values[k]) for k in ("VmHWM", "VmRSS", "RssAnon", "RssFile"))


class Watch:
    """Notes seconds and peak memory of the stages; the time between two of them is 'writing'."""

    def __init__(self):
        self.rows, self.began, self.anonymous, self.over = [], time.perf_counter(), 0, False
        self._reset()
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self):
        while not self.over:
            self.anonymous = max(self.anonymous, memory()[2])
            time.sleep(0.02)

    def _reset(self):
        Path("/proc/self/clear_refs").write_text("5")
        self.anonymous = 0

    def cut(self, name):
        now = time.perf_counter()
        peak, _, anonymous, _ = memory()
        self.rows.append((name, now - self.began, peak, max(anonymous, self.anonymous)))
        self.began = now
        self._reset()

    def around(self, module, name):
        function = getattr(module, name)

        def timed(*args, **kwargs):
            self.cut("reading, writing")
            try:
                return function(*args, **kwargs)
            finally:
                self.cut(name)

        setattr(module, name, timed)


def segment_here(run, image, out):
    """Segment in this process; return the figures."""
    import matplotlib.figure  # noqa: F401  loaded with the first picture

    from wnet_nb.figures import overlay
    from wnet_nb.jobs import models, stacks
    from wnet_nb.jobs import segment as prediction

    _, before, anonymous, _ = memory()
    watch = Watch()
    watch.around(stacks, "prepare")
    watch.around(models, "predict_probabilities")
    for name in STAGES:
        watch.around(prediction, name)
    watch.around(overlay, "overlay_png")
    (result,) = prediction.segment(run, image, out=out)
    watch.cut("reading, writing")
    watch.over = True
    return {"before": (before, anonymous), "rows": watch.rows, "result": result.facts}


def prepare_files(folder, shape):
    """Write the volume and train the network; return run folder, image and number of cells."""
    from nuclei import make_nuclei

    from wnet_nb import config
    from wnet_nb.files.writing import write_volume
    from wnet_nb.jobs import train as pipeline

    image, labels = make_nuclei(shape=(BLOCK,) * 3, n_cells=CELLS)
    write_volume(folder / "block.tif", image, voxel_size_um=(1, 1, 1))
    pipeline.train(folder / "block.tif", folder / "run", config.preset("quick", epochs=2))
    tifffile.imwrite(folder / "volume.tif", fill(image, shape))  # not packed, so it is mapped
    cells = len(np.unique(labels)) - 1
    return folder / "run", folder / "volume.tif", cells * np.prod(shape) / BLOCK**3


def table(found, shape, n_true):
    """Return the figures as Markdown."""
    gb = 1e9
    merged = {}
    for name, seconds, peak, anonymous in found["rows"]:
        old = merged.get(name, (0, 0, 0))
        merged[name] = (old[0] + seconds, max(old[1], peak), max(old[2], anonymous))
    before, anonymous_before = found["before"]
    lines = ["| stage | seconds | peak above imports, GB | of it not mapped files, GB |"]
    lines += ["|---|---|---|---|"]
    for name, (seconds, peak, anonymous) in merged.items():
        most = anonymous - anonymous_before
        lines.append(f"| {name} | {seconds:.0f} | {(peak - before) / gb:.2f} | {most / gb:.2f} |")
    highest = max(peak for _, peak, _ in merged.values()) - before
    seconds = sum(row[0] for row in merged.values())
    lines.append(f"| **all** | **{seconds:.0f}** | **{highest / gb:.2f}** | |")
    size = "×".join(map(str, shape))
    lines += [
        "",
        f"Volume {size} (z, y, x) uint16, {np.prod(shape) * 2 / gb:.2f} GB; after the imports "
        f"the process held {before / gb:.2f} GB. Cells: {found['result']['count']} found, "
        f"{found['result']['baseline_count']} by the baseline, about {n_true:.0f} true. "
        f"Asked: under {LIMIT_GB:g} GB above the imports.",
    ]
    return "\n".join(lines) + "\n", highest / gb


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--shape", type=int, nargs=3, default=(256, 512, 512))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--segment", nargs=3, metavar=("RUN", "IMAGE", "OUT"))
    options = parser.parse_args()
    if options.segment:
        print(json.dumps(segment_here(*options.segment)))
        return
    with tempfile.TemporaryDirectory() as folder:
        run, image, n_true = prepare_files(Path(folder), options.shape)
        words = [sys.executable, __file__, "--segment", str(run), str(image), f"{folder}/out"]
        text = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout
    report, highest = table(json.loads(text.splitlines()[-1]), options.shape, n_true)
    print(report)
    if options.out:
        options.out.write_text(report, encoding="utf-8")
    if highest >= LIMIT_GB:
        raise SystemExit(f"peak of {highest:.2f} GB is not under {LIMIT_GB:g} GB")


if __name__ == "__main__":
    main()
