"""Pseudo-labelling: an inverse dynamics model (IDM) predicts the actions of videos; the result is a dataset."""

from vpt_jax.system.errors import UserError


class LabelError(UserError):
    """Labelling that cannot be done as configured; the message names the remedy."""
