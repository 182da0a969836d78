"""Recorder of a person's play in an X11 window (fields: configs/record_window.py).

Frames are taken at a steady rate while the window has the focus, and keep the times at which they were taken. Keys and
mouse have the X server's times on the same clock. A recording ends after `max_seconds`, after a long pause, and where
the window changes its size; the next one has the same session in its facts.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8
from ml_collections import ConfigDict

from vpt_jax.curation.window_recorder import WindowRecordError
from vpt_jax.curation.window_recorder.files import GrowingRecording, recover
from vpt_jax.curation.window_recorder.gate import Gate, Row
from vpt_jax.curation.window_recorder.keyboard import unknown_keys
from vpt_jax.curation.window_recorder.window import Picture, RecordedWindow, find_window
from vpt_jax.system import stopping
from vpt_jax.system.workers import locked

LONG_PAUSE = 30.0  # seconds without a frame after which a recording ends: readers take more than 60 for damage
_POLL = 0.01  # seconds between looks at the events in a pause
_MAX_TEXT = 2000  # characters of a fact


class SessionSettings(NamedTuple):
    """Settings of a session of recordings."""

    out: Path
    frames_per_second: float
    height: int  # of the frames; 0: that of the window
    max_seconds: float  # of a recording
    seconds: float  # of the session; 0: until it is stopped


def record(config: ConfigDict) -> list[Path]:
    """Record until Ctrl-C, or the window closes; returns the recordings' paths, without suffix.

    Raises:
        WindowRecordError: consent or licence is missing, another field has an impossible value, or there is no such
            window.
        FolderInUseError: another recorder writes into the folder.
    """
    number = find_window(config.display, config.window)  # first: without config.window it lists all
    settings, gate, facts = read_config(config)
    with locked(settings.out):
        for path in recover(settings.out):
            print(f"recovered from a recorder that was killed: {path}.mp4", flush=True)
        window = RecordedWindow(config.display, number)
        try:
            with stopping.deferred() as signals:
                return Session(window, gate, facts, settings).run(lambda: bool(signals))
        finally:
            window.close()


def read_config(config: ConfigDict) -> tuple[SessionSettings, Gate, dict[str, Any]]:
    """Settings, gate and facts of a config. Raises `WindowRecordError` with the field and what it must be."""
    for field, meaning in (
        ("out", "the folder of the recordings"),
        ("player", "a name or pseudonym of the person who plays; recordings of a player are kept in one split"),
        ("consent", "the words of the person who plays, that they agree to be recorded, and for which use"),
        ("licence", "the licence of the recordings, such as CC-BY-4.0"),
    ):
        if not isinstance(config[field], str) or not 0 < len(config[field].strip()) <= _MAX_TEXT:
            raise WindowRecordError(f"config.{field} is {config[field]!r}: set it to {meaning}")
    keys, text_keys = tuple(config.recorded_keys), tuple(config.text_keys)
    pause_keys = (config.pause_key,) if config.pause_key else ()
    if unknown := unknown_keys((*keys, *text_keys, *pause_keys)):
        raise WindowRecordError(f"no key is called {unknown[0]!r}: vpt_jax/data/bridges/key_names.py has the names")
    if both := set(keys) & {*text_keys, *pause_keys}:
        raise WindowRecordError(
            f"config.recorded_keys contains {min(both)!r}, which opens a text field or pauses: remove it there"
        )
    if not 1 <= config.frames_per_second <= 240 or not 10 <= config.max_seconds <= 3600 or config.seconds < 0:
        raise WindowRecordError("config.frames_per_second must be 1 to 240, max_seconds 10 to 3600, seconds at least 0")
    if config.height and not 16 <= config.height <= 4320:
        raise WindowRecordError(f"config.height is {config.height}: it must be 16 to 4320, or 0 for that of the window")
    seconds = time.time()
    now, milliseconds = time.gmtime(seconds), int(seconds * 1000) % 1000
    consent = f"{config.player}, {time.strftime('%Y-%m-%d %H:%M:%S UTC', now)}: {config.consent.strip()}"
    facts = {
        "player": config.player, "session": time.strftime(f"%Y%m%dT%H%M%S{milliseconds:03}", now), "game": config.game,
        "licence": config.licence, "consent": consent[:_MAX_TEXT], "trainable": bool(config.trainable),
    }  # fmt: skip
    out = Path(config.out)
    settings = SessionSettings(out, config.frames_per_second, config.height, config.max_seconds, config.seconds)
    return settings, Gate(keys, text_keys, config.pause_key), {name: fact for name, fact in facts.items() if fact != ""}


class Session:
    """One run of the recorder: recordings of one window and one person."""

    def __init__(self, window: RecordedWindow, gate: Gate, facts: dict[str, Any], settings: SessionSettings):
        self._window, self._gate, self._facts, self._settings = window, gate, facts, settings
        self._recording: GrowingRecording | None = None
        self._number, self._published = 0, list[Path]()

    def run(self, stopped: Callable[[], bool]) -> list[Path]:
        """Record until `stopped()`, the window closes, or the session's length is reached."""
        print(f"records into {self._settings.out} while the window has the focus; Ctrl-C ends it", flush=True)
        begin = tick = time.monotonic()
        try:
            while not (stopped() or self._window.gone or 0 < self._settings.seconds < time.monotonic() - begin):
                self._step(time.monotonic())
                tick += _POLL if self._gate.paused else 1 / self._settings.frames_per_second
                tick = max(tick, time.monotonic())  # a late frame delays the later ones
                time.sleep(max(tick - time.monotonic(), 0))
            self._take_events()
        finally:
            self._finish()
        return self._published

    def _step(self, now: float) -> None:
        self._take_events()
        picture = None if self._gate.paused else self._window.picture()
        if picture is not None:
            self._add(picture._replace(frame=scaled(picture.frame, self._settings.height)))
        elif self._recording and now - self._recording.last > LONG_PAUSE:
            self._finish()

    def _take_events(self) -> None:
        before = self._gate.paused
        rows = [row for event in self._window.events() for row in self._gate.feed(event)]
        if self._recording and rows:
            self._recording.add_rows(rows)
        if self._gate.paused != before:
            print("paused" if self._gate.paused else "records", flush=True)

    def _add(self, picture: Picture) -> None:
        """Append a frame, to a new recording if it does not fit the present one."""
        size = picture.frame.shape[:2]
        recording = self._recording
        if recording and (recording.size != size or picture.time - recording.start > self._settings.max_seconds):
            self._finish()
        if self._recording is None:
            name = f"{self._facts['session']}-{self._number:03}"
            self._number += 1
            self._recording = GrowingRecording(self._settings.out, name, self._facts, picture.time, *size)
            self._recording.add_rows(Row(picture.time, "press", key) for key in self._gate.held)
        self._recording.add_frame(picture.time, picture.frame)

    def _finish(self) -> None:
        if self._recording is not None:
            seconds, path = self._recording.last - self._recording.start, self._recording.finish()
            self._recording = None
            if path is not None:
                self._published.append(path)
                print(f"recording {path}.mp4: {seconds:.1f} s", flush=True)


def scaled(frame: UInt8[np.ndarray, "h w 3"], height: int) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Frame reduced to a height, or as it is if it is no higher or `height` is 0; both sizes are made even."""
    if 0 < height < len(frame):
        width = round(frame.shape[1] * height / len(frame))
        frame = cv2.resize(frame, (max(width, 2), height), interpolation=cv2.INTER_AREA)
    return frame[: len(frame) // 2 * 2, : frame.shape[1] // 2 * 2]
