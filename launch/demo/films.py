"""Frames for the demo's films: recorded episodes of Doom, played again at the size of a film."""

import json
import re
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from vpt_jax.actions.minerl import MINERL
from vpt_jax.envs.games import make_env_spec
from vpt_jax.evaluation.episode_files import read_actions
from vpt_jax.evaluation.replay import film_spec, large_frames, replay
from vpt_jax.video import FRAME_RATE, Frame, decode

FILM_SECONDS = 15
_NAME = re.compile(r"(?P<level>\w+)-(?P<player>\w+)-(?P<seed>\d+)")  # of the recordings of launch/record.py


def large_play(recording: Path) -> Sequence[Frame]:
    """The first `FILM_SECONDS` of a recording, a path without suffix.

    An episode of launch/record.py is played again, at `replay.FILM_SIZE`; other recordings are shown as they are.
    """
    count = FILM_SECONDS * FRAME_RATE
    recorded = islice(decode(recording.with_name(f"{recording.name}.mp4")), count)
    settings = recording.parents[1] / "settings.json"
    if not (name := _NAME.fullmatch(recording.name)) or not settings.exists():
        return list(recorded)
    game = {"level": name["level"], "skill": json.loads(settings.read_text())["skill"], "seconds": FILM_SECONDS}
    steps = read_actions(recording, MINERL, count)
    return large_frames(recorded, replay(film_spec(make_env_spec("doom", game)), int(name["seed"]), steps))
