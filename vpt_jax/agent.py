"""A trained policy that plays, or an inverse dynamics model that labels videos: for programs of your own.

agent = vpt_jax.Agent.load("runs/foundation-2x")
action = agent.act(observation)    # {"pov": frame} in, MineRL's key dict out
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self, overload

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, UInt8

from vpt_jax.actions import env_from_raw, raw_from_joint
from vpt_jax.keys import seed_keys
from vpt_jax.labelling.plan import Labels
from vpt_jax.labelling.single import label_video
from vpt_jax.models.heads import ValueNormalizer, draw_joint, joint_log_prob, most_probable
from vpt_jax.models.kv_cache import Ring
from vpt_jax.models.policy import Policy, look_once
from vpt_jax.system.paths import local_path
from vpt_jax.training.checkpoints import TrainedIDM, TrainedPolicy, load_model
from vpt_jax.video import Frame, resize


class Decision(NamedTuple):
    """What an agent does in `n` games, and thinks of it."""

    buttons: UInt8[np.ndarray, "n 20"]
    camera: Float[np.ndarray, "n 2"]  # degrees: pitch, yaw
    log_prob: Float[np.ndarray, " n"]  # of the action, by the policy itself, whatever the temperature
    value: Float[np.ndarray, " n"]  # of what the policy sees, in rewards; of use after reinforcement learning


class Agent:
    """Plays one game, or many side by side, each with a memory of its own; or labels videos.

    Args:
        model: from `load_policy` or `load_idm`.
        games: how many are played.
        seed: 0 to 2**64 - 1; game `i` draws its actions from `seed + i` alone: the same frames, the same actions,
            whatever the others.
        temperature: 1: as probable as the policy says; lower: likelier actions are preferred; 0: always the likeliest.
    """

    def __init__(self, model: TrainedPolicy | TrainedIDM, games: int = 1, seed: int = 0, temperature: float = 1.0):
        self._model, self._games = model, games
        if isinstance(model, TrainedPolicy):
            self._temperature = temperature
            self._keys = seed_keys(seed, games)
            self.reset()

    @classmethod
    def load(cls, workdir: str | Path, dtype: DTypeLike | None = None, **options: Any) -> Self:
        """The agent of a training run, or of a model that launch/import_weights.py has imported.

        Args:
            workdir: of the run; the newest checkpoint counts.
            dtype: to compute in, such as "bfloat16" on accelerators; as it was trained, if none is given.
            options: as of an `Agent`.

        Raises:
            FileNotFoundError: the work directory holds no checkpoint.
        """
        model = load_model(workdir)
        if dtype is not None:
            model = model._replace(module=model.module.clone(dtype=jnp.dtype(dtype)))  # type: ignore[arg-type]
        return cls(model, **options)

    def reset(self, games: Iterable[int] | None = None) -> None:
        """Episodes begin in these games, or in all: what was before is forgotten, and actions are drawn as at first."""
        policy = self._policy
        if games is None:
            self._ring = jax.jit(policy.module.initial_ring, static_argnums=0)(self._games)
            self._first, self._steps = np.ones(self._games, bool), np.zeros(self._games, np.int32)
            return
        for game in games:
            self._first[game], self._steps[game] = True, 0

    @overload
    def act(self, observation: Mapping[str, Any]) -> dict[str, Any]: ...

    @overload
    def act(self, observation: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]: ...

    def act(self, observation: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> Any:
        """What to do next: MineRL's 24-key dict, with `camera` in degrees.

        Args:
            observation: what the game shows, `{"pov": uint8[height, width, 3]}` in RGB, of any size (MineRL: 360x640);
                or a sequence of them, one for each game. The answer is of the same kind.

        Raises:
            ValueError: it is none, or they are not as many as there are games.
        """
        observations = [observation] if isinstance(observation, Mapping) else observation
        decision = self.decide([one["pov"] for one in observations])
        actions = [env_from_raw(*action) for action in zip(decision.buttons, decision.camera, strict=True)]
        return actions[0] if isinstance(observation, Mapping) else actions

    def decide(self, frames: Sequence[np.ndarray]) -> Decision:
        """The same as raw actions, with what the agent thinks of them; `frames`: one of each game."""
        policy = self._policy
        height, width, _ = policy.frame_shape
        if len(frames) != self._games:
            raise ValueError(f"the agent plays {self._games} game(s) and was shown {len(frames)} frame(s)")
        small = np.stack([resize(_checked(frame), height, width) for frame in frames])
        seen = small, self._first, self._keys, self._steps
        of_policy = policy.module, self._temperature, policy.params, policy.normalizer
        decision, self._ring = _decide(*of_policy, self._ring, *seen)
        self._first, self._steps = np.zeros(self._games, bool), self._steps + 1
        return jax.device_get(decision)

    def label(self, video: str | Path, **options: Any) -> Labels:
        """What was done in every frame of a video, at 20 frames per second, by an inverse dynamics model.

        Args:
            video: of any size and rate.
            options: as of `label_video` in vpt_jax/labelling/single.py.

        Raises:
            FileNotFoundError, VideoError: there is no such video, or it is damaged.
            TypeError: the agent is a policy.
        """
        if isinstance(self._model, TrainedPolicy):
            raise TypeError("a policy says what to do next, not what was done: load an inverse dynamics model")
        return label_video(self._model, local_path(video, "the video").expanduser(), **options)

    @property
    def _policy(self) -> TrainedPolicy:
        if isinstance(self._model, TrainedIDM):
            raise TypeError("an inverse dynamics model sees what comes after, so it cannot play: load a policy")
        return self._model


def _checked(frame: np.ndarray) -> Frame:
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise ValueError(f"a frame is uint8[height, width, 3], not {frame.dtype}{list(frame.shape)}")
    return frame


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=4)
def _decide(
    policy: Policy,
    temperature: float,
    params: Any,
    normalizer: ValueNormalizer,
    ring: Ring,
    frames: UInt8[Array, "n h w 3"],
    first: Bool[Array, " n"],
    keys: Array,
    steps: Int[Array, " n"],
) -> tuple[Decision, Ring]:
    output = look_once(policy, params, frames, first, ring)
    if temperature:
        softened = {head: of_head / temperature for head, of_head in output.logits.items()}
        action = jax.vmap(draw_joint)(jax.vmap(jax.random.fold_in)(keys, steps), softened)
    else:
        action = most_probable(output.logits)
    value = normalizer.denormalize(output.value[:, None])[:, 0]
    return Decision(*raw_from_joint(action), joint_log_prob(output.logits, action), value), output.memory
