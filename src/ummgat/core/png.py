"""Grey pictures as PNG, without metadata."""

import struct
import zlib

import numpy as np
from numpy.typing import NDArray


def as_png(image: NDArray[np.uint8]) -> bytes:
    """Write 8-bit grey (row, column) as PNG with nothing in it but size and pixels: no text, time or software."""
    height, width = image.shape
    lines = np.zeros((height, width + 1), np.uint8)  # each line starts with its filter: 0, none
    lines[:, 1:] = image
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(lines.tobytes(), 9)),
        (b"IEND", b""),
    ]
    chunks = [struct.pack(">I", len(d)) + name + d + struct.pack(">I", zlib.crc32(name + d)) for name, d in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
