"""What only a Colab runtime needs: its GPU, its Drive, and a disk that is lost with it.

Work is done on the local disk, and Drive gets finished files; elsewhere all works without Drive.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch
from tqdm import tqdm

from wnet_nb import checkpoint, config
from wnet_nb.colab.drive import Backups, bring, copy_verified, fetch_volumes, pack
from wnet_nb.config import Settings
from wnet_nb.errors import UserError
from wnet_nb.files.download import Progress
from wnet_nb.files.run_files import SETTINGS
from wnet_nb.jobs.models import find_weights, is_word, load_model
from wnet_nb.jobs.stacks import Stacks
from wnet_nb.whole_file import free_name
from wnet_nb.widgets import DataField, Trained, TrainingPanel

EXAMPLE, OWN, LINK = "example volume", "own folder", "Drive link"


def on_colab() -> bool:
    """Return whether this is a Google Colab runtime."""
    return find_spec("google") is not None and find_spec("google.colab") is not None


def describe_runtime() -> str:
    """Say in words what this runtime computes with."""
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        name = torch.cuda.get_device_name()
        return f"GPU: {name} with {total / 1e9:.0f} GB of memory, {free / 1e9:.0f} GB free."
    advice = "It still works on the processor: take the quick preset."
    if on_colab():
        advice = f"Choose Runtime > Change runtime type > T4 GPU and begin again. {advice}"
    return f"No GPU. {advice}"


class Session:
    """What the cells of the Colab notebook share: the places, the data and the run.

    On Colab and with `use_drive`, results are kept in a folder ``wnet_nb`` of Google Drive.
    """

    def __init__(self, use_drive: bool = False) -> None:
        self.home = Path.cwd().resolve()  # /content on Colab
        self.my_drive = mount_drive(self.home / "drive") if use_drive and on_colab() else None
        self.drive = self.my_drive / "wnet_nb" if self.my_drive else None
        self.backups = Backups(self.drive)
        self.source: Path | None = None  # of the volumes to train on
        self.truth: Path | None = None  # of their labels
        self.data: DataField | None = None
        self.run: Path | None = None
        self.results: dict[str, Path] = {}  # by model: folders of what others than the run found

    def __str__(self) -> str:
        """Say where things are."""
        if self.drive:
            return f"Results go to '{self.drive}'."
        return "Drive is not used: download the results (section 7) before you leave."

    def find(self, path: str) -> Path:
        """Return a file or folder given by its path, also relative to My Drive."""
        places = [base / path.strip() for base in (self.home, self.my_drive) if base]
        for place in places if path.strip() else []:
            if place.exists():
                return place
        raise UserError(
            f"there is no '{path}'; find the folder in the Files panel on the left, right-click it "
            "and choose Copy path, and paste that (Drive must be mounted, section 2.2)"
        )

    def choose_data(self, kind: str, path: str = "", link: str = "", labels: str = "") -> DataField:
        """Bring the stacks to train on to the local disk, once, and return the field for them.

        `kind` is ``example volume``, ``own folder`` (at `path`) or ``Drive link`` (`link`, to one
        TIFF or a zip of them); `labels` is where those are that belong to the volumes by name.
        """
        if kind == EXAMPLE:
            self.source = Path("example")  # the field makes it, with its labels beside it
        elif kind == OWN:
            self.source = self._bring(path)
        else:
            with _bar("fetching") as progress:
                self.source = fetch_volumes(link, self.home / "data", progress)
        self.truth = self._bring(labels) if labels.strip() else None
        self.data = DataField(self.source, self.truth)
        return self.data

    def choose_images(self, path: str = "") -> DataField:
        """Return the field for the stacks to find cells in, like that of those to train on."""
        if self.source is None and not path.strip():
            raise UserError("no stacks were chosen in this session; fill in the images' path")
        source = self._bring(path) if path.strip() else self.source
        truth = self.truth if source == self.source else None
        return DataField(source, truth, like=self.data, part="images")

    def _bring(self, path: str) -> Path:
        """Find a file or folder, and copy it from Drive, where many small reads are slow."""
        source = self.find(path)
        if self.my_drive is None or not source.is_relative_to(self.my_drive):
            return source
        with _bar("copying from Drive") as progress:
            return bring(source, self.home / "data", progress)

    def start_from(self, settings: Settings, source: str) -> Settings:
        """Return settings that start from trained weights, which must fit; unchanged if none.

        The learning rate is divided by ten, as trained weights need only small steps; once, however
        often this is asked.
        """
        source = source.strip()
        if not source:
            return settings
        start = source if is_word(source) else str(self.find(source))
        checkpoint.load_start_weights(checkpoint.build_model(settings), find_weights(start))
        rate = settings.learning_rate if settings.start_from else settings.learning_rate / 10
        return settings.replace(start_from=start, learning_rate=rate)

    def open_run(self, name: str, settings: Settings, *, resume: bool = False) -> Settings:
        """Choose a new run folder, or the newest run to go on with; return the run's settings."""
        runs = self.home / "runs"
        if resume:
            self.run = self.backups.newest_run(runs)
            return config.load_settings(self.run / SETTINGS)
        name = name.strip() or "run"
        self.run, number = runs / name, 1
        while self.run.exists() or self.backups.of(self.run.name):
            number += 1
            self.run = runs / f"{name}-{number}"
        return settings

    def open_training(self, stacks: Stacks, settings: Settings) -> TrainingPanel:
        """Return the training panel of the run that was opened; Drive gets a copy as it goes."""
        guard = partial(self.backups.guard, run=self.run)
        return TrainingPanel(stacks, settings, run=self.run, guard=guard)

    def open_model(self, model: str = "") -> Trained:
        """Return the network trained here, or another, whose cells go to a folder in `results`."""
        model, path = model.strip(), self.run
        if model:
            path = model if is_word(model) else self.find(model)
        if path is None:
            raise UserError("nothing was trained in this session; fill in the model's path")
        loaded, run = load_model(path), self.run
        if model:
            new = free_name(self.home / "results" / Path(path).stem)
            run = self.results.setdefault(str(path), new)
        run.mkdir(parents=True, exist_ok=True)
        return Trained(run, loaded)

    def save(self, *, download: bool) -> str:
        """Copy all results to new folders on Drive, and as zips to the browser; say where."""
        folders = [folder for folder in (self.run, *self.results.values()) if folder]
        found = {folder: files for folder in folders if (files := _result_files(folder))}
        if not found:
            raise UserError("there are no results yet; run section 4 or 6 first")
        said = []
        for folder, files in found.items():
            said.append(f"The results are in '{folder}'.")
            if self.drive:
                said.append(_save_to_drive(folder, files, free_name(self.drive / folder.name)))
            if download and on_colab():
                from google.colab import files as browser

                packed = free_name(self.home / f"{folder.name}.zip")
                browser.download(str(pack(folder, files, packed)))
                said.append(f"'{packed.name}' is on its way to your computer.")
        return "\n".join(said)


def _result_files(run: Path) -> list[Path]:
    """Return the files of a run that are results; full training states are not."""
    found = (p for p in sorted(run.rglob("*")) if p.is_file() and p.name[0] != ".")
    return [p for p in found if p.parent != run / checkpoint.STATES]


def _save_to_drive(folder: Path, files: list[Path], target: Path) -> str:
    part = free_name(target.with_name(f".{target.name}.part"))
    for file in files:
        copy_verified(file, part / file.relative_to(folder))
    part.rename(target)
    return (
        f"{len(files)} files were copied to '{target}' and read back on this machine. Colab sends "
        "them on to Google by itself: leave the session open until drive.google.com shows them."
    )


def mount_drive(point: Path) -> Path:
    """Mount Google Drive, which asks for permission once, and return My Drive."""
    from google.colab import drive

    drive.mount(str(point))
    my_drive = point / "MyDrive"
    if not my_drive.is_dir():
        raise UserError("Drive was not mounted; run the cell again and allow the access")
    return my_drive


@contextmanager
def _bar(title: str) -> Iterator[Progress]:
    """Show a progress bar on stdout: Colab shows what goes to stderr as if it were an error."""
    with tqdm(desc=title, unit="B", unit_scale=True, file=sys.stdout) as bar:

        def advance(done: int, total: int) -> None:
            bar.total = total or None
            bar.update(done - bar.n)

        yield advance
