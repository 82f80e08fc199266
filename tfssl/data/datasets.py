"""Published datasets by their own layouts on disk: only where they are and which lists to use is left to say.

All of them take what split_lists takes, but for the classes; where a list is asked for, the name of a split that comes
with the dataset will do.
"""

import glob
import os

import pydantic

from tfssl.data.check import BYTES, NOTHING
from tfssl.data.examples import Source
from tfssl.data.faults import Faults
from tfssl.data.palettes import ADE20K, CITYSCAPES, VOC
from tfssl.data.split_lists import Layout, OnBadFile, Partition, Size, by_patterns, from_lists
from tfssl.errors import UserError

IGNORE = 255
LAST_ID = 33  # the highest labelId; what is none of them is not drawn
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
    partition: Partition = None,
    labels: str = "SegmentationClassAug",
    size: Size = None,
    on_bad_file: OnBadFile = "fail",
    bad_files_limit: pydantic.NonNegativeInt = 10,
) -> Source:
    """PASCAL VOC 2012, with SBD where `labels` has its masks: 21 classes.

    Lists hold bare names, as those of VOC, PixelSSL, U2PL and GTA-Seg, or pairs, as UniMatch's, whose SegmentationClass
    has SBD's masks too: what is not there is looked for in `labels`. Splits of its own: "train" (1,464) and "val"
    (1,449), by ImageSets/Segmentation, and "train_aug", all masks that are not of "val" (10,582).
    labels: the folder with the masks that bare names mean. See split_lists for the rest.
    """

    def label(path):
        folder, name = os.path.split(path)
        own = os.path.basename(folder) == "SegmentationClass" and not os.path.exists(path)
        return (os.path.join(os.path.dirname(folder), labels, name) if own else path), None

    def split(base, name):
        if name not in splits:
            return None
        listed = _read(base, f"ImageSets/Segmentation/{'train' if name == 'train' else 'val'}.txt")
        masks = glob.glob("*.png", root_dir=os.path.join(base, labels))
        if not masks:
            raise UserError(f"data.labels {labels}: no such folder with PNGs in data.root {base}; SBD's masks are "
                            "SegmentationClassAug, VOC's own SegmentationClass")  # fmt: skip
        return sorted({os.path.splitext(mask)[0] for mask in masks} - set(listed)) if name == "train_aug" else listed

    splits = ("train", "val", "train_aug")
    layout = Layout(by_patterns("JPEGImages/{}.jpg", labels + "/{}.png"), label, split, splits)
    lists = {"labeled": labeled, "unlabeled": unlabeled, "validation": validation, "test": test, "held_out": held_out}
    return from_lists(root, lists, candidates=candidates, partition=partition, layout=layout, size=size, flips=True,
                      faults=Faults(on_bad_file, bad_files_limit), **_named(VOC))  # fmt: skip


def cityscapes(
    *,
    root: str = "cityscapes",
    labeled: str = "train",
    unlabeled: str | None = None,
    validation: str = "val",
    test: str | None = None,
    held_out: str | None = None,
    candidates: str | None = None,
    partition: Partition = None,
    size: Size = None,
    on_bad_file: OnBadFile = "fail",
    bad_files_limit: pydantic.NonNegativeInt = 10,
) -> Source:
    """Cityscapes, leftImg8bit/ with gtFine/: 19 classes.

    Lists hold images, as those of U2PL, or pairs, as UniMatch's. The labels are the ..._labelTrainIds.png where they
    have been made, else the ..._labelIds.png that the dataset has, whose values are translated. Splits of its own:
    "train" (2,975) and "val" (500). See split_lists for the rest.
    """
    meant = {value: number for number, value in enumerate(TRAIN_IDS)}
    translation = tuple(meant.get(value, IGNORE) if value <= LAST_ID else NOTHING for value in range(BYTES))

    def complete(words):
        if len(words) > 1 or not words[0].endswith("_leftImg8bit.png"):
            return words
        label = words[0].replace("leftImg8bit/", "gtFine/", 1).removesuffix("_leftImg8bit.png") + TRAINING_LABELS
        return [words[0], label]

    def label(path):
        if path.endswith(TRAINING_LABELS) and not os.path.exists(path):
            path = path.removesuffix(TRAINING_LABELS) + LABEL_IDS
        return path, translation if path.endswith(LABEL_IDS) else None

    def split(base, name):
        if name not in splits:
            return None
        return _found(base, f"leftImg8bit/{name}/*/*_leftImg8bit.png")

    splits = ("train", "val")
    layout = Layout(complete, label, split, splits)
    lists = {"labeled": labeled, "unlabeled": unlabeled, "validation": validation, "test": test, "held_out": held_out}
    return from_lists(root, lists, candidates=candidates, partition=partition, layout=layout, size=size, flips=True,
                      faults=Faults(on_bad_file, bad_files_limit), **_named(CITYSCAPES))  # fmt: skip


def ade20k(
    *,
    root: str = "ADEChallengeData2016",
    labeled: str = "training",
    unlabeled: str | None = None,
    validation: str = "validation",
    test: str | None = None,
    held_out: str | None = None,
    candidates: str | None = None,
    partition: Partition = None,
    size: Size = None,
    on_bad_file: OnBadFile = "fail",
    bad_files_limit: pydantic.NonNegativeInt = 10,
) -> Source:
    """ADE20K as of the scene parsing challenge of 2016, images/ with annotations/: 150 classes.

    Lists hold pairs, or bare names of training images, as ADE_train_00000001. Value 0 of a mask is none of the classes.
    Splits of its own: "training" (20,210) and "validation" (2,000). See split_lists for the rest.
    """
    meaning = (IGNORE, *range(150), *[NOTHING] * (BYTES - 151))

    def split(base, name):
        if name not in splits:
            return None
        told = ", as ADEChallengeData2016 of the challenge; the full ADE20K is of another layout"
        stems = [os.path.splitext(os.path.basename(path))[0] for path in _found(base, f"images/{name}/*.jpg", told)]
        return [f"images/{name}/{stem}.jpg annotations/{name}/{stem}.png" for stem in stems]

    splits = ("training", "validation")
    layout = Layout(by_patterns("images/training/{}.jpg", "annotations/training/{}.png"),
                    lambda path: (path, meaning), split, splits)  # fmt: skip
    lists = {"labeled": labeled, "unlabeled": unlabeled, "validation": validation, "test": test, "held_out": held_out}
    return from_lists(root, lists, candidates=candidates, partition=partition, layout=layout, size=size, flips=True,
                      faults=Faults(on_bad_file, bad_files_limit), **_named(ADE20K))  # fmt: skip


def _named(colours):
    return {"classes": tuple(colours), "palette": tuple(colours.values()), "ignore_index": IGNORE, "fixed": True}


def _read(base, path):
    try:
        with open(os.path.join(base, path), encoding="utf-8-sig") as file:
            return file.read().split()
    except OSError as error:
        told = f"cannot read {path} ({error.strerror}); {_where(base, path)}"
        raise UserError(f"data.root {base}: {told}") from error
    except ValueError as error:
        raise UserError(f"data.root {base}: {path} cannot be read as text ({error})") from error


def _found(base, pattern, told=""):
    """What matches below the root, sorted."""
    paths = sorted(glob.glob(pattern, root_dir=base))
    if not paths:
        raise UserError(f"data.root {base}: has no {pattern}; {_where(base, pattern, told)}")
    return paths


def _where(base, pattern, told=""):
    """What to do where a root lacks something: often it is one folder too high or too low; else `told` helps."""
    near = [os.path.dirname(base), os.path.dirname(os.path.dirname(base)), *glob.glob(glob.escape(base) + "/*/")]
    right = [place for place in near if glob.glob(pattern, root_dir=place)]
    return f"give the folder that it is below{', which is ' + os.path.normpath(right[0]) if right else told}"
