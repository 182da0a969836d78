"""Play episodes with a policy: a film of each, with keys, mouse and value overlaid, and optionally a window."""

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from vpt_jax.agent import PolicyAgent
from vpt_jax.envs.games import GAMES, make_env_spec
from vpt_jax.envs.rewards import REWARDS
from vpt_jax.envs.vector.episode_stream import FinishedEpisode
from vpt_jax.envs.vector.pool import Pool, TimeStep
from vpt_jax.report.films import FilmFrame, draw_large, write_film
from vpt_jax.system import stopping
from vpt_jax.system.errors import ConfigError
from vpt_jax.system.printable import printable
from vpt_jax.system.seeds import episode_seed
from vpt_jax.system.workers import temporary_path
from vpt_jax.training.checkpoints import TrainedPolicy, load_policy
from vpt_jax.training.setup import check_choices
from vpt_jax.video import FRAME_RATE, Frame

ShowFrame = Callable[[Frame], bool]  # returns False to stop


def play(config: ConfigDict) -> None:
    """Play all episodes, one after the other."""
    policy = check_config(config)
    arguments, space = config.game.arguments.to_dict(), policy.module.space
    env_spec = make_env_spec(config.game.name, arguments, config.game.python, space=space)
    seeds = itertools.islice(itertools.count(episode_seed(config.seed)), config.episodes)
    with ExitStack() as stack:
        show_frame = stack.enter_context(PlayWindow()) if config.window else lambda frame: True
        pool = stack.enter_context(Pool(env_spec, [seeds], None, REWARDS[config.rewards]))
        time_step = pool.begin()
        player = None
        while not pool.done and (player is None or player.episode):
            film = Path(config.out, f"{config.game.name}-{time_step.seed[0]}.mp4")
            film.parent.mkdir(parents=True, exist_ok=True)
            request = {name: config[name] for name in ("text", "guidance", "text_embedder")}
            agent = PolicyAgent(policy, seed=int(time_step.seed[0]), temperature=config.temperature, **request)
            agent.sample_action([time_step.frames[0]])  # compile before there is a film to finalize
            agent.reset()
            with stopping.deferred() as stop_signals:
                player = EpisodePlayer(agent, pool, time_step, show_frame, stop_signals)
                partial = temporary_path(film)  # another run may write to the same folder
                write_film(partial, iter(player))
                partial.rename(film)
                time_step = player.time_step
                print(f"{film}: {describe(player.episode)}", flush=True)
                if stop_signals:
                    return


def check_config(config: ConfigDict) -> TrainedPolicy:
    """Validate the config, and load the policy.

    Raises:
        ConfigError: a field has an invalid value.
        CheckpointError: config.policy has no policy that can be loaded.
    """
    check_choices(config, {"game.name": GAMES, "rewards": REWARDS})
    if not (config.policy and config.out):
        raise ConfigError("set the policy and the folder of the films: --config.policy=FOLDER --config.out=FOLDER")
    if config.episodes < 1:
        raise ConfigError("config.episodes must be 1 or more")
    if config.temperature < 0:
        raise ConfigError("config.temperature must not be negative")
    if config.window and not any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER")):
        raise ConfigError("config.window needs a display, and there is none: omit it, and view the films")
    return load_policy(config.policy)


class EpisodePlayer:
    """Iterator over the film frames of one episode, which it plays."""

    def __init__(
        self,
        agent: PolicyAgent,
        pool: Pool,
        time_step: TimeStep,
        show_frame: ShowFrame,
        stop_signals: Sequence[int] = (),
    ):
        """`time_step` is that of the reset; the film ends once `stop_signals` is not empty."""
        self.time_step = time_step
        self.episode: FinishedEpisode | None = None
        self._agent, self._pool, self._show_frame, self._stop_signals = agent, pool, show_frame, stop_signals
        self._reward = 0.0

    def __iter__(self) -> Iterator[FilmFrame]:
        """Yields frames with actions until the episode ends or the window is closed, then steps to the next one."""
        while self.episode is None:
            sample = self._agent.sample_action([self.time_step.frames[0]])
            note = f"value {sample.value[0]:.2f}  reward {self._reward:.2f}"
            action = np.asarray(sample.buttons[0]), np.asarray(sample.camera[0])
            film_frame = FilmFrame(self.time_step.frames[0], action, note=note, space=self._pool.env_spec.space)
            yield film_frame
            if self._stop_signals or not self._show_frame(draw_large(film_frame)):
                return
            self._step(sample.buttons, sample.camera)
            self._reward += float(self.time_step.reward[0])
        while not (self._stop_signals or self.time_step.playing[0] or self._pool.done):
            space = self._pool.env_spec.space
            self._step(np.zeros((1, len(space.keys)), np.uint8), np.zeros((1, len(space.axes)), np.float32))

    def _step(self, buttons: Any, camera: Any) -> None:
        self.time_step = self._pool.step(buttons, camera)
        for episode in self._pool.episodes():
            self.episode = episode


def describe(episode: FinishedEpisode | None) -> str:
    """Formats the steps, reward and ending of an episode."""
    if episode is None:
        return "stopped before its end"
    ending = f"lost, {printable(episode.reason)}" if episode.reason else episode.ending
    return f"{episode.steps} steps, reward {episode.reward:.2f}, {ending}"


class PlayWindow:
    """Window that shows frames at the rate of the game until it is closed; a context manager."""

    def __enter__(self) -> ShowFrame:
        try:
            import pygame
        except ImportError as error:
            raise ConfigError("config.window needs pygame: pip install pygame-ce") from error
        pygame.display.init()
        pygame.display.set_caption("vpt_jax")
        clock = pygame.time.Clock()

        def show_frame(frame: Frame) -> bool:
            size = frame.shape[1], frame.shape[0]
            screen = pygame.display.get_surface()
            if screen is None or screen.get_size() != size:
                screen = pygame.display.set_mode(size)
            pygame.surfarray.blit_array(screen, frame.swapaxes(0, 1))
            pygame.display.flip()
            clock.tick(FRAME_RATE)
            return not any(event.type == pygame.QUIT for event in pygame.event.get())

        self._quit = pygame.display.quit
        return show_frame

    def __exit__(self, *_: object) -> None:
        self._quit()
