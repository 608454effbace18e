"""Is it as quick as it promises to be? Every figure is a ratio to a plain form in the same run.

python tests/benchmarks/speed.py [--only step inference ...] [--rounds 5] [--out FILE.md]

The two sides of a ratio take turns, so that a busy machine slows both alike; the median of the
ratios of the rounds counts, after one round to warm up. Peaks of memory are those of processes of
their own, above what the imports hold.
"""

import argparse
import asyncio
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from contextlib import chdir, redirect_stdout
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
import tifffile
import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.benchmarks.nuclei import make_nuclei
from tests.benchmarks.oracle import dense_ncut, make_plain, shifted_ncut
from tests.benchmarks.voronoi_otsu import voronoi_otsu
from wnet_nb import losses
from wnet_nb.cells.measure import measure_cells
from wnet_nb.cells.outlines import segment_instances
from wnet_nb.cells.scores import match_instances
from wnet_nb.checkpoint import Checkpoint, build_model
from wnet_nb.config import preset
from wnet_nb.data import prepare
from wnet_nb.device import choose_dtype
from wnet_nb.files.volumes import Volume
from wnet_nb.inference import _common_statistics, measure_moments, predict_probabilities
from wnet_nb.jobs.models import (
    find_cells,
    load_model,
    no_network,
    predict_classes,
    with_weights,
)
from wnet_nb.jobs.stacks import Stack, Stacks
from wnet_nb.jobs.train import train_events
from wnet_nb.learner import Learner
from wnet_nb.losses import soft_ncut_loss
from wnet_nb.training import fit
from wnet_nb.widgets import TrainingPanel

CPU = torch.device("cpu")
SIGMAS = {"intensity_sigma": 10.0, "spatial_sigma": 4.0}
PUBLISHED = preset("published", patch_size=64, batch_size=1)
STEP = np.random.default_rng(0).random((1, 1, 64, 64, 64), np.float32) * 100
MAXIMUM, MINIMUM = "at most", "at least"


def in_turn(rounds, *, warm_up=1, **calls):
    """Return the seconds of every round of each call, taken in turn after those that warm up."""
    seconds = {name: [] for name in calls}
    for _ in range(rounds + warm_up):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - began)
    return {name: np.array(times[warm_up:]) for name, times in seconds.items()}


def ratio(over, under):
    return float(np.median(over / under))


def goal(name, against, value, relation, limit, note=""):
    met = value <= limit if relation == MAXIMUM else value >= limit
    return f"| {name} | {against} | {relation} {limit:g} | **{value:.2f}** | " + (
        f"{'yes' if met else 'no'} | {note} |"
    )


# ---------------------------------------------------------------------- a training step


def stepper(kind):
    """Return a callable that takes one training step of the published network."""
    if kind == "plain":
        losses.soft_ncut_loss = lambda p, i, *, affinity, **sizes: dense_ncut(p, i, **sizes)
    settings = PUBLISHED.replace(activation_checkpointing=kind == "saving")
    kind = "auto" if kind == "saving" else kind
    learner = Learner(settings, CPU, choose_dtype("auto" if kind == "auto" else "float32", CPU))
    if kind == "plain":
        make_plain(learner.model)
    return lambda: learner.step(STEP, PUBLISHED, 0)


def step_rows(rounds):
    """Time a step of the published network; the plain one has its own process and its own loss."""
    ours = {kind: stepper(kind) for kind in ("float32", "auto")}
    kept, plain = losses.soft_ncut_loss, stepper("plain")
    dense = losses.soft_ncut_loss

    def plain_step():
        losses.soft_ncut_loss = dense
        plain()
        losses.soft_ncut_loss = kept

    losses.soft_ncut_loss = kept
    counter = FlopCounterMode(display=False)
    with counter:
        plain_step()
    work = counter.get_total_flops()
    conv = torch.nn.Conv3d(64, 64, 3, padding=1).to(memory_format=torch.channels_last_3d)
    image = torch.rand(1, 64, 64, 64, 64).to(memory_format=torch.channels_last_3d)
    image.requires_grad_()

    def convolve():
        with torch.autocast("cpu", torch.bfloat16):
            conv(image).sum().backward()

    with FlopCounterMode(display=False) as one:
        convolve()
    took = in_turn(rounds, plain=plain_step, **ours, conv=convolve)
    bound = one.get_total_flops() / took["conv"]
    counter = FlopCounterMode(display=False)
    with counter:
        ours["float32"]()
    rate = counter.get_total_flops() / took["auto"]
    note = f"{work / 1e9:.0f} GFLOP layer by layer, {counter.get_total_flops() / 1e9:.0f} as done"
    return [
        goal("training step, `auto`", "plain float32", ratio(took["plain"], took["auto"]),
             MINIMUM, 3.0, note),
        goal("its convolution rate", "one bfloat16 convolution, forward and backward",
             ratio(rate, bound), MINIMUM, 0.7, f"{np.median(bound) / 1e9:.0f} GFLOP/s"),
        goal("training step, `float32`", "plain float32", ratio(took["plain"], took["float32"]),
             MINIMUM, 1.3),
    ]  # fmt: skip


def peak(*words):
    """Return the peak MB above the imports of `--peak` words, in a process of its own."""
    command = [sys.executable, __file__, "--peak", *words]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def own_peak(words):
    """Do what `words` say and return by how many MB the memory rose."""

    def now(name):
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))

    what, kind = words
    call = ncut_call(kind, 5) if what == "ncut" else stepper(kind)
    before = now("VmRSS")
    call()
    call()
    return now("VmHWM") - before


def memory_rows(rounds):
    plain, auto, saving = (peak("step", kind) for kind in ("plain", "auto", "saving"))
    took = in_turn(rounds, auto=stepper("auto"), saving=stepper("saving"))
    return [
        goal("peak memory of that step, `auto`", "plain float32", auto / plain, MAXIMUM, 0.5,
             f"{auto / 1000:.2f} of {plain / 1000:.2f} GB"),
        goal("the same with `activation_checkpointing`", "plain float32", saving / plain, MAXIMUM,
             0.25, f"{saving / 1000:.2f} GB"),
        goal("its time", "`auto` without", ratio(took["saving"], took["auto"]), MAXIMUM, 1.4),
    ]  # fmt: skip


# ---------------------------------------------------------------------- losses


def ncut_call(kind, radius):
    torch.manual_seed(0)
    p = torch.randn(2, 2, 64, 64, 64).softmax(1).requires_grad_()
    image = 100 * torch.rand(2, 1, 64, 64, 64)
    sizes = {"radius": radius, **SIGMAS}

    def call():
        p.grad = None
        if kind in ("class_mean", "pairwise"):
            soft_ncut_loss(p, image, affinity=kind, **sizes).backward()
        else:
            (dense_ncut if kind == "dense" else shifted_ncut)(p, image, **sizes).backward()

    return call


def ncut_rows(rounds):
    rows = []
    for radius, limit, n in ((2, 2, rounds), (5, 15, 1), (10, 60, 1)):
        took = in_turn(n, ours=ncut_call("class_mean", radius), dense=ncut_call("dense", radius))
        rows.append(goal(f"class-mean soft N-cut, radius {radius}", "dense cube convolution",
                         ratio(took["dense"], took["ours"]), MINIMUM, limit))  # fmt: skip
    took = in_turn(3 * rounds, two=ncut_call("class_mean", 2), ten=ncut_call("class_mean", 10))
    rows.append(goal("the same, radius 10", "radius 2", ratio(took["ten"], took["two"]),
                     MAXIMUM, 1.3))  # fmt: skip
    took = in_turn(1, ours=ncut_call("pairwise", 5), shifted=ncut_call("shifted", 5))
    rows.append(goal("pairwise soft N-cut, radius 5", "autograd through shifted copies",
                     ratio(took["shifted"], took["ours"]), MINIMUM, 5))  # fmt: skip
    ours, shifted = peak("ncut", "pairwise"), peak("ncut", "shifted")
    rows.append(goal("its memory", "the same", ours / shifted, MAXIMUM, 0.1,
                     f"{ours:.0f} of {shifted:.0f} MB"))  # fmt: skip
    return rows


# ---------------------------------------------------------------------- whole volumes


def inference_rows(rounds):
    """Compare whole volumes; the foreground is the starter's, whose classes mean something."""
    from monai.inferers import sliding_window_inference  # which only this needs: pip install monai

    image = make_nuclei(seed=0)[0]
    shape = (128, 256, 256)
    image = np.pad(image, [(0, max(0, n - m)) for n, m in zip(shape, image.shape, strict=True)],
                   mode="reflect")[tuple(map(slice, shape))]  # fmt: skip

    def pair(model, settings):
        """Return our inference and MONAI's with the same encoder, layer by layer in float32."""
        plain = make_plain(build_model(settings)).eval()
        plain.load_state_dict(model.state_dict())
        prepared = prepare(image, settings, cell_radius_um=5.0, voxel_size_um=(1, 1, 1))
        prepared = replace(prepared, factors=(1, 1, 1))
        batch = torch.from_numpy(prepared.normalisation.apply(prepared.array))[None, None]

        def windows(common=False):
            moments = measure_moments(plain, prepared) if common else {}
            with torch.inference_mode(), _common_statistics(plain, moments):
                return sliding_window_inference(batch, 64, 1, plain.encode, overlap=0.25)[0].numpy()

        return partial(predict_probabilities, model, prepared), windows

    published = build_model(PUBLISHED).to(memory_format=torch.channels_last_3d).eval()
    ours, windows = pair(published, PUBLISHED)
    auto = partial(ours, precision="auto", tile_size=PUBLISHED.tile_size)
    took = in_turn(max(1, rounds // 3), warm_up=0, ours=auto, monai=windows)  # minutes each
    starter = load_model("starter")
    ours, windows = pair(starter.model, starter.settings)

    def dice(a, b):
        a, b = (probabilities.argmax(0) > 0 for probabilities in (a, b))
        return float(2 * (a & b).sum() / max(1, a.sum() + b.sum()))

    found, exact = ours(precision="auto"), ours(precision="float32")
    causes = {"in float32": exact, "in tiles of 64": ours(tile_size=64)}
    note = [f"ours {name} {dice(found, other):.3f}" for name, other in causes.items()]
    note.append(f"windows with the volume's statistics {dice(found, windows(common=True)):.3f}")
    return [
        goal("inference, published network, 128×256×256", "MONAI sliding windows, plain float32",
             ratio(took["monai"], took["ours"]), MINIMUM, 4),
        goal("foreground of the starter", "the same (Dice)", dice(found, windows()), MINIMUM, 0.995,
             "; ".join(note)),
    ]  # fmt: skip


def instances_rows(rounds):
    rounds, facts = max(1, rounds // 5), []
    small, large = (instances_seconds(s, rounds, facts) for s in ((128, 256, 256), (256, 512, 512)))
    return [
        goal("cells (seeds, split, outline, table), 256×512×512", "Voronoi-Otsu, scikit-image",
             ratio(large["ours"], large["otsu"]), MAXIMUM, 3, f"{facts[-1]} cells"),
        goal("the same per voxel", "128×256×256", ratio(large["ours"], 8 * small["ours"]),
             MAXIMUM, 1.2),
    ]  # fmt: skip


def instances_seconds(shape, rounds, facts):
    """Time the steps after the class map and Voronoi-Otsu on a volume of repeated cells."""
    block = make_nuclei(seed=0, shape=(128, 128, 128), n_cells=170)[0]
    image = np.tile(block, [-(-n // 128) for n in shape])[tuple(map(slice, shape))]
    stack = Stack(Volume(image, (1.0, 1.0, 1.0), "option", Path("large.tif")))
    none = no_network()
    classes = predict_classes(stack.prepared(none.settings), none, none.settings)
    given = {"voxel_size_um": stack.voxel_size_um, "cell_radius_um": 5.0}

    def ours():
        labels = segment_instances(classes, image, foreground_classes=(0,), **given).labels
        table = measure_cells(labels, image, voxel_size_um=stack.voxel_size_um)
        facts.append(len(table["label"]))

    return in_turn(rounds, ours=ours, otsu=lambda: voronoi_otsu(image, **given))


# ---------------------------------------------------------------------- whole commands


def run(*words, cwd=None):
    def call():
        subprocess.run([sys.executable, *words], check=True, capture_output=True, cwd=cwd)

    return call


def command_rows(rounds):
    with tempfile.TemporaryDirectory() as folder:
        image = make_nuclei(seed=0, shape=(100, 100, 100))[0]
        tifffile.imwrite(Path(folder) / "cells.tif", image)
        number = iter(range(1000))

        def segment():
            words = ("segment", "none", "cells.tif", "--out", f"out{next(number)}")
            run("-m", "wnet_nb", *words, "--set", "voxel_size_um=1,1,1", cwd=folder)()

        took = in_turn(rounds, ours=segment, torch=run("-c", "import torch"))
    quick = in_turn(3 * rounds, nothing=run("-c", "pass"), help=run("-m", "wnet_nb", "--help"),
                    package=run("-c", "import wnet_nb"))  # fmt: skip
    help_, package = (float(np.median(quick[k] - quick["nothing"])) for k in ("help", "package"))
    return [
        goal("`segment none` of 100³, whole process", "`import torch`",
             ratio(took["ours"], took["torch"]), MAXIMUM, 4),
        goal("`--help`, seconds", "more than `pass`", help_, MAXIMUM, 0.2),
        goal("`import wnet_nb`, seconds", "more than `pass`", package, MAXIMUM, 0.1),
    ]  # fmt: skip


TRAIN_AND_SEGMENT = """
import sys, wnet_nb
wnet_nb.train("cells.tif", sys.argv[1], wnet_nb.preset("quick", voxel_size_um=(1, 1, 1)))
wnet_nb.segment(sys.argv[1], "cells.tif")
"""


def quick_rows(rounds):
    """Compare `quick` on the example, from file to report, with its training steps alone."""
    one, two = [], []
    with tempfile.TemporaryDirectory() as folder:
        tifffile.imwrite(Path(folder) / "cells.tif", make_nuclei(seed=0)[0])

        def share(name, *commands):
            began = time.perf_counter()
            for words in commands:
                run(*words, cwd=folder)()
            whole = time.perf_counter() - began
            rows = (Path(folder) / name / "history.csv").read_text().splitlines()
            column = rows[0].split(",").index("seconds")
            return whole / sum(float(row.split(",")[column]) for row in rows[1:])

        for n in range(rounds):
            one.append(share(f"one{n}", ("-c", TRAIN_AND_SEGMENT, f"one{n}")))
            words = ("--run", f"two{n}", "--preset", "quick", "--set", "voxel_size_um=1,1,1")
            train = ("-m", "wnet_nb", "train", "cells.tif", *words)
            two.append(
                share(f"two{n}", train, ("-m", "wnet_nb", "segment", f"two{n}", "cells.tif"))
            )
    return [
        goal("`quick` on the example, `train` and `segment` in a Python process, with its imports",
             "its training steps alone", statistics.median(one), MAXIMUM, 1.5,
             f"{statistics.median(two):.2f} as two commands"),
    ]  # fmt: skip


# ---------------------------------------------------------------------- the live panel


def panel_rows(rounds):
    """Compare a training in the panel with the same one without, both writing their run."""
    stack = Stack(Volume(make_nuclei(seed=0)[0], (1.0, 1.0, 1.0), "option", Path("cells.tif")))
    stacks, settings, number = Stacks(Path("cells.tif"), (stack,), ()), preset("quick"), count()

    def alone():
        deque(train_events(stacks, Path(f"run{next(number)}"), settings), maxlen=0)

    def panel():
        with redirect_stdout(None):  # where no notebook shows it, a panel prints its words
            asyncio.run(TrainingPanel(stacks, settings, run=Path(f"run{next(number)}")).train())

    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        tifffile.imwrite("cells.tif", stack.array)
        took = in_turn(max(1, rounds // 2), alone=alone, panel=panel)
    return [
        goal("`quick` on the example in the live panel", "the same training without a panel",
             ratio(took["panel"], took["alone"]), MAXIMUM, 1.1)
    ]  # fmt: skip


def quality_rows(rounds):
    """Compare what `quick` finds on three examples, computed as `auto` chooses and in float32."""
    means = {"auto": [], "float32": []}
    for seed in range(3):
        image, truth = make_nuclei(seed)
        stack = Stack(Volume(image, (1.0, 1.0, 1.0), "option", Path("cells.tif")))
        for precision, scores in means.items():
            settings = preset("quick", precision=precision)
            *_, finished = fit([stack.prepared(settings)], with_weights(settings))
            model = Checkpoint(finished.model, settings)
            classes = predict_classes(stack.prepared(settings), model, settings)
            cells = find_cells(
                classes, image, stack, model, settings, cell_radius_um=stack.cell_size
            )
            scores.append(match_instances(cells.labels, truth).mean_f1)
    auto, full = (float(np.mean(scores)) for scores in means.values())
    return [
        goal("mean F1 of `auto`, `quick` on three examples", "`float32` (difference)",
             abs(auto - full), MAXIMUM, 0.01, f"{auto:.3f} and {full:.3f}")
    ]  # fmt: skip


PARTS = {
    "step": step_rows, "memory": memory_rows, "ncut": ncut_rows, "inference": inference_rows,
    "instances": instances_rows, "command": command_rows, "quick": quick_rows,
    "panel": panel_rows, "quality": quality_rows,
}  # fmt: skip


def processor():
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        print(own_peak(options.peak))
        return
    lines = [
        f"`{' '.join(['python tests/benchmarks/speed.py', *sys.argv[1:]])}`", "",
        f"{processor()}; torch {torch.__version__}, {torch.get_num_threads()} threads; load "
        f"average at the start {os.getloadavg()[0]:.1f}.", "",
        "| what | against | goal | measured | met | |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    print("\n".join(lines))
    for name in options.only:
        for row in PARTS[name](options.rounds):
            lines.append(row)
            print(row, flush=True)
    if options.out:
        options.out.write_text("# Speed against plain forms\n\n" + "\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    main()
