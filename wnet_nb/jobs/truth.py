"""Which file is the truth of which volume: true labels or points, by their names and content."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from wnet_nb.errors import UserError
from wnet_nb.files.result import BASELINE_LABELS, LABELS, Result
from wnet_nb.files.run_files import is_run, read_record
from wnet_nb.files.tables import read_points
from wnet_nb.files.volumes import Volume, find_volumes, read_volume
from wnet_nb.jobs.check import Finding, looks_like_image

TRUTH_KINDS = "labels?|truth|gt|masks?|cells|points|centroids|zyx"
KINDS = rf"[ ._-](images?|{TRUTH_KINDS})$"
ENDINGS = r"(\.ome)?\.(tiff?|csv)$"


def match_name(path: Path) -> str:
    """Return what two files of one volume have in common: `a` for a_image.tif and a/labels.tif."""
    name = path.parent.name if path.name in (LABELS, BASELINE_LABELS) else path.name
    name = re.sub(ENDINGS, "", name, flags=re.IGNORECASE)
    while (shorter := re.sub(KINDS, "", name, flags=re.IGNORECASE)) != name and shorter:
        name = shorter
    return name


def says_truth(path: Path) -> bool:
    """Return whether a file's name ends in a word for truth, such as ``_labels.tif``."""
    return re.search(rf"(^|[ ._-])({TRUTH_KINDS}){ENDINGS}", path.name, re.IGNORECASE) is not None


def is_points(path: Path) -> bool:
    """Return whether a truth is a table of points."""
    return path.suffix.lower() == ".csv"


def read_labels(path: Path, voxel_size_um: Sequence[float] | None = None) -> Volume:
    """Read instance labels or a mask, also as floats; UserError if it holds an image."""
    volume = read_volume(path, voxel_size_um=voxel_size_um)
    array = volume.array
    if array.dtype.kind == "f" and np.isfinite(array).all() and (array == np.round(array)).all():
        array = array.astype(np.int64)
    if array.dtype.kind not in "iu" or array.min() < 0:
        raise UserError(f"'{path}' holds values that are no labels; label it first")
    if looks_like_image(array):
        raise UserError(
            f"'{path}' looks like an image and not like labels, as neighbouring voxels differ; "
            "give the file with the labels"
        )
    return replace(volume, array=array)


def find_labels(place: Path) -> dict[str, Path]:
    """Return labels and points at a path, results in it too, by `match_name`; no images."""
    files = list(find_volumes(place).paths)
    if place.is_dir():
        files += [*sorted(place.glob("*.csv")), *sorted(place.glob(f"[!.]*/{LABELS}"))]
        files = [file for file in files if says_truth(file)] or files
    return {match_name(file): file for file in files}


@dataclass(frozen=True)
class Truths:
    """The truth of volumes by `match_name`: where the user said, and beside the images."""

    given: dict[str, Path]
    beside: dict[str, Path]

    @property
    def files(self) -> set[Path]:
        """The files, none of which is to be trained on."""
        given = {file for file in self.given.values() if says_truth(file)}
        return given | set(self.beside.values())

    def settle(self, volume: Volume) -> tuple[Path | None, list[Finding]]:
        """Return the truth of a volume, and what there is to say about it.

        One that does not fit is a UserError where the user gave it, and else left aside.
        """
        name = match_name(volume.source)
        file = self.given.get(name) or self.beside.get(name)
        if file is None:
            return None, []
        try:
            if is_points(file):
                read_points(file)
            elif (shape := read_labels(file).shape) != volume.shape:
                raise UserError(
                    f"labels '{file.name}' are {shape} and '{volume.name}' is {volume.shape}; "
                    "give labels of the same volume"
                )
        except UserError as error:
            if name in self.given:
                raise
            return None, [Finding("warning", f"'{file.name}' beside it is left aside: {error}")]
        words = f"its truth '{file.name}' is known: results are scored, it is never trained on"
        return file, [Finding("info", words)]


def find_truths(path: Path, images: Sequence[Path], labels: str | Path | None) -> Truths:
    """Find the truth of the volumes at `path`: at `labels` if given, and beside the images.

    UserError if `labels` do not exist, or have the name of no volume.
    """
    names = {match_name(file) for file in images if not says_truth(file)}
    folder = path if path.is_dir() else path.parent
    beside = {}
    for file in folder.iterdir():
        if says_truth(file) and match_name(file) in names and _holds_truth(file):
            beside[match_name(file)] = file
    if labels is None:
        return Truths({}, beside)
    given = find_labels(Path(labels))
    if Path(labels).is_file() and len(images) == 1:
        given = {match_name(images[0]): Path(labels)}
    if names and not names & given.keys():
        raise UserError(
            f"no labels in '{labels}' have the name of a volume; name them alike, such as "
            f"{min(names)}_labels.tif"
        )
    return Truths(given, beside)


def _holds_truth(file: Path) -> bool:
    try:
        return is_points(file) or not looks_like_image(read_volume(file).array)
    except UserError:  # it is named when the volumes are read
        return False


def known_truth(folder: Path, sha256: str) -> Path | None:
    """Return the truth that an earlier result in `folder`, or its run, had of a volume's file."""
    known = [
        result.scores["truth"]
        for result in reversed(Result.find_in(folder))
        if result.facts.get("sha256") == sha256 and result.scores
    ]
    if is_run(folder.parent):
        inputs = read_record(folder.parent).get("inputs", [])
        known += [one.get("truth") for one in inputs if one.get("sha256") == sha256]
    return next((Path(path) for path in known if path and Path(path).exists()), None)
