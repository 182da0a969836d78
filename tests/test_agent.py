"""The agent on real Minecraft footage: its actions, and the independence of its environments."""

from pathlib import Path

import jax
import numpy as np
import pytest

import vpt_jax
from tests.openai.test_convert import policy_files
from vpt_jax.actions.joint import JointAction, raw_from_joint
from vpt_jax.actions.minerl import ENV_KEYS, MINERL
from vpt_jax.models.joint_head import JointDistribution
from vpt_jax.openai.convert import import_weights
from vpt_jax.training.checkpoints import WrongStageError, load_policy
from vpt_jax.video import decode, resize

CLIPS = sorted((Path(__file__).parent / "clips").glob("*.mp4"))
FRAMES = [[frame for _, frame in zip(range(20), decode(clip), strict=False)] for clip in CLIPS]
FRAME = (128, 128, 3)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("agent")
    policy_files(folder, "nano", FRAME, scale=0.3)
    import_weights(folder / "a.model", folder / "a.weights", folder / "run")
    return folder / "run"


def play(agent, *clips):
    """Actions of every step in environments that show these clips."""
    return [agent.act([{"pov": frame} for frame in frames]) for frames in zip(*clips, strict=True)]


def assert_equal(actions, expected):
    for one, other in zip(actions, expected, strict=True):
        for key in ENV_KEYS:
            np.testing.assert_array_equal(one[key], other[key], err_msg=key)


@pytest.mark.parametrize("frames", FRAMES, ids=[clip.stem for clip in CLIPS])
def test_actions_are_valid_in_the_game(workdir, frames):
    agent = vpt_jax.PolicyAgent.load(workdir)
    for frame in frames:
        action = agent.act({"pov": frame})
        assert tuple(sorted(action)) == tuple(sorted(ENV_KEYS))
        assert all(action[key] in (0, 1) for key in ENV_KEYS if key != "camera")
        assert action["camera"].shape == (2,)
        assert np.abs(action["camera"]).max() <= 10
        assert frame.shape == (360, 640, 3)


@pytest.mark.parametrize("temperature", [1.0, pytest.param(0.0, marks=pytest.mark.slow)])
def test_one_environment_acts_as_one_of_many(workdir, temperature):
    together = play(vpt_jax.PolicyAgent.load(workdir, num_envs=3, seed=5, temperature=temperature), *FRAMES)
    for game, frames in enumerate(FRAMES):
        alone = play(vpt_jax.PolicyAgent.load(workdir, seed=5 + game, temperature=temperature), frames)
        assert_equal([step[game] for step in together], [step[0] for step in alone])
    same = play(vpt_jax.PolicyAgent.load(workdir, num_envs=3, temperature=temperature), *[FRAMES[0]] * 3)
    differs = any(MINERL.from_env(a)[0].tolist() != MINERL.from_env(b)[0].tolist() for a, b, _ in same)
    assert differs == (temperature > 0)  # each environment samples with its own seed


def test_greedy_actions_equal_those_of_the_policy_on_the_whole_clip(workdir):
    policy = load_policy(workdir)
    agent = vpt_jax.PolicyAgent.load(workdir, temperature=0.0)
    samples = [agent.sample_action([frame]) for frame in FRAMES[0]]
    chunk = np.stack([resize(frame, 128, 128) for frame in FRAMES[0]])[None]
    first = np.arange(len(FRAMES[0]))[None] == 0
    output = jax.jit(policy.module.apply)({"params": policy.params}, chunk, first, policy.module.initial_memory(1))
    likeliest = JointAction(*(output.logits[head][0].argmax(-1) for head in JointAction._fields))
    for i, expected in enumerate(zip(*raw_from_joint(MINERL, likeliest), strict=True)):
        np.testing.assert_array_equal(samples[i].buttons[0], expected[0])
    log_probs = jax.jit(JointDistribution().log_prob)(
        jax.tree.map(lambda logits_h: logits_h[0], output.logits), likeliest
    )
    np.testing.assert_allclose([one.log_prob[0] for one in samples], log_probs, atol=1e-4)
    value = policy.normalizer.denormalize(output.value[0, :, None])[:, 0]
    np.testing.assert_allclose([one.value[0] for one in samples], value, atol=1e-4)


def test_a_low_temperature_prefers_likely_actions(workdir):
    means = []
    for temperature in (1.0, 0.3, 0.0):
        agent = vpt_jax.PolicyAgent.load(workdir, temperature=temperature)
        means.append(np.mean([agent.sample_action([frame]).log_prob for frames in FRAMES for frame in frames]))
    assert means == sorted(means)


def test_environments_are_reset_independently(workdir):
    agent = vpt_jax.PolicyAgent.load(workdir, num_envs=3)
    before = play(agent, FRAMES[0][:6], FRAMES[1][:6], FRAMES[2][:6])
    agent.reset([1])
    after = play(agent, FRAMES[0][6:12], FRAMES[1][:6], FRAMES[2][6:12])
    assert_equal([step[1] for step in after], [step[1] for step in before])
    without_reset = play(vpt_jax.PolicyAgent.load(workdir, num_envs=3), *(frames[:12] for frames in FRAMES))
    assert_equal([step[0] for step in after], [step[0] for step in without_reset[6:]])
    agent.reset()
    assert_equal(
        [step[0] for step in play(agent, FRAMES[0][:6], FRAMES[1][:6], FRAMES[2][:6])], [step[0] for step in before]
    )


def test_invalid_inputs_are_refused(workdir, tmp_path):
    agent = vpt_jax.PolicyAgent.load(workdir, num_envs=3)
    with pytest.raises(ValueError, match=r"has 3 environment\(s\) and got 1 frame"):
        agent.act({"pov": FRAMES[0][0]})
    with pytest.raises(ValueError, match=r"a frame is uint8\[height, width, 3\], not float32\[360, 640, 3\]"):
        agent.act([{"pov": FRAMES[0][0].astype(np.float32)}] * 3)
    with pytest.raises(WrongStageError, match="policy"):
        vpt_jax.VideoLabeller(workdir)
    with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
        vpt_jax.PolicyAgent.load(tmp_path)
    with pytest.raises(AttributeError, match="no attribute 'Agent'"):
        _ = vpt_jax.Agent
