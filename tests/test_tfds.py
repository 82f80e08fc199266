"""The real builders of TensorFlow Datasets on archives as their makers publish them, made here in small."""

import io
import shutil
import sys
import tarfile
import zipfile
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets
from PIL import Image

from tfssl.data import tfds as module
from tfssl.data.datasets import TRAIN_IDS
from tfssl.data.palettes import CITYSCAPES
from tfssl.data.tfds import tfds
from tfssl.errors import UserError

PETS = {"trainval": ["Abyssinian_1", "beagle_2", "pug_3", "Ragdoll_4"], "test": ["boxer_5", "Siamese_6"]}
CITY_SIZE = (1024, 2048)


def picture(height, width, seed):
    small = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return np.kron(small, np.ones((8, 8, 1), np.uint8))


def mask(height, width, seed, allowed):
    small = np.random.default_rng(seed).choice(np.uint8(allowed), (height // 8, width // 8))
    return np.kron(small, np.ones((8, 8), np.uint8))


def encoded(array, kind):
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind)
    return file.getvalue()


def write_tar(path, files):
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    """oxford_iiit_pet prepared by its builder from its two archives; only their download is left out."""
    folder = tmp_path_factory.mktemp("pets")
    images, annotations = {}, {}
    for split, names in PETS.items():
        lines = [f"{name} 1 1 1" for name in names]
        annotations[f"annotations/{split}.txt"] = ("\n".join(lines) + "\n").encode()
        for name in names:
            seed = int(name[-1])
            images[f"images/{name}.jpg"] = encoded(picture(40, 48, seed), "JPEG")
            annotations[f"annotations/trimaps/{name}.png"] = encoded(mask(40, 48, seed, [1, 2, 3]), "PNG")
    for name, files in {"images": images, "annotations": annotations}.items():
        write_tar(folder / f"{name}.tar", files)
    builder = tensorflow_datasets.builder("oxford_iiit_pet", data_dir=folder / "data")

    def extracted(manager, urls):
        return manager.extract({name: folder / f"{url.rpartition('/')[2].removesuffix('.tar.gz')}.tar"
                                for name, url in urls.items()})  # fmt: skip

    with mock.patch.object(tensorflow_datasets.download.DownloadManager, "download_and_extract", extracted):
        builder.download_and_prepare()
    return str(folder / "data")


def of_pets(pets, **changes):
    splits = {"labeled": "train[:50%]", "unlabeled": "train[50%:]", "validation": "test", "test": None}
    return tfds(**{"dataset": "oxford_iiit_pet", "data_dir": pets, **splits, **changes})


def test_pets(pets):
    source = of_pets(pets)
    assert (source.labeled.count, source.unlabeled.count, source.validation.count) == (2, 2, 2)
    assert source.classes == ("pet", "background", "outline") and source.unlabeled.label is None
    found = [*map(source.labeled.label, range(2)), *map(source.validation.label, range(2))]
    every = [mask(40, 48, seed, [1, 2, 3]).astype(int) - 1 for seed in range(1, 7)]
    for label in found:
        assert label.dtype == tf.int32 and any(np.array_equal(label, one) for one in every)
    image = source.labeled.image(0)
    assert image.shape == (40, 48, 3) and image.dtype == tf.float32 and 100 < image.numpy().max() <= 255
    assert len({*source.labeled.names, *source.unlabeled.names, *source.validation.names}) == 6


def test_inside_a_tf_data_map(pets):
    source = of_pets(pets, size=(20, 24))
    stream = tf.data.Dataset.range(2).map(lambda index: (source.labeled.image(index), source.labeled.label(index)))
    assert stream.element_spec[0].shape == (20, 24, 3)
    assert [(image.shape, label.shape) for image, label in stream] == [((20, 24, 3), (40, 48))] * 2


def test_image_and_label_belong_together(pets):
    """Read by its number each example is the one that TensorFlow Datasets gives."""
    theirs = list(tensorflow_datasets.load("oxford_iiit_pet", split="train", data_dir=pets,
                                           shuffle_files=False).as_numpy_iterator())  # fmt: skip
    ours = of_pets(pets, labeled="train", unlabeled=None).labeled
    assert ours.count == len(theirs) == 4
    for number, example in enumerate(theirs):
        np.testing.assert_array_equal(ours.image(number), example["image"])
        np.testing.assert_array_equal(ours.label(number), example["segmentation_mask"][..., 0].astype(int) - 1)


def test_mistakes(pets, tmp_path):
    with pytest.raises(UserError, match="data.labeled trian: there are the splits train .4 examples., test"):
        of_pets(pets, labeled="trian")
    with pytest.raises(UserError, match="share the images named above"):
        of_pets(pets, validation="train[:25%]")
    with pytest.raises(UserError, match="data.dataset oxford_pets"):
        tfds(dataset="oxford_pets")
    with pytest.raises(UserError, match="is not prepared in .*; give as data.data_dir the folder that holds"):
        of_pets(str(tmp_path))
    with pytest.raises(UserError, match="data.label mask: oxford_iiit_pet has the features"):
        of_pets(pets, label="mask")
    with pytest.raises(UserError, match="data.validation test.0:0.: has no example"):
        of_pets(pets, validation="test[0:0]")


def test_a_run_that_is_opened_again_reads_the_same_labels(pets):
    """Its configuration then names the classes, in the dataset's own words or in others."""
    source = of_pets(pets)
    for classes in (source.classes, ("animal", "rest", "border")):
        again = of_pets(pets, classes=classes, palette=source.palette)
        assert again.classes == classes
        np.testing.assert_array_equal(again.labeled.label(0), source.labeled.label(0))


MISTAKES = {
    "an unknown configuration": ({"dataset": "oxford_iiit_pet/x"}, "data.dataset oxford_iiit_pet/x: .*x not found"),
    "an unknown version": ({"dataset": "oxford_iiit_pet:9.9.9"}, "data.dataset .*cannot be loaded at version 9.9.9"),
    "no name": ({"dataset": ""}, "data.dataset : .*known here: oxford_iiit_pet"),
    "a part without its end": ({"labeled": "train[:5"}, "data.labeled train..5: there are the splits train .4 ex"),
    "a part beyond the end": ({"labeled": "train[100:]"}, "data.labeled train.100..: there are .* train .4 examples"),
    "no part": ({"labeled": ""}, "data.labeled : there are the splits"),
    "no validation": ({"validation": ""}, "data.validation : there are the splits"),
    "overlap": ({"validation": "train"}, "training and evaluation share"),
    "too few classes": ({"classes": ("a", "b")}, "task.classes names 2 classes, but .* has 3; leave task.classes out"),
    "too many classes": ({"classes": tuple("abcd")}, "task.classes names 4 classes, but .* has 3"),
    "values of no class": ({"values": {1: 0, 2: 3}}, "data.values: 2 means class 3, but there are 3"),
    "values of more classes": ({"values": {1: 0, 2: 1}, "classes": ("a",)}, "data.values: 2 means class 1"),
    "a palette for others": ({"palette": ((0, 0, 0),)}, "task.palette has 1 colours for 3"),
    "a label that is a number": ({"label": "species", "classes": ("cat", "dog")},
                                 "data.label species: is no 8-bit picture .* there are image, segmentation_mask"),
    "a label in colour": ({"label": "image", "classes": ("cat", "dog")}, "4 of the examples looked at"),
    "a label of one's own": ({"label": "image"}, "say by data.image, data.label and task.classes"),
    "a mask for an image": ({"image": "segmentation_mask"}, "data.image segmentation_mask: is no 8-bit picture of 3"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_every_mistake_is_told_in_one_line(pets, name):
    changes, says = MISTAKES[name]
    with pytest.raises(UserError, match=says) as caught:
        of_pets(pets, **changes)
    assert "\n" not in str(caught.value)
    if name == "a label in colour":
        assert all("is a colour picture, not class numbers" in line for line in caught.value.details)
    if name == "overlap":
        assert all("oxford_iiit_pet-train.tfrecord-00000-of-00001, byte" in line for line in caught.value.details)


def test_labels_beyond_the_classes(pets):
    """A dataset that is not known here may have any number of classes."""
    with mock.patch.dict(module.KNOWN, clear=True), pytest.raises(UserError, match="examples looked at") as caught:
        of_pets(pets, image="image", label="segmentation_mask", classes=("a", "b", "c"))
    assert "the label has values 3; allowed: 0 to 2 for task.classes" in caught.value.details[0]


def spoil(pets, tmp_path, change):
    """Changed are the bytes of the file with the training part of a copy."""
    copy = shutil.copytree(pets, tmp_path / "data")
    (path,) = copy.rglob("*-train.tfrecord*")
    content = change(path.read_bytes())
    path.unlink() if content is None else path.write_bytes(content)
    return str(copy)


@pytest.mark.parametrize("change", [lambda content: None, lambda content: b"", lambda content: content[:-9],
                                    lambda content: bytes(8) + content[8:]],
                         ids=["gone", "empty", "cut short", "overwritten"])  # fmt: skip
def test_files_that_are_not_whole(pets, tmp_path, change):
    with pytest.raises(UserError, match="data.labeled .*train.tfrecord.* records .* of 4; prepare the dataset again"):
        of_pets(spoil(pets, tmp_path, change))


def test_pictures_that_cannot_be_decoded(pets, tmp_path):
    def overwritten(content):
        start = content.index(b"\xff\xd8\xff")
        return content[:start] + bytes(300) + content[start + 300 :]

    with pytest.raises(UserError, match="1 of the examples looked at") as caught:
        of_pets(spoil(pets, tmp_path, overwritten))
    assert caught.value.details[0].startswith("oxford_iiit_pet-train.tfrecord-00000-of-00001, byte 12: ")
    assert "{{" not in caught.value.details[0] and "[Op" not in caught.value.details[0]


def test_a_description_that_cannot_be_read(pets, tmp_path):
    copy = shutil.copytree(pets, tmp_path / "data")
    (path,) = copy.rglob("dataset_info.json")
    path.write_text("{")
    with pytest.raises(UserError, match="data.dataset oxford_iiit_pet: Failed to load JSON.*data.data_dir: .*data"):
        of_pets(str(copy))


def test_without_the_package(pets):
    with mock.patch.dict(sys.modules, {"tensorflow_datasets": None}), pytest.raises(UserError, match="pip install"):
        of_pets(pets)


def test_cityscapes(tmp_path):
    """From the archives that one must download by hand, in manual_dir."""
    manual = tmp_path / "downloads/manual"
    manual.mkdir(parents=True)
    with zipfile.ZipFile(manual / "leftImg8bit_trainvaltest.zip", "w") as images, \
            zipfile.ZipFile(manual / "gtFine_trainvaltest.zip", "w") as labels:  # fmt: skip
        places = ["train/aachen/aachen_000000", "val/bonn/bonn_000001", "test/berlin/berlin_000002"]
        for seed, place in enumerate(places):
            images.writestr(f"leftImg8bit/{place}_000019_leftImg8bit.png", encoded(picture(*CITY_SIZE, seed), "PNG"))
            ids = encoded(mask(*CITY_SIZE, seed, range(34)), "PNG")
            labels.writestr(f"gtFine/{place}_000019_gtFine_labelIds.png", ids)
    data = str(tmp_path)
    source = tfds(dataset="cityscapes/semantic_segmentation", data_dir=data, labeled="train", unlabeled="test",
                  validation="validation", test=None, download=True)  # fmt: skip
    assert source.classes == tuple(CITYSCAPES) and source.labeled.image(0).shape == (*CITY_SIZE, 3)
    drawn, expected = mask(*CITY_SIZE, 0, range(34)), np.full(CITY_SIZE, 255)
    for number, value in enumerate(TRAIN_IDS):
        expected[drawn == value] = number
    np.testing.assert_array_equal(source.labeled.label(0), expected)


def test_cityscapes_without_its_archives(tmp_path):
    with pytest.raises(UserError, match="(?s)cannot be prepared: .*leftImg8bit_trainvaltest.zip"):
        tfds(dataset="cityscapes/semantic_segmentation", data_dir=str(tmp_path), labeled="train",
             validation="validation", download=True)  # fmt: skip
