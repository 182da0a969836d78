"""Clean filter: finds the seconds of videos that show play with nothing laid over it (docs/filtering.md).

    python launch/filter.py --config.weights=IDM --config.classifier=filter.npz --config.labelled=FRAMES
    python launch/filter.py --config.weights=IDM --config.classifier=filter.npz --config.videos=VIDEOS

The first line trains on labelled frames, and writes filter.npz and the report filter.html. The second writes
VIDEOS/segments.parquet, which labelling and preparation take in place of a folder. After an interruption, run the same
command again to resume. Broken videos are left out and listed in VIDEOS/filtered.parquet.
"""

from ml_collections import ConfigDict, config_dict


def get_config(variant: str = "") -> ConfigDict:
    if variant:
        raise ValueError("configs/filter.py has no variants: change its fields with --config.FIELD=VALUE")
    config = ConfigDict()

    # The file of the trained classifier, NAME.npz; its report is NAME.html. Written if `labelled` is set.
    config.classifier = ""
    # Folder of labelled frames with the subfolders clean, artifacts and other
    # (vpt_jax/curation/clean_filter/labelled_set.py).
    config.labelled = ""
    # Folder of videos, searched with its subfolders; or a manifest, a Parquet table of segments of videos
    # (vpt_jax/data/manifest.py).
    config.videos = ""
    # Folder of the tables, which must contain the videos; empty: the folder of the videos or of the manifest.
    config.out = ""

    # Frozen image encoder: "idm", an inverse dynamics model's image stacks, or "clip", the paper's choice.
    config.embedder = "idm"
    # Its weights. "idm": work directory of a run of configs/idm.py; "clip": a file NAME.safetensors of RN50x64.
    config.weights = ""

    # Marks as in docs/sources.md: (paper), its text or a note that quotes it; (recalled), as we recall it, not checked.
    # Penalty C of the support vector machine (paper: an SVM; recalled: RBF kernel, C = 20, gamma = "scale").
    config.svm_c = 20.0
    # Folds of the cross-validation, split by video; the report has its metrics (our choice).
    config.num_folds = 10
    # A frame is clean if its score for clean exceeds those of the other classes by this margin. None: the lowest margin
    # that reaches `min_precision` on held-out frames in training, stored in the classifier. Our choice: as far as we
    # know, the paper takes the likeliest class, which is 0 here. False positives end up in the training data; false
    # negatives only lose footage.
    config.threshold = config_dict.placeholder(float)
    config.min_precision = 0.97

    # Sampled frames per second (recalled: 3), and the window of the median filter in sampled frames, an odd number
    # (recalled: 7).
    config.frames_per_second = 3.0
    config.median_window = 7
    # Minimum length of a clean segment in seconds (recalled: 5), and minimum share of clean frames in a video, below
    # which the whole video is dropped (recalled: 0.8). The share is that of the labels before the median filter
    # (recalled).
    config.min_seconds = 5.0
    config.min_share = 0.8

    # Worker processes that decode; 0: one per core available to the program. The result does not depend on it.
    config.workers = 0
    # Folder of the compilation cache: compiled programs, which later starts load. "auto": that of the environment
    # variable VPT_COMPILATION_CACHE, or else ~/.cache/vpt_jax/compiled; empty: none (configs/base.py says more).
    config.compilation_cache = "auto"
    return config
