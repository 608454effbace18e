"""What only a Colab runtime needs: its GPU, its Drive, and a disk that is lost with it.

Work is done on the local disk. Drive gets finished files only, under new names, each read back
after writing. Everywhere else the same calls work without Drive.
"""

from __future__ import annotations

import glob
import time
from collections.abc import Callable, Generator
from functools import partial, wraps
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from wnet_nb import checkpoint, config
from wnet_nb.cli.terminal import Speaker
from wnet_nb.colab import drive as storage
from wnet_nb.config import Settings
from wnet_nb.errors import UserError
from wnet_nb.events import EpochEnd, Event
from wnet_nb.files import download as fetch
from wnet_nb.files.published import PUBLISHED, fetch_published
from wnet_nb.files.run_files import SETTINGS
from wnet_nb.jobs import segment as prediction
from wnet_nb.jobs import train as pipeline
from wnet_nb.jobs.inputs import Inputs
from wnet_nb.widgets import Dashboard, Trained

EXAMPLE, OWN, LINK = "example volume", "own folder", "Drive link"
STATES = "training states"
BACKUP_SECONDS = 300  # a lost runtime costs at most so much training, and the epoch it was in
BACKUPS_KEPT = 2


def _in_one_sentence(method: Callable) -> Callable:
    """Turn the errors that a user can do something about into a `UserError`."""

    @wraps(method)
    def call(*arguments: Any, **options: Any) -> Any:
        try:
            return method(*arguments, **options)
        except (ValueError, OSError) as error:
            raise UserError(str(error)) from None

    return call


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
    """

    def __init__(self, use_drive: bool = False, *, folder: str = "wnet_nb") -> None:
        content = Path("/content")
        self.home = (content if on_colab() and content.is_dir() else Path.cwd()).resolve()
        self.my_drive = mount_drive(self.home / "drive") if use_drive and on_colab() else None
        self.drive = self.my_drive / folder if self.my_drive else None
        self.source = self.truth = self.run = None
        self.speaker = Speaker()
        self._backed_up = 0.0

    def __str__(self) -> str:
        """Say where things are."""
        where = f"Results go to '{self.drive}'." if self.drive else "Drive is not used: download "
        return where if self.drive else where + "the results (section 7) before you leave."

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

    @_in_one_sentence
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
                pipeline.make_demo_files(folder, seed=0)
            self.source, self.truth = folder / "example.tif", folder / "truth"
        elif kind == OWN:
            self.source = self._bring(self.find(path))
        elif kind == LINK:
            with self.speaker.bar("fetching", 0, "MB") as bar:
                data = self.home / "data"
                self.source = storage.fetch_volumes(link, data, partial(_advance, bar))
        else:
            raise UserError(f"'{kind}' is not one of: {EXAMPLE}, {OWN}, {LINK}")
        if labels.strip():
            self.truth = self._bring(self.find(labels))
        return self.source

    def _bring(self, source: Path) -> Path:
        """Copy a file or folder from Drive, where many small reads are slow."""
        if self.my_drive is None or not source.is_relative_to(self.my_drive):
            return source
        with self.speaker.bar("copying from Drive", 0, "MB") as bar:
            return storage.bring(source, self.home / "data", partial(_advance, bar))

    @_in_one_sentence
    def get_images(self, path: str = "") -> Path:
        """Return the stacks at a path, brought to the local disk; those of `get_data` if empty."""
        if path.strip():
            return self._bring(self.find(path))
        if self.source is None:
            raise UserError("no stacks were chosen in this session; fill in the images' path")
        return self.source

    @_in_one_sentence
    def start_from(self, settings: Settings, source: str) -> Settings:
        """Return settings that start from trained weights, which must fit; unchanged if none.

        The learning rate is divided by ten, as trained weights need only small steps.
        """
        if not source.strip():
            return settings
        known = source.strip() == PUBLISHED
        path = fetch_published() if known else self.find(source)
        checkpoint.load_start_weights(checkpoint.build_model(settings), path)
        return settings.replace(start_from=str(path), learning_rate=settings.learning_rate / 10)

    @_in_one_sentence
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
            self.drive and any((self.drive / STATES).glob(f"{glob.escape(run.name)} step *.zip"))
        ):
            number += 1
            run = run.with_name(f"{name}-{number}")
        return run

    def _newest_run(self) -> Path:
        found = [p.parent.parent for p in self.home.glob(f"runs/*/{checkpoint.STATES}/step-*.pt")]
        found += list((self.drive / STATES).glob("*.zip")) if self.drive else []
        for one in sorted(set(found), key=_age):
            if one.is_dir():
                return one
            run = storage.free_name(self.home / "runs" / one.stem.rpartition(" step ")[0])
            try:
                fetch.unpack(one, run)
                return run
            except UserError as error:  # a copy that broke off: there is one before it
                self.speaker.remark(f"{error}; the copy before it is taken")
        raise UserError(
            "there is no run to go on with; mount the Drive that it was saved to (section 2.2), or "
            "start a new one"
        )

    def dashboard(self, inputs: Inputs, settings: Settings) -> Dashboard:
        """Return the training panel of the run that was opened; Drive gets a copy as it goes."""
        return _SafeDashboard(self, inputs, settings)

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
        except (OSError, ValueError) as error:  # a full Drive must not end a training
            self.speaker.remark(f"the training goes on, but without a copy on Drive: {error}")

    def back_up(self) -> Path | None:
        """Copy what is needed to go on with the run to Drive, as one new file."""
        states = sorted((self.run / checkpoint.STATES).glob("step-*.pt"))
        if self.drive is None or not states:
            return None
        folder = self.drive / STATES
        target = folder / f"{self.run.name} {states[-1].stem.replace('-', ' ')}.zip"
        if not target.exists():
            files = [*(p for p in self.run.iterdir() if p.is_file()), states[-1]]
            packed = storage.pack(self.run, files, self.home / f".{target.name}")
            try:
                storage.copy_verified(packed, target)
            finally:
                packed.unlink()
        for old in sorted(folder.glob(f"{glob.escape(self.run.name)} step *.zip"))[:-BACKUPS_KEPT]:
            old.unlink()  # ours, and older than two that were read back
        return target

    @_in_one_sentence
    def open_model(self, model: str = "") -> Trained:
        """Return the network trained in this session, or the one at a path (or ``published``)."""
        if not model.strip():
            if self.run is None:
                raise UserError("nothing was trained in this session; fill in the model's path")
            path = self.run
        else:
            path = PUBLISHED if model.strip() == PUBLISHED else self.find(model)
            self.run = storage.free_name(self.home / "results" / Path(path).stem)
            self.run.mkdir(parents=True)
        loaded = prediction.load_model(path)
        return Trained(self.run, loaded, tuple(loaded.history), True)

    @_in_one_sentence
    def save(self, *, download: bool) -> str:
        """Copy the results to a new folder on Drive, and as a zip to the browser; say where."""
        if self.run is None:
            raise UserError("there are no results yet; run section 4 or 6 first")
        files, said = storage.result_files(self.run), [f"The results are in '{self.run}'."]
        if self.drive:
            target = storage.free_name(self.drive / self.run.name)
            part = storage.free_name(target.with_name(f".{target.name}.part"))
            for file in files:
                storage.copy_verified(file, part / file.relative_to(self.run))
            part.rename(target)
            said.append(f"{len(files)} files were copied to '{target}' and read back.")
        if download and on_colab():
            from google.colab import files as browser

            packed = storage.free_name(self.home / f"{self.run.name}.zip")
            browser.download(str(storage.pack(self.run, files, packed)))
            said.append(f"'{packed.name}' is on its way to your computer.")
        return "\n".join(said)


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


def _advance(bar: Any, done: int, total: int) -> None:
    bar.total = round(total / 1e6) or None
    bar.update(round(done / 1e6) - bar.n)


class _SafeDashboard(Dashboard):
    def __init__(self, session: Session, inputs: Inputs, settings: Settings) -> None:
        super().__init__(inputs, settings)
        self._session, self.run = session, session.run

    def _open(self) -> Generator[Event, None, None]:
        return self._session.guard(super()._open())
