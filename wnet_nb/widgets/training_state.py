"""Where a training stands, and what may be asked of it there; knows no widget and no network."""

from wnet_nb.errors import UserError

NEXT = {  # the phase after each thing that may be asked for
    "idle": {"check": "checking", "start": "training"},
    "checking": {},
    "training": {
        "pause": "paused",
        "stop": "stopping",
        "snapshot": "training",
        "extend": "training",
    },
    "paused": {"resume": "training", "stop": "stopping", "extend": "paused"},
    "stopping": {},
    "stopped": {"check": "checking", "start": "training", "extend": "stopped"},
    "finished": {"extend": "stopped"},
}
GOING = ("training", "paused", "stopping")


class TrainingState:
    """The phase of a training; the epochs asked for and over; whether a step was taken."""

    def __init__(self, epochs: int) -> None:
        self.phase, self.epochs, self.done, self.begun = "idle", epochs, 0, False

    def may(self, what: str) -> bool:
        """Return whether something may be asked for now."""
        return what in NEXT[self.phase] and (what != "extend" or self.begun)

    def ask(self, what: str, epochs: int = 0) -> None:
        """Ask for a word of `NEXT`; UserError, and the state is as before, if that cannot be now.

        `epochs` are those to extend by: from the last one asked for while it trains, else from the
        last one that is over; then the training can be started again.
        """
        if not self.may(what):
            raise UserError(f"'{what}' is not possible now: the training is {self.phase}")
        if what == "extend":
            self.epochs = epochs + (self.epochs if self.phase in GOING else self.done)
        self.phase = NEXT[self.phase][what]

    def end(self) -> None:
        """Note that the work has ended, whether it was done, stopped or broken off."""
        if self.phase in GOING and self.begun and self.done >= self.epochs:
            self.phase = "finished"
        else:
            self.phase = "stopped" if self.begun else "idle"
