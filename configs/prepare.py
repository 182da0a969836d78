"""Prepare a dataset of recorded play for training.

    python launch/prepare.py --config.recordings=runs/recordings --config.out=runs/dataset

Runs on any machine; a core encodes some 700 frames of 640x360 recordings per second, nearly all of the time decoding
them. After a stop or kill, run the same command again to resume. Broken recordings are skipped and listed in
OUT/report.json.

    python launch/prepare.py --source=contractor --config.contractor.index=INDEX --config.recordings=A --config.out=B

first downloads OpenAI's contractor recordings into the folder A, except for existing ones; failed downloads and their
reasons are listed in A/download.json. With --config.contractor.dry_run it only prints the total size.

    python launch/prepare.py --config=configs/prepare.py:house --config.recordings=A

makes the paper's `contractor_house` of the downloaded recordings in A: those of recorder versions 8.x, a house from
nothing, with whole sessions held out. With --config.recorder_versions="('8', '9')" also 9.x, a house from some things.
Add --source=contractor and an index to download them as well; a run for each index fills the same folder A.

    python launch/prepare.py --source=owamcap --config.space=S --config.mapping=M --config.recordings=A --config.out=B

reads recordings of another format and game, S and M being JSON files; the other sources are event_table,
owl_control, crowd_cast, lerobot, p2p and csgo (docs/guides/your-own-recordings.md).
"""

from ml_collections import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    if variant not in ("", "house"):
        raise ValueError(f"configs/prepare.py has no variant {variant!r}; its only one is house")
    config = ConfigDict()

    # Folder of recordings: NAME.mp4 + NAME.jsonl, or with --source those of another format; in the subfolders train,
    # valid and test or, without these, all for training (but see `valid` below). Or, of NAME.mp4 + NAME.jsonl, a
    # manifest in it: a Parquet table of segments (time ranges) of recordings (vpt_jax/data/manifest.py). The recorder
    # version, which determines the mouse scale in a GUI, is not contained in OpenAI's records: keep it in the name,
    # 6.9_NAME, as --source=contractor does, or as the folder, 6.9/NAME.
    config.recordings = ""
    # Use only recordings of these recorder versions, such as ("8", "9.0"): 8 is short for all 8.x. Each is of another
    # task (see `contractor.index`). Empty: all. Not for other formats.
    config.recorder_versions = ()
    # Output folder of the dataset. OUT.partial next to it holds the intermediate results until it is complete.
    config.out = ""

    # Size of the stored frames in pixels: the model's input (code: 128x128), divisible by 8.
    config.height = 128
    config.width = 128
    # Frames per record: few, so that reading a few frames of an episode reads little else.
    config.chunk_frames = 32
    # JPEG quality, 1 to 100; docs/storage.md shows its size and its loss.
    config.quality = 90

    # Action space of the dataset: "minerl" (the paper's), "doom", or the path of a JSON file (ActionSpace.from_dict in
    # vpt_jax/actions/space.py).
    config.space = "minerl"
    # Mapping from the recorder's keys and axes to those of the space: "minerl-to-doom", "doom-to-minerl",
    # "keyboard-to-minerl", or the path of a JSON file (vpt_jax/actions/mapping.py). Empty: equal names.
    config.mapping = ""
    # JSON file of mouse factors, {"NAME": 0.5}, by name of the recording: movements are multiplied by them before the
    # mapping, since a count of the mouse turns further in one player's game than in another's. Not for OpenAI's format.
    config.mouse_factors = ""
    # Frames per second of formats that store no times (CS:GO); 0: the format's own default.
    config.frames_per_second = 0.0
    # Include recordings that are marked as not trainable, to look at them or to evaluate on them: launch/train.py
    # refuses the dataset. False: they are left out, and listed in the report.
    config.include_untrainable = False

    config.valid = _valid()
    # Join consecutive five-minute segments of a session to one episode, by the times in their names and the game's
    # clock (vpt_jax/data/sessions.py): the model's memory is then carried across the boundary. The episode is named
    # after its first segment.
    config.join_segments = False

    # Worker processes; 0: one per core that the program may use. The dataset does not depend on it.
    config.workers = 0
    # Or a runner of Apache Beam ("DirectRunner", "DataflowRunner", "FlinkRunner", "SparkRunner", ...) and flags for it,
    # such as ("--direct_num_workers=4", "--direct_running_mode=multi_processing"); see vpt_jax/data/beam.py.
    config.beam = ConfigDict({"runner": "", "options": ()})

    config.contractor = _contractor()
    if variant == "house":
        config.out = "data/house"  # which configs/house.py reads
        config.recorder_versions = ("8",)  # notes that quote the paper: from a new world, with wood, sand and dirt
        config.valid.by = "session"  # our choice: a player builds many houses
    return config


def _valid() -> ConfigDict:
    """Validation split of recordings whose player, session or world is known.

    It is held out of `train` if neither the folder nor the manifest has recordings in `valid`. OpenAI's split is not
    known: our choice.
    """
    valid = ConfigDict()
    # Fraction of the players, sessions or worlds that is held out for validation, of recordings named like OpenAI's
    # (PLAYER-SESSION-DATE-TIME) or with such facts (bridges), and if none are in `valid`. It is chosen by a hash of the
    # names, so that new recordings do not move others; of two or more, at least one, that with the lowest hash. 0: none
    # are held out.
    valid.fraction = 0.05
    # "player", "session" or "world": by session, players are in both splits, but their sessions, of one world each, are
    # not. With a single player or world, sessions are held out in any case. No session is in both.
    valid.by = "player"
    # Seed of the hash; another seed gives another choice.
    valid.seed = 0
    return valid


def _contractor() -> ConfigDict:
    """Downloads with --source=contractor."""
    contractor = ConfigDict()
    # With --source=contractor: URL or path of an index; a local one may name a local folder, a mirror, as "basedir".
    # OpenAI's, in https://openaipublic.blob.core.windows.net/minecraft-rl/snapshots/:
    #   all_6xx_Jun_29.json    general play                     find-cave-Jul-28.json      BASALT: find a cave
    #   all_7xx_Apr_6.json     the first minutes of a world     waterfall-Jul-28.json      BASALT: make a waterfall
    #   all_8xx_Jun_29.json    a house, from nothing            pen-animals-Jul-28.json    BASALT: pen in animals
    #   all_9xx_Jun_29.json    a house, from some things        build-house-Jul-28.json    BASALT: a house in a village
    #   all_10xx_Jun_29.json   a diamond pickaxe, in 20 minutes
    contractor.index = ""
    # Request sizes and lengths, of a sample if there are many, and download nothing.
    contractor.dry_run = False
    # Maximum number of pairs (a video and its actions), the first of the index; 0: all.
    contractor.max_pairs = 0
    # Pairs downloaded in parallel.
    contractor.connections = 8
    # Rate limit of all connections together; 0: no limit.
    contractor.megabytes_per_second = 0.0
    # Retries of a file, with exponential backoff: pauses of half a second, one, two, ...
    contractor.retries = 5
    # Seconds without a response, or below one kilobyte per second, until a try fails.
    contractor.timeout_seconds = 30.0
    # Maximum size of a file; larger files are skipped.
    contractor.max_megabytes = 2000.0
    # Also download from this machine and private networks, as if the index were from there.
    contractor.allow_private_networks = False
    # Retry pairs that were missing, broken or too large before.
    contractor.retry_missing = False
    return contractor
