"""Know a dataset and check it: figures, what is wrong with it, pictures, and how it differs from another.

    python launch/data.py stats --config.data=DATASET
    python launch/data.py validate --config.data=DATASET --config.idm=RUN
    python launch/data.py show --config.data=DATASET
    python launch/data.py diff --config.data=DATASET --config.other=DATASET

`validate` ends with status 1 if it finds anything, else with 0. It changes nothing in the dataset. Killed or stopped,
the same command goes on where it was. Each leaves NAME.json and NAME.html, `show` a picture and a film, in config.out.
"""

from ml_collections import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    if variant:
        raise ValueError("configs/data.py has no variants: change its fields with --config.FIELD=VALUE")
    config = ConfigDict()

    # Folder of the dataset, as launch/prepare.py or launch/label.py made it.
    config.data = ""
    # Folder for what is found; empty: DATASET.inspection, beside the dataset.
    config.out = ""
    # Worker processes; 0: one per core that the program may use.
    config.workers = 0

    # stats: recorder versions, the share of frames with an open GUI and item statistics are in report.json of a dataset
    # that `prepare` made. Here: a folder of recordings, with its subfolders, to read them from instead, as for datasets
    # that an older version of this library made. Empty: the report's.
    config.recordings = ""

    # validate: work directory of an inverse dynamics model, which says whether actions fit their frames. Empty: that is
    # not checked. It should know the game, and not have been trained on these very episodes.
    config.idm = ""
    # As in configs/label.py.
    config.mode = "shared"
    config.mirror = False
    # A key that is held for longer is taken to be stuck.
    config.stuck_seconds = 300.0

    # diff: folder of the dataset that `data` is compared with.
    config.other = ""

    # show: an episode by name, such as "train/NAME", the whole of it; empty: excerpts from random places of all.
    config.episode = ""
    config.excerpts = 6
    config.seconds = 5.0
    config.seed = 0
    return config
