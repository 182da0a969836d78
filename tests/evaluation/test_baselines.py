"""Trivial baselines compared with their definitions in plain loops."""

import math
from collections import Counter

import numpy as np
import pytest

from vpt_jax.actions.joint import JointAction, joint_from_raw
from vpt_jax.actions.minerl import CAMERA, MINERL
from vpt_jax.data.mixture import MixtureStream
from vpt_jax.data.streams import Part, Stream, StreamSettings
from vpt_jax.evaluation.baselines import FactoredMarginal, Marginal, idm_baselines, label_baselines, policy_baselines
from vpt_jax.evaluation.metrics import compute_metrics, sum_totals

from ..data.tiny import write_dataset


def test_marginal_is_a_distribution_and_close_to_the_frequencies():
    actions = JointAction(np.array([1, 1, 1, 3, 0, 0]), np.array([7, 7, 60, 9, 60, 60]))
    marginal = Marginal.fit(MINERL, actions)
    assert marginal.buttons.sum() == pytest.approx(1)
    assert marginal.camera.sum() == pytest.approx(1)
    unseen = (1 + 1) / (6 + 1)  # one class of six was seen once
    expected = math.log((1 - unseen) * 3 / 6 + unseen / 8641)
    camera_unseen = (2 + 1) / (4 + 1)  # four frames have the camera on; classes 60 and 9 seen once
    expected_camera = math.log((1 - camera_unseen) * 2 / 4 + camera_unseen / 121)
    log_prob = marginal.log_prob(MINERL, JointAction(np.array([1, 0]), np.array([7, 7])))
    assert log_prob[0] == pytest.approx(expected + expected_camera)
    assert log_prob[1] == pytest.approx(math.log((1 - unseen) * 2 / 6 + unseen / 8641))  # camera off


@pytest.fixture(scope="module")
def streams(dataset_dir):
    make = lambda split: Stream(StreamSettings(str(dataset_dir), split, 8, 6, "drop", shuffle=False))  # noqa: E731
    return make("train"), make("valid")


def test_policy_baselines_equal_plain_loops(streams):
    train, valid = streams
    figures = policy_baselines(train, valid)
    seen = [joint_from_raw(MINERL, *(part[train.kept(e)] for part in train.actions(e))) for e in range(7)]
    marginal = Marginal.fit(MINERL, JointAction(*(np.concatenate(part) for part in zip(*seen, strict=True))))
    most_frequent = Counter(np.concatenate([actions.buttons for actions in seen])).most_common(1)[0][0]
    stays = total = 0
    for actions in seen:
        last = (0, 60)
        for action in zip(*actions, strict=True):
            stays += action[0] == last[0] and (action[1] == last[1] or action[0] % 2 == 0)
            total, last = total + 1, action
    losses, repeat_losses, camera_hits = [], [], 0
    for episode in range(2):
        last = (0, 60)
        for buttons, camera in zip(
            *joint_from_raw(MINERL, *(p[valid.kept(episode)] for p in valid.actions(episode))), strict=True
        ):
            losses.append(-marginal.log_prob(MINERL, JointAction(np.array([buttons]), np.array([camera])))[0])
            repeats = buttons == last[0] and (camera == last[1] or buttons % 2 == 0)
            chance = (1 - stays / total) * math.exp(-losses[-1]) + stays / total * repeats
            repeat_losses.append(-math.log(chance))
            camera_hits += (camera if buttons % 2 else 60) == (last[1] if last[0] % 2 else 60)
            last = (buttons, camera)
    assert figures["marginal"]["nll"] == pytest.approx(np.mean(losses))
    assert figures["repeat"]["nll"] == pytest.approx(np.mean(repeat_losses))
    assert figures["repeat"]["camera_accuracy"] == pytest.approx(camera_hits / len(losses))
    assert marginal.mode(1).buttons[0] == most_frequent
    assert figures["marginal"]["frames"] == figures["repeat"]["frames"] == valid.num_frames


@pytest.fixture(scope="module", params=[0.0, 0.1], ids=["all", "6 seconds"])
def episodes(dataset_dir, request):
    """Streams with all null actions, and the rows of 22 choices (buttons, camera bins) of each episode in use."""

    def read(split, minutes):
        stream = Stream(StreamSettings(str(dataset_dir), split, 8, 6, "keep", shuffle=False, minutes=minutes))
        used = [[field[:n] for field in stream.actions(e)] for e, n in enumerate(stream.lengths) if n]
        return stream, [[[*b, *CAMERA.to_bins(c)] for b, c in zip(*fields, strict=True)] for fields in used]

    return read("train", request.param), read("valid", 0.0)


NULL_ROW = [0] * 20 + [5, 5]


def share(train, choice, value):
    """Smoothed frequency of a choice's value."""
    counts = Counter(row[choice] for episode in train for row in episode)
    total, classes = sum(counts.values()), 2 if choice < 20 else 11
    unseen = (sum(number == 1 for number in counts.values()) + 1) / (total + 1)
    return (1 - unseen) * counts[value] / total + unseen / classes


def test_factored_marginal_equals_plain_loops(episodes):
    (stream, train), _ = episodes
    assert sum(map(len, train)) in (400, 120)
    marginal = FactoredMarginal.from_stream(stream)
    for choice, frequencies in enumerate([*marginal.buttons, *marginal.camera]):
        assert frequencies.sum() == pytest.approx(1)
        assert frequencies.tolist() == pytest.approx([share(train, choice, v) for v in range(len(frequencies))])


def test_idm_baselines_equal_plain_loops(episodes):
    (train_stream, train), (valid_stream, valid) = episodes
    figures = idm_baselines(train_stream, valid_stream)
    stays, total = np.zeros(22), sum(map(len, train))
    for episode in train:
        for last, row in zip([NULL_ROW, *episode], episode, strict=False):
            stays += np.equal(last, row)
    stays = (stays + 1) / (total + 2)
    chances = {(choice, v): share(train, choice, v) for choice in range(22) for v in range(2 if choice < 20 else 11)}
    released, repeat, key_hits, exact = [], [], 0, 0
    for episode in valid:
        for last, row in zip([NULL_ROW, *episode], episode, strict=False):
            row_chances = [chances[choice, value] for choice, value in enumerate(row)]
            released.append(-sum(map(math.log, row_chances)))
            mixed = [(1 - s) * c + s * (a == b) for s, c, a, b in zip(stays, row_chances, last, row, strict=True)]
            repeat.append(-sum(map(math.log, mixed)))
            key_hits += sum(a == b for a, b in zip(last[:20], row[:20], strict=True))
            exact += last[:20] == row[:20]
    assert figures["released"]["nll"] == pytest.approx(np.mean(released))
    assert figures["repeat"]["nll"] == pytest.approx(np.mean(repeat))
    assert figures["repeat"]["key_accuracy"] == pytest.approx(key_hits / len(released) / 20)
    assert figures["repeat"]["key_exact"] == pytest.approx(exact / len(released))
    assert figures["released"]["f1/mean"] == 0
    assert figures["released"]["key_exact"] == np.mean([not any(row[:20]) for episode in valid for row in episode])


def test_label_baselines_equal_idm_baselines_by_episode(episodes):
    (train, _), (stream, valid) = episodes
    totals, figures = label_baselines(stream), idm_baselines(train, stream)
    for name, by_episode in totals.items():
        assert [int(each.frames) for each in by_episode] == [len(episode) for episode in valid]
        together = compute_metrics(MINERL, sum_totals(by_episode))
        assert math.isnan(together.pop("nll"))
        assert together.items() <= figures[name].items()


@pytest.fixture(scope="module")
def mixture(dataset_dir, tmp_path_factory):
    """Six rows of a dataset of 400 frames, and two of one of 21 frames."""
    small = write_dataset(tmp_path_factory.mktemp("mixed") / "small", (9, 12), size=32)
    parts = [
        Part(name, Stream(StreamSettings(str(folder), "train", rows, 2, "keep")), rows / 8)
        for name, folder, rows in (("large", dataset_dir, 6), ("small", small, 2))
    ]
    return MixtureStream(parts, 8)


def test_baselines_weight_the_datasets_of_a_mixture_by_their_frames_in_a_step(mixture, streams):
    frames = np.array([400 / 34, 21 / 6])  # steps of one pass: 400 / (6 x 2) and 21 / (2 x 2), rounded up
    shares = frames / frames.sum()
    played = [[part.stream.actions(e) for e in range(len(part.stream.index.names))] for part in mixture.parts]
    buttons = [np.concatenate([buttons for buttons, _ in episodes]) for episodes in played]
    unseen = 1 / (421 + 1)  # no button is pressed, or not pressed, in one frame only
    marginal = FactoredMarginal.from_stream(mixture)
    seen = shares @ [each.mean(0) for each in buttons]
    often = [key for key in range(20) if 2 <= np.concatenate(buttons)[:, key].sum() <= 419]
    assert len(often) == 20
    np.testing.assert_allclose(marginal.buttons[:, 1], (1 - unseen) * seen + unseen / 2)
    np.testing.assert_allclose(marginal.camera.sum(1), 1)

    _, valid = streams
    figures, joint = policy_baselines(mixture, valid), Marginal.from_stream(mixture)
    np.testing.assert_allclose([joint.buttons.sum(), joint.camera.sum()], 1)
    repeats = []
    for episodes in played:
        same = [is_repeated(joint_from_raw(MINERL, *actions)) for actions in episodes]
        repeats.append(np.concatenate(same).mean())
    share, losses = shares @ repeats, []
    for episode in range(2):
        actions = joint_from_raw(MINERL, *(part[valid.kept(episode)] for part in valid.actions(episode)))
        losses.append(-np.log((1 - share) * np.exp(joint.log_prob(MINERL, actions)) + share * is_repeated(actions)))
    assert figures["repeat"]["nll"] == pytest.approx(np.concatenate(losses).mean())
    assert idm_baselines(mixture, valid)["repeat"]["nll"] > 0


def is_repeated(actions):
    last, same = (0, 60), []
    for button, camera in zip(*actions, strict=True):
        same.append(button == last[0] and (camera == last[1] or button % 2 == 0))
        last = button, camera
    return np.array(same)
