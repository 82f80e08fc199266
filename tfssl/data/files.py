"""What is in one file: pictures and labels decoded, or told why they cannot be used."""

import hashlib
import io
import struct
import zlib
from dataclasses import dataclass, replace

import numpy as np
import tensorflow as tf
from PIL import Image

MOST_PIXELS = 64_000_000  # a PNG of a few kilobytes can decode to gigabytes
MOST_BYTES = 300_000_000  # more than so many pixels take without any compression
MOST_SCANS = 100  # progressive JPEGs have some ten; each of them costs a decoder a pass over all pixels
PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
GRAY, PALETTE = 0, 3  # the PNG colour types an index label may have
ORIENTATION, UPRIGHT = 0x0112, (None, 0, 1)  # the EXIF tag of a picture that is to be turned, and where it is not


@dataclass(frozen=True)
class Finding:
    """What is in a file: its pixels and, of a label, the values that occur and, of a palette PNG, the colours they are
    drawn in; or why it cannot be used. size, sha256, crc32: of its bytes, where it could be read."""

    height: int = 0
    width: int = 0
    values: tuple[int, ...] = ()
    colours: tuple[tuple[int, int, int], ...] = ()
    problem: str | None = None
    size: int = 0
    sha256: str = ""
    crc32: int | None = None


class BadFile(Exception):
    """The file cannot be used; the message completes the sentence "FILE: ..."."""


def decode_image(contents):
    """The bytes of a JPEG or PNG (string tensor) -> uint8 [H, W, 3], RGB; gray is repeated, alpha dropped."""
    return tf.io.decode_image(contents, channels=3, expand_animations=False)


def decode_label(contents):
    """The bytes of an 8-bit index or palette PNG -> int32 [H, W] NumPy array of class indices.

    Not TensorFlow's decoder: it returns a palette PNG's luminance in place of its index.
    """
    with Image.open(io.BytesIO(contents)) as label:
        return np.asarray(label, np.int32)


def inspect(contents, role):
    """Decode the bytes of one file; role is "image" or "label". Returns a Finding, also of garbage."""
    try:
        height, width = _size_in_header(contents, role)
        if height * width > MOST_PIXELS:
            raise BadFile(f"has {height} x {width} pixels, more than {MOST_PIXELS // 10**6} million")
        if contents.startswith(JPEG) and _scans(contents) > MOST_SCANS:
            raise BadFile(f"has more than {MOST_SCANS} scans; save it again")
        if role == "image":
            decode_image(contents)
            _refuse_turned(contents)
            return Finding(height, width)
        Image.open(io.BytesIO(contents)).verify()  # checksums, which decoding alone passes over
        values = np.flatnonzero(np.bincount(decode_label(contents).ravel())).tolist()
        return Finding(height, width, tuple(values), _colours(contents, values))
    except BadFile as error:
        return Finding(problem=str(error))
    except (MemoryError, tf.errors.ResourceExhaustedError):  # says nothing of the file
        raise
    except Exception:  # decoders raise whatever they like on garbage
        return Finding(problem="is corrupt or cut short: it cannot be decoded")


def digested(finding, contents):
    """The Finding with what tells these bytes from all others, and a checksum cheap enough for every reading."""
    return replace(finding, size=len(contents), sha256=hashlib.sha256(contents).hexdigest(), crc32=zlib.crc32(contents))


def _scans(contents):
    """How often a JPEG says "start of scan"; within one, no byte of all ones is followed by that.

    The length after it must be that of the number of components, as decoders want it: a film that a telephone puts
    behind the picture has the mark alone some ten times a megabyte.
    """
    values = np.frombuffer(contents, np.uint8)
    begun = np.flatnonzero((values[:-4] == 0xFF) & (values[1:-3] == 0xDA))
    components = values[begun + 4].astype(int)
    return np.sum((values[begun + 2] == 0) & (values[begun + 3] == 6 + 2 * components) & (components <= 4))


def _colours(contents, values):
    """What a label's palette draws these values in; nothing where it has no palette."""
    with Image.open(io.BytesIO(contents)) as label:
        palette = label.getpalette() or []
    return tuple(tuple(palette[3 * value : 3 * value + 3]) for value in values) if palette else ()


def _refuse_turned(contents):
    """TensorFlow's decoder gives the stored pixels, viewers and labelling tools the turned picture."""
    with Image.open(io.BytesIO(contents)) as image:
        orientation = image.getexif().get(ORIENTATION)
    if orientation not in UPRIGHT:
        raise BadFile(f"is to be turned when shown (EXIF orientation {orientation}); save it upright")


def _size_in_header(contents, role):
    if contents.startswith(PNG) and contents[12:16] == b"IHDR":
        width, height, depth, colour = struct.unpack(">IIBB", contents[16:26])
        if role == "image" and depth > 8:
            raise BadFile("has 16 bits a channel; convert it to 8")
        if role == "label" and (colour, depth) != (GRAY, 8) and colour != PALETTE:
            kind = f"{depth}-bit gray" if colour == GRAY else "a colour picture or has transparency"
            raise BadFile(f"is {kind}; convert to index (8 bits, one channel of class numbers)")
        return height, width
    if contents.startswith(JPEG):
        if role == "label":
            raise BadFile("is a JPEG, which changes class numbers; labels must be 8-bit index PNGs")
        height, width, _ = tf.io.extract_jpeg_shape(contents).numpy()
        return int(height), int(width)
    if not contents:
        raise BadFile("is empty")
    raise BadFile("is neither a JPEG nor a PNG" if role == "image" else "is not a PNG")
