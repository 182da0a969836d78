"""Latent actions: the quantizer and its gradient, which frames a code depends on, and the first predictions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vpt_jax.models.latent_actions import (
    NextFrameDecoder,
    _from_patches,
    _to_patches,
    quantize,
    straight_through,
)
from vpt_jax.models.presets import make_latent_actions, make_latent_idm

MODEL = {"preset": "nano", "dtype": "float32", "remat": "none", "use_last": True, "temperature": 1.0}


def random_frames(*shape):
    return np.random.default_rng(0).integers(0, 256, (*shape, 8, 8, 3), dtype=np.uint8)


def unit_vectors(seed, *shape):
    vectors = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


@pytest.fixture(scope="module")
def latent():
    model = make_latent_actions(MODEL)
    return model, jax.jit(model.init)(jax.random.key(0), random_frames(1, 5))


def test_every_token_has_the_nearest_vector_of_its_own_codebook():
    vectors, codebook = unit_vectors(0, 2, 3, 2, 4), unit_vectors(1, 2, 5, 4)
    actions = quantize(vectors, codebook)
    for token in range(2):
        distances = np.linalg.norm(vectors[:, :, token, None] - codebook[token], axis=-1)
        np.testing.assert_array_equal(actions.codes[..., token], distances.argmin(-1))
        np.testing.assert_array_equal(actions.quantized[..., token, :], codebook[token][distances.argmin(-1)])


def test_the_gradient_passes_straight_through_the_quantizer():
    vectors, codebook = unit_vectors(0, 1, 2, 2, 4), unit_vectors(1, 2, 3, 4)
    weights = np.random.default_rng(2).normal(size=vectors.shape).astype(np.float32)

    def loss(vectors, codebook):
        passed = straight_through(quantize(vectors, codebook))
        return (weights * passed).sum(), passed

    (to_vectors, to_codebook), passed = jax.grad(loss, (0, 1), has_aux=True)(vectors, codebook)
    np.testing.assert_allclose(to_vectors, weights, rtol=1e-6)
    assert not np.any(to_codebook)
    np.testing.assert_allclose(passed, quantize(vectors, codebook).quantized, atol=1e-6)


def test_codes_depend_on_a_frame_and_the_next_one_alone(latent):
    model, variables = latent
    frames = random_frames(1, 5)
    changed = frames.copy()
    changed[0, 3] = 255 - changed[0, 3]
    apply = jax.jit(model.apply)
    before, after = (apply(variables, each).actions.vectors[0] for each in (frames, changed))
    np.testing.assert_array_equal(before[:2], after[:2])
    assert np.all(np.any(np.asarray(before[2:4] != after[2:4]), axis=(1, 2)))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_new_decoder_copies_the_frame(latent, dtype):
    _, variables = latent
    model, frames = make_latent_actions(MODEL | {"dtype": dtype}), random_frames(1, 5)
    output = jax.jit(model.apply)(variables, frames)
    np.testing.assert_allclose(output.next_frames, frames / 255, atol=1e-6)
    assert output.actions.codes.shape == (1, 5, 2)


def test_patches_are_put_back_where_they_were():
    images = np.arange(2 * 8 * 4 * 3, dtype=np.float32).reshape(2, 8, 4, 3)
    cells = _to_patches(images, 2)
    assert cells.shape == (2, 4, 2, 12)
    np.testing.assert_array_equal(cells[0, 1, 1].reshape(2, 2, 3), images[0, 2:4, 2:4])
    np.testing.assert_array_equal(_from_patches(cells, 2), images)


def test_frames_that_the_patches_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="frames are 8x8; this decoder needs a height and width divisible by 3"):
        jax.eval_shape(
            NextFrameDecoder(8, 1, 3).init, jax.random.key(0), random_frames(1, 2), jnp.zeros((1, 2, 2, 4))
        )  # fmt: skip


def test_embeddings_of_codes_depend_on_five_frames_as_those_of_an_idm(latent):
    """Labelling embeds half windows with two more frames on each side, and joins them."""
    idm, frames = make_latent_idm(MODEL), random_frames(1, 10)
    rng, shapes = np.random.default_rng(1), jax.eval_shape(idm.init, jax.random.key(0), frames)
    variables = jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), shapes)
    variables["params"]["latent"] = latent[1]["params"]["latent"]
    assert set(variables["params"]) == {
        "latent", "neighbours", "project", "transformer", "last", "final_norm", "actions"
    }  # fmt: skip
    embed = jax.jit(lambda part: idm.apply(variables, part, method="embed"))
    changed = np.concatenate([255 - frames[:, :1], frames[:, 1:]], axis=1)
    first, changed_first, later = (embed(part) for part in (frames[:, :7], changed[:, :7], frames[:, 1:8]))
    assert first.shape == (1, 3, 64)
    assert np.any(first != embed(255 - frames[:, :7]))
    np.testing.assert_allclose(first[:, 1:], changed_first[:, 1:], atol=1e-5)
    np.testing.assert_allclose(first[:, 1:], later[:, :2], atol=1e-5)
