"""Web videos: search, rejection by the metadata of the site, download.

    pip install -c constraints.txt -e ".[web]"
    python launch/collect.py --config.out=VIDEOS --config.dry_run      # prints the number of hours
    python launch/collect.py --config.out=VIDEOS
    python launch/label.py --config.videos=VIDEOS/videos.parquet ...

After an interruption or a kill, run the same command again to resume. Guide: docs/collecting.md. Check the site's terms
of service before you download.
"""

from ml_collections import ConfigDict

from vpt_jax.curation.download.search_terms import REJECT_WORDS, SEARCH_TERMS


def get_config(variant: str = "") -> ConfigDict:
    if variant:
        raise ValueError("configs/web.py has no variants: change its fields with --config.FIELD=VALUE")
    config = ConfigDict()

    # Folder of the videos and of their metadata.
    config.out = ""
    # Print what would be downloaded, and download nothing. Search results are kept: rules can be tried without a new
    # search.
    config.dry_run = False

    # Search terms (after the paper, by a public crawler's list), and the yt-dlp query for a term: another of its search
    # prefixes, or the URL of a feed; {results} is `max_results`.
    config.terms = SEARCH_TERMS
    config.search = "ytsearch{results}:{term}"
    # Further sources: URLs of playlists, channels (of a channel's /videos), feeds or videos.
    config.urls = ()
    # Maximal number of videos of each term and source (our choice, as are all numbers in this file).
    config.max_results = 500
    # Repeat earlier searches: there may be new videos.
    config.search_again = False

    # Videos with any of these words or phrases in title, description or tags are rejected (after the paper, by a public
    # crawler's list).
    config.reject_words = REJECT_WORDS
    # Limits of the duration in seconds, and the maximal age limit in years. Live videos are rejected too. These rules
    # are our choice: the paper is not known to have any of them.
    config.min_seconds = 60
    config.max_seconds = 4 * 3600
    config.max_age_limit = 17
    # Minimal height in pixels; the smallest format that has it is downloaded. It is the height of the contractors'
    # recordings (code), which the model sees scaled to 128.
    config.height = 360
    # Language of the subtitles to download as well, such as "en", for policies that read text (docs/text.md). Empty:
    # none. The paper's appendix I, as recalled, had 17,000 hours with English captions.
    config.subtitles = ""
    # Maximal size of a video in bytes.
    config.max_bytes = 2 * 1024**3
    # Timeout of a video in seconds, pauses included (of a search: an hour).
    config.timeout_seconds = 2 * 3600
    # Retry videos that failed in an earlier run.
    config.retry_failed = False

    # Parallel downloads, and the pause in seconds between the requests of each.
    config.workers = 2
    config.pause_seconds = 5.0
    # Rate limit in bytes per second, of all downloads together; 0: unlimited.
    config.bytes_per_second = 2_000_000
    # Retries of a failed request with exponential backoff: seconds before the first retry, doubled before each further
    # one.
    config.retries = 3
    config.backoff_seconds = 10.0
    # End the run after this number of failed videos in a row.
    config.max_failures = 10
    # Cookie file (Netscape format), for sites that require cookies; it is read and not written.
    config.cookies = ""
    return config
