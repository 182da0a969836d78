"""The games there are, and how each is made; none is imported before a process of its own plays it."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from vpt_jax.envs.vector.client import Game, Patience


class Kind(NamedTuple):
    """What `config.game.name` chooses."""

    make: str  # "module:function"
    scripted: str  # the same, of a game that a script plays; empty: there is none
    patience: Patience
    wait_for_resets: bool  # worth it where they are quick: then equal runs are equal


GAMES = {
    "doom": Kind(
        make="vpt_jax.envs.doom.tasks:make",
        scripted="vpt_jax.envs.doom.tasks:make_scripted",
        patience=Patience(start=60, reset=30, step=10),
        wait_for_resets=True,
    ),
    "luanti": Kind(
        make="vpt_jax.envs.luanti.env:make",
        scripted="",
        patience=Patience(start=60, reset=120, step=10),
        wait_for_resets=False,
    ),
    "video": Kind(  # no game: nothing that is done changes what is seen
        make="vpt_jax.envs.video_env:make",
        scripted="",
        patience=Patience(start=60, reset=30, step=10),
        wait_for_resets=True,
    ),
    "minerl": Kind(
        make="vpt_jax.envs.minerl:make",
        scripted="",
        patience=Patience(start=300, reset=300, step=60),
        wait_for_resets=False,
    ),
}


def make_game(name: str, arguments: Mapping[str, Any], python: str = "", scripted: bool = False) -> Game:
    """The game of that name; `python` is the interpreter that has its packages (default: this one)."""
    kind = GAMES[name]
    make = kind.scripted if scripted else kind.make
    return Game(make, dict(arguments), python, kind.patience)
