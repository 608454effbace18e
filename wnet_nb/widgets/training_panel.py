"""The training panel: buttons, and sliders that act while the network trains.

What waits and what computes is explained in `busy_cell`, what may be pressed when in
`training_state`, and what is seen is drawn in `training_view`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from wnet_nb import checkpoint
from wnet_nb.checkpoint import Checkpoint
from wnet_nb.config import OPTIONS, Settings, names_with
from wnet_nb.errors import UserError
from wnet_nb.events import Controls, EpochEnd, Event, Started, StepEnd
from wnet_nb.figures.advice import read_losses
from wnet_nb.files.run_files import read_history
from wnet_nb.jobs.estimate import estimate_training, measure_patch
from wnet_nb.jobs.models import load_model
from wnet_nb.jobs.run_folder import free_run
from wnet_nb.jobs.stacks import Stacks
from wnet_nb.jobs.train import train_events
from wnet_nb.widgets.busy_cell import (
    POLL_SECONDS,
    StopInPlace,
    attend,
    explain,
    in_thread,
    interrupt_between_cells,
)
from wnet_nb.widgets.option_field import OptionField
from wnet_nb.widgets.option_form import SettingsForm
from wnet_nb.widgets.panel import RED, Panel, message
from wnet_nb.widgets.training_state import TrainingState
from wnet_nb.widgets.training_view import TrainingView

Events = Generator[Event, None, None]


@dataclass(frozen=True)
class Trained:
    """A model that was trained to its end, or stopped and kept (then `finished` is False)."""

    run: Path
    model: Checkpoint
    history: tuple[dict[str, Any], ...]  # rows of history.csv
    finished: bool

    @property
    def source(self) -> Checkpoint:
        """The model, for `find_cells`."""
        return self.model

    @property
    def advice(self) -> str:
        """What the loss curves say."""
        return "\n".join(read_losses(self.history, self.model.settings))


def open_training(
    stacks: Stacks,
    settings: SettingsForm | Settings,
    *,
    folder: str | Path = "runs",
    run: Path | None = None,
    guard: Callable[[Events], Events] | None = None,
) -> TrainingPanel:
    """Return the panel of the training that runs in this kernel, else a new `TrainingPanel`."""
    running = TrainingPanel.running
    if running is None or not running.state.going:
        return TrainingPanel(stacks, settings, folder=folder, run=run, guard=guard)
    running.view.facts.value = message(
        "This training is running already, with the data and options it was started with. Stop it "
        "and run the cell again to train anew."
    )
    return running


def last_trained() -> Path | str:
    """Return the run that was trained in this kernel; empty if there is none with a model."""
    panel = TrainingPanel.running
    return panel.run if panel is not None and panel.has_model else ""


class TrainingPanel(Panel):
    """Trains in the notebook and shows how it goes.

    Parameters
    ----------
    stacks : Stacks
        What to train on, from `DataField.stacks`.
    settings : SettingsForm or Settings
        A form is read when the training starts.
    folder : str or Path
        A training makes a new folder here.
    run : Path, optional
        The run's folder, if it is to have that one.
    guard : callable, optional
        Gets the events of the training and passes them on.

    Attributes
    ----------
    live : dict of str to OptionField
        The options that may change while it trains.
    """

    running: TrainingPanel | None = None  # of this kernel: there is one training at a time

    def __init__(
        self,
        stacks: Stacks,
        settings: SettingsForm | Settings,
        *,
        folder: str | Path = "runs",
        run: Path | None = None,
        guard: Callable[[Events], Events] | None = None,
    ) -> None:
        self.stacks, self._given, self.folder = stacks, settings, Path(folder)
        self.run, self._guard = run, guard
        self._settings = self._read_settings()
        self.state, self.controls = TrainingState(self._settings.epochs), Controls()
        self._task: asyncio.Task[None] | None = None
        try:
            self._loop = asyncio.get_running_loop()
        except RuntimeError:  # no notebook
            self._loop = None
        self.view = TrainingView(self._settings)
        super().__init__(self._build(), lambda: self.view.curves.value)
        self.view.say("Ready. The training starts with the next cell, or with Start.")
        self._show_buttons()

    def _read_settings(self) -> Settings:
        given = self._given
        return given.settings if isinstance(given, SettingsForm) else given

    # ------------------------------------------------------------------ buttons and sliders

    def _build(self) -> list[widgets.Widget]:
        self.start = _button("Start", partial(self._press, "start"), "success")
        self.pause = _button("Pause", partial(self._press, "pause"))
        self.stop = _button("Stop and keep", self.wish_stop, "warning")
        self.snapshot = _button("Save now", partial(self._press, "snapshot"))
        self.extend = _button("Extend by", partial(self._press, "extend"))
        self.more = widgets.BoundedIntText(5, min=1, max=100_000, layout={"width": "60px"})
        buttons = [self.start, self.pause, self.stop, self.snapshot, self.extend, self.more]
        top = widgets.HBox([*buttons, widgets.HTML("epochs")], layout={"flex_flow": "row wrap"})
        self.live = {
            name: OptionField(
                name, getattr(self._settings, name), partial(self._take_live, name), brief=True
            )
            for name in names_with("live")
            if "slider" in OPTIONS[name].roles
        }
        title = widgets.HTML("<b>Change while it trains</b> (acts at the next step)")
        return [top, self.view, title, *self.live.values()]

    def _show_buttons(self) -> None:
        """Let only those buttons be pressed that would do something now."""
        may = self.state.may
        self.start.description = "Go on" if self.state.begun or self.state.going else "Start"
        self.start.disabled, self.pause.disabled = not may("start"), not may("pause")
        self.stop.disabled, self.snapshot.disabled = not may("stop"), not may("snapshot")
        self.extend.disabled = not may("extend")

    def _press(self, what: str) -> None:
        """Do what a button asks; its handler may run in any thread of the kernel."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._ask, what)

    def _ask(self, what: str) -> None:
        other = TrainingPanel.running
        if other not in (None, self) and other.state.going:
            self.view.say("Another training is running in this notebook; stop it first.", RED)
            return
        going = self.state.going
        try:
            if what == "start" and not self.state.begun:
                self._take_settings()
            self.state.ask(what, self.more.value)
        except (UserError, StopInPlace) as error:
            self.view.say(f"{error}.", RED)
            return
        if what == "snapshot":
            self.controls.save_now()
            self.view.facts.value = message(f"Saved before the next step, in '{self.run}'.")
        elif what == "extend":
            self._settings = self._settings.replace(epochs=self.state.epochs)
            self.controls.change(epochs=self.state.epochs)
            self.view.say(f"The training goes on to epoch {self.state.epochs}.")
        if not going and self.state.going:
            TrainingPanel.running = self
            self._task = asyncio.ensure_future(self._train())
        self._show_buttons()

    def wish_stop(self) -> None:
        """Stop after the step that is being taken, and keep the model."""
        if self.state.may("stop"):
            self.state.ask("stop")
            self.view.say("Stopping after this step …")
            self._show_buttons()

    def _take_live(self, name: str) -> None:
        field = self.live[name]
        try:
            if not field.fault:
                self.view.settings.replace(**{name: field.value})
                self.controls.change(**{name: field.value})
                self.view.facts.value = ""
        except UserError as error:
            self.view.facts.value = message(f"Not taken: {error}.", RED)

    def _take_settings(self) -> None:
        """Take the options of the form as they are now; a slider that was moved here goes first."""
        before, self._settings = self._settings, self._read_settings()
        self.state.epochs, self.view.settings = self._settings.epochs, self._settings
        for name, field in self.live.items():
            if field.value == getattr(before, name):
                field.value = getattr(self._settings, name)

    # ------------------------------------------------------------------ training

    async def check(self) -> None:
        """Take two steps on the side and say what the training will take.

        Raises
        ------
        StopInPlace
            If it cannot be done or is interrupted; the panel says why.
        """
        if not self.state.may("check"):
            return
        self.state.ask("check")
        self._show_buttons()
        self.view.say("Trying two steps …")
        try:
            work = in_thread(estimate_training, self.stacks, self._read_settings())
            estimate = await attend(work, work.cancel)
            self.view.say(f"{estimate.words} The next cell starts the training.")
        except asyncio.CancelledError:
            raise self._told(StopInPlace("The check was interrupted.")) from None
        except Exception as error:
            raise self._told(error) from None
        finally:
            self.state.end()
            self._show_buttons()

    async def train(self) -> Trained:
        """Train to the end or to the stop, or wait for the training that Start began.

        Raises
        ------
        StopInPlace
            If it cannot go on; the panel says why.
        """
        task = self._task
        if task is None or (task.done() and (task.cancelled() or task.exception())):
            self._loop = asyncio.get_running_loop()
            self._ask("start")
        if self._task is None:
            raise StopInPlace("The training was not started; the panel says why.")
        try:
            await attend(self._task, self.wish_stop)
        finally:
            self.show_still()
        return self.trained

    @property
    def has_model(self) -> bool:
        """Whether something was learned that is kept on the disk."""
        return self.run is not None and (self.run / checkpoint.WEIGHTS).exists()

    @property
    def source(self) -> Path:
        """The run, for `find_cells`; a cell that asks too early stops in one sentence."""
        return self.trained.run

    @property
    def trained(self) -> Trained:
        """The model as this training left it; a cell that asks too early stops in one sentence."""
        if not self.has_model:
            raise StopInPlace("There is no model yet: nothing was trained in this panel.")
        history = tuple(read_history(self.run))
        return Trained(self.run, load_model(self.run), history, self.state.phase == "finished")

    async def _train(self) -> None:
        try:
            if self.run is None:
                self.run = free_run(self.folder, self.stacks.stacks[0].name)
            with interrupt_between_cells(self.wish_stop) as renew:
                while self.state.phase != "stopping" and self.state.done < self.state.epochs:
                    await self._go_on(renew)
            if not self.state.begun:
                raise StopInPlace("Stopped before the first step: there is no model to keep.")
        except Exception as error:
            raise self._told(error) from None
        finally:
            self.state.end()
            self._show_buttons()
        how = "Finished"
        if self.state.phase != "finished":
            how = "Stopped, and the model of the last step is kept"
        self.view.say(
            f"{how}: {self.state.done} epochs{self.view.dice}; see '{self.run}/report.html'."
        )

    async def _go_on(self, renew: Callable[[], None]) -> None:
        """Train to the last epoch, or until the end is asked for."""
        state, view = self.state, self.view
        view.say("Preparing the volumes …")
        view.cell = await in_thread(measure_patch, self.stacks, self._settings)
        events = await in_thread(self._open)
        try:
            while (event := await in_thread(next, events, None)) is not None:
                renew()
                view.show(event, await in_thread(view.draw, event))
                self._note(event)
                while state.phase == "paused":
                    view.say("Paused. Go on continues with the same numbers.")
                    await asyncio.sleep(POLL_SECONDS)
                if state.phase == "stopping":
                    break
        finally:  # the state of the last step is written here
            await asyncio.shield(in_thread(events.close))

    def _open(self) -> Events:
        events = train_events(
            self.stacks, self.run, self._settings, resume=True, controls=self.controls
        )
        return self._guard(events) if self._guard else events

    def _note(self, event: Event) -> None:
        if isinstance(event, Started):
            self.state.done = event.epochs_done
        elif isinstance(event, EpochEnd):
            self.state.done = event.epoch
        if isinstance(event, StepEnd) and not self.state.begun:
            self.state.begun = True
            self._show_buttons()

    def _told(self, error: Exception) -> Exception:
        """Show an error in the panel; return what the cell should raise."""
        words = explain(error)
        self.view.say(words or f"Unexpected: {error!r}", RED)
        return error if words is None else StopInPlace(words)


def _button(name: str, press: Callable[[], None], style: str = "") -> widgets.Button:
    layout = widgets.Layout(width="auto", min_width="64px")
    button = widgets.Button(description=name, button_style=style, layout=layout)
    button.on_click(lambda _: press())
    return button
