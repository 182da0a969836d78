"""Label videos with an inverse dynamics model (pseudo-labels): a folder of videos in, a dataset with labels out.

    python launch/label.py --config.videos=VIDEOS --config.idm=RUN --config.out=DATASET

RUN is the work directory of `launch/train.py --config=configs/idm.py`. Videos may have any size, aspect, frame rate and
length. After a stop or kill, run the same command again to resume; videos may be added, removed, renamed or replaced in
between. Broken videos are skipped and listed in OUT/report.json; files that resemble videos are listed. On several
hosts that share a disk, start it on each with --config.num_shards=N and its own --config.shard_index; the last one to
finish writes the dataset of all. While it runs, it needs up to three times the dataset's size on disk.

Variant `:showcase`: the clip that is in the repository, by the model that is, with a film of the most probable labels.
"""

from ml_collections import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    if variant not in ("", "showcase"):
        raise ValueError(f"configs/label.py has no variant {variant!r}; its only one is showcase")
    config = ConfigDict()

    # Folder of videos, searched recursively; or a manifest, a Parquet table of segments (time ranges) of videos
    # (vpt_jax/data/manifest.py). Each segment is then a separate episode.
    config.videos = ""
    # Work directory of the inverse dynamics model's training run.
    config.idm = ""
    # Output folder of the dataset. OUT.partial next to it holds the intermediate results until it is complete.
    config.out = ""

    # "exact" computes every window separately, with black beyond its ends, as in training: the plain windows of the
    # paper (notes that quote it; MineStudio's code). "shared", our default, embeds every frame once for the two windows
    # that contain it, at little more than half the compute, which is most of the cost of labelling 70,000 hours. The
    # outermost two frames on each side of a window are then convolved with their true neighbours in place of black;
    # none of them is kept, but kept frames attend to them. In both, the last window extends beyond a video's end, where
    # frames are masked.
    config.mode = "shared"
    # "sample": sampled from the predicted distribution (paper, equation 1: a_t ~ p_IDM): labels to train on, which are
    # as frequent as true ones. Ours, for inspection and measurement, not for training: "argmax", the most probable
    # label, which omits actions that the model is unsure of, that is rare keys; "mean", the most probable keys and the
    # mean of the camera's degrees, which minimizes the squared error.
    config.choice = "sample"
    # Seed of the samples: the same videos and seed give the same labels, for any number of hosts and devices.
    config.seed = 0
    # Test-time augmentation: average the predictions for every window and its mirror image: better labels for twice the
    # compute, of models that were trained with config.data.mirror.
    config.mirror = False
    # Spans labelled in parallel, over all devices of this host, and windows per span: memory grows with both.
    config.batch = 8
    config.windows_per_span = 15

    # Aspect (width, height) of the videos that the model was trained on. Other videos are cropped or padded at the
    # sides.
    config.aspect = (16, 9)
    # Frames per record, and JPEG quality, as in configs/prepare.py.
    config.chunk_frames = 32
    config.quality = 90
    # Number of films with drawn labels, of the first videos of each shard, in OUT/films.
    config.num_films = 3

    # Sharding over hosts: number of shards of the videos, one for each host, and index of the shard of this host.
    config.num_shards = 1
    config.shard_index = 0
    # Worker processes that decode videos, and threads that read the frames back; 0: one per core that the program may
    # use. The dataset does not depend on it.
    config.workers = 0
    # Folder of the compilation cache: compiled programs, which later starts load. "auto": that of the environment
    # variable VPT_COMPILATION_CACHE, or else ~/.cache/vpt_jax/compiled; empty: none (configs/base.py says more).
    config.compilation_cache = "auto"
    if variant == "showcase":
        config.videos, config.idm, config.out = "weights/clips", "weights/showcase-idm", "runs/showcase-clips"
        config.choice = "argmax"
        config.batch, config.num_films = 1, 1
    return config
