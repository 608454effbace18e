"""Copies of a training's state on Drive, from which another runtime can go on."""

from __future__ import annotations

import glob
import time
from collections.abc import Generator
from pathlib import Path

from tqdm import tqdm

from wnet_nb.checkpoint import STATES
from wnet_nb.colab.drive import copy_verified, pack
from wnet_nb.errors import UserError
from wnet_nb.events import EpochEnd, Event
from wnet_nb.files.archives import unpack
from wnet_nb.whole_file import free_name

FOLDER = "training states"
SECONDS = 300  # a lost runtime costs at most so much training, and the epoch it was in
KEPT = 2

Events = Generator[Event, None, None]


class Backups:
    """The copies of the newest states, each one file; none are made without a `drive` folder."""

    def __init__(self, drive: Path | None) -> None:
        self.folder = drive / FOLDER if drive else None
        self._last = 0.0

    def of(self, name: str) -> list[Path]:
        """Return the copies of the run of this name, the newest last."""
        pattern = f"{glob.escape(name)} step *.zip"
        return sorted(self.folder.glob(pattern)) if self.folder else []

    def guard(self, events: Events, run: Path) -> Events:
        """Pass a training's events on; copy its state now and then, and when it ends."""
        try:
            for event in events:
                if isinstance(event, EpochEnd) and time.monotonic() - self._last >= SECONDS:
                    self.copy(run)
                    self._last = time.monotonic()
                yield event
        finally:
            events.close()  # the state of the last step is written here
            self.copy(run)

    def copy(self, run: Path) -> None:
        """Copy what is needed to go on with a run to Drive, as one new file; say if that fails."""
        states = sorted((run / STATES).glob("step-*.pt"))
        if self.folder is None or not states:
            return
        target = self.folder / f"{run.name} {states[-1].stem.replace('-', ' ')}.zip"
        packed = run.with_name(f".{target.name}")
        try:
            if not target.exists():
                files = [p for p in run.iterdir() if p.is_file() and p.name[0] != "."]
                copy_verified(pack(run, [*files, states[-1]], packed), target)
            for old in self.of(run.name)[:-KEPT]:
                old.unlink()  # ours, and older than two that were read back
        except (OSError, UserError) as error:  # a full Drive must not end a training
            tqdm.write(f"the training goes on, but without a copy on Drive: {error}")
        finally:
            packed.unlink(missing_ok=True)

    def newest_run(self, runs: Path) -> Path:
        """Return the newest run with a state, in the folder `runs` or brought there from Drive."""
        found = {}
        for state in runs.glob(f"*/{STATES}/step-*.pt"):
            run = state.parent.parent
            found[run] = max(found.get(run, 0), state.stat().st_mtime)
        for copy in self.folder.glob("*.zip") if self.folder else ():
            found[copy] = copy.stat().st_mtime
        for one in sorted(found, key=found.get, reverse=True):
            if one.is_dir():
                return one
            run = free_name(runs / one.stem.rpartition(" step ")[0])
            try:
                unpack(one, run)
                return run
            except UserError as error:  # a copy that broke off: there is one before it
                tqdm.write(f"{error}; the copy before it is taken")
        raise UserError(
            "there is no run to go on with; mount the Drive that it was saved to (section 2.2), or "
            "start a new one"
        )
