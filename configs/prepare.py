"""A dataset of recorded play, ready for training.

    python launch/prepare.py --config.recordings=runs/recordings --config.out=runs/dataset

Takes any machine; a core encodes some 700 frames of 640x360 recordings a second, nearly all of it decoding them. Killed
or stopped, the same command goes on where it was. Broken recordings are left out and listed in OUT/report.json.
"""

from ml_collections import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    if variant:
        raise ValueError("configs/prepare.py has no variants: change its fields with --config.FIELD=VALUE")
    config = ConfigDict()

    # Folder of NAME.mp4 + NAME.jsonl, in the subfolders train, valid and test or, without these, all for training. Or a
    # manifest in it: a Parquet table that says which seconds of which recordings (vpt_jax/data/manifest.py).
    config.recordings = ""
    # Folder of the dataset, made by the run. OUT.partial beside it holds the work until it is whole.
    config.out = ""

    # Size of the stored frames in pixels: the model's input (paper: 128x128), divisible by 8.
    config.height = 128
    config.width = 128
    # Frames per record: short, so that a reader who wants a few frames of an episode reads little else.
    config.chunk_frames = 32
    # JPEG quality, 1 to 100; docs/storage.md shows what it costs and what it loses.
    config.quality = 90

    # Worker processes; 0: one per core. The dataset does not depend on it.
    config.workers = 0
    # Or a runner of Apache Beam ("DirectRunner", "DataflowRunner", "FlinkRunner", "SparkRunner", ...) and flags for it,
    # such as ("--direct_num_workers=4", "--direct_running_mode=multi_processing"); see vpt_jax/data/beam.py.
    config.beam = ConfigDict({"runner": "", "options": ()})
    return config
