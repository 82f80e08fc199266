"""Published datasets and folders in their own layouts, made in small, for the tests that read or spoil them."""

import numpy as np
from PIL import Image

from tests.lists_for_tests import picture, write_palette_png
from tfssl.data.datasets import TRAIN_IDS

IDS = [f"2007_00000{number}" for number in range(6)]
SIZE = (12, 16)


def values(seed, allowed):
    return np.random.default_rng(seed).choice(np.uint8(allowed), SIZE)


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def write_voc(root):
    """Six images with palette masks: the first two are "train", the next two of SBD alone, the last two "val"."""
    (root / "SegmentationClassAug").mkdir(parents=True)
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    for number, name in enumerate(IDS):
        save(root / f"JPEGImages/{name}.jpg", picture(*SIZE, number))
        write_palette_png(root / f"SegmentationClassAug/{name}.png", values(number, [0, 5, 20, 255]))
    for split, names in {"train": IDS[:2], "val": IDS[4:]}.items():
        (root / f"ImageSets/Segmentation/{split}.txt").write_text("\n".join(names) + "\n")
    return root


def write_cityscapes(root):
    """Three training and two validation images with labelIds."""
    for number, (split, city) in enumerate([("train", "aachen"), ("train", "aachen"), ("train", "ulm"),
                                            ("val", "bonn"), ("val", "bonn")]):  # fmt: skip
        stem = f"{split}/{city}/{city}_00000{number}_000019"
        save(root / f"leftImg8bit/{stem}_leftImg8bit.png", picture(*SIZE, number))
        save(root / f"gtFine/{stem}_gtFine_labelIds.png", values(number, range(34)))
    return root


def train_ids(seed):
    """What the labelIds of values(seed, range(34)) mean."""
    expected = np.full(SIZE, 255, np.uint8)
    for number, value in enumerate(TRAIN_IDS):
        expected[values(seed, range(34)) == value] = number
    return expected


def write_ade20k(root):
    """Two training images and one for validation."""
    for number, name in enumerate(["training/ADE_train_00000001", "training/ADE_train_00000002",
                                   "validation/ADE_val_00000001"]):  # fmt: skip
        save(root / f"images/{name}.jpg", picture(*SIZE, number))
        save(root / f"annotations/{name}.png", values(number, range(151)))
    return root


def write_folder(root):
    """Ten images, one below another folder, of which the first eight have masks."""
    for number in range(10):
        name = f"a trip/{number}" if number == 3 else f"{number}"
        save(root / f"images/{name}.{'jpg' if number % 2 else 'PNG'}", picture(*SIZE, number))
        if number < 8:
            save(root / f"masks/{name}.png", values(number, [0, 1, 255]))
    return root
