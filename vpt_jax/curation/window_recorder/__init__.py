"""Recorder of a person's play in any X11 window, as an event table (`vpt_jax/data/bridges/event_table.py`)."""

from vpt_jax.system.errors import UserError


class WindowRecordError(UserError):
    """A recording of a window that cannot be made; the message says why, and what to do."""
