"""Labels for videos by an inverse dynamics model: any folder of videos in, a dataset with predicted labels out.

    python launch/label.py --config.videos=VIDEOS --config.idm=RUN --config.out=DATASET

RUN is the work directory of `launch/train.py --config=configs/idm.py`. Videos may have any size, aspect, frame rate and
length. Killed or stopped, the same command goes on where it was; videos may be added, removed, renamed or replaced in
between. Broken videos are left out and listed in OUT/report.json; files that resemble videos are named. On several
hosts that share a disk, start it on each with --config.parts=N and its own --config.part; whoever ends last makes the
dataset of all. While it runs, it needs up to three times the dataset's size on disk.
"""

from ml_collections import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    if variant:
        raise ValueError("configs/label.py has no variants: change its fields with --config.FIELD=VALUE")
    config = ConfigDict()

    # Folder of videos, searched with its subfolders; or a manifest, a Parquet table of segments: which seconds of which
    # videos (vpt_jax/data/manifest.py). Each segment is then an episode of its own.
    config.videos = ""
    # Work directory of the inverse dynamics model's training run.
    config.idm = ""
    # Folder of the dataset, made by the run. OUT.partial beside it holds the work until it is whole.
    config.out = ""

    # "exact" takes every window by itself, with black beyond its ends, as in training: the plain windows of the paper
    # (notes that quote it; MineStudio's code). "shared", our default, embeds every frame once for both windows that it
    # is in, at little more than half the work, which is most of what labelling 70,000 hours costs. The outermost two
    # frames on each side of a window then see their true neighbours in place of black; none of them is kept, but kept
    # frames attend to them. In both, the last window hangs over a video's end, where frames are masked.
    config.mode = "shared"
    # "sample": drawn as probable as the model says (paper, equation 1: a_t ~ p_IDM): labels to train on, which are as
    # frequent as true ones. Ours, to look at or to measure, not to train on: "argmax", the most probable label, which
    # leaves out what the model is unsure of, that is rare keys; "mean", the most probable keys and the average of the
    # camera's degrees, which has the least squared error.
    config.choice = "sample"
    # Of the draws: the same videos and seed give the same labels, however many hosts and devices there are.
    config.seed = 0
    # Ask about the mirror image of every window as well, and take both answers on average: better labels for twice the
    # work, by models that were trained with config.data.mirror.
    config.mirror = False
    # Spans labelled at a time, over all devices of this host, and windows in each: memory grows with both.
    config.batch = 8
    config.span = 15

    # Width to height of the footage that the model was trained on. Other videos are cut off or padded at the sides.
    config.aspect = (16, 9)
    # Frames per record, and JPEG quality, as in configs/prepare.py.
    config.chunk_frames = 32
    config.quality = 90
    # Films with the labels drawn on, of the first so many videos of each part: OUT/films.
    config.films = 3

    # How many hosts share the videos, and which of them this is.
    config.parts = 1
    config.part = 0
    # Worker processes that decode; 0: one per core that the program may use. The dataset does not depend on it.
    config.workers = 0
    return config
