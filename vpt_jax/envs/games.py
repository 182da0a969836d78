"""Registry of the games and how each is made. Its packages are imported by `make_env`, or only in its own process."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any, NamedTuple, Protocol

from vpt_jax.actions.minerl import MINERL
from vpt_jax.actions.space import ActionSpace, ActionSpaceError
from vpt_jax.actions.spaces import SPACES
from vpt_jax.envs import MissingGameError
from vpt_jax.envs.vector.client import EnvSpec, Timeouts
from vpt_jax.envs.vector.process_env import ProcessEnv
from vpt_jax.system.errors import UserError
from vpt_jax.video import Frame


class RegisteredGame(NamedTuple):
    """Registry entry that `config.game.name` selects."""

    make: str  # "module:function"
    scripted: str  # the same for a variant with a scripted player; empty: there is none
    timeouts: Timeouts
    wait_for_resets: bool  # True where resets are fast: then equal runs are reproducible
    deterministic: bool = False  # equal seeds and actions give equal episodes, at every size of the frames
    spaces: tuple[str, ...] | None = ("minerl",)  # action spaces that it takes (`spaces.SPACES`); None: any
    games_per_process: int = 1  # at most; where steps are short, several share the cost of a message
    one_core: bool = False  # a process of such games needs one core
    counts: tuple[str, ...] = ()  # names in `info` that an evaluation reports beside the rewarded items
    install: str = ""  # how to get its packages; empty: it needs none, or its own error says so


class Env(Protocol):
    """Interface of an environment: Gymnasium's `reset`, `step` and `close`, for one game with keys and mouse."""

    def reset(self, *, seed: int | None = None) -> tuple[dict[str, Frame], dict[str, float]]:
        """Start an episode; returns the observation `{"pov": uint8[height, width, 3]}`, and `info`."""
        ...

    def step(self, action: Mapping[str, Any]) -> tuple[dict[str, Frame], float, bool, bool, dict[str, float]]:
        """Hold the keys of the action dict for 1/20 s, and move by `camera` (MineRL: pitch, yaw in degrees).

        Returns:
            The observation, the game's own reward, whether the episode is terminated (by the game) and whether it is
            truncated (at its time limit), and `info`.
        """
        ...

    def close(self) -> None:
        """End the game."""
        ...


GAMES = {
    "doom": RegisteredGame(
        make="vpt_jax.envs.doom.tasks:make",
        scripted="vpt_jax.envs.doom.tasks:make_scripted",
        timeouts=Timeouts(start=60, reset=30, step=10),
        wait_for_resets=True,
        deterministic=True,
        spaces=("minerl", "doom"),
        games_per_process=16,
        one_core=True,
        counts=("kills", "items", "secrets", "hits", "damage_taken"),
        install="pip install gymnasium scipy vizdoom",
    ),
    "luanti": RegisteredGame(
        make="vpt_jax.envs.luanti.env:make",
        scripted="",
        timeouts=Timeouts(start=60, reset=120, step=10),
        wait_for_resets=False,
        install="apt-get install minetest xvfb; pip install gymnasium python-xlib",
    ),
    "video": RegisteredGame(  # not a game: actions have no effect on the frames
        make="vpt_jax.envs.video_env:make",
        scripted="",
        timeouts=Timeouts(start=60, reset=30, step=10),
        wait_for_resets=True,
        spaces=None,
    ),
    "minerl": RegisteredGame(
        make="vpt_jax.envs.minerl:make",
        scripted="",
        timeouts=Timeouts(start=300, reset=300, step=60),
        wait_for_resets=False,
    ),
}


def make_env(name: str, *, python: str = "", **arguments: Any) -> Env:
    """Make a game by its name, for `PolicyAgent.act`; close it after use.

        env = vpt_jax.make_env("doom", seconds=10.0, level="E1M5")
        observation, info = env.reset(seed=0)
        observation, reward, terminated, truncated, info = env.step(agent.act(observation))

    Args:
        name: "doom", "luanti", "minerl" or "video".
        python: interpreter that has the game's packages, if it is another one, as of MineRL: the game then runs in a
            process of its own. Empty: this one.
        arguments: of the game. doom: `seconds` (limit of an episode), `level`, `height`, `width`, `skill` (1 to 5),
            `space` ("minerl" or "doom", the names of its keys) and others of `DoomEnv`. luanti: `seconds`, `height`,
            `width`. minerl: `seconds`. video: `path`, `aspect`.

    Returns:
        An environment with the interface of `Env`. One of this process is also a `gymnasium.Env` (but not minerl and
        video). Rewards are the game's own, mostly 0; `vpt_jax/envs/rewards.py` has those of training, from `info`.

    Raises:
        MissingGameError: there is no such game, or its packages are missing (without `python`); the message has the
            steps.
        UserError: the game cannot start, for another reason that the message gives.
        TypeError: an argument that the game does not have.
        ValueError: an argument with an invalid value.
    """
    if name not in GAMES:
        raise MissingGameError(f"there is no game {name!r}; choose one of {', '.join(GAMES)}")
    if python:
        space = SPACES[arguments.pop("space", MINERL.name)]
        return ProcessEnv(make_env_spec(name, arguments, python, space=space))
    module, _, function = GAMES[name].make.partition(":")
    try:
        env: Env = getattr(import_module(module), function)(**arguments)
    except ImportError as error:
        steps = GAMES[name].install
        raise MissingGameError(f"{error}. Install the game {name}: {steps}" if steps else str(error)) from error
    return env


def make_env_spec(
    name: str,
    arguments: Mapping[str, Any],
    python: str = "",
    scripted: bool = False,
    space: ActionSpace = MINERL,
    games_per_process: int = 0,
) -> EnvSpec:
    """Returns the environment specification of a registered game.

    Args:
        name: of the game.
        arguments: of the game.
        python: interpreter that has its packages (default: this one).
        scripted: True selects the variant with a scripted player.
        space: of the actions.
        games_per_process: largest number of games of a pool that share a process; 0: the usual one of the game.

    Raises:
        ActionSpaceError: the game does not take actions of this space, or its arguments name another one.
        UserError: `games_per_process` is more than 1 for a game whose episodes begin slowly.
    """
    game, arguments = GAMES[name], dict(arguments)
    if (named := arguments.pop("space", space.name)) != space.name:
        raise ActionSpaceError(
            f"the game's argument `space` is {named!r}, and the actions are of {space.name!r}: omit it, the space is "
            "that of the policy"
        )
    make = game.scripted if scripted else game.make
    if games_per_process > 1 and not game.wait_for_resets:
        raise UserError(
            f"config.game.games_per_process is {games_per_process}, and must be 0 or 1 for {name}: the games of a "
            "process would wait while one of them begins an episode"
        )
    arguments |= _space_argument(name, space)
    together = games_per_process or game.games_per_process
    return EnvSpec(make, arguments, python, game.timeouts, space, together, game.one_core)


def _space_argument(name: str, space: ActionSpace) -> dict[str, str]:
    """Argument that selects the action space of a game that takes several."""
    accepted = GAMES[name].spaces
    if accepted is None:
        return {}
    nearest = min(accepted, key=lambda one: (len(SPACES[one].differences(space)), accepted.index(one)))
    SPACES[nearest].require_equal(space, f"the game {name}", "the policy")
    return {} if nearest == accepted[0] else {"space": nearest}
