"""The command line: the package's verbs without a notebook.

Results go to stdout (with ``--json`` as JSON), progress and errors to stderr; every error is one
line that says what, where and what to do.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Callable, Sequence

from wnet_nb import __version__
from wnet_nb.config import DEFAULTS, OPTIONS, PRESETS, names_with

WRONG, INTERRUPTED = 2, 130
TRAINING_OPTIONS = ("epochs", "learning_rate", "patch_size", "base_channels", "intensity_sigma")
TRAINING_OPTIONS += ("start_from", "cell_radius_um", "channel", "voxel_size_um")
MODEL = "run folder, weights file (.safetensors or .pth), or: starter, published, none"


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, where argparse prints the usage too."""

    def error(self, message: str) -> None:
        """End with exit status 2."""
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

    def verb(name: str, text: str, example: str, options: Sequence[str] = ()) -> _Parser:
        lines = [f"example:\n  python -m wnet_nb {name} {example}"]
        if options:
            lines.append("options for --set that matter most:\n" + _explain(options))
        form = argparse.RawDescriptionHelpFormatter
        more = {"description": text, "epilog": "\n\n".join(lines), "formatter_class": form}
        return verbs.add_parser(name, help=text, parents=[shared], **more)

    one = verb("demo", "show everything on the built-in example, in a few minutes", "--out demo")
    one.add_argument("--out", metavar="DIR", help="a new folder (default: wnet_demo)")
    one.add_argument("--seed", type=int, default=0, help="of the example and the training")
    _add(one, "set")

    one = verb("check", "say what is wrong with volumes or unsuitable, file by file", "my_stacks/")
    _add(one, "path", "settings", "set", "slices")

    one = verb(
        "train",
        "train a network on volumes, without labels",
        "my_stacks/ --run runs/first --preset quick --set epochs=10",
        TRAINING_OPTIONS,
    )
    _add(one, "path")
    one.add_argument("--run", required=True, metavar="DIR", help="a new folder for the results")
    one.add_argument("--resume", action="store_true", help="go on with the training in DIR")
    one.add_argument("--labels", metavar="PATH", help="true labels to follow the training with")
    one.add_argument("--cellseg3d", metavar="FILE", help="write a .pth for CellSeg3D's plugin too")
    _add(one, "settings", "set", "slices")

    one = verb(
        "segment",
        "find, count and measure the cells of whole volumes",
        "runs/first my_stacks/ --set minimum_size=0.2",
        names_with("segmenting"),
    )
    one.add_argument("model", metavar="MODEL", help=MODEL)
    _add(one, "path")
    one.add_argument("--out", metavar="DIR", help="for the results (default: RUN/predictions)")
    one.add_argument("--labels", metavar="PATH", help="true labels or points to score against")
    _add(one, "set", "slices")

    one = verb(
        "evaluate", "score a segmentation against the truth", "runs/first/predictions true_labels/"
    )
    one.add_argument("prediction", metavar="PREDICTION", help="labels.tif, or a folder of results")
    one.add_argument("truth", metavar="TRUTH", help="label TIFF, CSV of points, or a folder")
    one.add_argument("--radius-um", type=float, metavar="µm", help="how far a point may lie")
    _add(one, "set")

    one = verb(
        "starter",
        "make starter weights from simulated cells, for cells of your kind",
        "--out mine.safetensors --set radius=3,5",
    )
    one.add_argument("--out", required=True, metavar="FILE", help="a new .safetensors")
    one.add_argument("--steps", type=int, metavar="N", help="training steps")
    one.add_argument("--seed", type=int, default=0, metavar="N", help="of everything drawn")
    one.add_argument(
        "--set", action="append", default=[], metavar="RANGE=VALUE", help="narrow a range"
    )
    return parser


def _add(parser: argparse.ArgumentParser, *arguments: str) -> None:
    """Add arguments that several verbs have."""
    if "path" in arguments:
        parser.add_argument("path", metavar="PATH", help="a TIFF or a folder of TIFFs")
    if "settings" in arguments:
        source = parser.add_mutually_exclusive_group()
        known = ", ".join(PRESETS)
        source.add_argument("--preset", metavar="NAME", help=f"{known} (the first if not given)")
        source.add_argument("--settings", metavar="FILE", help="a settings.json of an earlier run")
    if "set" in arguments:
        parser.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="OPTION=VALUE",
            help="change an option; may be repeated",
        )
    if "slices" in arguments:
        parser.add_argument(
            "--slices", action="store_true", help="PATH is one volume: a folder of 2D slices"
        )


def _explain(options: Sequence[str]) -> str:
    lines = []
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

    speaker = terminal.Speaker(quiet=as_json)
    verb: Callable = getattr(verbs, options.verb)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", UserWarning)
            warnings.showwarning = lambda message, *_, **__: speaker.remark(f"{message}")
            status, result = verb(options, speaker)
    except KeyboardInterrupt:
        return _fail("interrupted", INTERRUPTED)
    except Exception as error:
        message = terminal.explain(error)
        if message is None:
            raise  # a mistake of ours: its traceback belongs in a report
        return _fail(message, WRONG)
    if as_json:
        print(json.dumps(result, indent=2, ensure_ascii=False, default=str))
    return status


def _fail(message: str, status: int) -> int:
    print(f"wnet-nb: {' '.join(message.split())}", file=sys.stderr)
    return status


def run() -> None:
    """Run a verb and end the process with its exit status."""
    sys.exit(main())
