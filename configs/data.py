"""Inspection, validation and export of a dataset: statistics, errors, pictures, differences, other formats; and videos
chosen by title.

    python launch/data.py stats --config.data=DATASET
    python launch/data.py validate --config.data=DATASET --config.idm=RUN
    python launch/data.py show --config.data=DATASET
    python launch/data.py diff --config.data=DATASET --config.other=DATASET
    python launch/data.py score --config.data=RECORDED --config.split=test --config.labels=LABELS
    python launch/data.py score --config.data=RECORDED --config.split=test --config.idm=RUN
    python launch/data.py export --config.data=DATASET --config.format=owamcap --config.out=FOLDER
    python launch/data.py early-game --config.manifest=VIDEOS/segments.parquet --config.titles=VIDEOS/videos.parquet

The exit status of `validate` is 1 if it finds a problem, else 0. It does not change the dataset. After an interruption
or a kill, run the same command again to resume. Each writes NAME.json and NAME.html to config.out; `score` also writes
NAME.md, `show` a picture and a film, and `export` (which resumes as well) the dataset in another format.
"""

from ml_collections import ConfigDict

from vpt_jax.curation.download.search_terms import EARLY_GAME_WORDS


def get_config(variant: str = "") -> ConfigDict:
    if variant:
        raise ValueError("configs/data.py has no variants: change its fields with --config.FIELD=VALUE")
    config = ConfigDict()

    # Folder of the dataset, written by launch/prepare.py or launch/label.py.
    config.data = ""
    # Output folder; empty: DATASET.inspection, next to the dataset. `export` needs one.
    config.out = ""
    # Worker processes; 0: one per core that the program may use.
    config.workers = 0

    # stats: recorder versions, the share of frames with an open GUI and item statistics are read from report.json of a
    # dataset that `prepare` wrote. Set a folder of recordings (subfolders included) to read them from there instead,
    # as for datasets of an older version of this library. Empty: the report's.
    config.recordings = ""

    # validate: work directory of an inverse dynamics model, which checks that actions fit their frames. Empty: no such
    # check. It should be trained on the same game, and not on these very episodes.
    config.idm = ""
    # As in configs/label.py.
    config.mode = "shared"
    config.mirror = False
    # A key that is held longer, in seconds, is reported as stuck.
    config.stuck_seconds = 300.0

    # diff: folder of the dataset that `data` is compared with.
    config.other = ""

    # show: name of an episode, such as "train/NAME", which is shown completely; empty: excerpts at random positions of
    # all episodes.
    config.episode = ""
    config.num_excerpts = 6
    config.seconds = 5.0
    # Of the excerpts, and of sampled labels of `score`.
    config.seed = 0

    _score(config)
    _export(config)
    _early_game(config)
    # Folder of the compilation cache: compiled programs, which later starts load. "auto": that of the environment
    # variable VPT_COMPILATION_CACHE, or else ~/.cache/vpt_jax/compiled; empty: none (configs/base.py says more).
    config.compilation_cache = "auto"
    return config


def _score(config: ConfigDict) -> None:
    """Fields of `score`."""
    # score: a dataset of labels, of launch/label.py, whose episodes are in `data` with their recorded actions; or set
    # `idm`, and it predicts the actions of all frames in `data`, which also gives the calibration of every key.
    config.labels = ""
    # score: split of `data`; empty: all. The model must not have been trained on it.
    config.split = ""
    # score: as in configs/label.py, where labels to train on are sampled; the labels of the model in `idm`.
    config.choice = "argmax"
    # score: the precision that thresholds of the confidence keep: the share of right labels.
    config.target_precision = 0.9
    # score: bootstrap draws of the episodes, for 95% intervals.
    config.draws = 1000


def _export(config: ConfigDict) -> None:
    """Fields of `export`."""
    # export: owamcap (a .mcap and a .mp4 file for each episode) or lerobot (a LeRobot v3 dataset).
    config.format = "owamcap"
    # Quality of the videos: x264's constant quality, 1 (best) to 51; 0: without loss, which not all players show.
    config.crf = 18
    # owamcap: physical keys and mouse axes by the names of the dataset's keys and axes, as in
    # "forward=w,attack=mouse.left,yaw=mouse.x". Those of MineRL and of keyboards are known.
    config.bindings = ""
    # owamcap: degrees per count of the mouse, for axes in degrees; 0: that of OpenAI's recorder, 0.15.
    config.degrees_per_count = 0.0
    # lerobot: text that describes what is done, stored with every episode.
    config.task = "Play the game."


def _early_game(config: ConfigDict) -> None:
    """Fields of `early-game`: the paper's `earlygame_keyword`; `out` is a file next to the manifest."""
    # early-game: manifest of videos, of launch/filter.py or launch/collect.py. The result is early_game.parquet in the
    # same folder, or another file there (`out`): a manifest for launch/label.py.
    config.manifest = ""
    # early-game: table with the columns `video` and `title`, that launch/collect.py wrote for the same videos. Empty:
    # the manifest itself.
    config.titles = ""
    # early-game: words and phrases, one of which a title must have (notes that quote the paper: "new world", "let's
    # play episode 1" among others; ours: vpt_jax/curation/download/search_terms.py). English only: add those of other
    # languages, such as "episodio 1".
    config.title_words = tuple(EARLY_GAME_WORDS)
    # early-game: minutes from the beginning of each video (recalled: about 5, which made some 3,000 hours).
    config.first_minutes = 5.0
