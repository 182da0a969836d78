"""Report of the whole loop: its claims and figures are computed from the given runs and labels."""

import json
import re
import shutil

import numpy as np
import pytest
from demo.loop_report import Runs, write_loop_report

from vpt_jax.actions.minerl import BUTTON_INDEX, CAMERA, MINERL
from vpt_jax.data.dataset import load_index, open_records, write_index, write_metadata, write_space
from vpt_jax.data.streams import Stream, StreamSettings
from vpt_jax.evaluation.baselines import policy_baselines
from vpt_jax.evaluation.metrics import compute_metrics, confidence_intervals, label_totals, sum_totals
from vpt_jax.video import decode

from ..html_page import Page

NAMES = ("key_accuracy", "key_exact", "f1/mean", "camera_accuracy_moving", "mouse_r2/pitch", "mouse_r2/yaw")


def write_labels(folder, recorded, pitch=0.9):
    """Writes labels of recorded episodes, without frames: every third frame has the next one's keys; yaw is zero."""
    buttons, camera = np.array(recorded.buttons), recorded.camera * np.float32([pitch, 0])
    buttons[::3] = np.roll(buttons, -1, 0)[::3]
    lengths = dict(zip(recorded.names, recorded.lengths.tolist(), strict=True))
    ones = np.ones(len(buttons), np.float32)
    write_index(folder / "index" / "train", lengths, [buttons], [camera], [ones], "predicted", recorded.chunk_frames)
    (folder / "dataset_info.json").touch()
    write_space(folder, MINERL)
    return folder


def write_recorded(folder, dataset_dir):
    """Writes a dataset whose split `test` is the split `valid` of another."""
    shutil.copytree(dataset_dir / "index" / "valid", folder / "index" / "test")
    for shard in dataset_dir.glob("*-valid.*"):
        shutil.copy(shard, folder / shard.name.replace("-valid.", "-test."))
    write_metadata(folder, {"test": open_records(dataset_dir, "valid").lengths})
    return folder


def write_run(folder, losses, share):
    """Writes the log of a run with these losses on the splits `valid` and `test`, step by step.

    All other metrics of `test` are `share`; those of `valid` are better than possible.
    """
    folder.mkdir()
    figures = {f"{view}/{name}": share for view in ("test", "test_acting") for name in NAMES}
    figures |= {f"{view}/{name}": 1.0 for view in ("valid", "acting") for name in NAMES}
    figures |= {"marginal/nll": 0.1, "repeat/nll": 0.1}  # of `valid` as well
    lines = (
        {"step": i, "valid/nll": valid, "acting/nll": valid, "test/nll": test, "test_acting/nll": test}
        for i, (valid, test) in enumerate(losses, 1)
    )
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line | figures) + "\n" for line in lines))
    return folder


@pytest.fixture(scope="module")
def runs(dataset_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("loop")
    held_out, labels = (
        write_labels(folder / name, load_index(dataset_dir, split))
        for name, split in {"held_out": "valid", "labels": "train"}.items()
    )
    held_out_play = write_recorded(folder / "play", dataset_dir)
    policies = {
        # Step 2 is the best on `valid`, and must be reported; step 3 is the best on `test`.
        "predicted labels": (write_run(folder / "predicted", ((3.0, 3.1), (2.0, 2.1), (2.4, 2.04)), 0.9), labels, 0.0),
        "true labels": (write_run(folder / "true", ((1.9, 2.05),), 0.3), dataset_dir, 0.0),
        "the small labelled set": (write_run(folder / "small", ((2.6, 2.5),), 0.2), dataset_dir, 0.1),
    }
    shares = {0.02: 0.24, 0.05: 0.31, 0.1: 0.4}
    return Runs(
        idms={m: write_run(folder / f"{m}", ((1.0, 1.0), (2.0, 2.0)), share) for m, share in shares.items()},
        policies=policies,
        held_out=held_out_play,
        held_out_labels=held_out,
        held_out_means=write_labels(folder / "means", load_index(dataset_dir, "valid"), pitch=0.95),
        truth=dataset_dir,
        labels=labels,
        recordings={"held-out": dataset_dir.parent / "recordings/valid",
                    "unlabelled": dataset_dir.parent / "recordings/train"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def report(runs, tmp_path_factory):
    path, claims = write_loop_report(tmp_path_factory.mktemp("report"), runs, {"play <1>": 61.6, "train": 5.0})
    return path, Page(path.read_text()), claims


def test_claims_equal_manual_values(report, runs, dataset_dir):
    *_, claims = report
    recorded = load_index(dataset_dir, "valid")
    likeliest, means = (
        label_totals(load_index(labels, "train"), recorded) for labels in (runs.held_out_labels, runs.held_out_means)
    )
    figures, intervals = compute_metrics(MINERL, sum_totals(means)), confidence_intervals(MINERL, means)
    measured = []
    for name in ("mouse_r2/pitch", "mouse_r2/yaw", "f1/mean"):
        low, high = intervals[name]
        measured.append(f"{figures[name]:.3f} (95% interval {low:.3f} to {high:.3f})")
    bins = [
        f"; of the likeliest bin {compute_metrics(MINERL, sum_totals(likeliest))[f'mouse_r2/{axis}']:.3f}"
        for axis in ("pitch", "yaw")
    ]
    assert bins[0] not in measured[0]
    assert claims == [
        f"yes Mouse R2, pitch, of the mean angle, at least 0.8: {measured[0]}{bins[0]}",
        f"NO  Mouse R2, yaw, of the mean angle, at least 0.8: {measured[1]}{bins[1]}",
        f"yes Mean F1 of keys held in more than 1% of frames, at least 0.6: {measured[2]}",
        "yes Policy from predicted labels within 5% of the loss of the policy from true labels: "
        "2.100 against 2.050 nats per frame, +2.4%",
        "yes Policy from predicted labels better than from the small labelled set alone: "
        "2.100 against 2.500 nats per frame, -16.0%",
        # The play with true labels has 400 frames, at 20 per second.
        "yes Inverse dynamics needs 5 times fewer minutes for the same key accuracy: "
        "0.05 minutes against 0.333 for 0.300, 6.7 times fewer",
    ]


@pytest.mark.parametrize(
    ("share_by_minutes", "policy_share", "expected"),
    [
        ({0.04: 0.2, 0.2: 0.3}, 0.3, "NO .*: 0.2 minutes against 0.333 for 0.300, 1.7 times fewer"),
        ({0.01: 0.29}, 0.3, r"NO .*: no inverse dynamics model reaches the policy's 0.300 \(at 0.333 minutes\)"),
        ({0.01: 0.9}, 0.01, r"NO .*: no policy is above 0\.\d\d\d, the most frequent action"),
    ],
)
def test_fewer_minutes_are_claimed_only_at_the_best_policys_accuracy(
    runs, tmp_path, share_by_minutes, policy_share, expected
):
    idms = {m: write_run(tmp_path / f"{m}", ((1, 1),), share) for m, share in share_by_minutes.items()}
    true = write_run(tmp_path / "true", ((2, 2),), policy_share), *runs.policies["true labels"][1:]
    policies = runs.policies | {"true labels": true}
    _, claims = write_loop_report(tmp_path, runs._replace(idms=idms, policies=policies), {})
    assert re.fullmatch(expected, claims[-1])


def test_steps_are_chosen_on_one_split_and_reported_on_another(report, runs):
    """No metric is of the split that chose the step, nor the best of several steps on the reported split (S8)."""
    _, page, claims = report
    assert "2.100 against 2.050" in claims[3]  # of step 2; the best on `test` would be 2.040, of step 3
    cells = [text for _, text in page.texts]
    for name in ("IDM, 0.0 minutes", "IDM, 0.1 minutes"):
        assert cells[cells.index(name) + 1] == "2"  # the last step, which labels, although step 1 was better
    assert "0.100" not in cells  # the marginal distribution's loss is of `test` as well
    baselines = policy_baselines(
        *(
            Stream(StreamSettings(str(dataset), split, 1, 1))
            for dataset, split in ((runs.truth, "train"), (runs.held_out, "test"))
        )
    )
    assert cells[cells.index("Marginal distribution") + 1] == f"{baselines['marginal']['nll']:.3f}"


def test_page_is_complete_and_lists_the_durations(report):
    path, page, _ = report
    assert page.text("h2") == [
        "Checked claims",
        "Inverse dynamics model",
        "Each key",
        "Policies",
        "Accuracy against labelled minutes",
        "Confusion of labels",
        "Predicted and true actions",
        "Time",
    ]
    assert page.text("dt") == ["play <1>", "train"]
    assert page.text("dd") == ["62 s", "5 s"]
    assert {tag: page.tags.count(tag) for tag in ("video", "svg", "script", "link")} == {
        "video": 2, "svg": 5, "script": 0, "link": 0,
    }  # fmt: skip
    assert not re.search(r'(src|href)="(?!data:)[^#"]', path.read_text())


def test_confusion_equals_plain_loops(report, runs, dataset_dir):
    predicted, true = load_index(runs.labels, "train"), load_index(dataset_dir, "train")
    keys = [BUTTON_INDEX[key] for key in ("attack", "forward", "jump", "left")]
    expected = [predicted.buttons[true.buttons[:, held] == 1, key].mean() for held in keys for key in keys]
    bins = [CAMERA.to_bins(np.array(index.camera)) for index in (true, predicted)]
    for axis in (0, 1):
        for row in range(11):
            labelled = bins[1][bins[0][:, axis] == row, axis]
            expected += [(labelled == column).sum() / max(len(labelled), 1) for column in range(11)]
    shown = re.findall(r'--share: (\d\.\d{3})"', report[0].read_text())
    assert [float(share) for share in shown] == pytest.approx(expected, abs=0.00051)


def test_films_are_of_the_longest_episodes(report, dataset_dir):
    for name, split in {"held-out": "valid", "unlabelled": "train"}.items():
        frames = list(decode(report[0].with_name(f"film-{name}.mp4")))
        assert len(frames) == load_index(dataset_dir, split).lengths.max()
