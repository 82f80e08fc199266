"""Published datasets and folders in their own layouts, made here in small: what is read, and what mistakes are told."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.layouts_for_tests import (
    IDS,
    SIZE,
    save,
    train_ids,
    values,
    write_ade20k,
    write_cityscapes,
    write_folder,
    write_voc,
)
from tests.lists_for_tests import cache, picture  # noqa: F401
from tfssl.data.datasets import ade20k, cityscapes, voc
from tfssl.data.image_folder import image_folder
from tfssl.data.palettes import ADE20K, CITYSCAPES, VOC
from tfssl.data.split_lists import split_lists
from tfssl.errors import UserError

# VOC


@pytest.fixture
def voc_root(tmp_path):
    return write_voc(tmp_path / "VOC2012")


def test_voc_with_its_own_splits(voc_root):
    source = voc(root=str(voc_root), candidates="train_aug")
    assert source.labeled.names == tuple(f"JPEGImages/{name}.jpg" for name in IDS[:2])
    assert source.unlabeled.names == tuple(f"JPEGImages/{name}.jpg" for name in IDS[2:4])
    assert source.validation.names == tuple(f"JPEGImages/{name}.jpg" for name in IDS[4:])
    assert source.unlabeled.label is None
    np.testing.assert_array_equal(source.labeled.label(1), values(1, [0, 5, 20, 255]))
    assert source.classes == tuple(VOC) and len(source.classes) == 21 and source.ignore_index == 255
    assert source.palette[15] == (192, 128, 128)  # a person


def test_voc_with_published_lists(voc_root):
    """Bare names, as U2PL and PixelSSL have them, and pairs, as UniMatch."""
    splits = voc_root / "splits/92"
    splits.mkdir(parents=True)
    (splits / "labeled.txt").write_text(f"{IDS[0]}\n")
    pairs = [f"JPEGImages/{name}.jpg SegmentationClass/{name}.png\n" for name in IDS[1:4]]
    (splits / "unlabeled.txt").write_text("".join(pairs))
    lists = {"labeled": "splits/{partition}/labeled.txt", "unlabeled": "splits/{partition}/unlabeled.txt"}
    source = voc(root=str(voc_root), partition="92", **lists)
    assert (source.labeled.count, source.unlabeled.count, source.validation.count) == (1, 3, 2)
    (splits / "labeled.txt").write_text(pairs[1])  # a mask of SBD, which lies elsewhere than the pair says
    np.testing.assert_array_equal(voc(root=str(voc_root), partition="92", labeled=lists["labeled"]).labeled.label(0),
                                  values(2, [0, 5, 20, 255]))  # fmt: skip
    (splits / "labeled.txt").write_text(f"{IDS[0]}\n{IDS[4]}\n")
    with pytest.raises(UserError, match="share the images") as caught:
        voc(root=str(voc_root), partition="92", **lists)
    assert caught.value.details == (f"JPEGImages/{IDS[4]}.jpg: in data.labeled and data.validation",)


def test_voc_elsewhere(voc_root, tmp_path):
    with pytest.raises(UserError, match="data.root .*nowhere is not a directory"):
        voc(root=str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="JPEGImages: cannot read ImageSets/Segmentation/train.txt .*folder that it is"):
        voc(root=str(voc_root / "JPEGImages"))
    with pytest.raises(UserError, match="data.labels nowhere: no such folder with PNGs .* SegmentationClass$"):
        voc(root=str(voc_root), labeled="train_aug", labels="nowhere")
    with pytest.raises(UserError, match="list file.s. missing") as caught:
        voc(root=str(voc_root), labeled="train_agu")
    assert "data.labeled: no file" in caught.value.details[0]
    for name in IDS[:5]:
        (voc_root / f"SegmentationClassAug/{name}.png").rename(voc_root / f"{name}.png")
    with pytest.raises(UserError, match="3 bad file.s. under data.root") as caught:
        voc(root=str(voc_root))
    assert f"SegmentationClassAug/{IDS[0]}.png: does not exist [data.labeled]" in caught.value.details


def test_masks_in_colour(voc_root):
    save(voc_root / f"SegmentationClassAug/{IDS[0]}.png", picture(*SIZE))
    with pytest.raises(UserError, match="1 bad file") as caught:
        voc(root=str(voc_root))
    assert "is a colour picture or has transparency; convert to index" in caught.value.details[0]


# Cityscapes


@pytest.fixture
def city_root(tmp_path):
    """With labelIds; of the first image the trainIds too have been made."""
    write_cityscapes(tmp_path)
    save(tmp_path / "gtFine/train/aachen/aachen_000000_000019_gtFine_labelTrainIds.png", train_ids(0))
    return tmp_path


def test_cityscapes_with_its_own_splits(city_root):
    source = cityscapes(root=str(city_root))
    assert (source.labeled.count, source.unlabeled.count, source.validation.count) == (3, 3, 2)
    for number in range(3):  # of both kinds of label
        np.testing.assert_array_equal(source.labeled.label(number), train_ids(number))
    np.testing.assert_array_equal(source.validation.label(1), train_ids(4))
    assert source.classes == tuple(CITYSCAPES) and len(source.classes) == 19


def test_cityscapes_with_published_lists(city_root):
    """Images alone, as U2PL has them, and pairs with trainIds that nobody has made, as UniMatch."""
    aachen = "train/aachen/aachen_000001_000019"
    (city_root / "labeled.txt").write_text(f"leftImg8bit/{aachen}_leftImg8bit.png\n")
    ulm = "train/ulm/ulm_000002_000019"
    (city_root / "unlabeled.txt").write_text(
        f"leftImg8bit/{ulm}_leftImg8bit.png gtFine/{ulm}_gtFine_labelTrainIds.png\n")  # fmt: skip
    source = cityscapes(root=str(city_root), labeled="labeled.txt", unlabeled="unlabeled.txt")
    np.testing.assert_array_equal(source.labeled.label(0), train_ids(1))
    assert source.unlabeled.names == (f"leftImg8bit/{ulm}_leftImg8bit.png",)


# ADE20K


def test_ade20k(tmp_path):
    write_ade20k(tmp_path)
    source = ade20k(root=str(tmp_path))
    expected = values(0, range(151)).astype(int) - 1
    np.testing.assert_array_equal(source.labeled.label(0), np.where(expected < 0, 255, expected))
    assert (source.labeled.count, source.validation.count, len(source.classes)) == (2, 1, 150)
    assert tuple(ADE20K)[:3] == ("wall", "building", "sky")
    (tmp_path / "some.txt").write_text("ADE_train_00000002\n")
    assert ade20k(root=str(tmp_path), labeled="some.txt").labeled.names == ("images/training/ADE_train_00000002.jpg",)


# Any folder


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path)


def of_folder(root, **changes):
    return image_folder(root=str(root), **{"classes": ("cat", "rest"), **changes})


def test_folder_with_masks_for_some(folder):
    source = of_folder(folder, validation=0.25, test=1)
    counts = {name: getattr(source, name).count for name in ("labeled", "unlabeled", "validation", "test")}
    assert counts == {"labeled": 5, "unlabeled": 2, "validation": 2, "test": 1}
    assert source.unlabeled.names == ("images/8.PNG", "images/9.jpg") and source.unlabeled.label is None
    named = source.labeled.names + source.validation.names + source.test.names
    assert len(set(named)) == 8 and "images/a trip/3.jpg" in named
    for examples in (source.labeled, source.validation, source.test):
        for index, name in enumerate(examples.names):
            number = int(name[-5])
            np.testing.assert_array_equal(examples.label(index), values(number, [0, 1, 255]))
    assert of_folder(folder, split_seed=1).validation.names != of_folder(folder).validation.names
    assert of_folder(folder).validation.names == of_folder(folder).validation.names


def test_values_mean_classes(folder):
    source = of_folder(folder, values={1: 0, 0: 1})
    number = int(source.labeled.names[0][-5])
    drawn = values(number, [0, 1, 255])
    np.testing.assert_array_equal(source.labeled.label(0), np.where(drawn == 255, 255, 1 - drawn.astype(int)))


def test_folder_mistakes(folder):
    with pytest.raises(UserError, match="data.masks: .*labels is not a directory"):
        of_folder(folder, masks="labels")
    with pytest.raises(UserError, match="8 images with masks, and validation 8 leave none"):
        of_folder(folder, validation=8)
    with pytest.raises(UserError, match="bad file") as caught:
        of_folder(folder, classes=("cat",))
    assert "has values 1; allowed are 0 to 0" in caught.value.details[0]
    save(folder / "masks/extra.png", values(0, [0]))
    with pytest.raises(UserError, match="1 mask.s. named above have no image"):
        of_folder(folder)
    (folder / "masks/extra.png").unlink()
    save(folder / "images/1.png", picture(*SIZE))
    with pytest.raises(UserError, match="differ by their ending alone"):
        of_folder(folder)


def test_lists_of_bare_names(folder):
    for name, numbers in {"labeled": "01", "validation": "2"}.items():
        (folder / f"{name}.txt").write_text("\n".join(numbers))
    for number in "012":
        Image.open(folder / f"images/{number}.{'jpg' if number == '1' else 'PNG'}").save(folder / f"{number}.png")
    source = split_lists(root=str(folder), labeled="labeled.txt", validation="validation.txt", images="{}.png",
                         labels="masks/{}.png", classes=("cat", "rest"))  # fmt: skip
    assert source.labeled.names == ("0.png", "1.png")
    np.testing.assert_array_equal(source.validation.label(0), values(2, [0, 1, 255]))
    both = tf.data.Dataset.range(2).map(lambda index: (source.labeled.image(index), source.labeled.label(index)))
    assert [label.shape for _, label in both] == [SIZE, SIZE]
    with pytest.raises(UserError, match="both say which images are unlabeled"):
        split_lists(root=str(folder), labeled="labeled.txt", validation="validation.txt", classes=("cat", "rest"),
                    unlabeled="labeled.txt", candidates="labeled.txt")  # fmt: skip
