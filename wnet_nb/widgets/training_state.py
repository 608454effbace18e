"""Where a training stands, and what may be asked of it there; knows no widget and no network."""

from __future__ import annotations

from wnet_nb.errors import UserError

MAY = {  # what may be asked for in each phase
    "idle": {"check", "start"},
    "checking": {"stop"},
    "training": {"pause", "stop", "snapshot", "extend"},
    "paused": {"start", "stop", "extend"},
    "stopping": set(),
    "stopped": {"check", "start", "extend"},
    "finished": {"extend"},
}
GOING = ("training", "paused", "stopping")


class TrainingState:
    """The phase of a training and the epochs it is for.

    Parameters
    ----------
    epochs : int
        To train.

    Attributes
    ----------
    phase : str
        A key of `MAY`.
    epochs : int
        The last epoch that is asked for.
    done : int
        Epochs that are over.
    begun : bool
        Whether a step was taken: then there is a model to go on with.
    """

    def __init__(self, epochs: int) -> None:
        self.phase, self.epochs, self.done, self.begun = "idle", epochs, 0, False

    @property
    def going(self) -> bool:
        """Whether a training is under way, also while it pauses or comes to its end."""
        return self.phase in GOING

    def may(self, what: str) -> bool:
        """Return whether something may be asked for now."""
        return what in MAY[self.phase] and (what != "extend" or self.begun)

    def ask(self, what: str, epochs: int = 0) -> None:
        """Ask for ``check``, ``start``, ``pause``, ``stop``, ``snapshot`` or ``extend``.

        `epochs` are those to extend by: from the last one asked for while it trains, else from the
        last one that is over.

        Raises
        ------
        UserError
            If it cannot be asked for now; the state is as before.
        """
        if not self.may(what):
            raise UserError(f"'{what}' is not possible now: the training is {self.phase}")
        if what == "extend":
            self.epochs = (self.epochs if self.going else self.done) + epochs
            if self.phase == "paused":
                return
        self.phase = {
            "check": "checking", "pause": "paused", "stop": "stopping",
        }.get(what, "training")  # fmt: skip

    def end(self) -> None:
        """Note that the work has ended, whether it was done, stopped or broken off."""
        if self.phase in GOING and self.begun and self.done >= self.epochs:
            self.phase = "finished"
        else:
            self.phase = "stopped" if self.begun else "idle"
