"""Labels of spans compared with the model applied window by window; effect of shared embeddings; sampling."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax

from vpt_jax.actions.minerl import BUTTON_INDEX, CAMERA, MINERL
from vpt_jax.labelling.model import average_mirrored, label_spans, labels_from_logits
from vpt_jax.labelling.plan import Spans
from vpt_jax.models.idm import InverseDynamicsModel

IDM = InverseDynamicsModel(temporal_features=4, widths=(4,), features=16, heads=2, layers=1)
WINDOW, WINDOWS, ROWS, SIZE = 8, 4, 3, 16
LENGTH = (WINDOWS + 1) * WINDOW // 2
INTERIOR = slice(2, WINDOW - 2)  # these embeddings depend on no frame beyond their window
KEPT = slice(WINDOW // 4, WINDOW - WINDOW // 4)
ROUNDING = 1e-5  # of log-probabilities, between equivalent programs; measured: 3e-6


def random_params(seed=0):
    """Parameters of a plausible scale; quicker than compiling the initializers."""
    rng = np.random.default_rng(seed)
    frames = jax.ShapeDtypeStruct((1, 1, SIZE, SIZE, 3), jnp.uint8)
    shapes = jax.eval_shape(IDM.init, jax.random.key(0), frames)["params"]
    return jax.tree.map(lambda leaf: rng.normal(0, 0.2, leaf.shape).astype(np.float32), shapes)


def random_spans(seed=0, video_frames=1000):
    """Spans from the start of videos; black before, and beyond the end."""
    frames = np.random.default_rng(seed).integers(0, 256, (ROWS, LENGTH + 4, SIZE, SIZE, 3)).astype(np.uint8)
    frames[:, :2] = frames[:, video_frames + 2 :] = 0
    valid = np.broadcast_to(np.arange(LENGTH) < video_frames, (ROWS, LENGTH))
    return Spans(frames, valid, np.array([(5, 0), (2, 15), (9, 30)]))


@cache
def compiled(mode, choice, mirror=False):
    return jax.jit(partial(label_spans, IDM, WINDOW, mode, choice, mirror=mirror))


def label(mode, spans, params=None, choice="argmax", seed=0, mirror=False):
    labels = compiled(mode, choice, mirror)(params or random_params(), jax.random.key(seed), spans)
    return jax.tree.map(np.asarray, labels)


apply_window = jax.jit(lambda params, frames, valid: IDM.apply({"params": params}, frames, valid).logits)
embed = jax.jit(lambda params, frames: IDM.apply({"params": params}, frames, method="embed"))


def assert_same_labels(actual, expected):
    for name in ("buttons", "camera"):
        np.testing.assert_array_equal(getattr(actual, name), getattr(expected, name))
    np.testing.assert_allclose(np.log(actual.confidence), np.log(expected.confidence), atol=ROUNDING)


@pytest.mark.parametrize("video_frames", [1000, 11])
def test_exact_mode_equals_the_model_applied_window_by_window(video_frames):
    params, spans = random_params(), random_spans(0, video_frames)
    labels = label("exact", spans, params)
    assert labels.buttons.shape == (ROWS, WINDOWS, WINDOW, 20)
    assert labels.camera.shape == (ROWS, WINDOWS, WINDOW, 2)
    for i, start in enumerate(range(0, LENGTH - WINDOW + 1, WINDOW // 2)):
        frames = spans.frames[:, 2:-2][:, start : start + WINDOW]
        logits = apply_window(params, frames, spans.valid[:, start : start + WINDOW])
        np.testing.assert_array_equal(labels.buttons[:, i], logits["buttons"].argmax(-1))
        np.testing.assert_array_equal(CAMERA.to_bins(labels.camera[:, i]), logits["camera"].argmax(-1))
        log_probs = sum(jax.nn.log_softmax(head_logits).max(-1).sum(-1) for head_logits in logits.values())
        np.testing.assert_allclose(np.log(labels.confidence[:, i]), log_probs, atol=ROUNDING)


@pytest.mark.parametrize("video_frames", [1, 7, WINDOW])
def test_shared_mode_equals_exact_mode_for_videos_of_one_window(video_frames):
    spans = random_spans(0, video_frames)
    exact, shared = (label(mode, spans) for mode in ("exact", "shared"))
    for field, expected in zip(shared, exact, strict=True):
        np.testing.assert_allclose(field[:, 0], expected[:, 0], rtol=ROUNDING)


def test_only_the_embeddings_of_the_outermost_frames_depend_on_other_windows():
    params, spans = random_params(), random_spans()
    span_embeddings = embed(params, spans.frames)
    for start in range(0, LENGTH - WINDOW + 1, WINDOW // 2):
        window = np.pad(spans.frames[:, 2:-2][:, start : start + WINDOW], [(0, 0), (2, 2), (0, 0), (0, 0), (0, 0)])
        separate, shared = np.asarray(embed(params, window)), np.asarray(span_embeddings[:, start : start + WINDOW])
        np.testing.assert_allclose(shared[:, INTERIOR], separate[:, INTERIOR], atol=1e-5)
        differences = np.abs(shared - separate).max((0, 2))
        assert differences[[-2, -1]].min() > 1e-2
        assert (differences[[0, 1]].min() > 1e-2) == (start > 0)  # before a video all is black in both modes


@pytest.mark.parametrize("video_frames", [1000, 11])
def test_shared_mode_equals_exact_mode_without_temporal_filters(video_frames):
    params, spans = random_params(), random_spans(0, video_frames)
    kernel = params["temporal"]["conv"]["kernel"].reshape(5, 3, -1)
    kernel[[0, 1, 3, 4]] = 0
    assert_same_labels(label("shared", spans, params), label("exact", spans, params))


def test_shared_mode_differs_little_from_exact_mode():
    """Measured, over eight random models of this size: of the kept choices, 48 of 8,448 differ, and no kept label's
    log-probability by more than 0.093 nats. This does not transfer to trained models."""
    same, change = [], []
    for seed in range(8):
        params, spans = random_params(seed), random_spans(seed)
        exact, shared = (label(mode, spans, params) for mode in ("exact", "shared"))
        same += [(getattr(exact, name) == getattr(shared, name))[:, :, KEPT] for name in ("buttons", "camera")]
        change.append(np.abs(np.log(exact.confidence) - np.log(shared.confidence))[:, :, KEPT].max())
    assert np.concatenate(same, -1).mean() > 0.994
    assert 100 * ROUNDING < max(change) < 0.093


def test_samples_depend_on_seed_and_span_alone():
    spans = random_spans()
    drawn = label("shared", spans, choice="sample")
    order = np.array([2, 0, 1])
    moved = label("shared", Spans(*(field[order] for field in spans)), choice="sample")
    assert_same_labels(moved, type(drawn)(*(field[order] for field in drawn)))

    frames = spans.frames.copy()
    frames[1:] = 255 - frames[1:]
    other_rows = label(
        "shared", spans._replace(frames=frames, origin=np.array([spans.origin[0], (7, 0), (1, 0)])), choice="sample"
    )
    for changed, field in zip(other_rows, drawn, strict=True):
        np.testing.assert_allclose(changed[0], field[0], rtol=1e-4)
        assert (changed[1:] != field[1:]).any()

    again = label("shared", spans, choice="sample")
    other_seed = label("shared", spans, choice="sample", seed=1)
    other_span = label("shared", spans._replace(origin=spans.origin + np.array([0, 40])), choice="sample")
    for field, same, *others in zip(drawn, again, other_seed, other_span, strict=True):
        np.testing.assert_array_equal(same, field)
        assert all((other != field).any() for other in others)


def test_every_window_is_sampled_independently():
    spans = random_spans()._replace(
        frames=np.zeros((ROWS, LENGTH + 4, SIZE, SIZE, 3), np.uint8),
        origin=np.stack([np.arange(ROWS), np.zeros(ROWS, int)], -1),
    )
    drawn = label("shared", spans, choice="sample").buttons.reshape(ROWS * WINDOWS, -1)
    assert len(np.unique(drawn, axis=0)) == ROWS * WINDOWS


FRAMES = 20_000


@pytest.fixture(scope="module")
def logits():
    """Random logits, equal in all frames."""
    rng = np.random.default_rng(0)
    by_head = {"buttons": rng.normal(0, 1, (20, 2)), "camera": rng.normal(0, 1, (2, 11))}
    return {head: np.broadcast_to(row, (2, FRAMES, *row.shape)).astype(np.float32) for head, row in by_head.items()}


@pytest.mark.parametrize("mode", ["shared", pytest.param("exact", marks=pytest.mark.slow)])
def test_with_mirror_a_mirrored_video_has_mirrored_labels(mode):
    spans = random_spans()
    mirrored = spans._replace(frames=spans.frames[..., ::-1, :])
    left, right = BUTTON_INDEX["left"], BUTTON_INDEX["right"]
    plain, other = (label(mode, film, choice="mean", mirror=True) for film in (spans, mirrored))
    np.testing.assert_allclose(other.camera, plain.camera * [1, -1], atol=1e-4)
    np.testing.assert_array_equal(other.buttons[..., [left, right]], plain.buttons[..., [right, left]])
    assert (
        np.abs(plain.camera - label(mode, spans, choice="mean").camera).max() > 0.1
    )  # differs from the prediction of one view


def test_the_average_of_views_is_taken_over_probabilities():
    rng = np.random.default_rng(0)
    plain, other = ({"buttons": rng.normal(size=(1, 1, 20, 2)), "camera": rng.normal(size=(1, 1, 2, 11))} for _ in "ab")
    found = {
        head: np.exp(head_logits)[0, 0]
        for head, head_logits in average_mirrored(MINERL, plain, jax.tree.map(jnp.asarray, other)).items()
    }
    p, q = (
        {head: softmax(head_logits[0, 0], axis=-1) for head, head_logits in view.items()} for view in (plain, other)
    )
    left, right, jump = (BUTTON_INDEX[key] for key in ("left", "right", "jump"))
    for key, opposite in ((left, right), (right, left), (jump, jump)):
        np.testing.assert_allclose(found["buttons"][key], (p["buttons"][key] + q["buttons"][opposite]) / 2, rtol=1e-5)
    np.testing.assert_allclose(found["camera"][0], (p["camera"][0] + q["camera"][0]) / 2, rtol=1e-5)
    np.testing.assert_allclose(found["camera"][1], (p["camera"][1] + q["camera"][1][::-1]) / 2, rtol=1e-5)


def choose_all(logits, choice):
    rngs = jax.random.split(jax.random.key(0), 2)
    return jax.tree.map(
        np.asarray, jax.jit(partial(labels_from_logits, MINERL), static_argnums=1)(logits, choice, rngs)
    )


def probabilities(logits):
    return {
        head: np.exp(head_logits[0, 0]) / np.exp(head_logits[0, 0]).sum(-1, keepdims=True)
        for head, head_logits in logits.items()
    }


def test_confidence_is_the_product_of_the_choices_probabilities(logits):
    buttons, camera = probabilities(logits).values()
    expected = buttons.max(-1).prod() * camera.max(-1).prod()
    np.testing.assert_allclose(choose_all(logits, "argmax").confidence, expected, rtol=1e-5)

    labels = choose_all(logits, "sample")
    for row, frame in np.ndindex(2, 10):
        expected = 1
        for i, pressed in enumerate(labels.buttons[row, frame]):
            expected *= buttons[i, pressed]
        for i, camera_bin in enumerate(CAMERA.to_bins(labels.camera[row, frame])):
            expected *= camera[i, camera_bin]
        np.testing.assert_allclose(labels.confidence[row, frame], expected, rtol=1e-5)


def test_the_mean_of_the_camera_has_the_least_squared_error(logits):
    labels, (buttons, camera) = choose_all(logits, "mean"), probabilities(logits).values()
    answers = np.linspace(-10, 10, 2001)
    errors = ((answers[:, None, None] - CAMERA.centres) ** 2 * camera).sum(-1)
    np.testing.assert_allclose(labels.camera, np.broadcast_to(answers[errors.argmin(0)], (2, FRAMES, 2)), atol=0.0051)
    np.testing.assert_array_equal(labels.buttons, choose_all(logits, "argmax").buttons)
    bins = CAMERA.to_bins(labels.camera[0, 0])
    expected = buttons.max(-1).prod() * camera[0, bins[0]] * camera[1, bins[1]]
    np.testing.assert_allclose(labels.confidence, expected, rtol=1e-5)


def test_sample_frequencies_match_probabilities_and_are_independent(logits):
    labels = choose_all(logits, "sample")
    bins = CAMERA.to_bins(labels.camera)
    for drawn, expected in zip((labels.buttons, bins), probabilities(logits).values(), strict=True):
        for choice, classes in enumerate(expected):
            for number, p in enumerate(classes):
                frequency = (drawn[..., choice] == number).mean(-1)
                np.testing.assert_allclose(frequency, p, atol=5 * np.sqrt(p * (1 - p) / FRAMES))
    rows = np.concatenate([labels.buttons, bins], -1).transpose(1, 0, 2).reshape(FRAMES, -1)
    correlation = np.corrcoef(rows, rowvar=False)[~np.eye(44, dtype=bool)]
    assert np.abs(correlation).max() < 5 / np.sqrt(FRAMES)
