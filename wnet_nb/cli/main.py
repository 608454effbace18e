"""The command line: the package's verbs without a notebook.

Results go to stdout (with ``--json`` as JSON), progress and errors to stderr; every error is one
line that says what, where and what to do.
"""

import argparse
import contextlib
import io
import json
import sys
import warnings
from collections.abc import Sequence

from wnet_nb import __version__
from wnet_nb.config import DEFAULTS, OPTIONS, PRESETS, names_with
from wnet_nb.errors import explain

WRONG, INTERRUPTED = 2, 130

# The arguments of the verbs, as `add_argument` takes them; one verb's own comes before the common.
ARGUMENTS = {
    "path": {"metavar": "PATH", "help": "a TIFF or a folder of TIFFs"},
    "model": {
        "metavar": "MODEL",
        "help": "run folder, weights file (.safetensors or .pth), or: starter, published, none",
    },
    "prediction": {"metavar": "PREDICTION", "help": "labels.tif, or a folder of results"},
    "truth": {"metavar": "TRUTH", "help": "label TIFF, CSV of points, or a folder"},
    "--run": {"required": True, "metavar": "DIR", "help": "a new folder for the results"},
    "--resume": {"action": "store_true", "help": "go on with the training in DIR"},
    "--preset": {"metavar": "NAME", "help": f"{', '.join(PRESETS)} (the first if not given)"},
    "--settings": {"metavar": "FILE", "help": "a settings.json of an earlier run"},
    "--set": {
        "action": "append",
        "default": [],
        "metavar": "OPTION=VALUE",
        "help": "change an option; may be repeated",
    },
    "--slices": {"action": "store_true", "help": "PATH is one volume: a folder of 2D slices"},
    "--labels": {"metavar": "PATH", "help": "true labels (to segment: or points) to score against"},
    "--cellseg3d": {"metavar": "FILE", "help": "write a .pth for CellSeg3D's plugin too"},
    "--radius-um": {"type": float, "metavar": "µm", "help": "how far a point may lie"},
    "--seed": {"type": int, "default": 0, "metavar": "N", "help": "of everything that is drawn"},
    "--steps": {"type": int, "metavar": "N", "help": "training steps"},
    "demo --out": {"metavar": "DIR", "help": "a new folder (default: wnet_demo)"},
    "segment --out": {
        "metavar": "DIR",
        "help": "for the results (default: RUN/predictions); DIR.zarr: a volume of any size, a "
        "BigTIFF, a folder of slices or an OME-Zarr, chunk by chunk to an OME-Zarr",
    },
    "--scheduler": {"metavar": "ADDRESS", "help": "of a Dask cluster to work on (DIR.zarr only)"},
    "--workers": {"type": int, "metavar": "N", "help": "processes here (DIR.zarr only)"},
    "--chunk": {"type": int, "metavar": "N", "help": "edge of a chunk in voxels (DIR.zarr only)"},
    "starter --out": {"required": True, "metavar": "FILE", "help": "a new .safetensors"},
}

# What a verb does, an example, and its arguments.
VERBS = {
    "demo": (
        "show everything on the built-in example, in a few minutes",
        "--out demo",
        "--out --seed --set",
    ),
    "check": (
        "say what is wrong with volumes or unsuitable, file by file",
        "my_stacks/",
        "path --preset --settings --set --slices",
    ),
    "train": (
        "train a network on volumes, without labels",
        "my_stacks/ --run runs/first --preset quick --set epochs=10",
        "path --run --resume --labels --cellseg3d --preset --settings --set --slices",
    ),
    "segment": (
        "find, count and measure the cells of whole volumes",
        "runs/first my_stacks/ --set minimum_size=0.2",
        "model path --out --labels --set --slices --scheduler --workers --chunk",
    ),
    "evaluate": (
        "score a segmentation against the truth",
        "runs/first/predictions true_labels/",
        "prediction truth --radius-um --set",
    ),
    "starter": (
        "make starter weights from simulated cells, for cells of your kind",
        "--out mine.safetensors --set radius=3,5",
        "--out --steps --seed --set",
    ),
}

TRAINING = "epochs learning_rate patch_size base_channels intensity_sigma start_from "
TRAINING += "cell_radius_um channel voxel_size_um"
MATTER_MOST = {"train": TRAINING.split(), "segment": names_with("segmenting")}  # of --set


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, where argparse prints the usage too."""

    def error(self, message: str) -> None:
        self.exit(WRONG, f"{self.prog}: {message}; see {self.prog} --help\n")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all verbs; it needs neither torch nor numpy."""
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--json", action="store_true", default=argparse.SUPPRESS, help="print the result as JSON"
    )
    parser = _Parser(prog="wnet-nb", description=__doc__.splitlines()[0], parents=[shared])
    parser.add_argument("--version", action="version", version=__version__)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, (text, example, arguments) in VERBS.items():
        verb = verbs.add_parser(
            name,
            help=text,
            description=text,
            epilog=f"example:\n  python -m wnet_nb {name} {example}\n{_explain(name)}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            parents=[shared],
        )
        for argument in arguments.split():
            verb.add_argument(
                argument, **ARGUMENTS.get(f"{name} {argument}", ARGUMENTS.get(argument))
            )
    return parser


def _explain(verb: str) -> str:
    options = MATTER_MOST.get(verb, ())
    lines = ["\noptions for --set that matter most:"] if options else []
    for name in options:
        default = "found" if DEFAULTS[name] is None else str(DEFAULTS[name]).lower()
        lines.append(f"  {name} (default {default})\n      {OPTIONS[name].help}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb and return the exit status."""
    try:
        options = build_parser().parse_args(arguments)
    except SystemExit as stop:
        return int(stop.code or 0)
    as_json = getattr(options, "json", False)
    for stream in (sys.stdout, sys.stderr):  # µ and × on a terminal that cannot show them
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    from wnet_nb.cli import terminal, verbs

    stdout = io.StringIO() if as_json else sys.stdout
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(stdout):
            warnings.simplefilter("always", UserWarning)
            warnings.showwarning = lambda message, *_, **__: terminal.remark(f"{message}")
            status, result = getattr(verbs, options.verb)(options)
    except KeyboardInterrupt:
        return _fail("interrupted", INTERRUPTED)
    except Exception as error:
        message = explain(error)
        if message is None:
            raise  # a mistake of ours: its traceback belongs in a report
        return _fail(message, WRONG)
    if as_json:
        print(json.dumps(result, indent=2, ensure_ascii=False, default=str))
    return status


def _fail(message: str, status: int) -> int:
    print(f"wnet-nb: {' '.join(message.split())}", file=sys.stderr)
    return status
