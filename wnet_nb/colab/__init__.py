"""What only a Colab runtime needs: its session and its Drive."""

from wnet_nb.colab.session import EXAMPLE, LINK, OWN, STATES, Session, describe_runtime
from wnet_nb.errors import UserError

__all__ = ["EXAMPLE", "LINK", "OWN", "STATES", "Session", "UserError", "describe_runtime"]
