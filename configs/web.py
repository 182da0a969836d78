"""Videos from the web: searched for, ruled out by what the site says of them, downloaded.

    pip install -c constraints.txt -e ".[web]"
    python launch/collect.py --config.out=VIDEOS --config.dry_run      # how many hours there are
    python launch/collect.py --config.out=VIDEOS
    python launch/label.py --config.videos=VIDEOS/videos.parquet ...

Killed or stopped, the same command goes on where it was. docs/collecting.md says more. What a site's terms allow is for
you to know and to keep.
"""

from ml_collections import ConfigDict

from vpt_jax.curation.download.search_terms import REJECT_WORDS, SEARCH_TERMS


def get_config(variant: str = "") -> ConfigDict:
    if variant:
        raise ValueError("configs/web.py has no variants: change its fields with --config.FIELD=VALUE")
    config = ConfigDict()

    # Folder of the videos and of what is known about them.
    config.out = ""
    # Say what would be taken, and download nothing. What was found is kept: rules can be tried without a new search.
    config.dry_run = False

    # What to search for (after the paper, by a public crawler's list), and how a term becomes what yt-dlp is asked:
    # another of its searches, or the address of a feed.
    config.terms = SEARCH_TERMS
    config.search = "ytsearch{results}:{term}"
    # Further sources: addresses of playlists, channels (of a channel's /videos), feeds or videos.
    config.urls = ()
    # At most so many videos of each term and source (our choice, as are all numbers in this file).
    config.results = 500
    # Search again for what was searched before: there may be new videos.
    config.search_again = False

    # Videos with any of these words or phrases in title, description or tags are left out (after the paper, by a public
    # crawler's list).
    config.reject_words = REJECT_WORDS
    # So are shorter and longer ones, in seconds; those for ages over so many years; and live ones. These rules are our
    # choice: the paper is not known to have any of them.
    config.min_seconds = 60
    config.max_seconds = 4 * 3600
    config.age_limit = 17
    # The smallest format with at least so many lines is taken: as many as the contractors' recordings have (code), of
    # which the model sees 128.
    config.height = 360
    # A video may have so many bytes,
    config.max_bytes = 2 * 1024**3
    # and take so many seconds, pauses included (a search: an hour).
    config.timeout = 2 * 3600
    # Ask again for videos that failed in an earlier run.
    config.retry_failed = False

    # Downloads at a time; each waits so many seconds between its requests.
    config.workers = 2
    config.pause = 5.0
    # Bytes per second of all downloads together; 0: as many as come.
    config.rate = 2_000_000
    # A request that fails is made so many times more, first after so many seconds, then after twice as many each time.
    config.retries = 3
    config.backoff = 10.0
    # End the run when so many videos have failed one after the other.
    config.max_failures = 10
    # File of cookies (Netscape format), for sites that ask for them; it is read, and not written.
    config.cookies = ""
    return config
