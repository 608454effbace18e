"""Which file is the truth of which volume: true labels or points, by their names and content."""

from __future__ import annotations

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
    """Read instance labels or a mask; whole numbers saved as float are taken as labels.

    Raises
    ------
    UserError
        If it cannot be read, or holds an image and no labels.
    """
    volume = read_volume(path, voxel_size_um=voxel_size_um)
    array = volume.array
    if array.dtype.kind == "f":
        whole = np.isfinite(array).all() and (array == np.round(array)).all()
        if not whole or array.min() < 0:
            raise UserError(f"'{path}' holds {array.dtype} values and no labels; label it first")
        array = array.astype(np.uint32)
    if array.dtype.kind not in "iu" or array.min() < 0:
        raise UserError(f"'{path}' holds negative values and no labels; label it first")
    if looks_like_image(array):
        raise UserError(
            f"'{path}' looks like an image and not like labels, as neighbouring voxels differ; "
            "give the file with the labels"
        )
    return replace(volume, array=array)


@dataclass(frozen=True)
class Truths:
    """The files with truth for the volumes at a path.

    Attributes
    ----------
    place : Path or None
        Where the user said that they are.
    given, beside : dict
        Truth of each volume, by `match_name`: at that place, and beside the images.
    """

    place: Path | None
    given: dict[str, Path]
    beside: dict[str, Path]

    @property
    def files(self) -> set[Path]:
        """The files, none of which is to be trained on."""
        given = {file for file in self.given.values() if says_truth(file)}
        return given | set(self.beside.values())

    def settle(self, volume: Volume) -> tuple[Path | None, list[Finding]]:
        """Return the truth of a volume, and what there is to say about it.

        Raises
        ------
        UserError
            If the truth that the user gave does not fit. (One that lies beside the image and
            does not fit is left aside with a warning.)
        """
        name = match_name(volume.source)
        file = self.given.get(name) or self.beside.get(name)
        if file is None:
            return None, []
        try:
            _check_fit(file, volume)
        except UserError as error:
            if name in self.given:
                raise
            return None, [Finding("warning", f"'{file.name}' beside it is left aside: {error}")]
        words = f"its truth '{file.name}' is known: results are scored, it is never trained on"
        return file, [Finding("info", words)]

    def require(self, sources: Sequence[Path]) -> None:
        """Raise UserError if the user gave truth and it belongs to none of the volumes."""
        if self.place and sources and not any(match_name(one) in self.given for one in sources):
            raise UserError(
                f"no labels in '{self.place}' have the name of a volume; name them alike, such as "
                f"{match_name(sources[0])}_labels.tif"
            )


def find_truths(path: Path, images: Sequence[Path], labels: str | Path | None) -> Truths:
    """Find the truth of volumes: at `labels` if given, and beside the images.

    Raises
    ------
    UserError
        If `labels` do not exist, or are given as a file that holds no labels.
    """
    folder = path if path.is_dir() else path.parent
    names = {match_name(file) for file in images if not says_truth(file)}
    beside = {match_name(file): file for file in folder.iterdir() if _may_be_truth(file, names)}
    if labels is None:
        return Truths(None, {}, beside)
    place = Path(labels)
    files = list(find_volumes(place).paths)
    if place.is_dir():
        files += sorted(place.glob("*.csv"))
        said = [file for file in files if says_truth(file)]
        files = said or files  # images often lie beside their labels
    elif len(images) == 1:
        return Truths(place, {match_name(images[0]): place}, beside)
    return Truths(place, {match_name(file): file for file in files}, beside)


def known_truth(folder: Path, sha256: str) -> Path | None:
    """Return the truth that a run's training, or an earlier result beside, had for a volume.

    Parameters
    ----------
    folder : Path
        Folder of results, such as a run's ``predictions``.
    sha256 : str
        Of the volume's file.
    """
    known = [
        result.scores["truth"]
        for result in reversed(Result.find_in(folder))
        if result.facts.get("sha256") == sha256 and result.scores
    ]
    if is_run(folder.parent):
        inputs = read_record(folder.parent).get("inputs", [])
        known += [one.get("truth") for one in inputs if one.get("sha256") == sha256]
    return next((Path(path) for path in known if path and Path(path).exists()), None)


def _may_be_truth(file: Path, names: set[str]) -> bool:
    if not says_truth(file) or match_name(file) not in names or file.name.startswith("."):
        return False
    if is_points(file):
        return True
    try:
        return not looks_like_image(read_volume(file).array)
    except UserError:  # it is named when the volumes are read
        return False


def _check_fit(file: Path, volume: Volume) -> None:
    if is_points(file):
        read_points(file)
        return
    labels = read_labels(file).array
    if labels.shape != volume.shape:
        raise UserError(
            f"labels '{file.name}' are {labels.shape} and '{volume.name}' is {volume.shape}; give "
            "labels of the same volume"
        )
