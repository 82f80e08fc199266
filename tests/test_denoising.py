"""Noisy photographs: sets that share no pixel, noise by seed, labels that go where their images go."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from sklearn.datasets import load_sample_images

from tests.lists_for_tests import picture
from tfssl.data import augment
from tfssl.data.denoising import denoising
from tfssl.data.streams import like_image, paired_stream
from tfssl.errors import UserError

SETS = ("labeled", "unlabeled", "held_out", "validation", "test")
FEW = {"labeled": 2, "held_out": 1, "validation": 2, "test": 1}


def area(name):
    """(photograph, top, left) out of a tile's name."""
    return tuple(int(part.split()[-1]) for part in name.split(", "))


def test_tiles_of_all_sets_are_parts_of_the_photographs_and_none_overlap():
    source, photographs = denoising(tile=(50, 70)), load_sample_images().images
    areas = [area(name) for part in SETS for name in getattr(source, part).names]
    assert len(areas) == 2 * (427 // 50) * (640 // 70)
    for (a, top, left), (b, other_top, other_left) in itertools.combinations(areas, 2):
        assert a != b or abs(top - other_top) >= 50 or abs(left - other_left) >= 70
    for index in range(source.test.count):
        number, top, left = area(source.test.names[index])
        expected = photographs[number][top : top + 50, left : left + 70]
        np.testing.assert_array_equal(source.test.label(index), expected)


def test_sets_are_dealt_by_seed():
    counts = {name: getattr(denoising(), name).count for name in SETS}
    assert counts == {"labeled": 8, "unlabeled": 32, "held_out": 8, "validation": 16, "test": 16}
    names = [denoising(photo_seed=seed).labeled.names for seed in (0, 0, 1)]
    assert names[0] == names[1] != names[2]
    assert denoising().unlabeled.label is None and denoising(held_out=0, test=0).test is None


def test_noise_is_gaussian_fixed_and_by_seed():
    clean = denoising().validation.label(3).numpy()
    inside = (clean > 100) & (clean < 155)  # far from where it is cut
    for sigma in (10.0, 30.0):
        source = denoising(sigma=sigma)
        image = source.validation.image(3)
        assert image.dtype == tf.float32 and image.shape == (80, 80, 3)
        noise = (image.numpy() - clean)[inside]
        assert abs(noise.mean()) < sigma / 10 and abs(noise.std() / sigma - 1) < 0.1
        np.testing.assert_array_equal(source.validation.image(3), image)
        np.testing.assert_array_equal(image, np.clip(np.round(image), 0, 255))
    first, second = (denoising().validation.image(n).numpy() - denoising().validation.label(n).numpy() for n in (0, 1))
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.1


def write_folder(folder, sizes):
    (folder / "below").mkdir(parents=True)
    for number, size in enumerate(sizes):
        Image.fromarray(picture(*size, number)).save(folder / ("below" if number % 2 else ".") / f"{number}.png")
    (folder / "notes.txt").write_text("no picture")
    return folder


def test_photographs_of_a_folder_keep_their_sizes(tmp_path):
    sizes = [(20, 30), (24, 18), (16, 16), (21, 33), (9, 40), (30, 30), (12, 13)]
    source = denoising(folder=str(write_folder(tmp_path / "photos", sizes)), **FEW)
    names = [name for part in SETS for name in getattr(source, part).names]
    assert sorted(names) == sorted(f"{'below/' if n % 2 else ''}{n}.png" for n in range(7))
    for part in ("labeled", "validation"):
        examples = getattr(source, part)
        for index, name in enumerate(examples.names):
            number = int(name.removeprefix("below/").removesuffix(".png"))
            np.testing.assert_array_equal(examples.label(index), picture(*sizes[number], number))
            assert 10 < np.abs(examples.image(index) - examples.label(index)).mean() < 30


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"folder": "nowhere"}, "data.folder nowhere is not a directory"), ({"tile": (500, 20)}, "data.tile"),
     ({"tile": (0, 20)}, "data.tile"), ({"labeled": 60}, "there are 80 photographs"), ({"labeled": 0}, "need some"),
     ({"test": 48}, "left to be unlabeled")],
)  # fmt: skip
def test_mistakes(wrong, message):
    with pytest.raises(UserError, match=message):
        denoising(**wrong)


def test_bad_files_and_empty_folders_are_named(tmp_path):
    with pytest.raises(UserError, match="has no file that ends in"):
        denoising(folder=str(tmp_path))
    folder = write_folder(tmp_path / "photos", [(8, 8)] * 3)
    (folder / "cut.png").write_bytes((folder / "0.png").read_bytes()[:60])
    with pytest.raises(UserError, match="data.folder .*: 1 file") as caught:
        denoising(folder=str(folder), **FEW)
    assert "cut.png" in caught.value.details[0]


# On the way into a batch.


def test_an_image_label_goes_with_its_image():
    """Whatever the geometry, a label that is the image itself stays so; in the padding it is not known."""
    image = tf.constant(picture(30, 40), tf.float32)
    padded = 0
    for number in range(12):
        seen, label, valid = augment.weak(image, image, tf.constant([0, number]), crop=(24, 32), rotation=20.0,
                                          ignore_index=float("nan"))  # fmt: skip
        np.testing.assert_array_equal(np.where(valid[..., None], seen, np.nan), label)
        padded += int(np.isnan(label).any())
    assert padded
    np.testing.assert_array_equal(like_image(tf.reshape(tf.range(12.0), [2, 2, 3]), tf.zeros([4, 4, 3]))[::2, ::2],
                                  np.arange(12).reshape(2, 2, 3))  # fmt: skip


def test_batches_hold_untouched_pixels():
    source = denoising(tile=(40, 40))
    data = paired_stream(source, seed=0, start=0, stop=2, labeled_batch=2, unlabeled_batch=3, strong_views=0,
                         crop=(32, 32), ignore_index=float("nan"), weak={"scale": (1.0, 1.0)})  # fmt: skip
    for batch in data.as_numpy_iterator():
        (image, label), (weak, valid) = batch["labeled"], batch["unlabeled"]
        assert image.shape == label.shape == (2, 32, 32, 3) and label.dtype == np.float32 and weak.shape[0] == 3
        assert valid.all() and not np.isnan(label).any()
        for values in (image, label, weak):
            np.testing.assert_array_equal(values, np.round(values))
        assert 15 < np.abs(image - label).mean() < 25  # 25 sqrt(2 / pi) = 20, less what is cut
