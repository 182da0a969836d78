"""Plans after changed videos and interruptions at any point: no video gets labels of another one."""

import random
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from vpt_jax.labelling import resume
from vpt_jax.labelling.plan import EncodedVideo, Labels, Plan
from vpt_jax.labelling.resume import NumberedVideo, resume_plan, save_all_labels
from vpt_jax.labelling.steps import read_steps, read_videos, save_labels, step_file, try_load_labels


class StoppedError(Exception):
    pass


@dataclass
class ShardOfJob:
    """One shard as in `job.py`, without frames: a video's labels are its content, a number."""

    folder: Path
    batch: int

    def make_plan(self, decoded):
        videos = tuple(EncodedVideo(Path(f"{one.number:07}.records"), one.frames, 32, int(one.key)) for one in decoded)
        rows = max(1, min(self.batch, Plan(videos, 8, 2, 1).num_spans))
        return Plan(videos, 8, 2, rows)

    def read_steps(self, plan):
        return read_steps(self.folder / "labels", plan)

    def resume(self, videos):
        return resume_plan(self.folder, videos, self.make_plan, self.read_steps, step_file)

    def label_steps(self, plan, max_steps):
        """Labels up to `max_steps` missing steps; returns whether all steps are labelled then."""
        missing = [step for step in range(plan.steps) if not self.is_labelled(plan, step)]
        for step in missing[:max_steps]:
            confidence = np.zeros((plan.rows, plan.windows_per_span, plan.window), np.float32)
            for row, (index, _) in enumerate(plan._spans[step * plan.rows :][: plan.rows]):
                confidence[row] = plan.videos[index].sampling_seed
            buttons, camera = (np.zeros((*confidence.shape, size), kind) for size, kind in ((20, "u1"), (2, "f4")))
            save_labels(
                step_file(self.folder / "labels", step), plan.select_kept(step, Labels(buttons, camera, confidence))
            )
        return len(missing) <= max_steps

    def is_labelled(self, plan, step):
        labels = try_load_labels(step_file(self.folder / "labels", step))
        return labels is not None and len(labels.buttons) == plan.count_kept(step)

    def run(self, videos, max_steps=99):
        """Runs the job; checks the labels of all videos if it completes."""
        plan, kept = self.resume(videos)
        if not self.label_steps(plan, max_steps):
            return
        numbers = {video.name: video.number for video in videos}
        names = sorted(numbers)
        if names != sorted(names, key=numbers.__getitem__):
            kept = save_all_labels(self.folder, plan, self.read_steps)
        labels_by_name = dict(zip(names, read_videos(plan, self.folder / "labels", names, kept), strict=True))
        for video in videos:
            confidence = labels_by_name[video.name].confidence
            assert (len(confidence), *set(confidence.tolist())) == (video.frames, float(video.key)), video


@pytest.fixture
def shard(tmp_path, monkeypatch):
    (tmp_path / "labels").mkdir()
    monkeypatch.setattr("vpt_jax.system.atomic_files._fsync", lambda path: None)  # quicker
    return ShardOfJob(tmp_path, batch=2)


def stop_while_writing_state(shard, videos, after, monkeypatch):
    """Stops while a new plan state is written, after some of the discarded steps are removed."""

    def remove_some(folder, state, discarded):
        for file in list(reversed(discarded))[:after]:
            file.unlink(missing_ok=True)
        raise StoppedError

    with monkeypatch.context() as patch, suppress(StoppedError):  # no state is written if the plan is unchanged
        patch.setattr(resume, "_write_plan_state", remove_some)
        shard.resume(videos)


def test_kept_labels_missing_in_the_state_are_not_part_of_the_previous_plan(shard):
    """Steps of videos 0 and 1 from an earlier plan are not used for video 3."""
    videos = [
        NumberedVideo(0, 60, "10", "b"),
        NumberedVideo(1, 60, "11", "c"),
        NumberedVideo(2, 60, "12", "a"),
        NumberedVideo(3, 60, "13", "d"),
    ]
    for count in (2, 3, 4):
        shard.run(videos[:count])


def test_kept_labels_are_used_when_the_plan_is_lost(shard):
    videos = [NumberedVideo(0, 60, "10", "b"), NumberedVideo(1, 60, "11", "a")]
    shard.run(videos)
    (shard.folder / "labels/plan.json").unlink()
    (shard.folder / "labelled/0000001.npz").write_bytes(b"")
    plan, kept = shard.resume(videos)
    assert [video.sampling_seed for video in plan.videos] == [11]
    assert list(kept) == ["b"]
    shard.run(videos)


@pytest.mark.parametrize("seed", range(25))
def test_after_changes_and_stops_every_video_has_its_own_labels(shard, monkeypatch, seed):
    rng = random.Random(seed)
    shard.batch = rng.choice([1, 2, 3])
    pool = [NumberedVideo(i, rng.choice([5, 20, 40, 60, 100]), str(i + 10), f"{rng.random():.6f}") for i in range(6)]
    known = 0
    for _ in range(5):
        known = min(len(pool), known + (rng.choice([0, 1, 2]) or 1))
        videos = [video for video in pool[:known] if rng.random() < 0.95]
        if rng.random() < 0.15:
            (shard.folder / "labels/plan.json").unlink(missing_ok=True)
        if rng.random() < 0.1:
            shutil.rmtree(shard.folder / "labelled", ignore_errors=True)
        if rng.random() < 0.25:
            stop_while_writing_state(shard, videos, rng.randrange(3), monkeypatch)
        elif videos:
            shard.run(videos, max_steps=rng.choice([1, 99, 99, 99]))
