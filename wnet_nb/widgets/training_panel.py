"""The training panel: curves, previews, buttons, and sliders that act while the network trains.

What waits and what computes is explained in `driver`. Extend and Snapshot close the training and go
on from its saved state, which continues with the same numbers (`training`).
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import numpy as np

from wnet_nb import checkpoint
from wnet_nb.checkpoint import Checkpoint
from wnet_nb.config import Settings, names_with
from wnet_nb.errors import UserError
from wnet_nb.events import Event, Finished, StepEnd
from wnet_nb.figures.advice import read_losses
from wnet_nb.files.run_files import read_history
from wnet_nb.jobs import segment as prediction
from wnet_nb.jobs import train as pipeline
from wnet_nb.jobs.inputs import Inputs
from wnet_nb.jobs.preflight import measure_patch, try_steps
from wnet_nb.training import Controls
from wnet_nb.widgets.busy_cell import POLL_SECONDS, StopInPlace, attend, explain
from wnet_nb.widgets.option_form import OptionField, SettingsForm
from wnet_nb.widgets.panel import RED, Panel, message
from wnet_nb.widgets.training_view import Monitor

SNAPSHOTS = "snapshots"


@dataclass(frozen=True)
class Trained:
    """A model that was trained to its end, or stopped and kept.

    Attributes
    ----------
    run : Path
        Its folder.
    model : Checkpoint
    history : tuple of dict
        Rows of ``history.csv``.
    finished : bool
        False if it was stopped before its last epoch.
    """

    run: Path
    model: Checkpoint
    history: tuple[dict[str, Any], ...]
    finished: bool

    @property
    def advice(self) -> str:
        """What the loss curves say."""
        return "\n".join(read_losses(self.history, self.model.settings))


class Dashboard(Panel):
    """Trains in the notebook and shows how it goes.

    Parameters
    ----------
    inputs : Inputs
        What to train on, from `DataField.inputs`.
    settings : SettingsForm or Settings
        A form is read when the training starts.
    folder : str or Path
        Every training makes a new folder here.
    validation : sequence of (image, labels)
        See `training.fit`.

    Attributes
    ----------
    run : Path or None
        The run's folder, once it has started.
    live : dict of str to OptionField
        The options that may change while it trains.
    monitor : Monitor
    """

    def __init__(
        self,
        inputs: Inputs,
        settings: SettingsForm | Settings,
        *,
        folder: str | Path = "runs",
        validation: Sequence[tuple[np.ndarray, np.ndarray]] = (),
    ) -> None:
        self.inputs, self._given, self.folder = inputs, settings, Path(folder)
        self.validation = validation
        self.run: Path | None = None
        self._base = self._read_settings()  # as the training was started, but for its epochs
        self._live: dict[str, float] = {}  # what the sliders say, once one was moved
        self._controls = Controls()
        self._wishes: set[str] = set()  # stop, pause, snapshot
        self._task: asyncio.Task[Trained] | None = None
        try:
            self._loop = asyncio.get_running_loop()
        except RuntimeError:  # no notebook
            self._loop = None
        self.monitor = Monitor(self._base)
        super().__init__(self._build(), lambda: self.monitor.curves.value)
        self.monitor.say("Ready. The training starts with the next cell, or with Start.")
        self._show_buttons()

    def _read_settings(self) -> Settings:
        given = self._given
        return given.settings if isinstance(given, SettingsForm) else given

    # ------------------------------------------------------------------ buttons and sliders

    def _build(self) -> list[widgets.Widget]:
        self.start = _button("Start", self._press_start, "success")
        self.pause = _button("Pause", self._press_pause)
        self.stop = _button("Stop and keep", self.wish_stop, "warning")
        self.snapshot = _button("Snapshot", self._press_snapshot)
        self.extend = _button("Extend by", self._press_extend)
        self.more = widgets.BoundedIntText(5, min=1, max=100_000, layout={"width": "70px"})
        buttons = [self.start, self.pause, self.stop, self.snapshot, self.extend, self.more]
        top = widgets.HBox([*buttons, widgets.HTML("epochs")], layout={"flex_flow": "row wrap"})
        self.live = {
            name: OptionField(name, getattr(self._base, name), self._take_live, brief=True)
            for name in names_with("slider")
        }
        title = widgets.HTML("<b>Change while it trains</b> (acts at the next step)")
        return [top, self.monitor, title, *self.live.values()]

    def _show_buttons(self) -> None:
        """Let only those buttons be pressed that would do something now."""
        going, paused = self.is_training, "pause" in self._wishes
        self.start.description = "Go on" if self.monitor.steps and not self._finished else "Start"
        self.start.disabled = self._finished or (going and not paused)
        self.pause.disabled = not going or paused
        self.stop.disabled = self.snapshot.disabled = not going
        self.extend.disabled = not going and self.run is None

    def _press_start(self) -> None:
        if "pause" in self._wishes:
            self._wishes.discard("pause")
            self._show_buttons()
        else:
            self._begin_in_the_loop()

    def _begin_in_the_loop(self) -> None:
        """Begin a training from a handler, whatever thread it runs in."""
        if self._loop is not None and not self.is_training:
            self._loop.call_soon_threadsafe(self._begin)

    def _press_pause(self) -> None:
        if self.is_training:
            self._wishes.add("pause")
            self._show_buttons()

    def _press_snapshot(self) -> None:
        if self.is_training:
            self._wishes.add("snapshot")

    def wish_stop(self) -> None:
        """Stop after the step that is being taken, and keep the model."""
        if self.is_training:
            self._wishes.add("stop")
            self.monitor.say("Stopping after this step …")

    def _press_extend(self) -> None:
        if self.run is None:
            self.monitor.say("Nothing has been trained yet; set epochs in section 3 instead.")
            return
        epochs = self._base.epochs + self.more.value
        self._base = self._base.replace(epochs=epochs)
        self.monitor.settings = self.monitor.settings.replace(epochs=epochs)
        self.monitor.say(f"The training goes on to epoch {epochs}.")
        self._begin_in_the_loop()

    def _take_live(self) -> None:
        wanted = {name: field.value for name, field in self.live.items()}
        try:
            checked = self.monitor.settings.replace(**wanted)
        except UserError as error:
            self.monitor.facts.value = message(f"Not taken: {error}.", RED)
            return
        self.monitor.settings = checked
        self._live = wanted
        self._controls.change(**wanted)

    # ------------------------------------------------------------------ training

    @property
    def _finished(self) -> bool:
        """Whether the last epoch is reached."""
        task = self._task
        if task is None or not task.done() or task.cancelled():
            return False
        return task.exception() is None and task.result().finished

    @property
    def is_training(self) -> bool:
        """Whether a training goes on, or pauses."""
        return self._task is not None and not self._task.done()

    async def check(self) -> None:
        """Take two steps on the side and say what the training will take.

        Raises
        ------
        StopInPlace
            If it cannot be done; the panel says why.
        """
        self.monitor.say("Trying two steps …")
        with ThreadPoolExecutor(1) as pool:
            work = asyncio.ensure_future(_in(pool, try_steps, self.inputs, self._read_settings()))
            try:
                self.monitor.say(await attend(work, lambda: None))
            except Exception as error:
                raise self._told(error) from None

    async def train(self) -> Trained:
        """Train to the end or to the stop, or wait for the training that Start began.

        Raises
        ------
        StopInPlace
            If it cannot go on; the panel says why.
        """
        if self._task is None:
            self._begin()
        try:
            return await attend(self._task, self.wish_stop)
        except StopInPlace:
            self._task = None
            raise

    def _begin(self) -> None:
        if not self.is_training:
            self._wishes.clear()
            self._task = asyncio.ensure_future(self._train())
            self._task.add_done_callback(self._end)
            self._show_buttons()

    def _end(self, _: asyncio.Task[Trained]) -> None:
        self._wishes.clear()
        self._show_buttons()

    async def _train(self) -> Trained:
        with ThreadPoolExecutor(1, "wnet_nb") as pool:
            try:
                if self.run is None:
                    self._take_settings()
                    self.run = _new_folder(self.folder, self.inputs)
                finished = False
                while not finished and "stop" not in self._wishes:
                    finished = await self._go_on(pool)
                trained = await _in(pool, self._result, finished)
            except Exception as error:
                raise self._told(error) from None
        how = "Finished" if finished else "Stopped, and the model of the last step is kept"
        self.monitor.say(
            f"{how}: {len(trained.history)} epochs; see '{self.run}/report.html'. To train anew "
            "with other options, run this cell and the next one again."
        )
        return trained

    def _take_settings(self) -> None:
        self._base = self._read_settings()
        self.monitor.settings = self._base.replace(**self._live)
        for name, field in self.live.items():
            field.value = getattr(self.monitor.settings, name)

    async def _go_on(self, pool: ThreadPoolExecutor) -> bool:
        """Train to the end (True), or until a wish asks for the training to be closed."""
        base, monitor, steps = self._base, self.monitor, 0
        monitor.say("Preparing the volumes …")
        monitor.patch = await _in(pool, measure_patch, self.inputs, base)
        events = await _in(pool, self._open)
        try:
            while (event := await _in(pool, next, events, None)) is not None:
                pictures = await _in(pool, monitor.draw, event)
                monitor.show(event, pictures)
                if isinstance(event, Finished):
                    return self._base.epochs == base.epochs
                steps += isinstance(event, StepEnd)
                while self._wishes == {"pause"}:
                    monitor.say("Paused. Go on continues with the same numbers.")
                    await asyncio.sleep(POLL_SECONDS)
                other = "snapshot" in self._wishes or self._base.epochs != base.epochs
                if "stop" in self._wishes or (other and steps):
                    return False
        finally:
            await _in(pool, events.close)  # the state of the last step is written here
            await _in(pool, self._keep_snapshot)
        return False

    def _open(self) -> Generator[Event, None, None]:
        return pipeline.train_events(
            self.inputs,
            self.run,
            self._base,
            resume=True,
            validation=self.validation,
            controls=self._controls,
        )

    def _keep_snapshot(self) -> None:
        weights = self.run / checkpoint.WEIGHTS
        if "snapshot" in self._wishes and weights.exists() and self.monitor.steps:
            self._wishes.discard("snapshot")
            copy = self.run / SNAPSHOTS / f"step-{self.monitor.last_step:06d}.safetensors"
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(weights, copy)

    def _result(self, finished: bool) -> Trained:
        if not (self.run / checkpoint.WEIGHTS).exists():
            raise StopInPlace("Stopped before the first step: there is no model to keep.")
        history = tuple(read_history(self.run))
        return Trained(self.run, prediction.load_model(self.run), history, finished)

    def _told(self, error: Exception) -> Exception:
        """Show an error in the panel; return what the cell should raise."""
        words = explain(error)
        self.monitor.say(words or f"Unexpected: {error!r}", RED)
        return error if words is None else StopInPlace(words)


async def _in(pool: ThreadPoolExecutor, function: Callable, *arguments: Any) -> Any:
    return await asyncio.get_running_loop().run_in_executor(pool, function, *arguments)


def _button(name: str, press: Callable[[], None], style: str = "") -> widgets.Button:
    layout = widgets.Layout(width="auto", min_width="84px")
    button = widgets.Button(description=name, button_style=style, layout=layout)
    button.on_click(lambda _: press())
    return button


def _new_folder(folder: Path, inputs: Inputs) -> Path:
    """Return a new folder for a run, named after the first volume."""
    name = inputs.volumes[0].name
    run, number = folder / name, 1
    while run.exists():
        number += 1
        run = folder / f"{name}-{number}"
    return run
