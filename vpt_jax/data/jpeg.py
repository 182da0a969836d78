"""JPEG header validation, before a decoder gets the bytes (protection against decompression bombs).

OpenCV decodes every image format it supports, and allocates the size that a header declares: a few hundred bytes may
declare gigabytes. So stored frames must be JPEGs of the kind that this library writes, of a bounded size.
"""

MAX_PIXELS = 2**24  # of a frame: 4096 x 4096, 48 MiB decoded
_MAX_SEGMENTS = 64  # before the frame header; encoders write about 5
_FRAME_HEADERS = {0xC0, 0xC2}  # baseline and progressive, Huffman-coded
_OTHER_HEADERS = {0xC1, 0xC3, *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0)}
_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD8)}
_OTHER_FORMATS = {
    b"\x89PNG": "PNG",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    b"RIFF": "WebP",
    b"\0\0\0\x0cjP": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"#?RADIANCE": "HDR",
    b"#?RGBE": "HDR",
    b"\x76\x2f\x31\x01": "OpenEXR",
    b"\x59\xa6\x6a\x95": "Sun raster",
    **{b"P%d" % kind: "PNM" for kind in range(1, 8)},
    b"Pf": "PFM",
    b"PF": "PFM",
}


def jpeg_shape(jpeg: bytes) -> tuple[int, int, int]:
    """Height, width and the three channels of a JPEG, from its frame header (SOF0 or SOF2; ITU-T T.81, annex B).

    Raises:
        ValueError: it is another format, not a baseline or progressive JPEG of 8 bits and three channels, has more than
            `MAX_PIXELS`, or ends before its frame header.
    """
    if jpeg[:3] != b"\xff\xd8\xff":
        raise ValueError(f"a stored frame of {len(jpeg)} bytes is {_detect_format(jpeg)}, and not a JPEG")
    position = 2
    for _ in range(_MAX_SEGMENTS):
        while jpeg[position : position + 2] == b"\xff\xff":  # fill bytes
            position += 1
        if len(jpeg) < position + 4 or jpeg[position] != 0xFF:
            break
        marker = jpeg[position + 1]
        if marker in _FRAME_HEADERS:
            return _parse_frame_header(jpeg[position + 4 : position + 10])
        if marker in _OTHER_HEADERS:
            raise ValueError(f"a stored frame is a JPEG of kind SOF{marker - 0xC0}: not baseline or progressive")
        length = 0 if marker in _WITHOUT_LENGTH else int.from_bytes(jpeg[position + 2 : position + 4], "big")
        if marker in (0xD8, 0xD9, 0xDA) or (length < 2 and marker not in _WITHOUT_LENGTH):
            break
        position += 2 + length
    raise ValueError(f"a stored frame of {len(jpeg)} bytes is not a JPEG: it has no frame header")


def _parse_frame_header(header: bytes) -> tuple[int, int, int]:
    if len(header) < 6:
        raise ValueError("a stored frame is not a JPEG: it ends in its frame header")
    bits, channels = header[0], header[5]
    height, width = int.from_bytes(header[1:3], "big"), int.from_bytes(header[3:5], "big")
    if bits != 8 or channels != 3:
        raise ValueError(f"a stored frame is a JPEG of {channels} channels of {bits} bits: 3 of 8 bits are needed")
    if not 1 <= height * width <= MAX_PIXELS:
        raise ValueError(f"a stored frame is a JPEG of {height}x{width}: from 1 to {MAX_PIXELS:,} pixels are allowed")
    return height, width, channels


def _detect_format(data: bytes) -> str:
    if data[4:8] == b"ftyp":
        return "AVIF or HEIF"
    return next((name for magic, name in _OTHER_FORMATS.items() if data.startswith(magic)), "an unknown format")
