"""Gymnasium environments with the human interface: actions are dicts of keys and camera, observations RGB frames."""

from vpt_jax.system.errors import UserError


class MissingGameError(UserError):
    """A game that is not known, or whose packages are not installed; the message has the steps to install them."""


class RecordError(UserError):
    """A recording cannot be made as configured, or a game is not installed; the message names the remedy."""
