"""Bad files of split lists: how they are named, what is left out, and what is remembered of the check."""

import io
import json
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from tests.lists_for_tests import (
    CLASSES,
    SIZES,
    indices,
    label_name,
    load,
    mistake,
    picture,
    write_list,
    write_palette_png,
)
from tfssl.data import check as checking

# Bad files


def make_bomb(path):
    """A PNG of a few bytes that announces 100,000 x 100,000 pixels."""
    contents = io.BytesIO()
    Image.new("L", (1, 1)).save(contents, "PNG")
    header = b"IHDR" + struct.pack(">IIBBBBB", 100_000, 100_000, 8, 0, 0, 0, 0)
    path.write_bytes(
        contents.getvalue()[:12] + header + struct.pack(">I", zlib.crc32(header)) + contents.getvalue()[33:]
    )


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-30])


def replace_by_directory(path):
    path.unlink()
    path.mkdir()


def flip_a_pixel_byte(path):
    contents = bytearray(path.read_bytes())
    contents[contents.index(b"IDAT") + 20] ^= 0x01
    path.write_bytes(contents)


def break_the_checksum(path):
    """Pillow decodes such a PNG without a word; its last pixels may be others."""
    contents = bytearray(path.read_bytes())
    contents[-16] ^= 0x01  # the last chunk, IEND, has 12 bytes; the checksum of the pixels is the 4 before
    path.write_bytes(contents)


def save_as(image, format="PNG"):
    return lambda path: image.save(path, format)


BAD_IMAGES = {
    "does not exist": lambda path: path.unlink(),
    "is not a file": replace_by_directory,
    "is empty": lambda path: path.write_bytes(b""),
    "is neither a JPEG nor a PNG": save_as(Image.fromarray(picture(16, 16)), "BMP"),
    "is corrupt or cut short": cut_short,
    "more than 64 million": make_bomb,
    "has 16 bits a channel": save_as(Image.fromarray(np.zeros((16, 16), np.uint16))),
}


@pytest.mark.parametrize("problem", BAD_IMAGES)
def test_bad_images(root, problem):
    BAD_IMAGES[problem](root / "c.png")
    message, details = mistake(root)
    assert "1 bad file(s)" in message and 'data.on_bad_file to "skip"' in message and str(root) in message
    assert len(details) == 1
    assert details[0].startswith("c.png: ") and problem in details[0] and "[data.unlabeled]" in details[0]


def test_corrupt_pictures_are_truly_decoded(root):
    cut_short(root / "a.jpg")
    flip_a_pixel_byte(root / "c.png")
    flip_a_pixel_byte(root / label_name("d"))
    break_the_checksum(root / label_name("b"))
    _, details = mistake(root)
    assert [line.split(": ")[0] for line in details] == ["a.jpg", "labels/b.png", "c.png", "labels/d.png"]
    assert all("is corrupt or cut short" in line for line in details)


def label_of(values):
    return save_as(Image.fromarray(values))


A = SIZES["a"]
BAD_LABELS = {
    "does not exist": lambda path: path.unlink(),
    "is a colour picture or has transparency; convert to index": label_of(picture(*A)),
    "is 16-bit gray; convert to index": label_of(np.zeros(A, np.uint16)),
    "is 1-bit gray; convert to index": label_of(np.zeros(A, bool)),
    "is a JPEG": save_as(Image.fromarray(indices(*A)), "JPEG"),
    "is not a PNG": lambda path: path.write_bytes(b"garbage"),
    "more than 64 million": make_bomb,
    "is 20 x 31 pixels, but its image a.jpg is 20 x 30": label_of(indices(20, 31)),
    "has values 3, 254; allowed are 0 to 2": label_of(
        np.where(np.arange(600) < 9, 3, np.where(np.arange(600) < 20, 254, 1)).reshape(A).astype(np.uint8)
    ),
    "has no labeled pixel": label_of(np.full(A, 255, np.uint8)),
}


@pytest.mark.parametrize("problem", BAD_LABELS)
def test_bad_labels(root, problem):
    BAD_LABELS[problem](root / label_name("a"))
    _, details = mistake(root)
    assert len(details) == 1
    assert details[0].startswith("labels/a.png: ") and problem in details[0] and "[data.labeled]" in details[0]


def test_a_label_without_labeled_pixels_may_be_evaluated_on(root):
    """Some, but not all that there are."""
    write_list(root, "validation", "da")
    write_list(root, "labeled", "b")
    write_palette_png(root / label_name("d"), np.full(SIZES["d"], 255, np.uint8))
    assert load(root).validation.count == 2
    write_list(root, "validation", "d")
    message, details = mistake(root)
    assert "evaluation needs labels" in message
    assert details == ["data.validation: every pixel of every label is task.ignore_index 255"]


def test_all_bad_files_are_named(root):
    (root / "a.jpg").unlink()
    (root / "c.png").write_bytes(b"garbage")
    label_of(np.full(SIZES["b"], 7, np.uint8))(root / label_name("b"))
    label_of(indices(5, 5))(root / label_name("d"))
    write_list(root, "unlabeled", "ca")
    message, details = mistake(root)
    assert "4 bad file(s)" in message
    assert details[0] == "a.jpg: does not exist [data.labeled, data.unlabeled]"
    assert [line.split(": ")[0] for line in details] == ["a.jpg", "labels/b.png", "c.png", "labels/d.png"]


def test_skip_leaves_bad_files_out_and_says_so(root, capsys):
    (root / label_name("a")).unlink()
    source = load(root, on_bad_file="skip")
    assert source.labeled.names == ("b.jpg",)
    np.testing.assert_array_equal(source.labeled.label(0), indices(*SIZES["b"], 1))
    assert capsys.readouterr().err.splitlines() == [
        "  labels/a.png: does not exist [data.labeled]",
        "warning: 1 of 2 examples of data.labeled left out",
    ]


def test_skip_refuses_a_set_with_nothing_left(root):
    (root / "c.png").unlink()
    (root / "a.jpg").unlink()
    message, details = mistake(root, on_bad_file="skip")
    assert "no usable example is left in data.unlabeled" in message and "data.labeled" not in message
    assert len(details) == 2


# What is remembered


@pytest.fixture
def opened(monkeypatch):
    """The number of files inspected so far, by role."""
    calls = []
    inspect = checking.inspect
    monkeypatch.setattr(checking, "inspect", lambda contents, role: calls.append(role) or inspect(contents, role))
    return calls


def test_an_unchanged_file_is_opened_once(root, cache, opened):
    load(root)
    assert sorted(opened) == ["image"] * 4 + ["label"] * 3
    opened.clear()
    (path,) = cache.iterdir()
    written = path.stat().st_ino
    load(root, size=(8, 8))
    assert opened == [] and path.stat().st_ino == written
    Image.fromarray(picture(*SIZES["c"], 9)).save(root / "c.png")
    os.utime(root / "c.png", ns=(0, 12345))
    load(root)
    assert opened == ["image"]


def test_other_classes_are_judged_without_opening_files(root, opened):
    load(root)
    opened.clear()
    _, details = mistake(root, classes=CLASSES[:2])
    assert len(details) == 3 and all("has values 2; allowed are 0 to 1" in line for line in details)
    _, details = mistake(root, ignore_index=254)
    assert len(details) == 3 and all("has values 255" in line for line in details)
    assert opened == []


def test_bad_files_are_remembered_until_mended(root, opened):
    good = (root / "c.png").read_bytes()
    (root / "c.png").write_bytes(b"garbage")
    mistake(root)
    opened.clear()
    mistake(root)
    assert opened == []
    (root / "c.png").write_bytes(good)
    load(root)
    assert opened == ["image"]


@pytest.mark.parametrize("damage", ["{", "[]", '{"format": 0, "files": {}}', '{"files": 3}', "\0\xff"])
def test_a_damaged_cache_is_forgotten(root, cache, opened, damage):
    load(root)
    (path,) = cache.iterdir()
    path.write_text(damage)
    opened.clear()
    load(root)
    assert len(opened) == 7
    assert len(json.loads(path.read_text())["files"]) == 7


def test_an_unwritable_cache_does_not_break_the_run(root, tmp_path, monkeypatch, opened):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("TFSSL_CACHE", str(tmp_path / "file" / "below"))
    assert load(root).labeled.count == 2
    load(root)
    assert len(opened) == 14


def test_a_failed_write_leaves_the_old_cache(root, cache, monkeypatch):
    load(root)
    (path,) = cache.iterdir()
    before = path.read_text()
    Image.fromarray(picture(8, 9)).save(root / "c.png")

    def full_disk(*_):
        raise OSError("disk full")

    monkeypatch.setattr(checking.os, "replace", full_disk)
    load(root)
    assert list(cache.iterdir()) == [path] and path.read_text() == before


def test_progress_only_when_it_takes_long(root, cache, monkeypatch, capsys):
    load(root)
    assert capsys.readouterr().err == ""
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr(checking.time, "monotonic", lambda: next(clock))
    load(root)
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == "checking files: 7 of 7" and lines[0].endswith("1 of 7")
