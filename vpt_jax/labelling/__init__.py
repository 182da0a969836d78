"""Pseudo-labelling: an inverse dynamics model (IDM) predicts the actions of videos; the result is a dataset."""


class LabelError(Exception):
    """Labelling that cannot be done as configured; the message names the remedy."""
