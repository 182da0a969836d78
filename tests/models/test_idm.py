"""The inverse dynamics model compared with the reference's tensors (tests/golden/idm_tiny.npz); its own options."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from vpt_jax.models.factored_head import FactoredAction, FactoredDistribution
from vpt_jax.models.idm import TEMPORAL_RADIUS, InverseDynamicsModel, temporal_difference_init
from vpt_jax.models.presets import IDMS
from vpt_jax.openai.weights import idm_from_openai

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "idm_tiny.npz")
META = json.loads(str(GOLDEN["meta"]))
STATE_DICT = {name.removeprefix("param/"): GOLDEN[name] for name in GOLDEN.files if name.startswith("param/")}
FRAMES = GOLDEN["img"]
BUTTONS = GOLDEN["action/buttons"].astype(np.uint8)
ACTION = FactoredAction(BUTTONS, GOLDEN["action/camera"])
TOLERANCE = 2e-4


def convert(state_dict):
    return idm_from_openai(META["idm_net_kwargs"], META["pi_head_kwargs"], state_dict)


@pytest.fixture(scope="module")
def reference():
    return convert(STATE_DICT)


@pytest.fixture(scope="module")
def apply(reference):
    module, params = reference
    return jax.jit(lambda *inputs: module.apply({"params": params}, *inputs).logits)


def assert_close(actual, expected, name=""):
    np.testing.assert_allclose(actual, np.asarray(expected).reshape(actual.shape), atol=TOLERANCE, rtol=0, err_msg=name)


def test_logits_equal_the_references(apply):
    logits = apply(FRAMES)
    assert logits["buttons"].shape == (2, 16, 20, 2)
    assert logits["camera"].shape == (2, 16, 2, 11)
    for head, head_logits in logits.items():
        assert_close(jax.nn.log_softmax(head_logits), GOLDEN[f"logp/{head}"], head)
        np.testing.assert_array_equal(head_logits.argmax(-1), GOLDEN[f"argmax/{head}"])
    total = sum(GOLDEN[f"action_logp/{head}"] for head in ("buttons", "camera"))
    assert_close(FactoredDistribution().log_prob(logits, ACTION), total)


def test_a_padded_window_equals_a_shorter_one(apply):
    length = META["short"]
    valid = np.broadcast_to(np.arange(16) < length, (2, 16))
    padded = apply(FRAMES * valid[..., None, None, None], valid)
    for head, logits in apply(FRAMES[:, :length]).items():
        assert_close(jax.nn.log_softmax(logits), GOLDEN[f"short/logp/{head}"], head)
        assert_close(jax.nn.log_softmax(padded[head][:, :length]), GOLDEN[f"short/logp/{head}"], head)


def test_intermediate_values(reference):
    module, params = reference
    options = dict(capture_intermediates=True, mutable="intermediates")
    inner = jax.jit(lambda frames: module.apply({"params": params}, frames, **options)[1])(FRAMES)["intermediates"]
    last_frames = np.moveaxis(inner["temporal"]["__call__"][0][-1:, :, ::8, ::8], -1, 1)
    assert_close(last_frames, GOLDEN["inner/conv3d_layer.last_batch_element_every_8th_pixel"])
    assert_close(inner["encoder"]["dense"]["__call__"][0], GOLDEN["inner/img_process.cnn"])
    assert_close(inner["encoder"]["__call__"][0], GOLDEN["inner/img_process"])
    for i in range(2):
        block = inner["transformer"][f"block_{i}"]["__call__"][0][0]
        assert_close(block, GOLDEN[f"inner/recurrent_layer.blocks.{i}"])
    assert_close(inner["final_norm"]["__call__"][0], GOLDEN["inner/final_ln"])


def test_gradients_equal_the_references(reference):
    module, params = reference

    def loss(params):
        logits = module.apply({"params": params}, FRAMES).logits
        return -FactoredDistribution().log_prob(logits, ACTION).mean()

    value, gradients = jax.jit(jax.value_and_grad(loss))(params)
    np.testing.assert_allclose(value, GOLDEN["bc_loss"], atol=5e-6)
    expected = {name: np.array(GOLDEN.get(f"grad/{name}", np.zeros_like(v))) for name, v in STATE_DICT.items()}
    known = {name: np.ones_like(value) for name, value in STATE_DICT.items()}
    for name in (name.removeprefix("grad_rows/") for name in GOLDEN.files if name.startswith("grad_rows/")):
        rows = GOLDEN[f"grad_rows_index/{name}"]  # for the largest tensor, only some rows are stored
        known[name] = np.zeros_like(known[name])
        known[name][rows], expected[name][rows] = 1, GOLDEN[f"grad_rows/{name}"]
    jax.tree.map_with_path(assert_gradients_close, gradients, convert(expected)[1], convert(known)[1])


def assert_gradients_close(path, actual, expected, known):
    difference = np.linalg.norm((actual - expected) * known)
    assert difference <= 1e-3 * np.linalg.norm(expected), f"{jax.tree_util.keystr(path)}: {difference}"


def test_use_last_switches_the_last_layer(reference, apply):
    module, params = reference
    without = apply(FRAMES)["camera"]
    with_last = jax.jit(module.clone(use_last=True).apply)({"params": params}, FRAMES).logits["camera"]
    assert np.abs(without - with_last).max() > 100 * TOLERANCE
    assert InverseDynamicsModel(**IDMS["tiny"]).use_last


def test_embeddings_depend_on_a_frame_and_two_neighbours_on_each_side(reference):
    module, params = reference
    changed = FRAMES.copy()
    changed[:, 8] = 255 - changed[:, 8]
    embed = jax.jit(lambda frames: module.apply({"params": params}, frames, method="embed"))
    before, after = embed(FRAMES), embed(changed)
    differs = np.abs(before - after).max((0, 2)) > 0
    np.testing.assert_array_equal(np.flatnonzero(differs) + TEMPORAL_RADIUS, [6, 7, 8, 9, 10])


def test_without_the_temporal_convolution_an_embedding_depends_on_its_frame_alone():
    module = InverseDynamicsModel(**IDMS["nano"], temporal_convolution=False)
    frames = np.random.default_rng(0).integers(0, 256, (1, 9, 8, 8, 3)).astype(np.uint8)
    shapes = jax.eval_shape(module.init, jax.random.key(0), frames)["params"]
    assert "temporal" not in shapes
    params = jax.tree.map(lambda leaf: np.random.default_rng(1).normal(size=leaf.shape).astype(np.float32), shapes)
    embed = jax.jit(lambda frames: module.apply({"params": params}, frames, method="embed"))
    changed = frames.copy()
    changed[:, 4] = 255 - changed[:, 4]
    before, after = embed(frames), embed(changed)
    assert before.shape[1] == 5
    assert np.flatnonzero(np.abs(before - after).max((0, 2)) > 0).tolist() == [2]


def test_unsupported_settings_are_refused():
    settings = META["idm_net_kwargs"]
    wider = settings | {"conv3d_params": settings["conv3d_params"] | {"kernel_size": [7, 1, 1]}}
    with pytest.raises(ValueError, match=r"'conv3d_params' is .*\[7, 1, 1\].*only .*\[5, 1, 1\]"):
        idm_from_openai(wider, META["pi_head_kwargs"], STATE_DICT)
    with pytest.raises(ValueError, match="'attention_mask_style' is 'clipped_causal'; only 'none'"):
        idm_from_openai(settings | {"attention_mask_style": "clipped_causal"}, {}, STATE_DICT)


def test_initial_temporal_filters_are_differences_and_single_frames():
    kernel = np.asarray(temporal_difference_init(jax.random.key(0), (15, 32))).reshape(5, 3, 32)
    differences, single_frames = kernel[..., :24], kernel[..., 24:]
    np.testing.assert_array_equal(differences.sum(0), 0)  # a static picture gives 0
    np.testing.assert_array_equal(differences[..., :12], -differences[..., 12:])
    assert ((differences != 0).any(1).sum(0) == 2).all()  # two frames each
    assert {tuple(np.flatnonzero(frames)) for frames in (differences != 0).any(1).T} >= {(2, 3), (1, 2), (1, 4)}
    assert (single_frames[[0, 1, 3, 4]] == 0).all()
    assert (single_frames[2] > 0).all()  # so that the ReLU passes all of it
