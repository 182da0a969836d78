"""Initial model, resumption and episode metrics of a run of stage "ppg"; no game is started."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import rl_diamond, rl_doom
from vpt_jax.envs.vector.episode_stream import FinishedEpisode
from vpt_jax.models.policy import Policy, init_params
from vpt_jax.models.value_normalizer import ValueNormalizer
from vpt_jax.system.errors import ConfigError
from vpt_jax.training.checkpoints import Checkpoints, SettingsChangedError, TrainedPolicy
from vpt_jax.training.ppg import setup as ppg
from vpt_jax.training.ppg import train
from vpt_jax.training.ppg.learner import LearnerState, OptStates, PPGConfig
from vpt_jax.training.run import resume as resume_run
from vpt_jax.training.setup import make_mesh

POLICY = Policy(widths=(4,), features=8, heads=2, layers=1, memory_length=4, aux_value=True)
UNTRAINED = ValueNormalizer(np.zeros(1, np.float32), np.zeros(1, np.float32), np.float32(0))
MAIN = ValueNormalizer(np.array([1.5], np.float32), np.array([6.5], np.float32), np.float32(0.5))  # mean 3, variance 4
AUX = ValueNormalizer(np.array([1.0], np.float32), np.array([17.0], np.float32), np.float32(1))  # mean 1, variance 16


@pytest.fixture
def config():
    config = rl_doom.get_config()
    config.update(init_from="somewhere", height=8, width=8)
    return config


@pytest.fixture
def start(config, monkeypatch):
    """The initial model of a run whose pretrained policy has random parameters and these normalizers."""

    def start(normalizer, aux_normalizer, aux_value=True):
        rng = np.random.default_rng(0)
        shapes = jax.eval_shape(lambda rng: init_params(POLICY, (8, 8, 3), rng), jax.random.key(0))
        params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)
        if not aux_value:
            del params["aux_value"]
        model = TrainedPolicy(POLICY, params, (8, 8, 3), 1, normalizer, aux_normalizer)
        monkeypatch.setattr(ppg, "pretrained_model", lambda config: model)
        return params, ppg.initial_model(config, POLICY)

    return start


def value_of(head, normalizer, x):
    """A head's denormalized value."""
    return normalizer.denormalize(x @ head["kernel"] + head["bias"])


def test_a_trained_critic_is_kept(start):
    """In a released model each head has a normalizer, in a run of this library both share one (fidelity S11)."""
    params, model = start(MAIN, AUX)
    assert model.trained_heads == ("value", "aux_value")
    assert model.normalizer is MAIN
    jax.tree.map(np.testing.assert_array_equal, model.params["value"], params["value"])
    x = np.random.default_rng(1).normal(size=(5, 8)).astype(np.float32)
    expected = value_of(params["aux_value"], AUX, x)  # now with the main head's normalizer
    np.testing.assert_allclose(value_of(model.params["aux_value"], MAIN, x), expected, rtol=1e-4, atol=1e-4)
    params, model = start(MAIN, MAIN)  # a run of this library has one for both
    jax.tree.map(np.testing.assert_array_equal, model.params["aux_value"], params["aux_value"])


@pytest.mark.parametrize(("normalizer", "aux", "kept"), [(UNTRAINED, True, ()), (MAIN, False, ("value",))])
def test_an_untrained_critic_is_initialized(start, normalizer, aux, kept):
    """After behavioural cloning the main head is zero (paper), the auxiliary one random (fidelity S11)."""
    params, model = start(normalizer, UNTRAINED, aux)
    assert model.trained_heads == kept
    if not kept:
        assert not np.any(model.params["value"]["kernel"])
        assert float(model.normalizer.debias) == 0
    assert np.any(model.params["aux_value"]["kernel"])
    for part in params.keys() - {"value", "aux_value"}:
        jax.tree.map(np.testing.assert_array_equal, model.params[part], params[part])


def test_the_origin_of_the_value_heads_is_logged(config, monkeypatch, capsys):
    model = ppg.InitialModel({}, MAIN, ("value",))
    monkeypatch.setattr(train, "initial_model", lambda config, policy: model)
    train.initialize(config, SimpleNamespace(policy=None, init_state=lambda params, normalizer: None))
    assert capsys.readouterr().out == "value heads: value kept from somewhere, aux_value new\n"


def episode_steps(limits, length, num_steps):
    """The episode step of each game at every time step; the end of an episode takes one time step."""
    by_game = []
    for limit in limits:
        steps = [*range((limit or length) + 1)]
        while len(steps) < num_steps:
            steps += range(length + 1)
        by_game.append(steps[:num_steps])
    return np.array(by_game).T


def test_the_papers_games_are_spread_over_the_episode():
    """After the first episode, 40 games are evenly spread; without stagger, always synchronized (fidelity D3)."""
    config = rl_diamond.get_config()
    limits = train.first_limits(config)
    assert (limits[0], limits[-1], len(limits)) == (300, 12000, 40)
    steps = episode_steps(limits, 12000, 30_000)
    for time in range(12_001, 30_000, 997):
        gaps = np.diff(np.sort(steps[time]), append=np.sort(steps[time])[0] + 12_001)
        assert gaps.max() <= 2 * 300
    config.game.stagger = False
    assert train.first_limits(config) == [None] * 40
    assert np.ptp(episode_steps([None] * 40, 12000, 30_000), axis=1).max() == 0


def test_more_games_than_steps_still_play():
    config = rl_doom.get_config()
    config.game.arguments.seconds = 0.1
    assert train.first_limits(config) == [1] * 16 or min(train.first_limits(config)) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ppg.wake_cycles": 0}, "config.ppg.wake_cycles must be 1 or more"),
        ({"ppg.sleep_cycles": -1}, "config.ppg.sleep_cycles 0 or more"),
        ({"game.parts": 3}, r"config.game.parts 0, 1 or 2; they are 0 and 3"),
        ({"game.games_per_process": -1}, "config.game.games_per_process must be 0 or more"),
        (
            {"game.arguments": {"path": "video.mp4"}, "game.name": "video"},
            "config.game.arguments.seconds, which is not set",
        ),
    ],
)
def test_invalid_fields_are_named(config, changes, message):
    if arguments := changes.pop("game.arguments", None):
        config.game.arguments = type(config)(arguments)
    config.update_from_flattened_dict(changes)
    with pytest.raises(ConfigError, match=message):
        ppg.check(config, make_mesh(config))


def episode(reward, ending, **obtained):
    return FinishedEpisode(0, 0, 10, reward, ending, {}, {"log": 0.0, "stick": 0.0, **obtained})


def test_episode_metrics_are_of_complete_episodes_and_count_items():
    """Items per episode are logged; lost and shortened episodes do not count."""
    episodes = [
        episode(1.0, "truncated", log=2.0), episode(3.0, "terminated", log=4.0, stick=1.0),
        episode(99.0, "lost", log=99.0), episode(99.0, "shortened", log=99.0),
    ]  # fmt: skip
    assert train.episode_metrics(episodes, 1, ["log", "stick"]) == {
        "episodes": 2, "games_lost": 1, "return": 2, "episode_steps": 10, "obtained/log": 3, "obtained/stick": 0.5,
    }  # fmt: skip
    assert train.episode_metrics([], 0, ["log"]) == {"episodes": 0, "games_lost": 0}


def state_of(own):
    """A state with a separate optimizer state for the sleep phase (`own`), or one of earlier versions."""
    params, one, other = {"kernel": jnp.arange(3.0)}, {"count": jnp.full((), 7)}, {"count": jnp.full((), 8)}
    opt_state = OptStates(one, other) if own else one
    rng, step = jax.random.PRNGKey(0), jnp.full((), 4)
    return LearnerState(step, params, {"kernel": jnp.ones(3)}, opt_state, ValueNormalizer.create(), rng)


def resume(config, folder, own):
    config.ppg.sleep_optimizer = own
    checkpoints = Checkpoints(folder, keep_last=1, keep_every_hours=0.0, metadata=train.checkpoint_metadata(config))
    shapes = jax.eval_shape(lambda: state_of(own))
    shardings = jax.tree.map(lambda _: jax.sharding.SingleDeviceSharding(jax.devices()[0]), shapes)
    try:
        return resume_run(checkpoints, shapes, shardings, train.SETTING_HINTS)
    finally:
        checkpoints.close()


def save(config, folder, own):
    config.ppg.sleep_optimizer = own
    checkpoints = Checkpoints(folder, keep_last=1, keep_every_hours=0.0, metadata=train.checkpoint_metadata(config))
    checkpoints.save(state_of(own), 4)
    checkpoints.close()


def test_a_run_of_an_earlier_version_is_refused_or_resumed_with_its_setting(config, tmp_path):
    """Such a run has one optimizer state: the error names the field and the value that resumes it (fidelity D8)."""
    save(config, tmp_path, own=False)
    with pytest.raises(SettingsChangedError, match=r"sleep_optimizer was None .*--config\.ppg\.sleep_optimizer=False"):
        resume(config, tmp_path, own=True)
    jax.tree.map(np.testing.assert_array_equal, resume(config, tmp_path, own=False), state_of(False))


def test_both_optimizer_states_are_resumed(config, tmp_path):
    save(config, tmp_path, own=True)
    jax.tree.map(np.testing.assert_array_equal, resume(config, tmp_path, own=True), state_of(True))
    with pytest.raises(SettingsChangedError, match="sleep_optimizer was True and is now None"):
        resume(config, tmp_path, own=False)


def test_compared_keys_of_the_metadata_equal_those_of_stored_runs(config):
    """A run resumes only if these equal the checkpoint's, so they must not change when a config field is renamed."""
    metadata = train.checkpoint_metadata(config)
    assert {group: set(metadata[group]) for group in ("stream", "model", "optimizer")} == {
        "stream": {"game", "rewards", "frame_shape"},
        "model": {"preset", "temperature", "dtype", "aux_value"},
        "optimizer": {"name", "sleep_optimizer"},
    }


def test_defaults_of_the_config_and_of_the_class_are_equal():
    """The class is `PPGConfig`, the config configs/rl_base.py."""
    config = rl_diamond.get_config()
    assert ppg.make_ppg_config(config) == PPGConfig()
    assert ppg.has_sleep_optimizer(PPGConfig())
    assert not ppg.has_sleep_optimizer(PPGConfig(sleep_cycles=0))
