"""Demo files of classic Doom, human games with exact labels: reader, drawing by dsda-doom, and their recorder."""

from vpt_jax.envs import RecordError


class DemoError(RecordError):
    """A demo or WAD file that cannot be used, or a missing engine; the message names file, problem and remedy."""
