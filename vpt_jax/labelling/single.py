"""One video, labelled by way of a temporary folder; `job.py` labels many, and survives being killed."""

from pathlib import Path
from tempfile import TemporaryDirectory

import jax

from vpt_jax.data.clips import Clip, FrameSettings, draw_number, encode_video, read_result
from vpt_jax.keys import seed_key
from vpt_jax.labelling.model import label_spans
from vpt_jax.labelling.plan import Labels, Plan, Video
from vpt_jax.system.paths import local_path
from vpt_jax.training.checkpoints import TrainedIDM
from vpt_jax.video import VideoError
from vpt_jax.video_files import content_digest

_CHUNK_FRAMES, _QUALITY = 32, 90  # as configs/label.py has them: the same frames, the same labels
_WINDOWS = 15  # labelled at a time
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
    """What was done in every frame of a video, at 20 frames per second: `[frames, ...]`, as the dataset would have it.

    The default is the most probable label, to look at; what is to be trained on is drawn, as configs/label.py says.

    Args:
        idm: from `load_idm`.
        video: a file of any size and rate; its frames go through a temporary folder.
        mode, choice, mirror, aspect, seed: as in configs/label.py.

    Raises:
        FileNotFoundError: there is no such file.
        VideoError: it cannot be decoded to its end.
        ValueError: there is no such mode or choice, or the model's windows cannot be cut into quarters.
    """
    local_path(video, "the video")
    height, width, _ = idm.frame_shape
    settings = FrameSettings(height, width, aspect, _CHUNK_FRAMES, _QUALITY)
    with TemporaryDirectory() as folder:
        encode_video(Clip(video), Path(folder, "video"), settings)
        frames = read_result(Path(folder, "video"), settings)
        if not isinstance(frames, int):
            video.stat()  # a missing file is an error of its own
            raise frames or VideoError("unreadable frames", f"{folder} does not keep what is written there")
        number = draw_number(content_digest(video))  # as a job has it, so that sampled labels are the same too
        whole = Video(Path(folder, "video.records"), frames, _CHUNK_FRAMES, number)
        plan = Plan((whole,), idm.window, _WINDOWS, rows=1)
        rng, how = jax.random.wrap_key_data(seed_key(seed)), (idm.module, idm.window, mode, choice)
        said = (_label_spans(*how, idm.params, rng, plan.read(i, [0]), mirror=mirror) for i in range(plan.steps))
        return next(plan.by_video(plan.keep(i, jax.device_get(labels)) for i, labels in enumerate(said)))
