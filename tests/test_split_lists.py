"""Split lists on disk: what is read, what is refused and how it is named, and what is remembered."""

import builtins
import io
import json
import os
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tfssl.data import check as checking
from tfssl.data.split_lists import default_palette, split_lists
from tfssl.errors import UserError

CLASSES = ("sky", "road", "tree")
SIZES = {"a": (20, 30), "b": (24, 18), "c": (16, 16), "d": (21, 33)}  # height, width
LISTS = {"labeled": "ab", "unlabeled": "c", "validation": "d"}


def picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def indices(height, width, seed=0):
    values = np.random.default_rng(seed).integers(0, len(CLASSES), (height, width), dtype=np.uint8)
    values[0, 0] = 255
    return values


def write_palette_png(path, values, **options):
    image = Image.fromarray(values)
    image = image.convert("P") if image.mode != "L" else Image.frombytes("P", image.size, values.tobytes())
    image.putpalette([channel for color in default_palette(256) for channel in color])
    image.save(path, **options)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TFSSL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path):
    """Four images of four sizes: a JPEG, c and d PNG, b gray JPEG; labels as palette PNGs (b: gray PNG)."""
    root = tmp_path / "data"
    (root / "labels").mkdir(parents=True)
    for number, (name, size) in enumerate(SIZES.items()):
        image = Image.fromarray(picture(*size, number))
        image = image.convert("L") if name == "b" else image
        image.save(root / image_name(name))
        if name == "b":
            Image.fromarray(indices(*size, number)).save(root / label_name(name))
        elif name != "c":
            write_palette_png(root / label_name(name), indices(*size, number))
    for list_name, names in LISTS.items():
        write_list(root, list_name, names)
    return root


def image_name(name):
    return f"{name}.jpg" if name in "ab" else f"{name}.png"


def label_name(name):
    return f"labels/{name}.png"


def write_list(root, list_name, names):
    (root / f"{list_name}.txt").write_text(
        "".join(f"{image_name(name)} {label_name(name)}\n" for name in names)
    )


def load(root, **changes):
    settings = {name: f"{name}.txt" for name in LISTS} | {"classes": CLASSES} | changes
    return split_lists(root=str(root), **settings)


def mistake(root, **changes):
    """The message and the details of the UserError that loading ends in."""
    with pytest.raises(UserError) as caught:
        load(root, **changes)
    return str(caught.value), list(caught.value.details)


# What is read


def test_images_and_labels_at_their_own_sizes(root):
    source = load(root)
    assert source.labeled.names == ("a.jpg", "b.jpg")
    assert (source.labeled.count, source.unlabeled.count, source.validation.count) == (2, 1, 1)
    assert source.test is None and source.held_out is None and source.flips
    for index, (name, seed) in enumerate((("a", 0), ("b", 1))):
        assert source.labeled.image(index).shape == (*SIZES[name], 3)
        label = source.labeled.label(index)
        assert label.dtype == tf.int32
        np.testing.assert_array_equal(label, indices(*SIZES[name], seed))
    np.testing.assert_array_equal(source.unlabeled.image(0), picture(*SIZES["c"], 2).astype(np.float32))
    np.testing.assert_array_equal(source.validation.label(0), indices(*SIZES["d"], 3))
    gray = source.labeled.image(1).numpy()
    assert (gray[..., 0] == gray[..., 1]).all() and gray.max() > 100


def test_inside_a_tf_data_map(root):
    source = load(root, size=(12, 10))
    stream = tf.data.Dataset.range(2).map(lambda i: (source.labeled.image(i), source.labeled.label(i)))
    assert stream.element_spec[0] == tf.TensorSpec([12, 10, 3], tf.float32)
    assert stream.element_spec[1] == tf.TensorSpec([None, None], tf.int32)
    for (image, label), name in zip(stream, "ab", strict=True):
        assert image.shape == (12, 10, 3)
        assert label.shape == SIZES[name]
    free = tf.data.Dataset.range(1).map(load(root).unlabeled.image)
    assert free.element_spec == tf.TensorSpec([None, None, 3], tf.float32)


def test_resizing_averages_when_it_shrinks(root):
    """Of a white column in every four, a quarter is left; without antialiasing it would be passed over."""
    lines = np.zeros((16, 16), np.uint8)
    lines[:, ::4] = 255
    Image.fromarray(np.stack([lines] * 3, -1)).save(root / "c.png")
    small = load(root, size=(4, 4)).unlabeled.image(0).numpy()
    assert small.shape == (4, 4, 3)
    assert small.min() > 40 and small.max() < 100
    whole = load(root, size=(16, 16)).unlabeled.image(0)
    np.testing.assert_allclose(whole[..., 0], lines)


@pytest.mark.parametrize("mode", ["RGB", "L", "LA", "RGBA", "P", "1"])
def test_every_kind_of_png_has_three_channels(root, mode):
    image = Image.fromarray(picture(16, 16, 5)).convert(mode)
    if "A" in mode:
        image.putalpha(Image.fromarray(picture(16, 16, 6)[..., 0]))
    image.save(root / "c.png")
    expected = np.asarray(image.convert("RGB"), np.float32)
    np.testing.assert_array_equal(load(root).unlabeled.image(0), expected)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_palette_labels_of_any_depth_are_indices(root, bits):
    values = np.random.default_rng(0).integers(0, 3, SIZES["a"], dtype=np.uint8)
    write_palette_png(root / label_name("a"), values, bits=bits, transparency=1)
    np.testing.assert_array_equal(load(root).labeled.label(0), values)


def test_published_forms_of_lists(root):
    (root / "labeled.txt").write_bytes(
        b"\xef\xbb\xbf# image label\r\n\r\n/a.jpg\t/labels/a.png\r\n"
        b"  ./b.jpg   labels/../labels/b.png\r\n#end"
    )
    source = load(root)
    assert source.labeled.names == ("a.jpg", "./b.jpg")
    np.testing.assert_array_equal(source.labeled.label(1), indices(*SIZES["b"], 1))


def test_partition_chooses_the_lists(root):
    for partition, names in (("1_2", "a"), ("1_1", "ab")):
        (root / "splits" / partition).mkdir(parents=True)
        write_list(root / "splits" / partition, "labeled", names)
    lists = {"labeled": "splits/{partition}/labeled.txt"}
    assert load(root, partition="1_2", **lists).labeled.names == ("a.jpg",)
    assert load(root, partition="1_1", **lists).labeled.count == 2
    assert "data.labeled has {partition}" in mistake(root, **lists)[0]
    assert "data.partition is 1_2" in mistake(root, partition="1_2")[0]
    _, details = mistake(root, partition="1_9", **lists)
    assert "data.labeled" in details[0] and "1_9" in details[0]


def test_without_an_unlabeled_list_the_labeled_images_are_it(root):
    source = load(root, unlabeled=None)
    assert source.unlabeled.names == source.labeled.names
    assert source.unlabeled.label is None and source.labeled.label is not None
    np.testing.assert_array_equal(source.unlabeled.image(1), source.labeled.image(1))


def test_all_sets(root):
    write_list(root, "held_out", "d")
    write_list(root, "test", "d")
    source = load(root, held_out="held_out.txt", test=str(root / "test.txt"), flips=False)
    assert source.held_out.names == source.test.names == ("d.png",)
    assert source.held_out.label(0).shape == SIZES["d"]
    assert not source.flips


def test_root_is_relative_to_the_working_directory(root, monkeypatch):
    monkeypatch.chdir(root.parent)
    source = load("data")
    monkeypatch.chdir("/")
    assert source.labeled.image(0).shape == (*SIZES["a"], 3)


@pytest.mark.parametrize("state", ["missing", "garbage", "directory", "loop", "outside"])
def test_labels_of_unlabeled_images_are_never_touched(root, state, monkeypatch):
    """Whatever is where the list says a label is: the same bits, and no call of the system names it."""
    before = load(root).unlabeled.image(0).numpy()
    path = root / "labels" / "secret.png"
    if state == "garbage":
        path.write_bytes(b"garbage")
    elif state == "directory":
        path.mkdir()
    elif state == "loop":
        path.symlink_to(path)
    (root / "unlabeled.txt").write_text(
        f"c.png {'../../etc/secret.png' if state == 'outside' else 'labels/secret.png'}\n"
    )
    asked = []

    def spy(call):
        return lambda path, *rest, **more: asked.append(str(path)) or call(path, *rest, **more)

    for name in ("stat", "lstat", "readlink"):
        monkeypatch.setattr(os, name, spy(getattr(os, name)))
    monkeypatch.setattr(builtins, "open", spy(open))
    source = load(root)
    monkeypatch.undo()
    assert any("c.png" in path for path in asked)  # the spy does see what is asked for
    assert not any("secret" in path for path in asked)
    assert source.unlabeled.label is None and source.unlabeled.names == ("c.png",)
    np.testing.assert_array_equal(source.unlabeled.image(0), before)


def test_palettes(root):
    assert default_palette(4) == ((0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0))
    assert len(set(default_palette(256))) == 256
    assert load(root).palette == default_palette(3)
    own = ((1, 2, 3), (4, 5, 6), (7, 8, 9))
    assert load(root, palette=own).palette == own
    assert "task.palette has 2 colours for 3" in mistake(root, palette=own[:2])[0]


# Mistakes in the lists


def test_settings(root, tmp_path):
    message, _ = mistake(tmp_path / "nowhere")
    assert "data.root" in message and "nowhere" in message
    assert "data.size is [0, 4]" in mistake(root, size=(0, 4))[0]


def test_all_missing_lists_are_named(root):
    message, details = mistake(root, labeled="x.txt", validation="y.txt")
    assert "relative to data.root" in message
    assert details == [f"data.labeled: no file {root}/x.txt", f"data.validation: no file {root}/y.txt"]


def test_empty_and_binary_lists(root):
    (root / "validation.txt").write_text("\n# nothing\n")
    message, _ = mistake(root)
    assert "data.validation" in message and "validation.txt names no example" in message
    (root / "validation.txt").write_bytes(b"\xff\xfe\x00\x01")
    assert "cannot be read as text" in mistake(root)[0]


def test_all_malformed_lines_are_named(root):
    (root / "labeled.txt").write_text("a.jpg labels/a.png\nb.jpg\nmy image.jpg labels/b.png\n")
    (root / "unlabeled.txt").write_text("c.png x y\n")
    _, details = mistake(root)
    assert len(details) == 3
    assert "labeled.txt, line 2: expected IMAGE LABEL, found 'b.jpg'" in details[0]
    assert "line 3" in details[1] and "my image.jpg" in details[1]
    assert "data.unlabeled" in details[2] and "expected IMAGE, or IMAGE LABEL" in details[2]


def test_all_paths_that_leave_the_root_are_named(root, tmp_path):
    Image.fromarray(picture(9, 9)).save(tmp_path / "outside.png")
    (root / "link.png").symlink_to(tmp_path / "outside.png")
    (root / "inner.png").symlink_to(root / "c.png")
    (root / "unlabeled.txt").write_text("../outside.png\nlink.png\ninner.png\n")
    (root / "labeled.txt").write_text("a.jpg ../data2/a.png\n")
    message, details = mistake(root, on_bad_file="skip")
    assert "data.root" in message
    assert [line.split(": ")[-1] for line in details] == [
        "../data2/a.png leads outside of data.root",
        "../outside.png leads outside of data.root",
        "link.png leads outside of data.root",
    ]


def test_images_shared_by_training_and_evaluation_are_all_named(root):
    (root / "alias.png").symlink_to(root / "d.png")
    (root / "unlabeled.txt").write_text("c.png\nalias.png\n")
    write_list(root, "validation", "da")
    write_list(root, "held_out", "b")
    message, details = mistake(root, test="labeled.txt", held_out="held_out.txt")
    assert "training and evaluation share" in message
    assert sorted(details) == [
        "a.jpg: in data.labeled and data.test",
        "a.jpg: in data.labeled and data.validation",
        "b.jpg: in data.labeled and data.held_out",
        "b.jpg: in data.labeled and data.test",
        "d.png: in data.unlabeled and data.validation",
    ]


def test_labeled_may_be_unlabeled_too_and_unlabeled_held_out(root):
    write_list(root, "unlabeled", "ab")
    write_list(root, "held_out", "d")
    assert load(root, held_out="held_out.txt").unlabeled.count == 2
    write_list(root, "unlabeled", "c")
    write_palette_png(root / label_name("c"), indices(*SIZES["c"]))
    write_list(root, "held_out", "c")
    assert load(root, held_out="held_out.txt").held_out.names == ("c.png",)


def test_duplicates_are_a_warning(root, capsys):
    write_list(root, "labeled", "aba")
    assert load(root).labeled.count == 3
    assert capsys.readouterr().err == "warning: data.labeled names more than once: a.jpg\n"


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
    assert (
        details[0].startswith("labels/a.png: ") and problem in details[0] and "[data.labeled]" in details[0]
    )


def test_a_label_without_labeled_pixels_may_be_evaluated_on(root):
    write_palette_png(root / label_name("d"), np.full(SIZES["d"], 255, np.uint8))
    assert load(root).validation.count == 1


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
    monkeypatch.setattr(
        checking, "inspect", lambda contents, role: calls.append(role) or inspect(contents, role)
    )
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
