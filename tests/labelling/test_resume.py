"""Plans that follow changed videos and stops at any place: no video gets labels of another one."""

import random
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from vpt_jax.labelling import resume
from vpt_jax.labelling.plan import Labels, Plan, Video
from vpt_jax.labelling.resume import Decoded, keep_all, settle_plan
from vpt_jax.labelling.steps import read_steps, read_videos, save_labels, step_file, try_labels


class StoppedError(Exception):
    pass


@dataclass
class PartOfJob:
    """What `job.py` does with one part, but for frames: a video's labels are its content, a number."""

    folder: Path
    batch: int

    def make_plan(self, decoded):
        videos = tuple(Video(Path(f"{one.number:07}.records"), one.frames, 32, int(one.key)) for one in decoded)
        rows = max(1, min(self.batch, Plan(videos, 8, 2, 1).num_spans))
        return Plan(videos, 8, 2, rows)

    def read_steps(self, plan):
        return read_steps(self.folder / "labels", plan)

    def settle(self, videos):
        return settle_plan(self.folder, videos, self.make_plan, self.read_steps, step_file)

    def label_steps(self, plan, most):
        """Labels up to so many steps that are missing; returns whether all are there."""
        missing = [step for step in range(plan.steps) if not self.is_labelled(plan, step)]
        for step in missing[:most]:
            confidence = np.zeros((plan.rows, plan.windows, plan.window), np.float32)
            for row, (index, _) in enumerate(plan._spans[step * plan.rows :][: plan.rows]):
                confidence[row] = plan.videos[index].number
            buttons, camera = (np.zeros((*confidence.shape, size), kind) for size, kind in ((20, "u1"), (2, "f4")))
            save_labels(step_file(self.folder / "labels", step), plan.keep(step, Labels(buttons, camera, confidence)))
        return len(missing) <= most

    def is_labelled(self, plan, step):
        labels = try_labels(step_file(self.folder / "labels", step))
        return labels is not None and len(labels.buttons) == plan.count_kept(step)

    def run(self, videos, most=99):
        """A run of the job; checks the labels of all videos if it gets that far."""
        plan, kept = self.settle(videos)
        if not self.label_steps(plan, most):
            return
        numbers = {video.name: video.number for video in videos}
        names = sorted(numbers)
        if names != sorted(names, key=numbers.__getitem__):
            kept = keep_all(self.folder, plan, self.read_steps)
        of_videos = dict(zip(names, read_videos(plan, self.folder / "labels", names, kept), strict=True))
        for video in videos:
            confidence = of_videos[video.name].confidence
            assert (len(confidence), *set(confidence.tolist())) == (video.frames, float(video.key)), video


@pytest.fixture
def part(tmp_path, monkeypatch):
    (tmp_path / "labels").mkdir()
    monkeypatch.setattr("vpt_jax.system.atomic_files._sync", lambda path: None)  # quicker
    return PartOfJob(tmp_path, batch=2)


def stop_while_noting(part, videos, after, monkeypatch):
    """Stops where a new plan is noted, after so many steps that it gives up are removed."""

    def remove_some(folder, note, given_up):
        for file in list(reversed(given_up))[:after]:
            file.unlink(missing_ok=True)
        raise StoppedError

    with monkeypatch.context() as patch, suppress(StoppedError):  # not where the plan is as it was
        patch.setattr(resume, "_begin_plan", remove_some)
        part.settle(videos)


def test_labels_kept_and_not_noted_are_no_part_of_the_plan_before(part):
    """Video 0's and 1's steps, once of the plan, do not become 3's."""
    videos = [
        Decoded(0, 60, "10", "b"),
        Decoded(1, 60, "11", "c"),
        Decoded(2, 60, "12", "a"),
        Decoded(3, 60, "13", "d"),
    ]
    for count in (2, 3, 4):
        part.run(videos[:count])


def test_kept_labels_whose_plan_is_lost_count(part):
    videos = [Decoded(0, 60, "10", "b"), Decoded(1, 60, "11", "a")]
    part.run(videos)
    (part.folder / "labels/plan.json").unlink()
    (part.folder / "labelled/0000001.npz").write_bytes(b"")
    plan, kept = part.settle(videos)
    assert [video.number for video in plan.videos] == [11]
    assert list(kept) == ["b"]
    part.run(videos)


@pytest.mark.parametrize("seed", range(25))
def test_after_changes_and_stops_every_video_has_its_own_labels(part, monkeypatch, seed):
    rng = random.Random(seed)
    part.batch = rng.choice([1, 2, 3])
    pool = [Decoded(i, rng.choice([5, 20, 40, 60, 100]), str(i + 10), f"{rng.random():.6f}") for i in range(6)]
    known = 0
    for _ in range(5):
        known = min(len(pool), known + (rng.choice([0, 1, 2]) or 1))
        videos = [video for video in pool[:known] if rng.random() < 0.95]
        if rng.random() < 0.15:
            (part.folder / "labels/plan.json").unlink(missing_ok=True)
        if rng.random() < 0.1:
            shutil.rmtree(part.folder / "labelled", ignore_errors=True)
        if rng.random() < 0.25:
            stop_while_noting(part, videos, rng.randrange(3), monkeypatch)
        elif videos:
            part.run(videos, most=rng.choice([1, 99, 99, 99]))
