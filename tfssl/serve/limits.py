"""How much one request may ask for, found out before anything of that size is allocated."""

import dataclasses
import math
import os
import re
import struct

import numpy as np

from tfssl.serve.refusals import invalid

MOST_CONTAINERS = 1_000_000  # arrays and objects of a JSON body: each costs Python some 100 bytes, whatever it holds
MOST_RANK = 8
MOST_JPEG_SEGMENTS = 2000
LEAST_PIXELS = 10_000  # what a file counts at least: each costs a pass, however little is in it
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"


@dataclasses.dataclass(frozen=True)
class Limits:
    """What the command's options set."""

    body: int = 32 << 20  # bytes of a request, packed or not, and of a tensor that one value fills
    json_depth: int = 32
    pixels: int = 50_000_000  # of all images of a request together
    concurrency: int = os.cpu_count() or 1  # calls computed at once
    queue: int = 16  # calls that wait
    timeout: float = 30.0  # seconds within which the headers, and then the body, must be there


def check_json(body, most_depth):
    """Refuse a JSON text that nests deeper, or that is so fragmented that parsing it takes memory out of proportion."""
    if body.count(b"[") + body.count(b"{") <= most_depth:  # as of most requests, whose pictures are one string each
        return
    bare = np.frombuffer(_STRING.sub(b"", body), np.uint8)  # what stands in strings is not structure
    containers, depth = 0, 0
    for start in range(0, len(bare), 1 << 20):
        part = bare[start : start + (1 << 20)]
        opening = (part == ord("[")) | (part == ord("{"))
        closing = (part == ord("]")) | (part == ord("}"))
        containers += int(opening.sum())
        depths = depth + np.cumsum(opening.astype(np.int32) - closing)
        if depths.max() > most_depth:
            raise invalid(f"JSON Parse error: nested deeper than {most_depth} levels")
        depth = int(depths[-1])
    if containers > MOST_CONTAINERS:
        raise invalid(
            f"JSON Parse error: {containers} arrays and objects, at most {MOST_CONTAINERS} are read; send large images "
            'encoded, as {"b64": ...}, or over gRPC'
        )


def check_pixels(inputs, most):
    """Refuse images that have more pixels together; inputs: {name: array}. Sizes of files come from their headers."""
    total = 0
    for name, array in inputs.items():
        if array.dtype == object:
            total += sum(max(file_pixels(content), LEAST_PIXELS) for content in array.ravel())
        elif array.ndim >= 3:
            total += math.prod(array.shape[:-1])
        if total > most:
            raise invalid(
                f'input "{name}" brings the request to {total} pixels, at most {most} are read (--pixels); '
                f"a file counts at least {LEAST_PIXELS}"
            )


def file_pixels(content):
    """Height times width of a PNG or JPEG file by its header, undecoded; 0 of what is neither."""
    if content.startswith(_PNG) and len(content) >= 24:
        return math.prod(struct.unpack(">II", content[16:24]))
    if content.startswith(_JPEG):
        return _jpeg_pixels(content)
    return 0


def _jpeg_pixels(content):
    at = 2
    for _ in range(MOST_JPEG_SEGMENTS):
        at = content.find(0xFF, at)  # decoders pass over what stands between segments
        if at < 0 or at + 9 > len(content):
            return 0
        marker = content[at + 1]
        if marker in (0x00, 0xFF):  # none yet, or padding before one
            at += 1
        elif 0xD0 <= marker <= 0xD8 or marker == 0x01:  # these have no content
            at += 2
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a frame's header
            return math.prod(struct.unpack(">HH", content[at + 5 : at + 9]))
        else:
            at += 2 + struct.unpack(">H", content[at + 2 : at + 4])[0]
    raise invalid(f"a JPEG file with no size in its first {MOST_JPEG_SEGMENTS} segments")
