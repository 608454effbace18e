"""The command line: the package's verbs without a notebook.

Results go to stdout (with ``--json`` as JSON), progress and errors to stderr; every error is one
line that says what, where and what to do.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Sequence

from wnet_nb import __version__

WRONG, INTERRUPTED = 2, 130


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, where argparse prints the usage too."""

    def error(self, message: str) -> None:
        """End with exit status 2."""
        self.exit(WRONG, f"{self.prog}: {message}; see {self.prog} --help\n")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all verbs."""
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--json", action="store_true", default=argparse.SUPPRESS, help="print the result as JSON"
    )
    parser = _Parser(prog="wnet-nb", description=__doc__.splitlines()[0], parents=[shared])
    parser.add_argument("--version", action="version", version=__version__)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, text: str) -> argparse.ArgumentParser:
        return verbs.add_parser(name, help=text, description=text, parents=[shared])

    one = verb("demo", "show everything on the built-in example, in a few minutes")
    one.add_argument("--out", metavar="DIR", help="a new folder (default: wnet_demo)")
    one.add_argument("--seed", type=int, default=0, help="of the example and the training")
    _add_set(one)

    one = verb("check", "say what is wrong with volumes or unsuitable, file by file")
    one.add_argument("path", metavar="PATH", help="a TIFF or a folder of TIFFs")
    _add_settings(one)
    _add_slices(one)

    one = verb("train", "train a network on volumes, without labels")
    one.add_argument("path", metavar="PATH", help="a TIFF or a folder of TIFFs")
    one.add_argument("--run", required=True, metavar="DIR", help="a new folder for the results")
    one.add_argument("--resume", action="store_true", help="go on with the training in DIR")
    one.add_argument("--labels", metavar="PATH", help="true labels to follow the training with")
    _add_settings(one)
    _add_slices(one)

    one = verb("segment", "find, count and measure the cells of whole volumes")
    one.add_argument("model", metavar="RUN", help="run folder, weights file, or: published")
    one.add_argument("path", metavar="PATH", help="a TIFF or a folder of TIFFs")
    one.add_argument("--out", metavar="DIR", help="for the results (default: RUN/predictions)")
    _add_set(one)
    _add_slices(one)

    one = verb("evaluate", "score a segmentation against the truth")
    one.add_argument("prediction", metavar="PREDICTION", help="labels.tif, or a folder of results")
    one.add_argument("truth", metavar="TRUTH", help="label TIFF, CSV of points, or a folder")
    one.add_argument("--radius-um", type=float, metavar="µm", help="how far a point may lie")
    _add_set(one)
    return parser


def _add_set(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="OPTION=VALUE",
        help="change an option; may be repeated",
    )


def _add_settings(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--preset", metavar="NAME", help="published (default) or quick")
    source.add_argument("--settings", metavar="FILE", help="a settings.json of an earlier run")
    _add_set(parser)


def _add_slices(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--slices", action="store_true", help="PATH is one volume: a folder of 2D slices"
    )


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
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", UserWarning)
            warnings.showwarning = lambda message, *_, **__: speaker.remark(f"{message}")
            status, result = getattr(verbs, options.verb)(options, speaker)
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
