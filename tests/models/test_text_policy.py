"""Policies conditioned on text: exact at the start, text only where there is one, guidance, dropout."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vpt_jax.data.batch import Batch
from vpt_jax.models.policy import Policy, apply_guided_step, apply_single_step, init_params, init_text_params
from vpt_jax.training.behavioural_cloning import cloning_loss, drop_text

SIZE = dict(widths=(8,), features=32, heads=2, layers=1, memory_length=4, head="factored")
PLAIN, TEXT = Policy(**SIZE), Policy(**SIZE, text_features=5, text_dropout=0.5)
RNG = np.random.default_rng(0)
FRAMES = RNG.integers(0, 256, (2, 3, 8, 8, 3)).astype(np.uint8)
FIRST = np.zeros((2, 3), bool)
SOME = RNG.normal(size=(2, 3, 5)).astype(np.float32) * np.array([0, 1, 1])[:, None]  # none at the first frame


def random_arrays(shapes, scale=0.2):
    return jax.tree.map(lambda leaf: RNG.normal(0, scale, leaf.shape).astype(np.float32), shapes)


@pytest.fixture(scope="module")
def params():
    """Random parameters of the unconditional policy, and of the conditional one with a projection that is not zero."""
    plain = random_arrays(jax.eval_shape(partial(init_params, PLAIN, (8, 8, 3)), jax.random.key(0)))
    text = random_arrays(jax.eval_shape(partial(init_text_params, TEXT), jax.random.key(0)))
    return plain, plain | {"text": text}


@partial(jax.jit, static_argnums=0)
def logits(policy, params, text=None):
    return policy.apply({"params": params}, FRAMES, FIRST, policy.initial_memory(2), text).logits["buttons"]


def test_a_new_projection_changes_nothing(params):
    new = jax.jit(partial(init_text_params, TEXT))(jax.random.key(1))
    assert jax.tree.map(jnp.shape, new) == jax.tree.map(jnp.shape, params[1]["text"])
    expected = logits(PLAIN, params[0])
    np.testing.assert_allclose(logits(TEXT, params[0] | {"text": new}, SOME), expected, atol=1e-6)


def test_only_frames_with_text_and_those_after_them_change(params):
    plain, given, none = logits(PLAIN, params[0]), logits(TEXT, params[1], SOME), logits(TEXT, params[1])
    np.testing.assert_allclose(none, plain, atol=1e-6)
    np.testing.assert_allclose(given[:, 0], plain[:, 0], atol=1e-5)
    assert np.abs(given[:, 1:] - plain[:, 1:]).max() > 0.01


def test_text_for_a_policy_that_reads_none_is_refused(params):
    with pytest.raises(ValueError, match="without text_features"):
        logits(PLAIN, params[0], SOME)


def test_guidance_goes_from_the_policy_without_text_through_that_with_it(params):
    step = jax.jit(partial(apply_single_step, TEXT, params[1]))
    guided = jax.jit(partial(apply_guided_step, TEXT, params[1]))
    ring, both = TEXT.initial_ring_memory(2), TEXT.initial_ring_memory(4)
    rings, boths = {0.0: ring, 1.0: ring}, {0.0: both, 1.0: both, 3.0: both}
    text, none = SOME[:, 1], np.zeros_like(SOME[:, 1])
    for frames in (FRAMES[:, 0], FRAMES[:, 1]):
        plain = {scale: step(frames, FIRST[:, 0], rings[scale], scale * text + none) for scale in rings}
        mixed = {scale: guided(frames, FIRST[:, 0], boths[scale], text, scale) for scale in boths}
        rings = {scale: output.memory for scale, output in plain.items()}
        boths = {scale: output.memory for scale, output in mixed.items()}
        without, given = (plain[scale].logits["buttons"] for scale in (0.0, 1.0))
        for scale in boths:
            expected = without + scale * (given - without)
            np.testing.assert_allclose(mixed[scale].logits["buttons"], expected, atol=1e-4)
        np.testing.assert_allclose(mixed[0.0].value, plain[1.0].value, atol=1e-5)
    assert np.abs(given - without).max() > 0.01


def test_text_is_dropped_from_whole_rows_by_the_steps_key():
    text = jnp.ones((400, 3, 5))
    dropped = np.asarray(drop_text(text, 0.25, jax.random.key(3)))
    kept = dropped.all((1, 2))
    assert np.array_equal(kept, dropped.any((1, 2)))
    assert 0.65 < kept.mean() < 0.85
    np.testing.assert_array_equal(dropped, drop_text(text, 0.25, jax.random.key(3)))
    assert (dropped != drop_text(text, 0.25, jax.random.key(4))).any()
    assert np.asarray(drop_text(text, 0.0, jax.random.key(3))).all()


def test_the_loss_is_that_of_the_text_that_was_kept(params):
    buttons, camera = np.zeros((2, 3, 20), np.uint8), np.zeros((2, 3, 2), np.float32)
    batch = Batch(FRAMES, buttons, camera, FIRST, np.ones((2, 3), bool), SOME)
    loss = jax.jit(lambda batch, rng: cloning_loss(TEXT, params[1], TEXT.initial_memory(2), batch, rng)[0])
    losses = {float(loss(batch, jax.random.key(seed))) for seed in range(9)}
    none = float(loss(batch._replace(text=np.zeros_like(SOME)), jax.random.key(0)))
    assert 3 <= len({round(value, 5) for value in losses}) <= 4  # of two rows, each with or without text
    assert any(abs(value - none) < 1e-5 for value in losses)
