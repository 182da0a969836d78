"""Command `early-game`: the first minutes of videos whose title says that a world begins (paper, section 4.3).

The paper's `earlygame_keyword`. A manifest in, a smaller manifest out: its segments of these videos, cut at these
minutes, so that a manifest of the clean filter stays clean.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq
from ml_collections import ConfigDict

from vpt_jax.curation.download.metadata import normalize
from vpt_jax.curation.download.search_terms import EARLY_GAME_WORDS
from vpt_jax.data.manifest import SUFFIX, VideoSegment, read_segments, write_table
from vpt_jax.system.errors import UserError
from vpt_jax.system.paths import refuse_remote_paths
from vpt_jax.system.printable import printable

_TOKEN = re.compile(r"[^\W\d_]+|\d+")
SCHEMA = pa.schema(
    [
        ("video", pa.string()),
        ("start", pa.float64()),
        ("end", pa.float64()),
        ("title", pa.string()),
        ("word", pa.string()),
    ]
)


class EarlyGameError(UserError, ValueError):
    """The videos cannot be selected as configured; the message names the file or field, and the remedy."""


def early_game(config: ConfigDict) -> Path:
    """Writes the manifest of the first minutes of the videos with certain words in their title; returns its path.

    Its columns are those of any manifest, `title`, and `word`, the first of the words that the title has.

    Args:
        config: fields: configs/data.py.

    Raises:
        EarlyGameError: a field is invalid, the table of titles cannot be read, or no segment is left.
        ManifestError: the manifest is invalid.
    """
    refuse_remote_paths(config)
    manifest, out = _check(config)
    segments, titles = read_segments(manifest), _read_titles(Path(config.titles or manifest))
    videos = dict.fromkeys(segment.video for segment in segments)
    words = {video: find_word(titles.get(video, ""), config.title_words) for video in videos}
    chosen = [segment for segment in first_seconds(segments, 60 * config.first_minutes) if words[segment.video]]
    if not chosen:
        raise EarlyGameError(_nothing_left(config, manifest, sum(bool(titles.get(video)) for video in videos)))
    rows = (one._asdict() | {"title": titles[one.video], "word": words[one.video]} for one in chosen)
    write_table(out, rows, SCHEMA)
    print(_summary(segments, chosen, words))
    print(f"manifest {out}")
    return out


def find_word(title: str, words: Iterable[str]) -> str:
    """The first of the words and phrases that a title has; "" if it has none.

    Case, punctuation and leading zeros do not count: "episode 1" is in "Episode #01:", and not in "Episode 12".
    """
    tokens = _tokens(title)
    return next((word for word in words if _tokens(word) in tokens), "")


def _tokens(text: str) -> str:
    """Words and numbers of a text, each between two spaces."""
    return f" {' '.join(token.lstrip('0') or token for token in _TOKEN.findall(normalize(text)))} "


def first_seconds(segments: Iterable[VideoSegment], seconds: float) -> list[VideoSegment]:
    """The segments' parts in the first seconds of their videos."""
    cut = (segment._replace(end=min(segment.end, seconds)) for segment in segments)
    return [segment for segment in cut if segment.frames.start < segment.frames.stop]


def _check(config: ConfigDict) -> tuple[Path, Path]:
    """Checks the fields; returns the paths of both manifests."""
    if not config.manifest:
        raise EarlyGameError("config.manifest is empty: give a manifest of videos, --config.manifest=VIDEOS.parquet")
    manifest = Path(config.manifest).resolve()
    out = Path(config.out).resolve() if config.out else manifest.with_name(f"early_game{SUFFIX}")
    if out.parent != manifest.parent or out.suffix != SUFFIX or out == manifest:
        raise EarlyGameError(
            f"config.out is {config.out}: paths in a manifest are relative to its folder, so give another file "
            f"NAME{SUFFIX} in {manifest.parent}, or leave it empty"
        )
    if config.first_minutes <= 0:
        raise EarlyGameError(f"config.first_minutes is {config.first_minutes}, and must be above 0")
    if not config.title_words or not all(_tokens(word).strip() for word in config.title_words):
        raise EarlyGameError(f"config.title_words is {config.title_words}: give words, each with a letter or digit")
    return manifest, out


def _read_titles(table: Path) -> dict[str, str]:
    """Titles by video, of the columns `title` and `video` of a table."""
    try:
        columns = pq.read_table(table, columns=["video", "title"]).to_pydict()
        pairs = zip(columns["video"], columns["title"], strict=True)
        return {PurePosixPath(video).as_posix(): title for video, title in pairs if video and title}
    except (OSError, KeyError, TypeError, pa.ArrowException) as error:
        raise EarlyGameError(
            f"{table} has no titles (columns video and title): {printable(error, length=300)}. Give the table of the "
            "same videos that launch/collect.py wrote: --config.titles=VIDEOS/videos.parquet"
        ) from error


def _nothing_left(config: ConfigDict, manifest: Path, titled: int) -> str:
    if not titled:
        return (
            f"{config.titles or manifest} has no title of a video of {manifest}: their names of videos must be equal, "
            "as in tables of the same folder. Set config.titles to the table that launch/collect.py wrote"
        )
    return (
        f"{manifest} has no segment in the first {config.first_minutes:g} minutes of a video whose title has one of "
        f"the words: {titled:,} videos have a title. Set other config.title_words, or more config.first_minutes"
    )


def _summary(segments: list[VideoSegment], chosen: list[VideoSegment], words: Mapping[str, str]) -> str:
    """Numbers of videos and hours, and of videos by word, each with its source."""
    videos = dict.fromkeys(segment.video for segment in chosen)
    counts = Counter(words[video] for video in videos)
    lines = [f"{len(videos):,} of {len(words):,} videos, {_hours(chosen):,.2f} of {_hours(segments):,.2f} hours"]
    for word, count in counts.most_common():
        lines.append(f"  {count:,} with {word!r} ({EARLY_GAME_WORDS.get(word, 'given')})")
    return "\n".join(lines)


def _hours(segments: Iterable[VideoSegment]) -> float:
    return sum(segment.end - segment.start for segment in segments) / 3600
