"""Labels exported as OWAMcap: the format's own library reads them, and this library reads back the same actions."""

import numpy as np
import pytest

from vpt_jax.curation.export.run import export
from vpt_jax.curation.validation.episodes import find_episodes, read_frames
from vpt_jax.data.bridges.exported import ExportError, file_stem
from vpt_jax.data.bridges.interface import BridgeOptions
from vpt_jax.data.bridges.mcap_file import Attachment, read_mcap
from vpt_jax.data.bridges.owamcap import BRIDGE
from vpt_jax.data.bridges.pairing import pair_actions

from .conftest import BINDINGS, OTHER, SPACES, write_labels

MESSAGES = "pip install --no-deps owa-msgs 'mediaref<2'"


def read_back(path, space):
    (play,) = BRIDGE.read(path, BridgeOptions()).values()
    frames = list(play.frames())
    return play, frames, pair_actions(play, path, frames[0][0], len(frames), space)


def test_our_reader_gets_the_same_actions_and_frames(labels, settings):
    name, data = labels
    out = export(settings(data, bindings=BINDINGS[name]))
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*.mcap")) == [
        "train/a.mcap", "train/sub%2Fb@3-20.mcap", "valid/c.mcap",
    ]  # fmt: skip
    for episode in find_episodes(data):
        path = out / episode.split / f"{file_stem(episode.name)}.mcap"
        assert path in BRIDGE.find(path.parent)
        play, frames, paired = read_back(path, SPACES[name])
        index, rows = episode.index, episode.rows
        np.testing.assert_array_equal(paired.buttons, index.buttons[rows])
        np.testing.assert_array_equal(paired.camera, index.camera[rows])
        np.testing.assert_array_equal([f for _, f in frames], read_frames(episode, 0, episode.frames))
        assert play.facts["labels"] == "predicted"
        stored = {r.name: r.data for r in read_mcap(path, frozenset()) if isinstance(r, Attachment)}
        confidence = np.frombuffer(stored["labels/confidence.f32"], "<f4")
        np.testing.assert_array_equal(confidence, index.confidence[rows])


def test_the_formats_own_library_reads_keys_mouse_and_frames(labels, settings):
    pytest.importorskip("owa.msgs.desktop.screen", reason=MESSAGES)
    from mcap_owa.highlevel import OWAMcapReader

    name, data = labels
    out = export(settings(data, bindings=BINDINGS[name]))
    episode = find_episodes(data)[0]
    buttons, camera = episode.index.buttons[episode.rows], episode.index.camera[episode.rows]
    key, code, button, axis = ("forward", 0x57, "attack", "yaw") if name == "minerl" else ("w", 0x57, "fire", "turn")
    per_count = 0.15 if name == "minerl" else 1
    space, held, mouse_left = SPACES[name], np.zeros(46, bool), np.zeros(46, bool)
    x, shots, states = np.zeros(46), [], []
    path = out / "train" / "a.mcap"
    with OWAMcapReader(path) as reader:
        for message in reader.iter_messages():
            step, value = round((message.timestamp - 10**18) / 5e7), message.decoded
            if message.topic == "keyboard" and value.vk == code:
                held[step:] = value.event_type == "press"
            elif message.topic == "mouse/raw":
                x[step] += value.dx
                if value.button_flags & 3:
                    mouse_left[step:] = bool(value.button_flags & 1)
            elif message.topic == "screen":
                shots.append(value.resolve_relative_path(str(path)))
            elif message.topic == "keyboard/state":
                states.append((step, code in value.buttons))
        assert {attachment.name for attachment in reader.iter_attachments()} == {
            "labels/camera.f32", "labels/confidence.f32",
        }  # fmt: skip
    np.testing.assert_array_equal(held[:45], buttons[:, space.key_index[key]])
    np.testing.assert_array_equal(mouse_left[:45], buttons[:, space.key_index[button]])
    assert not held[45]  # all keys are released at the end
    assert not mouse_left[45]
    assert states == [(step, buttons[step, space.key_index[key]] == 1) for step in (0, 20, 40)]
    sums = np.cumsum(camera[:, space.axis_index[axis]]) / per_count
    assert np.abs(np.cumsum(x)[:45] - sums).max() <= 0.5001  # whole counts; what is rounded away is not lost
    assert [round(shot.utc_ns - 10**18) for shot in shots] == [step * 50_000_000 for step in range(45)]
    frames = read_frames(episode, 0, 45)
    for step in (0, 7, 44):
        np.testing.assert_array_equal(shots[step].to_rgb_array(), frames[step])


def test_a_second_run_writes_only_what_is_missing(labels, settings):
    name, data = labels
    config = settings(data, bindings=BINDINGS[name])
    out = export(config)
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.rglob("*.m*")}
    (out / "valid" / "c.mcap").unlink()  # as after a kill: the video is complete
    export(config)
    after = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.rglob("*.m*")}
    assert {path: data for path, (data, _) in after.items()} == {path: data for path, (data, _) in before.items()}
    assert [path.name for path in after if after[path][1] != before[path][1]] in (
        ["c.mcap", "c.mp4"],
        ["c.mp4", "c.mcap"],
    )
    with pytest.raises(ExportError, match="crf was 0 and is now 30"):
        export(settings(data, bindings=BINDINGS[name], crf=30))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(format="rlds"), r"config.format is 'rlds'; one of owamcap, lerobot is possible"),
        (dict(out=""), r"config.out is empty"),
        (dict(crf=99), r"config.crf is 99; 0 \(without loss\) to 51"),
        (dict(bindings=""), r"no physical key is known for fire: .*--config.bindings=fire=w"),
        (dict(bindings="fire=mouse.left"), r"no physical axis is known for turn: .*--config.bindings=turn=mouse.x"),
        (dict(bindings="fire=w,turn=mouse.x"), r"w and fire are both bound to 'w'"),
        (dict(bindings="fire=left mouse,turn=mouse.x"), r"fire is bound to 'left mouse', and known are: .*escape"),
        (
            dict(bindings="jump=space"),
            r"the dataset's actions have no 'jump', only: w, fire, left_shift, mouse.right, turn",
        ),
        (dict(bindings="fire"), r"'fire' is not NAME=KEY"),
        (dict(format="lerobot", task=""), r"config.task is empty"),
    ],
)
def test_impossible_settings_are_named(settings, tmp_path, changes, message):
    data = write_labels(tmp_path / "data", OTHER)
    with pytest.raises(ExportError, match=message):
        export(settings(data, **changes))
