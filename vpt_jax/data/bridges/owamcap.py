"""OWAMcap recordings (Open World Agents, the D2E dataset): NAME.mcap, with its frames embedded or in a video beside it.

Messages are JSON, with times in nanoseconds since 1970. The topics that are read: "screen" (frames), "keyboard" and
"mouse/raw" (events), "keyboard/state" and "mouse/state" (what is held, about once a second), "window". Topic "mouse"
has the same movements and clicks as "mouse/raw", in screen coordinates, and is read only where the latter is missing.

Written with the format's own library in `tests/data/bridges/test_owamcap.py`. Message types: `owa-msgs` 0.6.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vpt_jax.data.bridges.facts import facts_file_of_file
from vpt_jax.data.bridges.interface import Bridge, BridgeOptions, TimedPlay
from vpt_jax.data.bridges.mcap_file import Message, read_mcap
from vpt_jax.data.bridges.owamcap_events import TOPICS, collect, merge
from vpt_jax.data.bridges.owamcap_screen import SCREEN, external_uri, screen_frames
from vpt_jax.data.bridges.owamcap_windows import lost_focus
from vpt_jax.data.bridges.videos import file_inside, files_named
from vpt_jax.recording import BrokenRecordingError
from vpt_jax.video_files import SUFFIXES


def find(folder: Path) -> list[Path]:
    """The .mcap files of a folder."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() == ".mcap" and path.is_file())


def files(recording: Path) -> list[Path]:
    """The .mcap file, videos of the same name beside it, and the video that its first frame refers to."""
    found = set(files_named(recording.parent, recording.stem, SUFFIXES))
    try:
        first = next((r for r in read_mcap(recording, frozenset({SCREEN})) if isinstance(r, Message)), None)
        if first is not None and (uri := external_uri(recording, first)):
            file_inside(recording.parent, uri, recording)
            found.add(recording.parent / uri)
    except BrokenRecordingError:
        pass  # `read` reports it
    return [recording, *sorted(found)]


def read(recording: Path, options: BridgeOptions) -> Mapping[str, TimedPlay]:
    """The play of a recording. Reads the file once; `frames` reads it again, one frame at a time."""
    collected = collect(recording, read_mcap(recording, TOPICS))
    if not len(collected.screen_times):
        raise BrokenRecordingError(recording, "missing video", f"topic {SCREEN!r} has no message")
    origin = min(collected.screen_times)
    events = merge(collected, origin)  # before the remarks, of which it adds some
    excluded, game, remarks = lost_focus(collected.windows, origin)
    facts: dict[str, Any] = {"session": recording.stem}
    facts |= {"game": game} if game else {}
    facts |= {"labels": collected.details["labels"]} if "labels" in collected.details else {}
    play = TimedPlay(
        events=events,
        frames=lambda: screen_frames(recording, origin),
        excluded=excluded,
        facts=facts,
        remarks=(*collected.remarks, *remarks),
    )
    return {collected.details.get("episode") or recording.stem: play}


BRIDGE = Bridge(find=find, files=files, read=read, facts=facts_file_of_file)
