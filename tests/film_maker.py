"""Small synthetic videos of many formats, written with PyAV."""

from fractions import Fraction

import av
import numpy as np

RATES = {"mpeg1video": 25, "mpeg2video": 25, "dvvideo": 25}  # these support few other rates


def numbered(count, height=36, width=64):
    """Uniform grey frames, whose brightness encodes their number modulo 40."""
    return [np.full((height, width, 3), 30 + 5 * (i % 40), np.uint8) for i in range(count)]


def number_of(frame):
    return round((float(frame[..., 1].mean()) - 30) / 5)


def corners(height=36, width=64):
    """A picture without mirror symmetry."""
    picture = np.full((height, width, 3), 60, np.uint8)
    picture[: height // 2, : width // 4] = 220, 40, 40
    picture[-height // 4 :, : width // 2] = 40, 220, 40
    return picture


def write_film(path, frames, codec="libx264", *, times=None, rate=None, last=None, aspect=None, rotate=None, **options):
    """Writes a film; `times` of its frames and the duration of the `last` one are in milliseconds.

    `rotate`: degrees, and whether it is mirrored horizontally; `options`: `format` is the container's name, all others
    are options of the encoder.
    """
    container_format = options.pop("format", None)
    with av.open(str(path), "w", format=container_format) as container:
        stream = container.add_stream(codec, rate=rate or RATES.get(codec, 20), options=options)
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], "bgr0" if codec == "ffv1" else "yuv420p"
        if times:
            stream.codec_context.time_base = Fraction(1, 1000)
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        if rotate:
            stream.set_display_rotation(rotate[0], hflip=rotate[1])
        packets = []
        for i, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            if times:
                picture.pts, picture.time_base = times[i], Fraction(1, 1000)
            packets += stream.encode(picture)
        packets += stream.encode(None)
        if last:
            latest = max(packets, key=lambda packet: packet.pts)
            latest.duration = int(Fraction(last, 1000) / latest.time_base)
        for packet in packets:
            container.mux(packet)
    return path
