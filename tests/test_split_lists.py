"""Split lists on disk: what is read, and which mistakes in the lists are refused."""

import builtins
import os

import numpy as np
import pytest
import tensorflow as tf
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
from tfssl.data.palettes import default_palette

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
        b"\xef\xbb\xbf# image label\r\n\r\n/a.jpg\t/labels/a.png\r\n  ./b.jpg   labels/../labels/b.png\r\n#end"
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
    assert "line 3" in details[1] and "my image.jpg" in details[1] and "a TAB after IMAGE" in details[1]
    assert "data.unlabeled" in details[2] and "expected IMAGE, or IMAGE LABEL" in details[2]


def test_names_with_spaces_and_names_in_full(root):
    for name in ("a.jpg", "labels/a.png", "c.png"):
        (root / name).rename(root / name.replace(".", " x."))
    (root / "labeled.txt").write_text(f"a x.jpg\tlabels/a x.png\n{root}/b.jpg /labels/b.png\n")
    (root / "unlabeled.txt").write_text("c x.png\t\n")
    source = load(root)
    assert source.labeled.names == ("a x.jpg", "b.jpg") and source.unlabeled.names == ("c x.png",)
    assert source.labeled.label(0).shape == SIZES["a"] and source.labeled.image(1).shape == (*SIZES["b"], 3)


def test_classes_that_no_label_shows_are_told(root, capsys):
    load(root, classes=(*CLASSES, "car", "van"))
    assert "warning: no label of data.labeled shows 'car', 'van' of task.classes" in capsys.readouterr().err
    load(root)
    assert capsys.readouterr().err == ""


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
        f"link.png leads outside of data.root by a symbolic link, to {tmp_path / 'outside.png'}; set data.root to a "
        "folder above both",
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
