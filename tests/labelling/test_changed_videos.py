"""Videos that are added, removed, renamed or replaced during a job: all other work is kept."""

import json
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vpt_jax.data.clips import Clip, content_keys, sampling_seed
from vpt_jax.labelling import job, steps
from vpt_jax.labelling.job import LabelError, label
from vpt_jax.labelling.plan import Labels
from vpt_jax.video_files import content_digest

from .conftest import labels_by_name, pictures, settings, write_video
from .test_damaged_state import interrupt
from .test_interrupted import Killed, kill_at_rename

STEPS = {"a": 1, "b": 2, "c": 3, "d": 1}  # steps of each video; a step is one window for each device


def frames(steps):
    return 4 * (steps * jax.local_device_count() + 1)


def labels_by_brightness(module, window, mode, choice, params, rng, spans, mirror=False):
    """Fake model: the labels encode the brightness of their frame, and the video's sampling seed."""
    starts = jnp.arange(spans.valid.shape[1] * 2 // window - 1) * window // 2
    grey = spans.frames.mean((2, 3, 4))[:, 2 + starts[:, None] + jnp.arange(window)]
    number = jnp.broadcast_to(spans.origin[:, :1, None], grey.shape)
    buttons = (grey[..., None] > 12 * jnp.arange(20)).astype(jnp.uint8)
    return Labels(buttons, jnp.stack([grey / 2, number % 179], -1).astype(jnp.float32), 1 / (1 + grey))


@pytest.fixture(autouse=True)
def quick(monkeypatch, in_process):
    monkeypatch.setattr(steps, "label_spans", labels_by_brightness)


@pytest.fixture
def folder(tmp_path):
    for number, (name, count) in enumerate(STEPS.items()):
        write_video(tmp_path / "videos" / f"{name}.mkv", "ffv1", "bgr0", pictures(frames(count), 8 + number, 16))
    return tmp_path / "videos"


@pytest.fixture
def config(folder, idm_dir, tmp_path):
    return settings(folder, idm_dir, tmp_path / "out", num_films=0, windows_per_span=1, choice="sample")


@pytest.fixture
def work_done(monkeypatch):
    """Records the videos that are decoded, and the steps that are labelled."""
    done = []
    encode, save = job.encode_video, steps._save
    monkeypatch.setattr(job, "encode_video", lambda *args: done.append(args[0].video.name) or encode(*args))
    monkeypatch.setattr(steps, "_save", lambda *args: done.append(args[2]) or save(*args))
    return done


def stop_at_step(config, monkeypatch, step):
    with monkeypatch.context() as patch:
        kill_at_rename(patch, f"{step:08}.npz", done=True)
        with pytest.raises(Killed):
            label(config)


def same_labels(out, other):
    actual, expected = labels_by_name(out), labels_by_name(other)
    assert list(actual) == list(expected)
    for name, labels in actual.items():
        for field, wanted in zip(labels, expected[name], strict=True):
            np.testing.assert_array_equal(field, wanted, err_msg=name)


def fresh(config, tmp_path):
    """The dataset of an uninterrupted job."""
    copy = config.copy_and_resolve_references()
    copy.out = str(tmp_path / "fresh")
    return label(copy)


@pytest.mark.parametrize("change", ["remove first", "remove last", "rename and touch", "replace", "add"])
def test_the_rest_of_the_work_is_kept(folder, config, tmp_path, monkeypatch, work_done, capsys, change):
    """Unchanged videos are not decoded again, and their finished steps not labelled again."""
    config.num_films = int(change == "remove first")
    stop_at_step(config, monkeypatch, 4)  # the second of c
    assert work_done == ["a.mkv", "b.mkv", "c.mkv", "d.mkv", *range(5)]
    work_done.clear()
    if change.startswith("remove"):
        (folder / {"first": "a.mkv", "last": "d.mkv"}[change.split()[1]]).unlink()
    elif change == "rename and touch":
        (folder / "b.mkv").rename(folder / "z.mkv")
        os.utime(folder / "c.mkv", (1, 1))
    elif change == "replace":
        write_video(folder / "b.mkv", "ffv1", "bgr0", pictures(frames(2), 11, 16))
    else:
        write_video(folder / "0.mkv", "ffv1", "bgr0", pictures(frames(1), 24, 16))
    out = label(config)
    output, decoded = capsys.readouterr().out, [done for done in work_done if isinstance(done, str)]
    assert decoded == {"replace": ["b.mkv"], "add": ["0.mkv"]}.get(change, [])
    # Remaining: a step of c and one of d, and new videos; if a video before c is removed, c is labelled from its start.
    steps = {"remove first": 4, "remove last": 1, "rename and touch": 2, "replace": 6, "add": 3}
    assert len(work_done) - len(decoded) == steps[change]
    assert ("videos have changed since this job was started" in output) == (change != "rename and touch")
    assert ("1 replaced (b)" in output) == (change == "replace")
    assert ("1 gone" in output) == change.startswith("remove")
    config.num_films = 0
    same_labels(out, fresh(config, tmp_path))
    films = [film.stem for film in (out / "films").glob("*")]
    assert films == (["b"] if change == "remove first" else [])


def test_a_replaced_video_is_new_work_and_a_touched_one_is_not(folder, config, tmp_path, capsys):
    """Same name, size and modification time, but other content."""
    for name in ("b", "c", "d"):
        (folder / f"{name}.mkv").unlink()
    out = label(config)
    os.utime(folder / "a.mkv", (1, 1))
    label(config)
    assert "nothing to do" in capsys.readouterr().out
    data = bytearray((folder / "a.mkv").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "a.mkv").write_bytes(data)
    os.utime(folder / "a.mkv", (1, 1))
    with pytest.raises(LabelError, match=r"other settings or videos: other videos \(replaced: a\)\. Remove it, "):
        label(config)
    shutil.rmtree(out)
    label(config)


def test_shards_keep_their_videos_when_one_is_removed(folder, config, tmp_path, capsys, work_done):
    """A completed shard does too: only its dataset is written again."""
    config.update(num_shards=2, num_films=0)
    label(config)
    (folder / "a.mkv").unlink()
    work_done.clear()
    config.shard_index = 1
    label(config)
    assert work_done[:2] == ["b.mkv", "d.mkv"]
    assert "is made once these are too: part-00000-of-00002" in capsys.readouterr().out
    work_done.clear()
    config.shard_index = 0
    out = label(config)
    assert work_done == []
    assert sorted(labels_by_name(out)) == ["b", "c", "d"]
    assert json.loads((out / "report.json").read_text())["made_of"]["videos"].keys() == {"b", "c", "d"}


def test_a_model_is_identified_by_its_content(folder, config, idm_dir, tmp_path, monkeypatch):
    """After the model's folder is moved, the job resumes."""
    stop_at_step(config, monkeypatch, 2)
    moved = shutil.copytree(idm_dir, tmp_path / "moved")
    config.idm = str(moved)
    same_labels(label(config), fresh(config, tmp_path))
    label(config)


def test_copies_and_segments_have_distinct_identities(folder, tmp_path):
    shutil.copy(folder / "a.mkv", folder / "copy.mkv")
    clips = {name: Clip(folder / f"{name}.mkv") for name in ("a", "b", "copy", "none")}
    clips |= {"a@0-5": Clip(folder / "a.mkv", 0, 5), "a@5-9": Clip(folder / "a.mkv", 5, 9)}
    keys = content_keys(clips)
    assert len(set(keys.values())) == len(keys)
    assert keys["copy"] == f"{keys['a']}#2"
    assert keys["none"] == "missing none"
    (folder / "a.mkv").rename(folder / "elsewhere.mkv")
    assert content_keys({"elsewhere": Clip(folder / "elsewhere.mkv")}) == {"elsewhere": keys["a"]}
    assert sampling_seed(keys["a"]) == sampling_seed(keys["copy"]) < 2**28
    assert sampling_seed(content_digest(folder / "b.mkv")) == sampling_seed(keys["b"])  # as labelling/single.py
    seeds = [sampling_seed(keys[name]) for name in ("a", "b", "a@0-5", "a@5-9")]
    assert len(set(seeds)) == len(seeds)  # labels of segments are sampled independently


def test_unreadable_videos_are_identified_by_their_names(folder):
    """A video that reappears or disappears is not confused with another."""
    (folder / "e.mkv").mkdir()
    clips = {name: Clip(folder / f"{name}.mkv") for name in ("e", "gone", "lost")}
    assert content_keys(clips) == {"e": "unreadable e", "gone": "missing gone", "lost": "missing lost"}
    del clips["gone"]
    assert content_keys(clips)["lost"] == "missing lost"
    assert content_keys({"gone": Clip(folder / "gone.mkv", 0, 5)}) == {"gone": "missing gone@0-5"}


def test_steps_of_a_damaged_plan_are_discarded(folder, config, tmp_path, monkeypatch):
    """A power cut may leave an empty file."""
    stop_at_step(config, monkeypatch, 4)
    (tmp_path / "out.partial" / "part-00000-of-00001" / "labels" / "plan.json").write_text("")
    same_labels(label(config), fresh(config, tmp_path))


def test_labels_of_an_earlier_plan_are_not_given_to_videos_added_later(folder, config, tmp_path, monkeypatch):
    """Runs with b and c; with a, which sorts first, too, stopped after all is labelled; then with d."""
    later = {name: (folder / f"{name}.mkv").rename(tmp_path / f"{name}.mkv") for name in ("a", "d")}
    for added in ("", "a"):
        if added:
            later[added].rename(folder / "a.mkv")
        interrupt(config, "dataset", monkeypatch)
    later["d"].rename(folder / "d.mkv")
    same_labels(label(config), fresh(config, tmp_path))
