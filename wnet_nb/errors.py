"""The one error that is the user's to mend; everything else that is raised is a bug of ours."""


class UserError(ValueError):
    """Something cannot be done as asked: one sentence says what, where, and what to do.

    The command line prints the sentence and exits with 2, a notebook shows it in place of a
    traceback.
    """

    def _render_traceback_(self) -> list[str]:  # how a notebook shows it
        return [str(self)]
