"""The clean filter: which seconds of which videos are play with nothing laid over it (docs/filtering.md).

    python launch/filter.py --config.weights=IDM --config.classifier=filter.npz --config.labelled=FRAMES
    python launch/filter.py --config.weights=IDM --config.classifier=filter.npz --config.videos=VIDEOS

The first line trains on labelled frames, and writes filter.npz and the report filter.html. The second writes
VIDEOS/segments.parquet, which labelling and preparation take in place of a folder. Killed or stopped, the same command
goes on where it was. Broken videos are left out and listed in VIDEOS/filtered.parquet.
"""

from ml_collections import ConfigDict, config_dict


def get_config(variant: str = "") -> ConfigDict:
    if variant:
        raise ValueError("configs/filter.py has no variants: change its fields with --config.FIELD=VALUE")
    config = ConfigDict()

    # The file of the trained classifier, NAME.npz; its report is NAME.html. Written if there are labelled frames.
    config.classifier = ""
    # Folder of labelled frames with the subfolders clean, artifacts and other (vpt_jax/data/filtering/labelled_set.py).
    config.labelled = ""
    # Folder of videos, searched with its subfolders; or a manifest, a Parquet table of segments: which seconds of which
    # videos (vpt_jax/data/manifest.py).
    config.videos = ""
    # Folder of the tables, one that the videos lie in; empty: the folder of the videos or of the manifest.
    config.out = ""

    # What makes numbers of a picture: "idm", an inverse dynamics model's image stacks, or "clip", the paper's choice.
    config.embedder = "idm"
    # Its weights. "idm": work directory of a run of configs/idm.py; "clip": a file NAME.safetensors of RN50x64.
    config.weights = ""

    # Marks as in docs/sources.md: (paper), its text or a note that quotes it; (recalled), as we recall it, not checked.
    # Of the support vector machine (paper: an SVM; recalled: RBF kernel, C = 20, gamma = "scale").
    config.C = 20.0
    # In how many parts labelled frames are split, by video, each of which is held out once; what that shows is the
    # report (our choice).
    config.folds = 10
    # A frame is clean if it is likelier so by this margin. None: the lowest at which `precision` is reached on held-out
    # frames in training; the classifier keeps it. Our choice: as far as we know, the paper takes what the machine holds
    # likeliest, which is 0 here. What is wrongly called clean is learnt from; what is wrongly dropped is only lost.
    config.threshold = config_dict.placeholder(float)
    config.precision = 0.97

    # Frames looked at per second (recalled: 3), and how many of them the median filter takes together (recalled: 7).
    config.rate = 3.0
    config.kernel = 7
    # Seconds in a row that have to be clean (recalled: 5), and the share of a video's frames, or all of it is dropped
    # (recalled: 0.8). The share is that of the labels as they are, before the median filter (recalled).
    config.min_seconds = 5.0
    config.min_share = 0.8

    # Worker processes that decode; 0: one per core that the program may use. The result does not depend on it.
    config.workers = 0
    return config
