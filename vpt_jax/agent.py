"""Classes for your own programs: a policy that acts in environments, an inverse dynamics model that labels videos.

agent = vpt_jax.PolicyAgent.load("runs/foundation-2x")    # or PolicyAgent(vpt_jax.from_openai(MODEL, WEIGHTS))
action = agent.act(observation)    # {"pov": frame} in, the action dict of the policy's action space out
labels = vpt_jax.VideoLabeller("runs/idm").label("VIDEO.mp4")
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self, overload

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float32, Int, UInt8

from vpt_jax.data.captions import clean_text
from vpt_jax.data.text_embedders import TextEmbedderError, load_text_embedder
from vpt_jax.keys import seed_keys
from vpt_jax.labelling.plan import Labels
from vpt_jax.labelling.single import label_video
from vpt_jax.models.acting import ActionSample, describe_actions
from vpt_jax.models.kv_cache import RingKVCache
from vpt_jax.models.policy import Policy, apply_guided_step, apply_single_step
from vpt_jax.models.value_normalizer import ValueNormalizer
from vpt_jax.system.paths import local_path
from vpt_jax.training.checkpoints import TrainedIDM, TrainedPolicy, WrongStageError, load_idm, load_policy
from vpt_jax.video import Frame, resize


class PolicyAgent:
    """Acts by a policy in one environment, or in several at once with independent KV caches.

    Args:
        policy: from `load_policy` or `from_openai`.
        num_envs: number of environments.
        seed: 0 to 2**64 - 1; environment `i` samples its actions with `seed + i` alone: equal frames give equal
            actions, independent of the other environments.
        temperature: divides the logits; 1: the policy's own distribution; lower: likelier actions are preferred; 0:
            greedy actions (argmax).
        dtype: of the computation, such as "bfloat16" on accelerators; default: as in training.
        text: what the agent is asked to do, such as "open the door", by a policy that reads text; empty: nothing.
        guidance: weight of classifier-free guidance by the text; 1: the policy itself; more: the text counts more.
        text_embedder: name or folder of the embedder; default: where it was in training.

    Raises:
        WrongStageError: it is an inverse dynamics model, which needs future frames and cannot act.
        TextEmbedderError: there is a text, and the policy reads none, or the embedder is another one than in training.
    """

    def __init__(
        self,
        policy: TrainedPolicy | TrainedIDM,
        num_envs: int = 1,
        seed: int = 0,
        temperature: float = 1.0,
        dtype: DTypeLike | None = None,
        text: str = "",
        guidance: float = 1.0,
        text_embedder: str = "",
    ):
        if isinstance(policy, TrainedIDM):
            raise WrongStageError("this is an inverse dynamics model, which cannot act: give it to VideoLabeller")
        if dtype is not None:
            policy = policy._replace(module=policy.module.clone(dtype=jnp.dtype(dtype)))
        self._policy, self._num_envs, self._temperature = policy, num_envs, temperature
        self._keys = seed_keys(seed, num_envs)
        self._text = embed_request(policy, text, text_embedder) if text else None
        self._guidance = guidance if text and guidance != 1 else None
        self.reset()

    @classmethod
    def load(cls, workdir: str | Path, **options: Any) -> Self:
        """Load the agent of a training run, or of a model that launch/import_weights.py has imported.

        Args:
            workdir: of the run, whose newest checkpoint is loaded; or FOLDER@STEP, another one that it keeps; or
                FOLDER/best_by_play, the one that played best (docs/guides/choosing-a-checkpoint.md).
            options: further arguments of the class.

        Raises:
            FileNotFoundError: the work directory holds no checkpoint.
            WrongStageError: it holds an inverse dynamics model, which needs future frames and cannot act.
        """
        return cls(load_policy(workdir), **options)

    def reset(self, env_ids: Iterable[int] | None = None) -> None:
        """Start new episodes in these environments (default: all): clear their KV caches, restart their sampling."""
        policy = self._policy
        if env_ids is None:
            streams = self._num_envs * (1 if self._guidance is None else 2)  # guidance has one with text, one without
            self._ring = jax.jit(policy.module.initial_ring_memory, static_argnums=0)(streams)
            self._first, self._steps = np.ones(self._num_envs, bool), np.zeros(self._num_envs, np.int32)
            return
        for env_id in env_ids:
            self._first[env_id], self._steps[env_id] = True, 0

    @overload
    def act(self, observation: Mapping[str, Any]) -> dict[str, Any]: ...

    @overload
    def act(self, observation: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]: ...

    def act(self, observation: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> Any:
        """Compute the next action: a dict of the action space's keys, 0 or 1, and `camera`, the movement of its axes.

        Of MineRL's space, it is MineRL's 24-key dict, with `camera` (pitch, yaw) in degrees.

        Args:
            observation: `{"pov": uint8[height, width, 3]}` in RGB, of any size (MineRL: 360x640); or a sequence of
                observations, one per environment.

        Returns:
            An action, or for a sequence a list of actions.

        Raises:
            ValueError: a frame has another type or shape, or the number of observations is not `num_envs`.
        """
        observations = [observation] if isinstance(observation, Mapping) else observation
        sample = self.sample_action([one["pov"] for one in observations])
        to_env = self._policy.module.space.to_env
        actions = [to_env(*action) for action in zip(sample.buttons, sample.camera, strict=True)]
        return actions[0] if isinstance(observation, Mapping) else actions

    def sample_action(self, frames: Sequence[np.ndarray]) -> ActionSample:
        """Compute raw actions, log-probabilities and value estimates from one frame per environment.

        Raises:
            ValueError: as `act`.
        """
        policy = self._policy
        height, width, _ = policy.frame_shape
        if len(frames) != self._num_envs:
            raise ValueError(
                f"the agent has {self._num_envs} environment(s) and got {len(frames)} frame(s): pass one frame for each"
            )
        resized = np.stack([resize(_check_frame(frame), height, width) for frame in frames])
        fixed = policy.module, self._temperature, policy.params, policy.normalizer
        request = self._text, self._guidance
        sample, self._ring = _sample_action(*fixed, self._ring, resized, self._first, self._keys, self._steps, *request)
        self._first, self._steps = np.zeros(self._num_envs, bool), self._steps + 1
        return jax.device_get(sample)


class VideoLabeller:
    """Labels videos with the actions that an inverse dynamics model predicts.

    Args:
        idm: from `load_idm` or `from_openai`, or the work directory of a run or of an imported model.
        dtype: of the computation, such as "bfloat16" on accelerators; default: as in training.

    Raises:
        FileNotFoundError: the work directory holds no checkpoint.
        WrongStageError: it holds a policy, which predicts the next action and cannot label videos.
    """

    def __init__(self, idm: TrainedIDM | TrainedPolicy | str | Path, dtype: DTypeLike | None = None):
        if isinstance(idm, TrainedPolicy):
            raise WrongStageError("this is a policy, which cannot label videos: give it to PolicyAgent")
        self._idm = idm if isinstance(idm, TrainedIDM) else load_idm(idm)
        if dtype is not None:
            self._idm = self._idm._replace(module=self._idm.module.clone(dtype=jnp.dtype(dtype)))

    def label(self, video: str | Path, **options: Any) -> Labels:
        """Label a video: the actions at every frame, at 20 frames per second.

        Args:
            video: of any size and frame rate.
            options: arguments of `label_video` in vpt_jax/labelling/single.py.

        Returns:
            `buttons` uint8[frames, keys], `camera` float32[frames, axes] (MineRL's space: degrees of pitch and yaw,
            positive is down, right), and `confidence` float32[frames], the probability of each label.

        Raises:
            FileNotFoundError: there is no such video.
            VideoError: it is damaged.
        """
        return label_video(self._idm, local_path(video, "the video").expanduser(), **options)


def embed_request(policy: TrainedPolicy, text: str, text_embedder: str = "") -> Float32[np.ndarray, " e"]:
    """Embedding of a text for a policy; arguments and errors as of `PolicyAgent`."""
    if policy.embedder is None:
        raise TextEmbedderError(
            f"there is a text, {text!r}, and the policy reads none: omit it, or give one trained on text"
        )
    return load_text_embedder(text_embedder or policy.embedder.name, policy.embedder).embed([clean_text(text)])[0]


def _check_frame(frame: np.ndarray) -> Frame:
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise ValueError(f"a frame is uint8[height, width, 3], not {frame.dtype}{list(frame.shape)}")
    return frame


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=4)
def _sample_action(
    policy: Policy,
    temperature: float,
    params: Any,
    normalizer: ValueNormalizer,
    ring: RingKVCache,
    frames: UInt8[Array, "n h w 3"],
    first: Bool[Array, " n"],
    keys: Array,
    steps: Int[Array, " n"],
    text: Float32[Array, " e"] | None,
    guidance: float | Float32[Array, ""] | None,
) -> tuple[ActionSample, RingKVCache]:
    texts = None if text is None else jnp.broadcast_to(text, (len(frames), len(text)))
    if texts is None or guidance is None:
        output = apply_single_step(policy, params, frames, first, ring, texts)
    else:
        output = apply_guided_step(policy, params, frames, first, ring, texts, guidance)
    distribution = policy.distribution
    if temperature:
        scaled = {head: head_logits / temperature for head, head_logits in output.logits.items()}
        action = jax.vmap(distribution.sample)(jax.vmap(jax.random.fold_in)(keys, steps), scaled)
    else:
        action = distribution.argmax(output.logits)
    return describe_actions(distribution, output, normalizer, action), output.memory
