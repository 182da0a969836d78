"""Gymnasium environments with the human interface: actions are MineRL's key dict, observations are RGB frames."""

from vpt_jax.system.errors import UserError


class RecordError(UserError):
    """A recording cannot be made as configured, or a game is not installed; the message names the remedy."""
