"""Published datasets by their own layouts on disk: only where they are and which lists to use is left to say.

All of them take what split_lists takes, but for the classes; where a list is asked for, the name of a split that comes
with the dataset will do.
"""

import os
from glob import glob
from typing import Literal

from tfssl.data.check import BYTES
from tfssl.data.examples import Source
from tfssl.data.palettes import ADE20K, CITYSCAPES, VOC
from tfssl.data.split_lists import Layout, Size, by_patterns, from_lists
from tfssl.errors import UserError

IGNORE = 255
TRAIN_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)  # the labelId of each class
LABEL_IDS, TRAINING_LABELS = "_gtFine_labelIds.png", "_gtFine_labelTrainIds.png"


def voc(
    *,
    root: str = "VOCdevkit/VOC2012",
    labeled: str = "train",
    unlabeled: str | None = None,
    validation: str = "val",
    test: str | None = None,
    held_out: str | None = None,
    candidates: str | None = None,
    partition: str | None = None,
    labels: str = "SegmentationClassAug",
    size: Size = None,
    on_bad_file: Literal["fail", "skip"] = "fail",
) -> Source:
    """PASCAL VOC 2012, with SBD where `labels` has its masks: 21 classes.

    Lists hold bare names, as those of VOC, PixelSSL, U2PL and GTA-Seg, or pairs, as UniMatch's. Splits of its own:
    "train" (1,464) and "val" (1,449), by ImageSets/Segmentation, and "train_aug", all masks that are not of "val"
    (10,582).
    labels: the folder with the masks that bare names mean. See split_lists for the rest.
    """

    def split(base, name):
        if name in ("train", "val"):
            return _read(base, f"ImageSets/Segmentation/{name}.txt")
        if name == "train_aug":
            scored = _read(base, "ImageSets/Segmentation/val.txt")
            names = [os.path.splitext(mask)[0] for mask in _found(base, f"{labels}/*.png")]
            return sorted({os.path.basename(name) for name in names} - set(scored))
        return None

    layout = Layout(complete=by_patterns("JPEGImages/{}.jpg", labels + "/{}.png"), split=split)
    lists = {"labeled": labeled, "unlabeled": unlabeled, "validation": validation, "test": test, "held_out": held_out}
    return from_lists(root, lists, candidates=candidates, partition=partition, layout=layout, size=size, flips=True,
                      on_bad_file=on_bad_file, **_named(VOC))  # fmt: skip


def cityscapes(
    *,
    root: str = "cityscapes",
    labeled: str = "train",
    unlabeled: str | None = None,
    validation: str = "val",
    test: str | None = None,
    held_out: str | None = None,
    candidates: str | None = None,
    partition: str | None = None,
    size: Size = None,
    on_bad_file: Literal["fail", "skip"] = "fail",
) -> Source:
    """Cityscapes, leftImg8bit/ with gtFine/: 19 classes.

    Lists hold images, as those of U2PL, or pairs, as UniMatch's. The labels are the ..._labelTrainIds.png where they
    have been made, else the ..._labelIds.png that the dataset has, whose values are translated. Splits of its own:
    "train" (2,975) and "val" (500). See split_lists for the rest.
    """
    translation = [IGNORE] * BYTES
    for number, value in enumerate(TRAIN_IDS):
        translation[value] = number

    def complete(words):
        if len(words) > 1 or not words[0].endswith("_leftImg8bit.png"):
            return words
        label = words[0].replace("leftImg8bit/", "gtFine/", 1).removesuffix("_leftImg8bit.png") + TRAINING_LABELS
        return [words[0], label]

    def label(path):
        if path.endswith(TRAINING_LABELS) and not os.path.exists(path):
            path = path.removesuffix(TRAINING_LABELS) + LABEL_IDS
        return path, tuple(translation) if path.endswith(LABEL_IDS) else None

    def split(base, name):
        if name not in ("train", "val"):
            return None
        return _found(base, f"leftImg8bit/{name}/*/*_leftImg8bit.png")

    layout = Layout(complete, label, split)
    lists = {"labeled": labeled, "unlabeled": unlabeled, "validation": validation, "test": test, "held_out": held_out}
    return from_lists(root, lists, candidates=candidates, partition=partition, layout=layout, size=size, flips=True,
                      on_bad_file=on_bad_file, **_named(CITYSCAPES))  # fmt: skip


def ade20k(
    *,
    root: str = "ADEChallengeData2016",
    labeled: str = "training",
    unlabeled: str | None = None,
    validation: str = "validation",
    test: str | None = None,
    held_out: str | None = None,
    candidates: str | None = None,
    partition: str | None = None,
    size: Size = None,
    on_bad_file: Literal["fail", "skip"] = "fail",
) -> Source:
    """ADE20K as of the scene parsing challenge of 2016, images/ with annotations/: 150 classes.

    Lists hold pairs, or bare names of training images, as ADE_train_00000001. Value 0 of a mask is none of the classes.
    Splits of its own: "training" (20,210) and "validation" (2,000). See split_lists for the rest.
    """
    meaning = (IGNORE, *range(150), *[IGNORE] * (BYTES - 151))

    def split(base, name):
        if name not in ("training", "validation"):
            return None
        stems = [os.path.splitext(os.path.basename(image))[0] for image in _found(base, f"images/{name}/*.jpg")]
        return [f"images/{name}/{stem}.jpg annotations/{name}/{stem}.png" for stem in stems]

    layout = Layout(by_patterns("images/training/{}.jpg", "annotations/training/{}.png"),
                    lambda path: (path, meaning), split)  # fmt: skip
    lists = {"labeled": labeled, "unlabeled": unlabeled, "validation": validation, "test": test, "held_out": held_out}
    return from_lists(root, lists, candidates=candidates, partition=partition, layout=layout, size=size, flips=True,
                      on_bad_file=on_bad_file, **_named(ADE20K))  # fmt: skip


def _named(colours):
    return {"classes": tuple(colours), "palette": tuple(colours.values()), "ignore_index": IGNORE, "fixed": True}


def _read(base, path):
    try:
        with open(os.path.join(base, path), encoding="utf-8-sig") as file:
            return file.read().split()
    except OSError as error:
        told = f"cannot read {path} ({error.strerror}); give the folder that it is below"
        raise UserError(f"data.root {base}: {told}") from error


def _found(base, pattern):
    """What matches below the root, sorted."""
    paths = sorted(glob(pattern, root_dir=base))
    if not paths:
        raise UserError(f"data.root {base}: has no {pattern}; give the folder that it is below")
    return paths
