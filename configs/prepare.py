"""A dataset of recorded play, ready for training.

    python launch/prepare.py --config.recordings=runs/recordings --config.out=runs/dataset

Takes any machine; a core encodes some 700 frames of 640x360 recordings a second, nearly all of it decoding them. Killed
or stopped, the same command goes on where it was. Broken recordings are left out and listed in OUT/report.json.

    python launch/prepare.py --source=contractor --config.contractor.index=INDEX --config.recordings=A --config.out=B

first fetches OpenAI's contractor recordings into the folder A, as far as they are not there yet; what could not be had,
and why, stands in A/download.json. With --config.contractor.dry_run it only says how much it is.
"""

from ml_collections import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    if variant:
        raise ValueError("configs/prepare.py has no variants: change its fields with --config.FIELD=VALUE")
    config = ConfigDict()

    # Folder of NAME.mp4 + NAME.jsonl, in the subfolders train, valid and test or, without these, all for training (but
    # see `valid` below). Or a manifest in it: a Parquet table that says which seconds of which recordings
    # (vpt_jax/data/manifest.py). The recorder version, on which the mouse's scale in a GUI depends, does not stand in
    # OpenAI's records: keep it in the name, 6.9_NAME, as --source=contractor does, or as the folder, 6.9/NAME.
    config.recordings = ""
    # Folder of the dataset, made by the run. OUT.partial beside it holds the work until it is whole.
    config.out = ""

    # Size of the stored frames in pixels: the model's input (code: 128x128), divisible by 8.
    config.height = 128
    config.width = 128
    # Frames per record: short, so that a reader who wants a few frames of an episode reads little else.
    config.chunk_frames = 32
    # JPEG quality, 1 to 100; docs/storage.md shows what it costs and what it loses.
    config.quality = 90

    # Which recordings named like OpenAI's contractors' (PLAYER-SESSION-DATE-TIME) are held out of `train` as `valid`,
    # where neither the folder nor the manifest has any recordings in valid. OpenAI's split is not known: an own choice.
    config.valid = ConfigDict(
        {
            # Of the players or sessions, by a hash of their names, so more recordings move no others; of two or more,
            # at least one, that with the lowest hash. 0: none are held out.
            "fraction": 0.05,
            # "player", or "session": players are then in both splits, their sessions, of one world each, are not. Of a
            # single player sessions are held out anyway.
            "by": "player",
            "seed": 0,  # of the hash: another choice
        }
    )
    # Join segments of five minutes of one session to one episode where they follow one another, by the times in their
    # names and the game's clock (vpt_jax/data/sessions.py): the model's memory then goes on at the seam. The episode is
    # called as its first segment.
    config.join_segments = False

    # Worker processes; 0: one per core that the program may use. The dataset does not depend on it.
    config.workers = 0
    # Or a runner of Apache Beam ("DirectRunner", "DataflowRunner", "FlinkRunner", "SparkRunner", ...) and flags for it,
    # such as ("--direct_num_workers=4", "--direct_running_mode=multi_processing"); see vpt_jax/data/beam.py.
    config.beam = ConfigDict({"runner": "", "options": ()})

    # With --source=contractor. OpenAI's indexes lie in https://openaipublic.blob.core.windows.net/minecraft-rl/snapshots/
    #   all_6xx_Jun_29.json    general play                     find-cave-Jul-28.json      BASALT: find a cave
    #   all_7xx_Apr_6.json     the first minutes of a world     waterfall-Jul-28.json      BASALT: make a waterfall
    #   all_8xx_Jun_29.json    a house, from nothing            pen-animals-Jul-28.json    BASALT: pen in animals
    #   all_9xx_Jun_29.json    a house, from some things        build-house-Jul-28.json    BASALT: a house in a village
    #   all_10xx_Jun_29.json   a diamond pickaxe, in 20 minutes
    config.contractor = ConfigDict(
        {
            "index": "",  # URL or path of an index; one on this machine may name a folder on it, a mirror, as "basedir"
            "dry_run": False,  # ask for sizes and lengths, of a sample if there are many, and fetch nothing
            "pairs": 0,  # take only so many, the first of the index; 0: all
            "connections": 8,  # pairs fetched at a time
            "megabytes_per_second": 0.0,  # of all connections together, at most; 0: as fast as it goes
            "retries": 5,  # further tries for a file, after pauses of half a second, one, two, ...
            "timeout": 30.0,  # seconds without an answer, or at less than a kilobyte a second, before a try is given up
            "largest_megabytes": 2000.0,  # of a file; what is larger is left out
            "private": False,  # also fetch from this machine and private networks, as if the index came from there
            "retry_missing": False,  # ask again for pairs that were gone, broken or too large before
        }
    )
    return config
