"""Watch a policy play: it writes a film of every episode, with keys, mouse and value, and shows a window if asked.

    python launch/play.py --config.policy=runs/mine --config.out=runs/films
    python launch/play.py --config=configs/play.py:video --config.policy=runs/foundation-2x --config.out=runs/films \
        --config.game.arguments.path=VIDEO

The second shows what a policy would do in a video. Stopped amid a film, or when its window is closed, it ends it.
Fields: configs/play.py.
"""

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from vpt_jax.agent import Agent
from vpt_jax.envs.games import GAMES, make_game
from vpt_jax.envs.rewards import REWARDS
from vpt_jax.envs.vector.client import GameLostError
from vpt_jax.envs.vector.pool import Episode, Pool, Turn
from vpt_jax.report.films import Moment, draw_large, write_film
from vpt_jax.system import command_line, stopping
from vpt_jax.system.printable import printable
from vpt_jax.system.seeds import episode_seed
from vpt_jax.system.workers import unique_name
from vpt_jax.training.checkpoints import CheckpointError, TrainedPolicy, load_policy
from vpt_jax.training.setup import ConfigError, check_choices
from vpt_jax.video import FRAME_RATE, Frame

Show = Callable[[Frame], bool]  # whether to go on


def play(config: ConfigDict) -> None:
    """All episodes, one after the other."""
    policy = check(config)
    game = make_game(config.game.name, config.game.arguments.to_dict(), config.game.python)
    seeds = itertools.islice(itertools.count(episode_seed(config.seed)), config.episodes)
    with ExitStack() as stack:
        show = stack.enter_context(Window()) if config.window else lambda frame: True
        pool = stack.enter_context(Pool(game, [seeds], None, REWARDS[config.rewards]))
        turn = pool.begin()
        watched = None
        while not pool.done and (watched is None or watched.episode):
            film = Path(config.out, f"{config.game.name}-{turn.seed[0]}.mp4")
            film.parent.mkdir(parents=True, exist_ok=True)
            agent = Agent(policy, seed=int(turn.seed[0]), temperature=config.temperature)
            agent.decide([turn.frames[0]])  # compiled before there is a film to end
            agent.reset()
            with stopping.deferred() as asked:
                watched = Watched(agent, pool, turn, show, asked)
                writing = unique_name(film)  # another run may write to the same folder
                write_film(writing, iter(watched))
                writing.rename(film)
                turn = watched.turn
                print(f"{film}: {describe(watched.episode)}", flush=True)
                if asked:
                    return


def check(config: ConfigDict) -> TrainedPolicy:
    """Find what would fail later, and the policy."""
    check_choices(config, {"game.name": GAMES, "rewards": REWARDS})
    if not (config.policy and config.out):
        raise ConfigError("say what is to play and where films go: --config.policy=FOLDER --config.out=FOLDER")
    if config.episodes < 1:
        raise ConfigError("config.episodes must be 1 or more")
    if config.temperature < 0:
        raise ConfigError("config.temperature must not be negative")
    if config.window and not any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER")):
        raise ConfigError("config.window needs a display, and there is none: leave it out, and look at the films")
    return load_policy(config.policy)


class Watched:
    """An episode, played while it is looked at."""

    def __init__(self, agent: Agent, pool: Pool, turn: Turn, show: Show, asked: Sequence[int] = ()):
        """`turn` is the first one; the film ends once there are signals in `asked`."""
        self.turn = turn
        self.episode: Episode | None = None
        self._agent, self._pool, self._show, self._asked = agent, pool, show, asked
        self._reward = 0.0

    def __iter__(self) -> Iterator[Moment]:
        """What is seen and done, until the next episode begins, or nobody wants to see more."""
        while self.episode is None:
            decision = self._agent.decide([self.turn.frames[0]])
            note = f"value {decision.value[0]:.2f}  reward {self._reward:.2f}"
            moment = Moment(self.turn.frames[0], (decision.buttons[0], decision.camera[0]), note=note)
            yield moment
            if self._asked or not self._show(draw_large(moment)):
                return
            self._act(decision.buttons, decision.camera)
            self._reward += float(self.turn.reward[0])
        while not (self._asked or self.turn.playing[0] or self._pool.done):
            self._act(np.zeros((1, 20), np.uint8), np.zeros((1, 2), np.float32))

    def _act(self, buttons: Any, camera: Any) -> None:
        self.turn = self._pool.act(buttons, camera)
        for episode in self._pool.episodes():
            self.episode = episode


def describe(episode: Episode | None) -> str:
    if episode is None:
        return "left before its end"
    ending = f"lost, {printable(episode.reason)}" if episode.reason else episode.ending
    return f"{episode.steps} steps, reward {episode.reward:.2f}, {ending}"


class Window:
    """Shows frames at the rate of the game, until it is closed; a context manager."""

    def __enter__(self) -> Show:
        try:
            import pygame
        except ImportError as error:
            raise ConfigError("config.window needs pygame: pip install pygame-ce") from error
        pygame.display.init()
        pygame.display.set_caption("vpt_jax")
        clock = pygame.time.Clock()

        def show(frame: Frame) -> bool:
            size = frame.shape[1], frame.shape[0]
            screen = pygame.display.get_surface()
            if screen is None or screen.get_size() != size:
                screen = pygame.display.set_mode(size)
            pygame.surfarray.blit_array(screen, frame.swapaxes(0, 1))
            pygame.display.flip()
            clock.tick(FRAME_RATE)
            return not any(event.type == pygame.QUIT for event in pygame.event.get())

        self._quit = pygame.display.quit
        return show

    def __exit__(self, *_: object) -> None:
        self._quit()


if __name__ == "__main__":
    mistakes = (ConfigError, GameLostError, FileNotFoundError, CheckpointError)
    command_line.run(play, "configs/play.py", mistakes)
