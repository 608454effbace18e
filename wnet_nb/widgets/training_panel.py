"""The training panel: buttons, and sliders that act while the network trains.

`busy_cell` says what waits and what computes, `training_state` what may be pressed when.
"""

import asyncio
import sys
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import ipywidgets as widgets
from IPython.display import display

from wnet_nb import checkpoint
from wnet_nb.checkpoint import Checkpoint
from wnet_nb.config import OPTIONS, Settings, names_with
from wnet_nb.errors import UserError, explain
from wnet_nb.events import Controls, EpochEnd, Event, Started, StepEnd
from wnet_nb.figures.curves import read_losses
from wnet_nb.jobs.models import load_model
from wnet_nb.jobs.stacks import Stacks
from wnet_nb.jobs.train import estimate_training, measure_patch, train_events
from wnet_nb.whole_file import free_name
from wnet_nb.widgets.busy_cell import POLL_SECONDS, attend, in_thread
from wnet_nb.widgets.model_field import RUNS
from wnet_nb.widgets.option_field import OptionField
from wnet_nb.widgets.option_form import SettingsForm
from wnet_nb.widgets.panel import RED, Panel, message
from wnet_nb.widgets.training_state import GOING, TrainingState
from wnet_nb.widgets.training_view import TrainingView

Events = Generator[Event, None, None]
BUTTONS = {  # what is asked for: what the button says, and its colour
    "pause": ("Pause", ""),
    "resume": ("Go on", "success"),
    "stop": ("Stop and keep", "warning"),
    "snapshot": ("Save now", ""),
    "extend": ("Extend by", ""),
}


@dataclass(frozen=True)
class Trained:
    """A model, the `source` for `find_cells`, and the folder that its results go to."""

    run: Path
    source: Checkpoint

    @property
    def history(self) -> list[dict[str, Any]]:
        """Rows of history.csv."""
        return self.source.history

    @property
    def advice(self) -> str:
        """What the loss curves say."""
        return "\n".join(read_losses(self.history, self.source.settings))


def last_trained() -> Path | str:
    """Return the run that was trained in this kernel; empty if there is none with a model."""
    panel = TrainingPanel.last
    return panel.run if panel is not None and panel.has_model else ""


class TrainingPanel(Panel):
    """Trains on `stacks` in the cell that awaits `train`, and shows how it goes.

    A form of `settings` is read when the training starts. The `run` is a new folder in ``runs`` if
    none is given. The `guard` gets the events of the training and passes them on.
    """

    last: Self | None = None  # that trained in this kernel

    def __init__(
        self,
        stacks: Stacks,
        settings: SettingsForm | Settings,
        *,
        run: Path | None = None,
        guard: Callable[[Events], Events] | None = None,
    ) -> None:
        self.stacks, self._given, self.run, self._guard = stacks, settings, run, guard
        self._before = last_trained()  # holds until this one trains
        self._settings = self._read_settings()
        self.state, self.controls = TrainingState(self._settings.epochs), Controls()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.view = TrainingView(self._settings)
        super().__init__(self._build(), lambda: self.view.curves.value)
        # Its cell, run again, loses it at once and waits until the training is over: then it is
        # seen in the cell that trains, where a rule hides it as long as this panel is there.
        self._again = Panel(self.children)
        name = f"wnet-again-{self.model_id}"
        self._again.add_class(name)
        rule = widgets.HTML(f"<style>.{name} {{display:none}}</style>", layout={"display": "none"})
        self.children = [*self.children, rule]
        kept = f" Until then, the cells below work with '{self._before}'." if self._before else ""
        self._next = f"The next cell starts the training.{kept}"
        self.view.say(f"Ready. {self._next}")
        self._show_buttons()

    def _read_settings(self) -> Settings:
        return getattr(self._given, "settings", self._given)  # of a form, as it is now

    def _build(self) -> list[widgets.Widget]:
        self.buttons = {}
        for what, (words, style) in BUTTONS.items():
            layout = {"width": "auto", "min_width": "64px"}
            button = widgets.Button(description=words, button_style=style, layout=layout)
            button.on_click(partial(self._press, what))
            self.buttons[what] = button
        self.more = widgets.BoundedIntText(5, min=1, max=100_000, layout={"width": "60px"})
        *others, extend = self.buttons.values()
        top = [*others, widgets.HBox([extend, self.more, widgets.HTML("epochs")])]
        self.live = {
            name: OptionField(
                name, getattr(self._settings, name), partial(self._take_live, name), brief=True
            )
            for name in names_with("live")
            if "slider" in OPTIONS[name].roles
        }
        title = widgets.HTML("<b>Change while it trains</b> (acts at the next step)")
        row = widgets.HBox(top, layout={"flex_flow": "row wrap"})
        return [row, self.view, title, *self.live.values()]

    def _show_buttons(self) -> None:
        for what, button in self.buttons.items():
            button.disabled = not self.state.may(what)
            button.button_style = "" if button.disabled else BUTTONS[what][1]

    def _press(self, what: str, _: object) -> None:
        """Do what a button asks; its handler may run in any thread of the kernel."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._ask, what)

    def _ask(self, what: str) -> None:
        if not self.state.may(what):  # pressed twice before it was drawn
            return
        self.state.ask(what, self.more.value)
        if what == "stop":
            self.view.say("Stopping after this step …")
        elif what == "snapshot":
            self.controls.save_now()
            self.view.facts.value = message(f"Saved before the next step, in '{self.run}'.")
        elif what == "extend":
            self._settings = self._settings.replace(epochs=self.state.epochs)
            self.controls.change(epochs=self.state.epochs)
            again = "" if self.state.phase in GOING else " when its cell is run again"
            self.view.say(f"The training goes on to epoch {self.state.epochs}{again}.")
        self._show_buttons()

    def _take_live(self, name: str) -> None:
        try:
            change = {name: self.live[name].value}
            self.view.settings.replace(**change)
            self.controls.change(**change)
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

    async def check(self) -> None:
        """Take two steps on the side and say what the training will take, or stop the cell."""
        if not self.state.may("check"):
            return
        self.state.ask("check")
        self.view.say("Trying two steps …")
        try:
            work = in_thread(estimate_training, self.stacks, self._read_settings())
            estimate = await attend(work, work.cancel)
            self.view.say(f"{estimate.words} {self._next}")
        except asyncio.CancelledError:
            raise self._told(UserError("The check was interrupted.")) from None
        except Exception as error:
            raise self._told(error) from None
        finally:
            self.state.end()

    async def train(self) -> Trained:
        """Train to the end or the stop, or on from there; stop the cell where that cannot be."""
        if not self.state.may("start"):
            return self.trained
        TrainingPanel.last, self._loop = self, asyncio.get_running_loop()
        self._before = ""
        if not self.state.begun:
            self._take_settings()
        self.state.ask("start")
        self._show_buttons()
        if "google.colab" not in sys.modules:  # whose cells are pages of their own
            display(self._again._repr_mimebundle_(), raw=True)
        try:
            await attend(asyncio.ensure_future(self._train()), partial(self._ask, "stop"))
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
        """The model as this training left it, or the one before; else the cell stops."""
        run = self.run if self.has_model else self._before
        if not run:
            raise UserError("There is no model yet: nothing was trained in this panel.")
        return Trained(run, load_model(run))

    async def _train(self) -> None:
        state = self.state
        try:
            if self.run is None:
                self.run = free_name(RUNS / self.stacks[0].name)
            while state.phase != "stopping" and state.done < state.epochs:
                await self._go_on()
            if not state.begun:
                raise UserError("Stopped before the first step: there is no model to keep.")
        except Exception as error:
            raise self._told(error) from None
        finally:
            state.end()
            self._show_buttons()
        how = "Finished"
        if state.phase != "finished":
            how = "Stopped, and the model of the last step is kept"
        self.view.say(f"{how}: {state.done} epochs{self.view.dice}; see '{self.run}/report.html'.")

    async def _go_on(self) -> None:
        """Train to the last epoch, or until the end is asked for."""
        state, view = self.state, self.view
        view.say("Preparing the volumes …")
        view.cell = await in_thread(measure_patch, self.stacks, self._settings)
        events = await in_thread(self._open)
        try:
            while (event := await in_thread(next, events, None)) is not None:
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
        """Show an error; return what the cell should raise."""
        words = explain(error)
        self.view.say(words or f"Unexpected: {error!r}", RED)
        return error if words is None else UserError(words)
