"""The policy compared with the reference's tensors (tests/golden/policy_tiny.npz); features that it adds."""

import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vpt_jax.actions.joint import JointAction
from vpt_jax.models.joint_head import JointDistribution
from vpt_jax.models.policy import Policy
from vpt_jax.models.remat import REMAT
from vpt_jax.openai.weights import policy_from_openai, value_normalizer_from_openai

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "policy_tiny.npz")
META = json.loads(str(GOLDEN["meta"]))
STATE_DICT = {name.removeprefix("param/"): GOLDEN[name] for name in GOLDEN.files if name.startswith("param/")}
TOLERANCE = 2e-4
SLOW = pytest.mark.slow  # every boundary compiles two more chunk lengths


@pytest.fixture(scope="module")
def reference():
    return policy_from_openai(META["policy_kwargs"], META["pi_head_kwargs"], STATE_DICT)


@pytest.fixture(scope="module")
def apply(reference):
    module, params = reference
    return jax.jit(lambda *inputs: module.apply({"params": params}, *inputs))


def chunk(number):
    return GOLDEN[f"chunk{number}/img"], GOLDEN[f"chunk{number}/first"]


def assert_close(actual, expected, name=""):
    np.testing.assert_allclose(actual, np.asarray(expected).reshape(actual.shape), atol=TOLERANCE, rtol=0, err_msg=name)


def test_three_chunks_with_carried_memory(reference, apply):
    normalizer = value_normalizer_from_openai(STATE_DICT)
    memory = reference[0].initial_memory(2)
    for number in (1, 2, 3):
        output = apply(*chunk(number), memory)
        memory = output.memory
        for head in ("buttons", "camera"):
            log_probs = jax.nn.log_softmax(output.logits[head])
            if f"chunk{number}/logp/{head}" in GOLDEN:
                assert_close(log_probs, GOLDEN[f"chunk{number}/logp/{head}"], head)
            np.testing.assert_array_equal(log_probs.argmax(-1), GOLDEN[f"chunk{number}/argmax/{head}"][..., 0])
            assert_close(-(jnp.exp(log_probs) * log_probs).sum(-1), GOLDEN[f"chunk{number}/entropy/{head}"], head)
        assert_close(output.value, GOLDEN[f"chunk{number}/vpred"], "vpred")
        assert_close(normalizer.denormalize(output.value), GOLDEN[f"chunk{number}/value"], "value")
        for layer in range(2):
            assert_close(memory.keys[layer], GOLDEN[f"chunk{number}/state/{layer}/K"], "keys")
            assert_close(memory.values[layer], GOLDEN[f"chunk{number}/state/{layer}/V"], "values")
            np.testing.assert_array_equal(memory.mask, GOLDEN[f"chunk{number}/state/{layer}/mask"][:, 0])


def test_single_frames_equal_chunks(reference, apply):
    frames, first = (np.concatenate(parts, axis=1) for parts in zip(*map(chunk, (1, 2, 3)), strict=True))
    memory, values, camera = reference[0].initial_memory(2), [], []
    for t in range(frames.shape[1]):
        output = apply(frames[:, t : t + 1], first[:, t : t + 1], memory)
        memory = output.memory
        values.append(output.value)
        camera.append(jax.nn.log_softmax(output.logits["camera"]))
    assert_close(jnp.concatenate(values, 1), GOLDEN["step/vpred"])
    assert_close(jnp.concatenate(camera, 1), GOLDEN["step/logp/camera"])
    assert_close(memory.keys[1], GOLDEN["step/state/1/K"])


def test_a_ring_cache_equals_a_kv_cache():
    params = random_params(SMALL, 32, 32)
    step = jax.jit(lambda *inputs: SMALL.apply({"params": params}, *inputs), donate_argnums=2)
    memory, ring = SMALL.initial_memory(3), SMALL.initial_ring_memory(3)
    rng = np.random.default_rng(0)
    for first in rng.random((3 * SMALL.memory_length, 3, 1)) < 0.1:
        frames = rng.integers(0, 256, (3, 1, 32, 32, 3), np.uint8)
        expected, output = step(frames, first, memory), step(frames, first, ring)
        memory, ring = expected.memory, output.memory
        np.testing.assert_allclose(output.value, expected.value, atol=1e-5)
        np.testing.assert_allclose(output.logits["buttons"], expected.logits["buttons"], atol=1e-5)


def test_a_ring_cache_is_updated_in_place():
    params, ring = random_params(SMALL, 32, 32), SMALL.initial_ring_memory(1)
    frame, first = jnp.zeros((1, 1, 32, 32, 3), jnp.uint8), jnp.zeros((1, 1), bool)
    step = jax.jit(lambda memory: SMALL.apply({"params": params}, frame, first, memory).memory, donate_argnums=0)
    ring_program, kv_cache_program = (step.lower(start).compile() for start in (ring, SMALL.initial_memory(1)))
    analysis = ring_program.memory_analysis()
    assert analysis.alias_size_in_bytes == sum(leaf.nbytes for leaf in jax.tree.leaves(ring))
    length, features = ring.keys[0].shape[1:]
    moved = re.compile(rf"f32\[1,({length}|{length + 1}),{features}\]\S* (copy|concatenate)\(")
    assert moved.search(kv_cache_program.as_text())
    assert not moved.search(ring_program.as_text())


def test_a_ring_cache_refuses_chunks():
    params, ring = random_params(SMALL, 32, 32), SMALL.initial_ring_memory(1)
    frames, first = jnp.zeros((1, SMALL.memory_length, 32, 32, 3), jnp.uint8), jnp.zeros((1, SMALL.memory_length), bool)
    with pytest.raises(ValueError, match="one frame at a time"):
        jax.eval_shape(SMALL.apply, {"params": params}, frames, first, ring)


def cloning_gradients(reference, number, memory):
    """Behavioural cloning loss of a chunk and its gradients."""
    module, params = reference
    action = JointAction(*(GOLDEN[f"chunk{number}/action/{head}"][..., 0] for head in ("buttons", "camera")))

    def loss(params):
        output = module.apply({"params": params}, *chunk(number), memory)
        return -JointDistribution().log_prob(output.logits, action, mask_camera=False).mean()

    return jax.jit(jax.value_and_grad(loss))(params)


def test_gradients_equal_the_references(reference, apply):
    memory = reference[0].initial_memory(2)
    loss, gradients = cloning_gradients(reference, 1, memory)
    np.testing.assert_allclose(loss, GOLDEN["chunk1/bc_loss"], atol=2e-5)
    expected = {name: GOLDEN.get(f"grad/{name}", np.zeros_like(value)) for name, value in STATE_DICT.items()}
    rows = {name.removeprefix("grad_rows_index/"): GOLDEN[name] for name in GOLDEN.files if "rows_index" in name}
    for name, index in rows.items():
        expected[name][index] = GOLDEN[f"grad_rows/{name}"]
    # The same conversion that maps parameters maps their gradients; for two large tensors only some rows are stored.
    _, converted = policy_from_openai(META["policy_kwargs"], META["pi_head_kwargs"], expected)
    known = {name: np.zeros_like(value) if name in rows else np.ones_like(value) for name, value in STATE_DICT.items()}
    for name, index in rows.items():
        known[name][index] = 1
    _, converted_known = policy_from_openai(META["policy_kwargs"], META["pi_head_kwargs"], known)
    jax.tree.map_with_path(assert_gradients_close, gradients, converted, converted_known)

    second = apply(*chunk(1), memory).memory
    _, gradients = cloning_gradients(reference, 2, second)
    expected = {n: GOLDEN.get(f"chunk2_grad/{n}", np.zeros_like(v)) for n, v in STATE_DICT.items()}
    _, converted = policy_from_openai(META["policy_kwargs"], META["pi_head_kwargs"], expected)
    assert sum(f"chunk2_grad/{name}" in GOLDEN for name in STATE_DICT) == 18
    for block in ("block_0", "block_1"):
        actual, expected_tree = (tree["transformer"][block]["attention"] for tree in (gradients, converted))
        all_known = jax.tree.map(jnp.ones_like, expected_tree)
        jax.tree.map_with_path(assert_gradients_close, actual, expected_tree, all_known)


def assert_gradients_close(path, actual, expected, known):
    difference = np.linalg.norm((actual - expected) * known)
    assert difference <= 1e-3 * np.linalg.norm(expected), f"{jax.tree_util.keystr(path)}: {difference}"


def test_intermediate_values(reference):
    module, params = reference
    options = dict(capture_intermediates=True, mutable="intermediates")
    run = jax.jit(lambda *inputs: module.apply({"params": params}, *inputs, **options)[1])
    inner = run(*chunk(1), module.initial_memory(2))["intermediates"]
    for i in range(3):
        stack = inner["encoder"][f"stack_{i}"]["__call__"][0][:1]
        assert_close(np.moveaxis(stack, -1, 1), GOLDEN[f"chunk1/inner/img_process.cnn.stacks.{i}"])
    assert_close(inner["encoder"]["dense"]["__call__"][0], GOLDEN["chunk1/inner/img_process.cnn"])
    assert_close(inner["encoder"]["__call__"][0], GOLDEN["chunk1/inner/img_process"])
    for i in range(2):
        block = inner["transformer"][f"block_{i}"]["__call__"][0][0]
        assert_close(block, GOLDEN[f"chunk1/inner/recurrent_layer.blocks.{i}"])
    assert_close(inner["last"]["__call__"][0], GOLDEN["chunk1/inner/lastlayer"])
    assert_close(inner["final_norm"]["__call__"][0], GOLDEN["chunk1/inner/final_ln"])


def test_camera_is_counted_only_if_the_button_class_enables_it(apply, reference):
    output = apply(*chunk(1), reference[0].initial_memory(2))
    buttons = GOLDEN["chunk1/action/buttons"][..., 0] // 2 * 2  # even classes have the camera off
    camera = GOLDEN["chunk1/action/camera"][..., 0]
    log_probs = {head: jax.nn.log_softmax(logits) for head, logits in output.logits.items()}
    button_log_probs, camera_log_probs = (
        np.take_along_axis(log_probs[head], choice[..., None], -1)[..., 0]
        for head, choice in (("buttons", buttons), ("camera", camera))
    )
    assert_close(JointDistribution().log_prob(output.logits, JointAction(buttons, camera)), button_log_probs)
    unmasked = JointDistribution().log_prob(output.logits, JointAction(buttons, camera), mask_camera=False)
    assert_close(unmasked, button_log_probs + camera_log_probs)
    assert_close(JointDistribution().log_prob(output.logits, JointAction(buttons + 1, camera)) - camera_log_probs,
                 np.take_along_axis(log_probs["buttons"], buttons[..., None] + 1, -1)[..., 0])  # fmt: skip


@pytest.mark.parametrize("boundary", [3, pytest.param(1, marks=SLOW), pytest.param(7, marks=SLOW)])
def test_first_inside_a_chunk_masks_earlier_frames(apply, reference, boundary):
    (past, past_first), (frames, _) = chunk(1), chunk(2)
    memory = apply(past, past_first, reference[0].initial_memory(2)).memory
    first = np.zeros((2, 8), bool)
    first[0, boundary] = True
    whole = apply(frames, first, memory)
    fresh_first = np.zeros((2, 8 - boundary), bool)
    fresh_first[:, 0] = True
    before = apply(frames[:, :boundary], first[:, :boundary], memory)
    after = apply(frames[:, boundary:], fresh_first, memory)
    assert_close(whole.value[0, :boundary], before.value[0])
    assert_close(whole.value[0, boundary:], after.value[0])
    np.testing.assert_array_equal(whole.memory.mask[0], np.arange(8) >= boundary)
    follow_up = (frames, np.zeros((2, 8), bool))
    assert_close(apply(*follow_up, whole.memory).value[0], apply(*follow_up, after.memory).value[0])
    without_boundary = apply(frames, np.zeros((2, 8), bool), memory)
    assert_close(whole.value[1], without_boundary.value[1])
    assert np.abs(whole.value[0, boundary:] - without_boundary.value[0, boundary:]).max() > 50 * TOLERANCE


def parameter_shapes(module, height, width):
    frames = jax.ShapeDtypeStruct((1, 1, height, width, 3), jnp.uint8)
    first, memory = jax.ShapeDtypeStruct((1, 1), bool), jax.eval_shape(lambda: module.initial_memory(1))
    return jax.eval_shape(module.init, jax.random.key(0), frames, first, memory)["params"]


def random_params(module, height, width):
    """Parameters of a plausible scale; quicker than compiling the initializers."""
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: rng.normal(0, 0.2, leaf.shape).astype(np.float32), parameter_shapes(module, height, width)
    )


SMALL = Policy(widths=(8, 8, 8), features=32, heads=2, layers=1, memory_length=4)


@pytest.mark.parametrize("size", [(8, 8), (40, 24), (64, 64)])
def test_any_image_size_divisible_by_eight(size):
    frames, first, memory = jnp.zeros((1, 2, *size, 3), jnp.uint8), jnp.zeros((1, 2), bool), SMALL.initial_memory(1)
    output = jax.eval_shape(SMALL.apply, {"params": random_params(SMALL, *size)}, frames, first, memory)
    assert output.logits["buttons"].shape == (1, 2, 8641)


def test_other_image_sizes_are_refused():
    with pytest.raises(ValueError, match=r"20x16.*divisible by 8"):
        parameter_shapes(SMALL, 20, 16)


def small_losses(**options):
    module = SMALL.clone(**options)
    frames = jax.random.randint(jax.random.key(1), (2, 6, 32, 32, 3), 0, 256).astype(jnp.uint8)
    first = jnp.zeros((2, 6), bool).at[:, 0].set(True)

    def loss(params):
        output = module.apply({"params": params}, frames, first, module.initial_memory(2))
        return -jax.nn.log_softmax(output.logits["camera"])[..., 7].mean() + (output.value**2).mean(), output

    (value, output), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(random_params(SMALL, 32, 32))
    return value, gradients, output


@pytest.fixture(scope="module")
def plain():
    return small_losses()


@pytest.mark.parametrize("choice", REMAT[1:])
def test_remat_does_not_change_results(plain, choice):
    remat = small_losses(remat=choice)
    np.testing.assert_allclose(plain[0], remat[0], rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), plain[1], remat[1])


def test_bfloat16_computes_in_bfloat16_and_keeps_float32_parameters(plain):
    half = small_losses(dtype=jnp.bfloat16)
    assert half[2].memory.keys[0].dtype == jnp.bfloat16
    assert half[2].logits["buttons"].dtype == jnp.float32
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(half[1]))
    np.testing.assert_allclose(plain[0], half[0], rtol=0.05)
    assert plain[0] != half[0]


def test_no_attribute_has_the_name_of_a_submodule(reference):
    """`flax.nnx.bridge.ToNNX` stores submodules as attributes (notebooks/module_in_your_code.ipynb)."""
    module, params = reference
    assert not params.keys() & set(dir(module))
