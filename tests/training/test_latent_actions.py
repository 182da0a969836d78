"""The loss of latent actions against manual arithmetic; codes of a made-up world; the way to a model that labels."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import idm, latent_actions, latent_idm
from tests.checkpoint_maker import write_checkpoint
from vpt_jax.actions.minerl import MINERL
from vpt_jax.curation.clean_filter.embedders import EmbedderError, make_embedder
from vpt_jax.data.batch import Batch
from vpt_jax.evaluation.baselines import FactoredMarginal
from vpt_jax.labelling.model import label_spans
from vpt_jax.labelling.plan import Spans
from vpt_jax.models.latent_actions import LatentActionModel, LatentActionOutput, quantize
from vpt_jax.models.presets import make_latent_actions, make_latent_idm
from vpt_jax.system.errors import ConfigError
from vpt_jax.training.checkpoints import WrongStageError, load_idm, load_latent_actions, load_model, load_policy
from vpt_jax.training.latent_actions import frame_measures, latent_action_loss, perplexity, predict_next_frames
from vpt_jax.training.latent_actions import latent_actions as make_objective
from vpt_jax.training.setup import initial_params, make_mesh, make_setup

CODEBOOK = np.eye(2, dtype=np.float32)[None]  # one token, two codes


class Fixed:
    """Model that predicts the same frame and vectors for everything."""

    tokens, codes = 1, 2

    def __init__(self, vectors):
        self.vectors = vectors

    def apply(self, variables, frames):
        predicted = jnp.full(frames.shape, variables["params"], jnp.float32)
        return LatentActionOutput(predicted, quantize(self.vectors, CODEBOOK))


def batch(frames, valid=None, first=None):
    rows, length = frames.shape[:2]
    valid = np.ones((rows, length), bool) if valid is None else valid
    first = np.zeros((rows, length), bool) if first is None else first
    return Batch(frames, np.zeros((rows, length, 20), np.uint8), np.zeros((rows, length, 2), np.float32), first, valid)


def grey(*levels):
    """One window of uniform frames."""
    return np.broadcast_to(np.array(levels, np.uint8)[None, :, None, None, None], (1, len(levels), 4, 4, 3))


def test_loss_equals_manual_arithmetic():
    angles = np.array([0.1, 1.4, 0.2, 0.0])
    vectors = np.stack([np.cos(angles), np.sin(angles)], -1).astype(np.float32)[None, :, None]
    frames, predicted = grey(0, 51, 51, 255), np.float32(0.4)
    model = Fixed(vectors)
    loss, (metrics, memory) = latent_action_loss(model, False, 0.5, 2.0, predicted, (), batch(frames), None)

    error = np.mean([(0.4 - after / 255) ** 2 for after in (51, 51, 255)])
    copied = np.mean([0.2**2, 0, 0.8**2])
    distance = np.mean([2 - 2 * max(np.cos(a), np.sin(a)) for a in angles[:3]])
    choice = np.exp(vectors[0, :3, 0] / 0.2)
    mean = (choice / choice.sum(-1, keepdims=True)).mean(0)
    gap = np.log(2) + (mean * np.log(mean)).sum()
    assert float(loss) == pytest.approx(error / copied + 0.5 * 2 * distance + 2.0 * gap, rel=1e-4)
    assert int(metrics["valid_frames"]) == 3
    assert float(metrics["relative_error"]) == pytest.approx(error / copied, rel=1e-5)
    assert float(metrics["perplexity"]) == pytest.approx(np.exp(-2 / 3 * np.log(2 / 3) - 1 / 3 * np.log(1 / 3)))
    assert memory == ()


def test_pairs_that_are_not_valid_or_of_two_episodes_do_not_count():
    vectors = np.broadcast_to(np.float32([1, 0]), (1, 5, 1, 2))
    valid = np.array([[1, 1, 1, 1, 0]], bool)
    first = np.array([[1, 0, 1, 0, 0]], bool)
    measure, model = frame_measures(Fixed(vectors))["valid"], Fixed(vectors)
    frames = batch(grey(0, 51, 200, 251, 0), valid, first)
    prediction, _ = predict_next_frames(model, np.float32(0), (), frames)
    metrics = measure.compute(jax.tree.map(np.add, measure.zero(), measure.totals(prediction, frames)))
    copied, error = np.mean([0.2**2, 0.2**2]), np.mean([0.2**2, (251 / 255) ** 2])
    expected = {"mse": error, "copy_mse": copied, "relative_error": error / copied, "perplexity": 1, "pairs": 2}
    assert metrics == pytest.approx(expected, rel=1e-5)


def test_a_copied_frame_of_play_without_change_has_no_error():
    model, still = Fixed(np.ones((1, 3, 1, 2), np.float32)), batch(grey(51, 51, 51))
    prediction, _ = predict_next_frames(model, np.float32(0.2), (), still)
    measure = frame_measures(model)["valid"]
    assert measure.compute(measure.totals(prediction, still))["relative_error"] == pytest.approx(0, abs=1e-6)


def test_perplexity_is_the_number_of_codes_in_use():
    counts = np.array([[5, 5, 5, 5], [9, 0, 0, 0], [2, 2, 0, 0], [0, 0, 0, 0]])
    np.testing.assert_allclose(perplexity(counts), [4, 1, 2, 1], rtol=1e-6)


def random_params(module):
    """Parameters of no meaning; to compile the module's own initialization takes seconds."""
    rng = np.random.default_rng(5)
    shapes = jax.eval_shape(module.init, jax.random.key(0), np.zeros((1, 2, 8, 8, 3), np.uint8))["params"]
    return jax.tree.map(lambda leaf: rng.normal(0, 0.1, leaf.shape).astype(np.float32), shapes)


@pytest.fixture(scope="module")
def latent_dir(tmp_path_factory):
    """Work directory of an untrained model of latent actions."""
    config = latent_actions.get_config("demo")
    config.model.preset = "nano"
    params = random_params(make_latent_actions(config.model))
    return write_checkpoint(tmp_path_factory.mktemp("latent"), params, config, 8, 8, step=2)


def labelling_config(latent_dir):
    config = latent_idm.get_config("demo")
    config.model.preset, config.init_from = "nano", str(latent_dir)
    return config


def test_a_model_that_labels_keeps_the_frozen_encoder_and_has_a_new_head(latent_dir):
    config = labelling_config(latent_dir)
    uniform = FactoredMarginal.uniform(MINERL)
    setup = make_setup(config, make_mesh(config, jax.devices()[:1]), (8, 8, 3), uniform, 10)
    given = initial_params(config, setup.shapes.params, MINERL)
    assert set(given) == {"latent"}
    state, latent = setup.init(given), load_latent_actions(latent_dir)
    jax.tree.map(np.testing.assert_array_equal, state.params["latent"], latent.params["latent"])
    np.testing.assert_allclose(state.params["actions"]["camera"]["bias"], -np.log(11), rtol=1e-6)
    trained = {leaf.shape for leaf in jax.tree.leaves(state.opt_state)}
    assert (2, 4, 4) not in trained, "a frozen codebook has no optimizer state"


def test_a_run_of_another_size_or_stage_is_refused(latent_dir):
    config = labelling_config(latent_dir)
    config.model.preset = "tiny"
    module = make_latent_idm(config.model)
    shapes = jax.eval_shape(module.init, jax.random.key(0), np.zeros((1, 2, 8, 8, 3), np.uint8))["params"]
    with pytest.raises(ConfigError, match=r"is not of config\.model\.preset"):
        initial_params(config, shapes, MINERL)
    for load in (load_idm, load_policy, load_model):
        with pytest.raises(WrongStageError, match="holds a training run of stage 'latent_actions'"):
            load(latent_dir)
    config = idm.get_config("demo")
    config.init_from = str(latent_dir)
    with pytest.raises(ConfigError, match="holds a training run of stage"):
        initial_params(config, shapes, MINERL)


def test_a_model_on_latent_actions_is_loaded_and_labels_as_an_idm(tmp_path):
    config = latent_idm.get_config("demo")
    config.model.preset = "nano"
    module = make_latent_idm(config.model)
    trained = load_idm(write_checkpoint(tmp_path, random_params(module), config, 8, 8, step=2))
    assert (trained.module, trained.frame_shape, trained.window) == (module, (8, 8, 3), 8)
    spans = Spans(np.zeros((2, 20, 8, 8, 3), np.uint8), np.ones((2, 16), bool), np.zeros((2, 2), int))
    label = partial(label_spans, trained.module, trained.window, "shared", "sample", mirror=True)
    labels = jax.eval_shape(label, trained.params, jax.random.key(0), spans)
    assert labels.buttons.shape == (2, 3, 8, 20)
    with pytest.raises(WrongStageError, match="holds a training run of stage 'latent_idm'"):
        load_model(tmp_path)
    with pytest.raises(EmbedderError, match="holds a model on latent actions"):
        make_embedder("idm", str(tmp_path))


SHIFTS = 2 * np.array([(0, 1), (0, -1), (1, 0), (-1, 0)])  # pixels: a cell


def shifted_world(rng, rows=16, length=9):
    """Windows of a random picture that is shifted by one cell in one of four directions, and the directions."""
    actions = rng.integers(4, size=(rows, length))
    pictures = np.repeat(np.repeat(rng.integers(0, 256, (rows, 4, 4, 3)), 2, 1), 2, 2)
    frames = np.zeros((rows, length, 8, 8, 3), np.uint8)
    for row, picture in enumerate(pictures):
        for step in range(length):
            frames[row, step] = picture
            picture = np.roll(picture, SHIFTS[actions[row, step]], (0, 1))
    return frames, actions


@pytest.mark.slow
def test_codes_are_the_actions_of_a_world_of_four_shifts():
    """Which shift was made, from its codes alone, by the most frequent one in other play; chance is 1/4."""
    encoder = {"widths": (8,), "tokens": 2, "codes": 4, "code_features": 4}
    model = LatentActionModel(**encoder, decoder_features=32, decoder_blocks=1, patch=2)  # nano: fewer than a patch has
    objective = make_objective(model, (8, 8, 3), None, False, 0.25, 0.1)
    rng, optimizer = np.random.default_rng(0), optax.adam(3e-3)
    params = objective.init(jax.random.key(0))

    @jax.jit
    def update(params, opt_state, frames):
        (_, (metrics, _)), gradient = jax.value_and_grad(objective.loss, has_aux=True)(
            params, (), batch(frames), jax.random.key(0)
        )
        updates, opt_state = optimizer.update(gradient, opt_state)
        return optax.apply_updates(params, updates), opt_state, metrics

    opt_state = optimizer.init(params)
    for _ in range(3200):
        params, opt_state, metrics = update(params, opt_state, shifted_world(rng)[0])

    codes, actions, apply = [], [], jax.jit(model.apply)
    for _ in range(16):
        frames, taken = shifted_world(rng)
        found = apply({"params": params}, frames).actions.codes[:, :-1]
        codes.append(np.asarray(found[..., 0] * model.codes + found[..., 1]).ravel())
        actions.append(taken[:, :-1].ravel())
    table = np.zeros((model.codes**2, 4))
    np.add.at(table, (np.concatenate(codes[:8]), np.concatenate(actions[:8])), 1)
    right = table.argmax(1)[np.concatenate(codes[8:])] == np.concatenate(actions[8:])
    assert right.mean() > 0.9
    assert metrics["relative_error"] < 0.2  # without codes, the mean of the four shifts: 0.65
    assert metrics["perplexity"] > 2
