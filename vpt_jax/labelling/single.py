"""Labelling of a single video through a temporary folder; `job.py` labels many videos and can be resumed."""

from pathlib import Path
from tempfile import TemporaryDirectory

import jax

from vpt_jax.data.clips import Clip, FrameSettings, encode_video, read_result, sampling_seed
from vpt_jax.keys import seed_key
from vpt_jax.labelling.model import label_spans
from vpt_jax.labelling.plan import EncodedVideo, Labels, Plan
from vpt_jax.system.paths import local_path
from vpt_jax.training.checkpoints import TrainedIDM
from vpt_jax.video import VideoError
from vpt_jax.video_files import content_digest

_CHUNK_FRAMES, _QUALITY = 32, 90  # equal to the defaults of configs/label.py: the same frames, so the same labels
_WINDOWS_PER_SPAN = 15  # labelled at a time
_label_spans = jax.jit(label_spans, static_argnums=(0, 1, 2, 3), static_argnames="mirror")


def label_video(
    idm: TrainedIDM,
    video: Path,
    mode: str = "shared",
    choice: str = "argmax",
    mirror: bool = False,
    aspect: tuple[int, int] = (16, 9),
    seed: int = 0,
) -> Labels:
    """Predicts the actions of a video at 20 frames per second: `[frames, ...]`, as in a labelled dataset.

    The default is the most probable label, for inspection; labels for training are sampled (configs/label.py).

    Args:
        idm: from `load_idm`.
        video: a file of any size and rate; its frames go through a temporary folder.
        mode, choice, mirror, aspect, seed: as in configs/label.py.

    Raises:
        FileNotFoundError: there is no such file.
        VideoError: it cannot be decoded to its end.
        ValueError: there is no such mode or choice, or the model's window is not a multiple of 4.
    """
    local_path(video, "the video")
    height, width, _ = idm.frame_shape
    settings = FrameSettings(height, width, aspect, _CHUNK_FRAMES, _QUALITY)
    with TemporaryDirectory() as folder:
        encode_video(Clip(video), Path(folder, "video"), settings)
        frames = read_result(Path(folder, "video"), settings)
        if not isinstance(frames, int):
            video.stat()  # raises FileNotFoundError if the file is missing
            raise frames or VideoError(
                "unreadable frames", f"{folder} loses files that are written to it: check the disk"
            )
        label_seed = sampling_seed(content_digest(video))  # as in a job, so that sampled labels are equal
        encoded = EncodedVideo(Path(folder, "video.records"), frames, _CHUNK_FRAMES, label_seed)
        plan = Plan((encoded,), idm.window, _WINDOWS_PER_SPAN, rows=1)
        rng, static = jax.random.wrap_key_data(seed_key(seed)), (idm.module, idm.window, mode, choice)
        outputs = (_label_spans(*static, idm.params, rng, plan.read(i, [0]), mirror=mirror) for i in range(plan.steps))
        return next(
            plan.split_by_video(plan.select_kept(i, jax.device_get(labels)) for i, labels in enumerate(outputs))
        )
