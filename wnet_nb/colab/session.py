"""What only a Colab runtime needs: its GPU, its Drive, and a disk that is lost with it.

Work is done on the local disk. Drive gets finished files only, under new names, each read back
after writing. Everywhere else the same calls work without Drive.
"""

from __future__ import annotations

import glob
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import torch
from tqdm import tqdm

from wnet_nb import checkpoint, config
from wnet_nb.colab.drive import (
    bring,
    copy_verified,
    fetch_volumes,
    free_name,
    pack,
    result_files,
)
from wnet_nb.config import Settings
from wnet_nb.errors import UserError
from wnet_nb.events import EpochEnd, Event
from wnet_nb.files.archives import unpack
from wnet_nb.files.download import Progress
from wnet_nb.files.published import PUBLISHED, fetch_published
from wnet_nb.files.run_files import SETTINGS
from wnet_nb.jobs.example import write_example
from wnet_nb.jobs.segment import load_model
from wnet_nb.jobs.stacks import Stacks
from wnet_nb.widgets import DataField, Trained, TrainingPanel, open_training

EXAMPLE, OWN, LINK = "example volume", "own folder", "Drive link"
BACKUPS = "training states"  # folder on Drive
BACKUP_SECONDS = 300  # a lost runtime costs at most so much training, and the epoch it was in
BACKUPS_KEPT = 2


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

    Parameters
    ----------
    use_drive : bool
        Mount Google Drive (on Colab it asks for permission); elsewhere it is left aside.
    folder : str
        Folder of results on Drive.

    Attributes
    ----------
    home : Path
        Folder of the work, on the local disk.
    drive : Path or None
        Folder of results on Drive.
    source, truth, run : Path or None
        Volumes to train on, their labels, and the run folder, as they become known.
    results : dict of str to Path
        Folders of the cells that other models found, by the name of the model.
    data, images : DataField or None
        What to train on, and where to find cells.
    """

    def __init__(self, use_drive: bool = False, *, folder: str = "wnet_nb") -> None:
        content = Path("/content")
        self.home = (content if on_colab() and content.is_dir() else Path.cwd()).resolve()
        self.my_drive = mount_drive(self.home / "drive") if use_drive and on_colab() else None
        self.drive = self.my_drive / folder if self.my_drive else None
        self.source = self.truth = self.run = None
        self.data = self.images = None
        self.results: dict[str, Path] = {}
        self._backed_up = 0.0

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
        """Return the field for the stacks to train on; see `get_data`."""
        source = self.get_data(kind, path, link, labels)
        self.data = DataField(source, self.truth)
        return self.data

    def choose_images(self, path: str = "") -> DataField:
        """Return the field for the stacks to find cells in, those of `get_data` if `path` is empty.

        What was said of the data (channel, time, voxel size, slices) holds until it is changed
        here, and what is changed here holds until it is said anew there.
        """
        if path.strip():
            source = self._bring(self.find(path))
        elif self.source is not None:
            source = self.source
        else:
            raise UserError("no stacks were chosen in this session; fill in the images' path")
        truth = self.truth if source == self.source else None
        self.images = DataField(source, truth, like=self.data, part="images")
        return self.images

    def get_data(self, kind: str, path: str = "", link: str = "", labels: str = "") -> Path:
        """Bring the volumes to the local disk, once, and return where they are.

        Parameters
        ----------
        kind : str
            ``example volume``, ``own folder`` (`path`) or ``Drive link`` (`link`, to one TIFF or a
            zip of them).
        path, link, labels : str
            As `kind` asks; `labels` belong to the volumes by their names.
        """
        self.truth = None
        if kind == EXAMPLE:
            folder = self.home / "data" / "example"
            if not folder.exists():
                write_example(folder)
            self.source, self.truth = folder / "example.tif", folder / "example_labels.tif"
        elif kind == OWN:
            self.source = self._bring(self.find(path))
        elif kind == LINK:
            with _bar("fetching") as progress:
                self.source = fetch_volumes(link, self.home / "data", progress)
        else:
            raise UserError(f"'{kind}' is not one of: {EXAMPLE}, {OWN}, {LINK}")
        if labels.strip():
            self.truth = self._bring(self.find(labels))
        return self.source

    def _bring(self, source: Path) -> Path:
        """Copy a file or folder from Drive, where many small reads are slow."""
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
        path = fetch_published() if source == PUBLISHED else self.find(source)
        checkpoint.load_start_weights(checkpoint.build_model(settings), path)
        rate = settings.learning_rate if settings.start_from else settings.learning_rate / 10
        start = PUBLISHED if source == PUBLISHED else str(path)
        return settings.replace(start_from=start, learning_rate=rate)

    def open_run(self, name: str, settings: Settings, *, resume: bool = False) -> Settings:
        """Choose the run folder: a new one, or the newest run to go on with.

        Returns
        -------
        Settings
            Those given; of a run to go on with, its own.
        """
        if not resume:
            self.run = self._new_name(name.strip() or "run")
            return settings
        self.run = self._newest_run()
        return config.load_settings(self.run / SETTINGS)

    def _new_name(self, name: str) -> Path:
        """Return a run folder whose name no run has, here or on Drive."""
        run, number = self.home / "runs" / name, 1
        while run.exists() or (
            self.drive and any((self.drive / BACKUPS).glob(f"{glob.escape(run.name)} step *.zip"))
        ):
            number += 1
            run = run.with_name(f"{name}-{number}")
        return run

    def _newest_run(self) -> Path:
        found = [p.parent.parent for p in self.home.glob(f"runs/*/{checkpoint.STATES}/step-*.pt")]
        found += list((self.drive / BACKUPS).glob("*.zip")) if self.drive else []
        for one in sorted(set(found), key=_age):
            if one.is_dir():
                return one
            run = free_name(self.home / "runs" / one.stem.rpartition(" step ")[0])
            try:
                unpack(one, run)
                return run
            except UserError as error:  # a copy that broke off: there is one before it
                tqdm.write(f"{error}; the copy before it is taken")
        raise UserError(
            "there is no run to go on with; mount the Drive that it was saved to (section 2.2), or "
            "start a new one"
        )

    def open_training(self, stacks: Stacks, settings: Settings) -> TrainingPanel:
        """Return the training panel of the run that was opened; Drive gets a copy as it goes."""
        panel = open_training(stacks, settings, run=self.run, guard=self.guard)
        self.run = panel.run  # of the training that is running, if there is one
        return panel

    def guard(self, events: Generator[Event, None, None]) -> Generator[Event, None, None]:
        """Pass a training's events on; copy its state to Drive now and then, and when it ends."""
        try:
            for event in events:
                due = time.monotonic() - self._backed_up >= BACKUP_SECONDS
                if isinstance(event, EpochEnd) and due:
                    self._try_back_up()
                yield event
        finally:
            events.close()  # the state of the last step is written here
            self._try_back_up()

    def _try_back_up(self) -> None:
        self._backed_up = time.monotonic()
        try:
            self.back_up()
        except (OSError, UserError) as error:  # a full Drive must not end a training
            tqdm.write(f"the training goes on, but without a copy on Drive: {error}")

    def back_up(self) -> Path | None:
        """Copy what is needed to go on with the run to Drive, as one new file."""
        states = sorted((self.run / checkpoint.STATES).glob("step-*.pt"))
        if self.drive is None or not states:
            return None
        folder = self.drive / BACKUPS
        target = folder / f"{self.run.name} {states[-1].stem.replace('-', ' ')}.zip"
        if not target.exists():
            files = [*(p for p in self.run.iterdir() if p.is_file()), states[-1]]
            packed = pack(self.run, files, self.home / f".{target.name}")
            try:
                copy_verified(packed, target)
            finally:
                packed.unlink()
        for old in sorted(folder.glob(f"{glob.escape(self.run.name)} step *.zip"))[:-BACKUPS_KEPT]:
            old.unlink()  # ours, and older than two that were read back
        return target

    def open_model(self, model: str = "") -> Trained:
        """Return the network trained in this session, or the one at a path (or ``published``).

        Cells that another model finds go to a folder of their own in `results`.
        """
        model = model.strip()
        if not model:
            if self.run is None:
                raise UserError("nothing was trained in this session; fill in the model's path")
            loaded = load_model(self.run)
            return Trained(self.run, loaded, tuple(loaded.history), True)
        path = PUBLISHED if model == PUBLISHED else self.find(model)
        loaded = load_model(path)
        if str(path) not in self.results:
            folder = free_name(self.home / "results" / Path(path).stem)
            folder.mkdir(parents=True)
            self.results[str(path)] = folder
        return Trained(self.results[str(path)], loaded, tuple(loaded.history), True)

    def save(self, *, download: bool) -> str:
        """Copy all results to new folders on Drive, and as zips to the browser; say where."""
        folders = [folder for folder in (self.run, *self.results.values()) if folder]
        found = {folder: files for folder in folders if (files := result_files(folder))}
        if not found:
            raise UserError("there are no results yet; run section 4 or 6 first")
        said = []
        for folder, files in found.items():
            said.append(f"The results are in '{folder}'.")
            if self.drive:
                said.append(self._save_to_drive(folder, files))
            if download and on_colab():
                from google.colab import files as browser

                packed = free_name(self.home / f"{folder.name}.zip")
                browser.download(str(pack(folder, files, packed)))
                said.append(f"'{packed.name}' is on its way to your computer.")
        return "\n".join(said)

    def _save_to_drive(self, folder: Path, files: list[Path]) -> str:
        target = free_name(self.drive / folder.name)
        part = free_name(target.with_name(f".{target.name}.part"))
        for file in files:
            copy_verified(file, part / file.relative_to(folder))
        part.rename(target)
        return (
            f"{len(files)} files were copied to '{target}' and read back on this machine. Colab "
            "sends them on to Google by itself: leave the session open until drive.google.com "
            "shows them."
        )


def mount_drive(point: Path) -> Path:
    """Mount Google Drive, which asks for permission once, and return My Drive."""
    from google.colab import drive

    drive.mount(str(point))
    my_drive = point / "MyDrive"
    if not my_drive.is_dir():
        raise UserError("Drive was not mounted; run the cell again and allow the access")
    return my_drive


def _age(path: Path) -> float:
    newest = path.glob(f"{checkpoint.STATES}/step-*.pt") if path.is_dir() else [path]
    return -max(file.stat().st_mtime for file in newest)


@contextmanager
def _bar(title: str) -> Iterator[Progress]:
    """Show a progress bar on stdout: Colab shows what goes to stderr as if it were an error."""
    with tqdm(desc=title, unit="B", unit_scale=True, file=sys.stdout) as bar:

        def advance(done: int, total: int) -> None:
            bar.total = total or None
            bar.update(done - bar.n)

        yield advance
