"""WebM video that plays in browsers, from pictures that Pillow encodes.

OpenCV's wheels write VP8 under Linux alone, at six times this cost. A WebP picture is a key frame
of VP8, so all that is left to do is to wrap it: https://www.matroska.org/technical/elements.html.
"""

import io
import struct

import cv2
from PIL import Image

LARGEST_SIDE = 16383  # of a frame of VP8
UNKNOWN_SIZE = b"\x01" + b"\xff" * 7
QUALITY, METHOD = 80, 0  # WebP's; the quickest method


class WebmWriter:
    """Writes frames as they come, each with its time.

    A file that was not closed plays up to its last frame, but has no length.

    Parameters
    ----------
    path : path-like
    frames_per_second : float
        How long the last frame stays; the others stay until the next one.
    size : tuple of int
        Width and height, at most `LARGEST_SIDE`.
    """

    def __init__(self, path, frames_per_second, size):
        self._last_stays = 1000 / frames_per_second
        self._seconds, self._end, self._cues = 0.0, 0.0, []
        self._stream = open(path, "wb")
        names = ((0x4286, 1), (0x42F7, 1), (0x42F2, 4), (0x42F3, 8))
        types = ((0x4282, b"webm"), (0x4287, 4), (0x4285, 2))
        self._stream.write(_element(0x1A45DFA3, *names, *types))
        self._stream.write(b"\x18\x53\x80\x67" + UNKNOWN_SIZE)
        self._start = self._stream.tell()
        self._write_head(0, 0)
        video = (0xB0, size[0]), (0xBA, size[1])
        rate = 0x23E383, round(1e9 / frames_per_second)
        track = (0xD7, 1), (0x73C5, 1), (0x83, 1), (0x9C, 0), (0x86, b"V_VP8"), rate
        self._stream.write(_element(0x1654AE6B, (0xAE, _content(*track, (0xE0, _content(*video))))))

    def write(self, seconds, picture):
        """Append a frame, uint8 BGR (height, width, 3), that is to be seen from `seconds` on."""
        encoded = io.BytesIO()
        image = Image.fromarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))
        image.save(encoded, "WEBP", quality=QUALITY, method=METHOD)
        _, length = struct.unpack("<4sI", encoded.getbuffer()[12:20])
        frame = encoded.getbuffer()[20 : 20 + length]
        position, moment = self._stream.tell() - self._start, round(1000 * seconds)
        # A cluster for each frame: it needs no time of its own within the cluster.
        block = b"\x81\0\0\x80" + frame  # track 1, 0 ms, a key frame
        self._stream.write(_element(0x1F43B675, (0xE7, moment), (0xA3, block)))
        if not self._cues or seconds >= self._seconds + 1:
            where = _content((0xF7, 1), (0xF1, position))
            self._cues.append((0xBB, _content((0xB3, moment), (0xB7, where))))
            self._stream.flush()
            self._seconds = seconds
        self._end = moment + self._last_stays

    def close(self):
        """Write where each second is and how long it all takes."""
        with self._stream:
            cues = self._stream.tell() - self._start
            self._stream.write(_element(0x1C53BB6B, *self._cues))
            end = self._stream.tell()
            self._stream.seek(self._start - len(UNKNOWN_SIZE))
            self._stream.write(struct.pack(">Q", 1 << 56 | end - self._start))
            self._write_head(cues, self._end)

    def _write_head(self, cues, length):
        """Of the same size whatever is in it, so that it can be written again."""
        seek = (0x53AB, b"\x1c\x53\xbb\x6b"), (0x53AC, struct.pack(">Q", cues))
        self._stream.write(_element(0x114D9B74, (0x4DBB, _content(*seek))))
        program = b"gender and emotion"
        length = struct.pack(">d", length)
        info = (0x2AD7B1, 1_000_000), (0x4D80, program), (0x5741, program), (0x4489, length)
        self._stream.write(_element(0x1549A966, *info))


def _element(name, *parts):
    """An element of Matroska: its number, its size, and other elements."""
    return _content((name, _content(*parts)))


def _content(*parts):
    """Elements, each a number and a value, as bytes."""
    content = b""
    for name, value in parts:
        if isinstance(value, int):
            value = value.to_bytes(max(1, (value.bit_length() + 7) // 8), "big")
        size = struct.pack(">Q", 1 << 56 | len(value))
        content += name.to_bytes((name.bit_length() + 7) // 8, "big") + size + value
    return content
