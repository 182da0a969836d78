"""Crawler for web videos: local site and real yt-dlp, rejection by metadata, resume after a kill."""

import errno
import hashlib
import json
import os
import re
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st
from yt_dlp.utils import DownloadError

from configs.web import get_config
from vpt_jax.curation.download import sandbox, ytdlp
from vpt_jax.curation.download.journal import Journal
from vpt_jax.curation.download.metadata import (
    SAFE_NAME,
    RejectRules,
    parse_entry,
    rejection_reason,
    safe_name,
    sanitize,
)
from vpt_jax.curation.download.sandbox import TaskFailed
from vpt_jax.curation.download.search_terms import REJECT_WORDS
from vpt_jax.curation.download.web import ArchiveRecord, CollectError, collect
from vpt_jax.curation.download.ytdlp import RequestPolicy, open_downloader, state_for_error
from vpt_jax.data.clips import find_videos
from vpt_jax.data.manifest import is_inside, read_segments
from vpt_jax.data.subtitles import find_subtitles, subtitle_captions
from vpt_jax.video import VideoError, probe

from ...training.conftest import kill, wait_until
from .video_site import Video, open_site, write_videos

ROOT = Path(__file__).parents[3]


@pytest.fixture
def site():
    with open_site() as site:
        yield site


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return write_videos(tmp_path_factory.mktemp("videos"))


def settings(site, out, **more):
    config = get_config()
    feed = site.url("feed?q={term}&n={results}") if site else "http://a.b/{term}{results}"
    config.update(out=str(out), terms=("dig",), search=feed)
    config.update(height=32, pause_seconds=0.0, backoff_seconds=0.05, retries=1, bytes_per_second=0)
    config.update(timeout_seconds=60, **more)
    return config


def archive(out):
    """Records of the archive by the last part of their URL."""
    return {record["url"].rsplit("/", 1)[1]: record for record in map(json.loads, (out / "archive.jsonl").open())}


def mixed(videos):
    """Typical and faulty search results, by path."""
    return {
        "good.mp4": Video(videos[0], title="Let's play: xps3, animations"),
        "again.mp4": Video(videos[1], truncations=1, title="../../x\n\x85" + 10_000 * "w"),
        "..%2f..%2fx.mp4": Video(videos[2]),
        "word.mp4": Video(videos[3], title="Sky wars", description="my SkyBlock\nworld"),
        "short.mp4": Video(videos[3], seconds=59),
        "unknown_duration.mp4": Video(videos[3], seconds=None),
        "gone.mp4": Video(videos[3], status=404),
        "broken.mp4": Video(videos[3], truncations=100),
        "endless.mp4": Video(b"", endless=True),
        "odd": Video(videos[3], headers={"Content-Disposition": 'attachment; filename="../../x.sh"'}),
        "text.mp4": Video(b"no film"),
    }


@pytest.fixture(scope="module")
def mixed_run(videos, tmp_path_factory):
    """Site, settings and output folder of a run with all of these search results."""
    with open_site() as site:
        site.feeds = {"dig": mixed(videos), "build": {"good.mp4": Video(videos[0])}}
        out = tmp_path_factory.mktemp("mixed") / "out"
        config = settings(site, out, max_bytes=1_000_000, urls=(site.url("feed?q=build&n=9"),))
        yield site, config, collect(config)


def test_downloads_and_reasons_of_rejected_videos(mixed_run, videos, capsys):
    site, config, out = mixed_run
    records = archive(out)
    states = {path: record["state"] for path, record in records.items()}
    taken = {"good.mp4": videos[0], "again.mp4": videos[1], "..%2f..%2fx.mp4": videos[2]}
    assert states == dict.fromkeys(taken, "taken") | {
        "word.mp4": "rejected", "short.mp4": "rejected", "unknown_duration.mp4": "rejected", "endless.mp4": "rejected",
        "gone.mp4": "gone", "broken.mp4": "failed", "odd": "failed", "text.mp4": "failed",
    }  # fmt: skip
    assert records["word.mp4"]["reason"] == "'skyblock' in description"
    assert records["short.mp4"]["reason"] == records["unknown_duration.mp4"]["reason"] == "shorter than 60 s"
    assert records["endless.mp4"]["reason"] == "larger than 1,000,000 bytes"
    assert not {"/word.mp4", "/short.mp4"} & set(site.requests)
    assert len(records["again.mp4"]["title"]) == 300
    for path, body in taken.items():
        assert (out / records[path]["file"]).read_bytes() == body
        assert records[path]["sha256"] == hashlib.sha256(body).hexdigest()
        assert {"bytes": len(body), "width": 64, "height": 36, "fps": 20, "seconds": 2}.items() <= records[path].items()
    segments = read_segments(out / "videos.parquet")
    assert [(s.start, s.end) for s in segments] == 3 * [(0, 2)]
    assert {out / s.video for s in segments} == set((out / "videos").iterdir())
    assert [len(list(clip.frames())) for clip in find_videos(out / "videos.parquet").values()] == 3 * [40]
    assert os.listdir(out.parent) == ["out"]
    assert sorted(os.listdir(out)) == ["archive.jsonl", "archive.parquet", "searches.jsonl", "videos", "videos.parquet"]

    first_requests = len(site.requests)
    collect(config)
    assert len(site.requests) == first_requests
    site.feeds["dig"]["broken.mp4"].truncations = 0
    config.retry_failed = True
    collect(config)
    assert set(site.requests[first_requests:]) == {"/broken.mp4", "/odd", "/text.mp4"}
    assert archive(out)["broken.mp4"]["state"] == "taken"
    assert len(read_segments(out / "videos.parquet")) == 4
    assert "4 taken" in capsys.readouterr().out


def page(video, track):
    """Web page with a video and a track of subtitles."""
    track = f"<track kind='subtitles' srclang='en' src='{track}'>"
    html = f"<html><head><title>a page</title></head><body><video src='{video}'>{track}</video></body></html>"
    return Video(html.encode(), kind="text/html")


@pytest.mark.slow
def test_subtitles_are_stored_beside_their_video_and_their_loss_costs_no_video(site, videos, tmp_path):
    words = b"WEBVTT\n\n00:00.000 --> 00:01.000\nopen the door\n"
    site.feeds = {
        "dig": {"with": page("/one.mp4", "/words.vtt"), "without": page("/two.mp4", "/lost.vtt")},
        "not searched": {
            "one.mp4": Video(videos[0]), "two.mp4": Video(videos[1]), "words.vtt": Video(words, kind="text/vtt"),
        },
    }  # fmt: skip
    out = collect(settings(site, tmp_path / "out", subtitles="en"))
    records = archive(out)
    assert {record["state"] for record in records.values()} == {"taken"}
    file = find_subtitles(out / records["with"]["file"])
    assert subtitle_captions(file) == [(0, "open the door"), (20, "")]
    assert find_subtitles(out / records["without"]["file"]) is None
    assert sorted(path.suffix for path in (out / "videos").iterdir()) == [".mp4", ".mp4", ".vtt"]


def test_dry_run_requests_no_video_and_keeps_its_searches(site, videos, tmp_path, capsys):
    site.feeds["dig"] = mixed(videos) | {"known": Video(b"", link="https://www.youtube.com/watch?v=abcdefghijk")}
    config = settings(site, tmp_path / "out", dry_run=True)
    out = collect(config)
    assert site.requests == ["/feed?q=dig&n=500"]
    output = capsys.readouterr().out
    assert (
        "found 12 videos, 0 of them already in the archive\n"
        "  would download 10: 0.8 hours, and 1 videos of unknown duration" in output
    )
    assert "rejected, 'skyblock' in description: 1" in output
    assert "rejected, shorter than 60 s: 1" in output
    assert not (out / "videos").exists()
    assert not (out / "archive.jsonl").read_text()
    assert '"Youtube-abcdefghijk"' in (out / "searches.jsonl").read_text()
    config.update(reject_words=("wars",), min_seconds=10)
    collect(config)
    assert "would download 11" in capsys.readouterr().out
    assert len(site.requests) == 1
    config.search_again = True
    collect(config)
    assert site.requests == 2 * ["/feed?q=dig&n=500"]


def test_run_ends_after_consecutive_failures(site, videos, tmp_path):
    site.feeds["dig"] = {f"{number}.mp4": Video(videos[0], status=503) for number in range(8)}
    config = settings(site, tmp_path / "out", workers=1, max_failures=2)
    config.retries = 0
    with pytest.raises(CollectError, match=r"stopped after 2 failures in a row, the last: .*503"):
        collect(config)
    assert [record["state"] for record in archive(tmp_path / "out").values()] == 2 * ["failed"]
    site.server_close()
    config.update(out=str(tmp_path / "other"), max_failures=1)
    with pytest.raises(CollectError, match=r"the last: DownloadError.*refused"):
        collect(config)


@pytest.mark.parametrize("unanswered", [{"a"}, {"a", "b"}])
def test_run_without_an_answered_search_fails(tmp_path, monkeypatch, capsys, unanswered):
    """(attack M8) Such a run ended with status 0 once. Escape sequences in untrusted text are escaped."""
    entry = asdict(parse_entry({"url": "http://a.b/c", "duration": 1}, "Web", "c"))

    def run_tasks(function, tasks, *_):
        for number, (query, *_) in enumerate(tasks):
            yield number, TaskFailed("HTTP Error 403: \x1b]0;pwned\x07") if query[-1] in unanswered else [entry]

    monkeypatch.setattr(sandbox, "run_tasks", run_tasks)
    config = settings(None, tmp_path / "out", search="http://c.d/{results}/{term}")
    config.terms = ("a", "b")
    fails = pytest.raises(CollectError, match=r"none of 2 searches was answered, the last: .*\\x1b\]0;pwned\\x07")
    with fails if len(unanswered) == 2 else nullcontext():
        collect(config)
    assert "no answer to 'http://c.d/500/a': HTTP Error 403: \\x1b]0;pwned\\x07" in capsys.readouterr().out
    assert (tmp_path / "out" / "archive.parquet").exists()


@pytest.mark.slow
def test_resume_after_two_kills_downloads_no_video_twice(site, videos, tmp_path):
    paths = [f"{number}.mp4" for number in range(12)]
    site.feeds["dig"] = {path: Video(videos[n % 4], delay=0.02) for n, path in enumerate(paths)}
    out = tmp_path / "out"
    fields = settings(site, out, workers=3).to_dict()
    given = ("out", "terms", "search", "height", "pause_seconds", "backoff_seconds", "workers", "bytes_per_second")
    command = [sys.executable, "launch/collect.py", *(f"--config.{field}={fields[field]}" for field in given)]

    def start():
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    for least in (2, 5):
        process = start()
        wait_until(lambda: (out / "archive.jsonl").exists() and len(archive(out)) >= least, process)  # noqa: B023
        kill(process)
        assert len(archive(out)) < len(paths)
        for path in (out / "videos").iterdir():
            assert path.read_bytes() in videos
    before = {path: site.feeds["dig"][path].sent for path, record in archive(out).items()}
    process = start()
    output = process.communicate()[0]
    assert process.returncode == 0, output
    assert "12 taken" in output
    assert sorted(archive(out)) == sorted(paths)
    assert len((out / "archive.jsonl").read_text().splitlines()) == len(paths)
    assert {path: site.feeds["dig"][path].sent for path in before} == before
    for path, record in archive(out).items():
        assert (out / record["file"]).read_bytes() == site.feeds["dig"][path].body
    assert len(list((out / "videos").iterdir())) == len(read_segments(out / "videos.parquet")) == len(paths)
    assert not (out / "partial").exists()


COOKIES = "# Netscape HTTP Cookie File\n127.0.0.1\tFALSE\t/\tFALSE\t0\tname\tvalue\n"


def test_complete_file_of_a_killed_run_is_moved(site, videos, tmp_path):
    site.feeds["dig"] = {"a.mp4": Video(videos[0], headers={"Set-Cookie": "other=1"})}
    (tmp_path / "cookies").write_text(COOKIES)
    config = settings(site, tmp_path / "out", cookies=str(tmp_path / "cookies"))
    out = collect(config)
    assert None not in site.cookies
    assert all("name=value" in cookie for cookie in site.cookies)
    assert (tmp_path / "cookies").read_text() == COOKIES
    record = archive(out)["a.mp4"]
    (out / "partial" / record["id"]).mkdir(parents=True)
    (out / record["file"]).rename(out / "partial" / record["id"] / "whole")
    with (out / "archive.jsonl").open("a") as file:
        file.write('{"id": "to')  # an incomplete line
    collect(config)
    assert (out / record["file"]).read_bytes() == videos[0]
    assert archive(out) == {"a.mp4": record}
    assert len(site.requests) == 3  # the search; the page, which is the video; the video
    record["file"] = "../a.mp4"
    (out / "archive.jsonl").write_text(json.dumps(record) + "\n")
    with pytest.raises(CollectError, match=r"archive.jsonl, line 1: file is '../a.mp4'. Remove"):
        collect(config)
    (out / "archive.jsonl").write_text("[1]\n")
    with pytest.raises(CollectError, match=r"archive.jsonl, line 1: not a JSON object. Remove"):
        collect(config)


@pytest.mark.parametrize("field", [{"id": "../../other"}, {"id": ".."}, {"id": "a-b\n"}, {"id": 7}, {"url": 7}])
def test_journal_cannot_refer_to_other_folders(tmp_path, field):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "whole").touch()
    record = asdict(ArchiveRecord("Web-a", "http://a.b/c", "", "dig", None, "failed")) | field
    entry = asdict(parse_entry({"url": "http://a.b/c"}, "Web", "a")) | field
    config = settings(None, tmp_path / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "archive.jsonl").write_text(json.dumps(record) + "\n")
    with pytest.raises(CollectError, match=r"archive.jsonl, line 1: not a record of a video. Remove this line"):
        collect(config)
    (tmp_path / "out" / "archive.jsonl").unlink()
    search = {"query": config.search.format(term="dig", results=500), "results": 500, "entries": [entry]}
    (tmp_path / "out" / "searches.jsonl").write_text(json.dumps(search) + "\n")
    with pytest.raises(CollectError, match=r"searches.jsonl, line 1: not a search. Remove this line"):
        collect(config)
    assert (tmp_path / "other" / "whole").exists()


def test_timeouts_lone_surrogates_and_a_full_disk(tmp_path, monkeypatch):
    entries = [asdict(parse_entry({"url": f"http://a.b/{name}"}, "Web", name)) for name in "ab"]

    def run_tasks(function, tasks, *_):
        for number, (_, folder, *_) in enumerate(tasks):
            if function is ytdlp.fetch:
                folder.mkdir(parents=True)
                (folder / "whole").touch()
            yield number, entries if function is ytdlp.search else TaskFailed("\ud800" + 5000 * "w")

    monkeypatch.setattr(sandbox, "run_tasks", run_tasks)
    out = collect(settings(None, tmp_path / "out"))
    assert sorted(os.listdir(out)) == ["archive.jsonl", "archive.parquet", "searches.jsonl", "videos.parquet"]
    assert {record["reason"] for record in archive(out).values()} == {" " + 1999 * "w"}
    poisoned = (out / "archive.jsonl").read_text().replace('" www', r'"\ud800www')
    (out / "archive.jsonl").write_text(poisoned)
    collect(settings(None, out))
    assert r"\ud800" in poisoned

    def full(*lines):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Journal, "append", full)
    with pytest.raises(CollectError, match=r"cannot write to .*No space left.*; make room there.* run the same"):
        collect(settings(None, tmp_path / "other"))


@pytest.mark.parametrize(
    ("message", "state"),
    [
        ("[youtube] a: Private video. Sign in if you've been granted access to this video", "gone"),
        ("[youtube] a: Video unavailable", "gone"),
        ("[youtube] a: Video unavailable. This video has been removed by the uploader", "gone"),
        ("[youtube] a: Video unavailable. This content isn't available, try again later.", "failed"),
        ("[youtube] a: Video is private. Come back later", "failed"),
        ("[youtube] a: Private video. Are you a bot?", "failed"),
        ("[youtube] xBOTy: Private video about lateral movement at the bottom", "gone"),
        ("[youtube] a: Sign in to confirm you\u2019re not a bot", "failed"),
        ("[youtube] a: Unable to download API page: HTTP Error 429: Too Many Requests", "failed"),
    ],
)
def test_state_for_error_messages_of_sites(message, state):
    assert state_for_error(DownloadError(f"ERROR: {message}")) == state


def test_truncated_videos_are_detected(videos, tmp_path):
    (tmp_path / "film.mp4").write_bytes(videos[0])
    assert probe(tmp_path / "film.mp4") == (64, 36, 20, 2)
    for share in (0.3, 0.6, 0.99):
        (tmp_path / "film.mp4").write_bytes(videos[0][: int(share * len(videos[0]))])
        with pytest.raises(VideoError, match=r"damaged video: it is cut short|unreadable video"):
            probe(tmp_path / "film.mp4")


RULES = RejectRules(REJECT_WORDS, 60, 3600, 17)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, None),
        ({"title": "XBOX  360 and more"}, "'xbox 360' in title"),
        ({"title": "my ps3s, animations"}, None),
        ({"tags": ["minecraft", "PE", "\uff30\uff33\uff14"]}, "'ps4' in tags"),  # full width
        ({"tags": ["minecraft pe"]}, "'minecraft pe' in tags"),
        ({"duration": 3601}, "longer than 3600 s"),
        ({"duration": "5"}, None),
        ({"duration": float("nan"), "description": None, "tags": 3}, None),
        ({"live_status": "is_upcoming"}, "live"),
        ({"live_status": "was_live"}, None),
        ({"age_limit": 18}, "age limit over 17"),
        ({"url": "file:///etc/passwd"}, "no http(s) URL"),
        ({"url": "ytsearch9:more"}, "no http(s) URL"),
        ({"url": "https://a.b/" + 2000 * "c"}, "no http(s) URL"),
        ({"url": "https://a.b/\ud800"}, "no http(s) URL"),
        ({"duration": 10**400}, None),
    ],
)
def test_rejection_by_metadata(fields, reason):
    entry = parse_entry({"url": "https://a.b/c", "title": "a film", "duration": 300} | fields, "Youtube", "abc")
    assert rejection_reason(entry, RULES) == reason


HOSTILE = st.text() | st.sampled_from(["../../x", "a\0b", "a\nb", "w" * 10_000, "/etc", "..", "a%2f", "-rf", "\ud800"])


@given(HOSTILE, HOSTILE, HOSTILE, HOSTILE)
def test_names_are_safe_and_differ(site_name, id, other, url):
    name = safe_name(site_name, id, url)
    assert SAFE_NAME.fullmatch(name)
    assert is_inside(f"videos/{name}.mp4")
    assert (safe_name("Youtube", id, url) == safe_name("Youtube", other, url)) == (id == other)
    assert (safe_name("Generic", "a", id) == safe_name("Generic", "a", other)) == (id == other)
    assert sanitize(id, 50).isprintable() or not id
    json.dumps(sanitize(id, 50)).encode()


def test_smallest_sufficient_format_without_sound_is_chosen():
    def video_format(id, height, video="avc1", audio="none", protocol="https", **more):
        fields = {"format_id": id, "height": height, "vcodec": video, "acodec": audio, "protocol": protocol}
        return fields | {"url": f"https://a.b/{id}", "ext": "mp4"} | more

    def choose(*formats):
        with open_downloader(RequestPolicy(0, 0, 0, 0, ""), 360) as downloader:
            info = {"id": "a", "title": "a", "formats": list(formats), "extractor": "a", "webpage_url": "https://a.b"}
            return downloader.process_ie_result(info, download=False)["format_id"]

    sound = video_format("sound", None, video="none", audio="mp4a")
    low, high, vp9 = video_format("240", 240), video_format("720", 720), video_format("vp9", 360, video="vp9")
    program = video_format("rtmp", 360, protocol="rtmp")
    assert choose(low, high, sound, program, video_format("360", 360), vp9) == "360"
    assert choose(low, high, sound, vp9) == "vp9"
    assert choose(low, high, sound, video_format("both", 360, audio="mp4a")) == "720"
    assert choose(low, sound, video_format("both", 360, audio="mp4a")) == "both"
    with pytest.raises(Exception, match="Requested format is not available"):
        choose(low, sound, program)


def test_documented_queries_run(mixed_run, monkeypatch):
    monkeypatch.chdir(mixed_run[-1])
    page = (ROOT / "docs" / "collecting.md").read_text()
    queries = re.findall(r"```sql\n(.*?)```", page, re.DOTALL)
    assert len(queries) == 3
    for query in queries:
        answer = duckdb.sql(query)
        assert answer is None or answer.fetchall()
