"""Registry of the games and how each is made; a game is imported only in its own process."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from vpt_jax.envs.vector.client import EnvSpec, Timeouts


class RegisteredGame(NamedTuple):
    """Registry entry that `config.game.name` selects."""

    make: str  # "module:function"
    scripted: str  # the same for a variant with a scripted player; empty: there is none
    timeouts: Timeouts
    wait_for_resets: bool  # True where resets are fast: then equal runs are reproducible
    deterministic: bool = False  # equal seeds and actions give equal episodes, at every size of the frames


GAMES = {
    "doom": RegisteredGame(
        make="vpt_jax.envs.doom.tasks:make",
        scripted="vpt_jax.envs.doom.tasks:make_scripted",
        timeouts=Timeouts(start=60, reset=30, step=10),
        wait_for_resets=True,
        deterministic=True,
    ),
    "luanti": RegisteredGame(
        make="vpt_jax.envs.luanti.env:make",
        scripted="",
        timeouts=Timeouts(start=60, reset=120, step=10),
        wait_for_resets=False,
    ),
    "video": RegisteredGame(  # not a game: actions have no effect on the frames
        make="vpt_jax.envs.video_env:make",
        scripted="",
        timeouts=Timeouts(start=60, reset=30, step=10),
        wait_for_resets=True,
    ),
    "minerl": RegisteredGame(
        make="vpt_jax.envs.minerl:make",
        scripted="",
        timeouts=Timeouts(start=300, reset=300, step=60),
        wait_for_resets=False,
    ),
}


def make_env_spec(name: str, arguments: Mapping[str, Any], python: str = "", scripted: bool = False) -> EnvSpec:
    """Returns the environment specification of a registered game.

    `python` is the interpreter that has its packages (default: this one); `scripted` selects the variant with a
    scripted player.
    """
    game = GAMES[name]
    make = game.scripted if scripted else game.make
    return EnvSpec(make, dict(arguments), python, game.timeouts)
