"""Encoded pictures in a graph: the decoded ones are right, and each refusal has its sentence and costs no memory."""

import io
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tfssl.export.decoding import MOST_SCANS, decode
from tfssl.export.structured import structured_images

MOST_PIXELS = 25_000_000
CORRUPT = "is corrupt or cut short: it cannot be decoded"
SCAN = b"\xff\xda"


@pytest.fixture(scope="module")
def decoded():
    """A function from a file's bytes to (uint8 [H,W,3], what is wrong with it)."""
    traced = tf.function(lambda content: decode(content, MOST_PIXELS), input_signature=[tf.TensorSpec([], tf.string)])

    def run(content):
        picture, status = traced(content)
        return picture.numpy(), status.numpy().decode()

    return run


def pixels(height=33, width=47):
    return structured_images(1, height, width, seed=height)[0]


def encoded(kind, mode="RGB", size=(33, 47), **options):
    picture = Image.fromarray(pixels(*size)).convert(mode)
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def png(height, width, bits=8, colour=2, data=None):
    """A PNG whose header promises so many pixels, whatever is in it."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    data = zlib.compress(b"\0" * 100) if data is None else data
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def png_bomb(side):
    """A whole gray PNG of side x side equal pixels, packed as small as it gets."""
    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(side // 8 + 1)) for _ in range(side))
    return png(side, side, bits=1, colour=0, data=rows + packer.flush())


def with_size(jpeg, height, width):
    """A JPEG whose header promises another size."""
    at = re.search(rb"\xff[\xc0\xc2]\0\x11\x08", jpeg).end()
    return jpeg[:at] + struct.pack(">HH", height, width) + jpeg[at + 4 :]


def with_scans(count):
    """A progressive JPEG whose last scan is there again and again."""
    jpeg = encoded("JPEG", progressive=True)
    last, end = jpeg.rindex(SCAN), jpeg.rindex(b"\xff\xd9")
    return jpeg[:end] + jpeg[last:end] * (count - jpeg.count(SCAN)) + jpeg[end:]


PNGS = {
    "RGB": {}, "gray": {"mode": "L"}, "RGBA": {"mode": "RGBA"}, "palette": {"mode": "P"},
    "gray and alpha": {"mode": "LA"}, "two colours": {"mode": "1"},
    "two colours of a palette": {"mode": "P", "bits": 1},
}  # fmt: skip


@pytest.mark.parametrize("options", PNGS.values(), ids=PNGS)
def test_a_png_of_any_kind_is_what_another_library_reads(decoded, options):
    content = encoded("PNG", **options)
    picture, status = decoded(content)
    assert status == "ok"
    with Image.open(io.BytesIO(content)) as other:
        np.testing.assert_array_equal(picture, np.asarray(other.convert("RGB")))


@pytest.mark.parametrize("options", [{}, {"mode": "L"}, {"progressive": True}, {"mode": "CMYK"}, {"quality": 20}],
                         ids=["RGB", "gray", "progressive", "four inks", "coarse"])  # fmt: skip
def test_a_jpeg_of_any_kind_is_nearly_what_another_library_reads(decoded, options):
    content = encoded("JPEG", **options)
    picture, status = decoded(content)
    assert status == "ok"
    with Image.open(io.BytesIO(content)) as other:
        difference = np.abs(picture.astype(int) - np.asarray(other.convert("RGB")))
    assert difference.mean() < 1 and picture.shape == (33, 47, 3)


def test_a_picture_is_read_as_it_is_stored_however_it_is_to_be_turned(decoded):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter when shown
    assert decoded(encoded("JPEG", exif=exif))[0].shape == (33, 47, 3)


REFUSED = {
    "is empty": [b""],
    "is neither a JPEG nor a PNG": [b"x", b"GIF89a", b"\x89PNG", bytes(1000), encoded("GIF", "P"), encoded("BMP"),
                                    encoded("WEBP"), encoded("TIFF"), b"<svg/>", b"\xef\xbb\xbf" + encoded("PNG")],
    CORRUPT: [png(33, 47), encoded("PNG")[:25], encoded("PNG")[:-30], encoded("PNG")[:9], encoded("JPEG")[:30],
              encoded("JPEG")[:200], encoded("JPEG")[:-300], b"\xff\xd8\xff", b"\xff\xd8\xff\xd9", png(0, 5), png(5, 0),
              with_size(encoded("JPEG"), 0, 5)],
    "has 16 bits a channel; convert it to 8": [png(3, 3, bits=16), encoded("PNG", "I;16")],
    f"has more than {MOST_SCANS} scans": [with_scans(MOST_SCANS + 1), with_scans(3000)],
    "has 6000 x 6000 pixels, more than 25000000": [png_bomb(6000)],
    "has 65000 x 65000 pixels, more than 25000000": [with_size(encoded("JPEG"), 65_000, 65_000),
                                                     with_size(encoded("JPEG", progressive=True), 65_000, 65_000)],
    "has 25000001 x 1 pixels, more than 25000000": [png(25_000_001, 1)],
    "has 4294967295 x 4294967295 pixels, more than 25000000": [png(2**32 - 1, 2**32 - 1)],  # the product overflows
}  # fmt: skip


@pytest.mark.parametrize("says", REFUSED)
def test_what_is_refused_and_what_is_said(decoded, says):
    for number, content in enumerate(REFUSED[says]):
        picture, status = decoded(content)
        assert status == says and picture.shape == (0, 0, 3), f"number {number}"


def test_a_changed_byte_in_a_png_is_noticed(decoded):
    content = bytearray(encoded("PNG"))
    content[len(content) // 2] ^= 1
    assert decoded(bytes(content))[1] == CORRUPT


def test_a_jpeg_may_have_as_many_scans_as_the_limit_says(decoded):
    picture, status = decoded(with_scans(MOST_SCANS))
    assert status == "ok" and picture.shape == (33, 47, 3)


def test_what_only_looks_like_scans_is_no_reason_to_refuse(decoded):
    """Telephones put a film behind their photographs: megabytes in which two bytes are a marker by chance."""
    film = np.random.default_rng(0).integers(0, 256, 12_000_000, np.uint8).tobytes()
    assert film.count(SCAN) > MOST_SCANS
    picture, status = decoded(encoded("JPEG") + film)
    assert status == "ok"
    np.testing.assert_array_equal(picture, decoded(encoded("JPEG"))[0])


def test_as_many_pixels_as_allowed_are_decoded(decoded):
    picture, status = decoded(png_bomb(5000))
    assert status == "ok" and picture.shape == (5000, 5000, 3)
    assert decoded(png_bomb(5001))[1].startswith("has 5001 x 5001 pixels")


def peak(action):
    """Bytes by which the most memory of this process rises above what it holds before."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    except OSError as error:
        pytest.skip(f"this system does not tell the peak of memory: {error}")

    def read(what):
        return int(re.search(rf"{what}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) << 10

    before = read("VmRSS")
    action()
    return read("VmHWM") - before


def test_bombs_cost_no_memory(decoded):
    """Far larger ones than what this process may have kept for itself of pictures that it has decoded before."""
    bombs = [png_bomb(12_000), *REFUSED["has 65000 x 65000 pixels, more than 25000000"], png(2**32 - 1, 2**32 - 1)]
    assert len(png_bomb(6000)) < 5000 and len(bombs[0]) < 20_000
    for bomb in bombs:
        assert peak(lambda bomb=bomb: decoded(bomb)) < 16 << 20
    careless = tf.function(lambda content: decode(content, 10**9), input_signature=[tf.TensorSpec([], tf.string)])
    assert peak(lambda: careless(bombs[0])) > 200 << 20  # the measure can tell
