"""Synthetic labelled frames and films: Minecraft footage with and without drawn overlays, and other footage.

Clips are cut into blocks of two seconds. Training frames come from even blocks, test frames from odd ones; a quarter of
a second at both ends of the blocks is left out of training. Overlays, menus and levels of Doom differ too.
"""

from pathlib import Path

import cv2
import numpy as np

from vpt_jax.curation.clean_filter.overlays import OVERLAYS
from vpt_jax.video import VideoWriter, decode_timed, resample

CLIPS = Path(__file__).parent / "clips"
BLOCK, EDGE = 2.0, 0.25  # seconds
SIZE = 144, 256  # of frames
LEVELS = {"learn": ("E1M1", "MAP01", "E2M3"), "test": ("MAP07", "E3M2", "my_way_home")}


def clip_frames(clips, part, rate):
    """Frames of every clip, block by block: `{clip: {block: frames}}`."""
    found = {}
    for path in sorted(Path(clips).glob("*.mp4")):
        blocks = found.setdefault(path.stem, {})
        for number, frame in enumerate(resample(decode_timed(path), rate=rate)):
            block, phase = divmod(number / rate, BLOCK)
            is_edge = not EDGE <= phase <= BLOCK - EDGE
            if block % 2 == (part == "test") and not (part == "learn" and is_edge):
                blocks.setdefault(int(block), []).append(frame)
    return found


def doom_frames(level, count, seed):
    """Frames of a random player who moves and shoots."""
    from vpt_jax.envs.doom.env import DoomEnv

    rng, frames = np.random.default_rng(seed), []
    env = DoomEnv(level, *SIZE)
    env.reset(seed=seed)
    action = {}
    while len(frames) < 7 * count:
        if len(frames) % 10 == 0:
            action = {"forward": int(rng.random() < 0.8), "attack": int(rng.random() < 0.3),
                      "camera": np.array([0, rng.normal(0, 4)])}  # fmt: skip
        observation, _, ended, _, _ = env.step(action)
        frames.append(observation["pov"].copy())
        if ended:
            env.reset(seed=seed + len(frames))
    env.close()
    return frames[::7]


def menu(rng, height, width):
    """A screen of text and buttons."""
    frame = cv2.resize(rng.integers(0, 256, (2, 2, 3)).astype(np.uint8), (width, height))
    for row in range(int(rng.integers(1, 7))):
        top = height * (row + 1) // 8
        colours = rng.integers(0, 256, (2, 3)).tolist()
        if rng.random() < 0.5:
            cv2.rectangle(frame, (width // 4, top - height // 16), (3 * width // 4, top + height // 32), colours[0], -1)
        text = "".join(rng.choice(list("ABCDEFGHIJKLMNOP "), 12))
        cv2.putText(frame, text, (int(width * rng.uniform(0.05, 0.4)), top), 0, width / 400, colours[1], 1, cv2.LINE_AA)
    return frame


def shapes(rng, height, width):
    """A drawn scene: sky, ground and shapes."""
    frame = np.empty((height, width, 3), np.uint8)
    horizon = int(height * rng.uniform(0.3, 0.7))
    frame[:horizon], frame[horizon:] = rng.integers(0, 256, (2, 3))
    for _ in range(int(rng.integers(5, 25))):
        (x, y), radius = rng.integers(0, (width, height)).tolist(), int(rng.integers(width // 100, width // 8))
        draw = (
            cv2.circle
            if rng.random() < 0.5
            else lambda f, p, r, c, *a: cv2.rectangle(f, p, (p[0] + r, p[1] + r), c, -1)
        )
        draw(frame, (x, y), radius, rng.integers(0, 256, 3).tolist(), -1, cv2.LINE_AA)
    return frame


def vary(frame, rng):
    """Returns the frame slightly zoomed, and brighter or darker."""
    height, width = frame.shape[:2]
    zoom = rng.uniform(0.95, 1)
    rows, columns = int(height * zoom), int(width * zoom)
    top, left = int(rng.integers(0, height - rows + 1)), int(rng.integers(0, width - columns + 1))
    closer = cv2.resize(frame[top : top + rows, left : left + columns], (width, height)).astype(np.float32)
    return np.clip(closer * rng.uniform(0.9, 1.1) + rng.uniform(-8, 8), 0, 255).astype(np.uint8)


def labelled(part, clips=CLIPS, rate=3, times=4, others=40):
    """Frames by class and group: `[(class, group, kind, frame)]`. Every clean frame occurs `times` times with
    an overlay, and as often without."""
    rng, rows = np.random.default_rng({"learn": 1, "test": 2}[part]), []
    kinds, count = list(OVERLAYS), 0
    for clip, blocks in clip_frames(clips, part, rate).items():
        for block, frames in blocks.items():
            for frame in frames:
                for turn in range(times):
                    background = frame if part == "test" or turn == 0 else vary(frame, rng)
                    if part == "learn" or turn == 0:
                        rows.append(("clean", f"{clip}-{block}", "clean", background))
                    kind = kinds[count % len(kinds)]
                    rows.append(("artifacts", f"{clip}-{block}", kind, OVERLAYS[kind](background, rng)))
                    count += 1
    for number, level in enumerate(LEVELS[part] if others else ()):
        rows += [("other", level, "doom", frame) for frame in doom_frames(level, others, number)]
    for number in range(2 * others):
        draw = (menu, shapes)[number % 2]
        rows.append(("other", f"{draw.__name__}-{number // 10}", draw.__name__, draw(rng, *SIZE)))
    return rows


def write_folder(folder, rows):
    """Writes labelled frames into one folder per class; returns `folder`."""
    for number, (name, group, _, frame) in enumerate(rows):
        path = folder / name / f"{group}_{number:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])
    return folder


def write_film(path, frames, rate=3):
    """Writes a film of 20 frames per second that shows `rate` of the given frames per second; returns `path`."""
    with VideoWriter(path, *frames[0].shape[:2]) as video:
        for tick in range(round(len(frames) * 20 / rate)):
            video.write(frames[min(len(frames) - 1, tick * rate // 20)])
    return path
