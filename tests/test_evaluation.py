"""Figures against counting by hand, and baselines against their definition in plain loops."""

import math
from collections import Counter

import jax
import numpy as np
import pytest

from vpt_jax import parallel
from vpt_jax.actions import BUTTON_INDEX, JointAction, joint_from_factored, joint_from_raw
from vpt_jax.data.batch import Batch
from vpt_jax.data.streams import Stream, StreamSettings
from vpt_jax.evaluation import Marginal, baseline_metrics, count, evaluator, metrics
from vpt_jax.models.heads import joint_log_prob, most_probable
from vpt_jax.models.policy import Policy

ATTACK, JUMP = BUTTON_INDEX["attack"], BUTTON_INDEX["jump"]


def joint(rows):
    """Joint actions of (attack, jump, pitch bin, yaw bin) rows."""
    buttons = np.zeros((len(rows), 20), np.uint8)
    buttons[:, [ATTACK, JUMP]] = [row[:2] for row in rows]
    return joint_from_factored(buttons, np.array([row[2:] for row in rows]))


def test_counts_by_hand():
    actual = joint([(1, 0, 5, 5), (1, 1, 5, 7), (0, 1, 4, 5), (1, 1, 9, 9)])
    predicted = joint([(1, 0, 5, 5), (0, 1, 5, 7), (1, 1, 5, 5), (1, 1, 9, 9)])
    loss, valid = np.array([1.0, 2.0, 4.0, 100.0]), np.array([True, True, True, False])
    figures = metrics(count(loss, predicted, actual, valid))
    assert figures["nll"] == pytest.approx(7 / 3)
    assert figures["f1/attack"] == pytest.approx(2 * 1 / (2 + 2))  # 1 hit, 2 predicted, 2 pressed
    assert figures["f1/jump"] == pytest.approx(2 * 2 / (2 + 2))
    assert figures["f1/mean"] == pytest.approx(0.75)
    assert figures["camera_accuracy"] == pytest.approx(2 / 3)
    assert figures["camera_accuracy_moving"] == pytest.approx(1 / 2)


def test_marginal_is_a_distribution_and_close_to_the_frequencies():
    actions = JointAction(np.array([1, 1, 1, 3, 0, 0]), np.array([7, 7, 60, 9, 60, 60]))
    marginal = Marginal.fit(actions)
    assert marginal.buttons.sum() == pytest.approx(1)
    assert marginal.camera.sum() == pytest.approx(1)
    unseen = (1 + 1) / (6 + 1)  # one class of six was seen once
    expected = math.log((1 - unseen) * 3 / 6 + unseen / 8641)
    camera_unseen = (2 + 1) / (4 + 1)  # four frames have the camera on; classes 60 and 9 seen once
    expected_camera = math.log((1 - camera_unseen) * 2 / 4 + camera_unseen / 121)
    log_prob = marginal.log_prob(JointAction(np.array([1, 0]), np.array([7, 7])))
    assert log_prob[0] == pytest.approx(expected + expected_camera)
    assert log_prob[1] == pytest.approx(math.log((1 - unseen) * 2 / 6 + unseen / 8641))  # camera off


@pytest.fixture(scope="module")
def streams(dataset_dir):
    make = lambda split: Stream(StreamSettings(str(dataset_dir), split, 8, 6, "drop", shuffle=False))  # noqa: E731
    return make("train"), make("valid")


def test_baselines_in_plain_loops(streams):
    train, valid = streams
    figures = baseline_metrics(train, valid)
    seen = [joint_from_raw(*(part[train.kept(e)] for part in train.actions(e))) for e in range(7)]
    marginal = Marginal.fit(JointAction(*(np.concatenate(part) for part in zip(*seen, strict=True))))
    most_frequent = Counter(np.concatenate([actions.buttons for actions in seen])).most_common(1)[0][0]
    stays = total = 0
    for actions in seen:
        last = (0, 60)
        for action in zip(*actions, strict=True):
            stays += action[0] == last[0] and (action[1] == last[1] or action[0] % 2 == 0)
            total, last = total + 1, action
    losses, repeat_losses, right = [], [], 0
    for episode in range(2):
        last = (0, 60)
        for buttons, camera in zip(
            *joint_from_raw(*(p[valid.kept(episode)] for p in valid.actions(episode))), strict=True
        ):
            losses.append(-marginal.log_prob(JointAction(np.array([buttons]), np.array([camera])))[0])
            repeats = buttons == last[0] and (camera == last[1] or buttons % 2 == 0)
            chance = (1 - stays / total) * math.exp(-losses[-1]) + stays / total * repeats
            repeat_losses.append(-math.log(chance))
            right += (camera if buttons % 2 else 60) == (last[1] if last[0] % 2 else 60)
            last = (buttons, camera)
    assert figures["marginal"]["nll"] == pytest.approx(np.mean(losses))
    assert figures["repeat"]["nll"] == pytest.approx(np.mean(repeat_losses))
    assert figures["repeat"]["camera_accuracy"] == pytest.approx(right / len(losses))
    assert marginal.mode(1).buttons[0] == most_frequent
    assert figures["marginal"]["frames"] == figures["repeat"]["frames"] == valid.num_frames


def test_the_evaluator_agrees_with_one_long_pass(streams):
    """Chunks with carried memory and padded rows, against each row's frames in one go."""
    _, valid = streams
    policy = Policy(widths=(8, 8, 8), features=32, heads=2, layers=1, memory_length=8)
    rows = [[valid.read(step, [row]) for step in range(valid.steps_per_epoch)] for row in range(8)]
    shapes = jax.eval_shape(
        policy.init, jax.random.key(0), rows[0][0].frames, rows[0][0].first, policy.initial_memory(1)
    )
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), shapes["params"])

    mesh = parallel.make_mesh()
    batches = lambda: (  # noqa: E731
        parallel.global_batch(valid.read(step, range(8)), mesh, 8) for step in range(valid.steps_per_epoch)
    )
    baselines = {"marginal": {"nll": 5.0}}
    figures = evaluator(policy, batches, 8, parallel.batch_sharding(mesh), baselines)(params)

    totals = []
    for row in rows:
        whole = Batch(*(np.concatenate(field, axis=1) for field in zip(*row, strict=True)))
        output = policy.apply({"params": params}, whole.frames, whole.first, policy.initial_memory(1))
        actual = joint_from_raw(whole.buttons, whole.camera)
        loss = -joint_log_prob(output.logits, actual)
        totals.append(count(loss, most_probable(output.logits), actual, whole.valid))
    expected = metrics(jax.tree.map(lambda *parts: sum(parts), *totals))
    assert expected["frames"] == valid.num_frames
    assert figures.pop("marginal/nll") == 5.0
    assert figures == pytest.approx({f"valid/{name}": value for name, value in expected.items()}, rel=1e-4)
    assert expected["camera_accuracy_moving"] > 0


def test_the_most_probable_inventory_leaves_the_camera_still():
    logits = {"buttons": np.zeros((2, 8641)), "camera": np.zeros((2, 121))}
    logits["buttons"][:, [8640, 5]] = np.diag([1, 1])  # inventory; attack while turning
    logits["camera"][:, 7] = 1
    said = most_probable(logits)
    assert (said.buttons.tolist(), said.camera.tolist()) == ([8640, 5], [60, 7])
