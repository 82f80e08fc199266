"""Data that are not where or what the configuration says: one line that names it, of the command that looks at data.

Small data sets in their own layouts are spoiled one way each; files that are bad in themselves are in test_check.py,
TensorFlow Datasets in test_tfds.py.
"""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from tests.layouts_for_tests import IDS, save, write_ade20k, write_cityscapes, write_folder, write_voc
from tests.lists_for_tests import cache  # noqa: F401
from tfssl import config, errors, fit, runs
from tfssl.data import __main__ as command
from tfssl.data.palettes import default_palette

LISTS = {"labeled": "labeled.txt", "unlabeled": "unlabeled.txt", "validation": "validation.txt"}
TWO = {"classes": ["cat", "rest"]}


def write_lists(root):
    """The folder's images, with lists and a partition."""
    write_folder(root)
    (root / "splits/1_8").mkdir(parents=True)
    for path, numbers in {"labeled": "02", "unlabeled": "14", "validation": "67", "splits/1_8/labeled": "0"}.items():
        (root / f"{path}.txt").write_text("".join(f"{pair(number)}\n" for number in numbers))
    return root


def pair(number):
    return f"images/{number}.{'jpg' if int(number) % 2 else 'PNG'} masks/{number}.png"


# source: (how it is made, the folder, its section data, its section task)
SOURCES = {
    "voc": (write_voc, "VOCdevkit/VOC2012", {}, {}),
    "cityscapes": (write_cityscapes, "cityscapes", {}, {}),
    "ade20k": (write_ade20k, "ADEChallengeData2016", {}, {}),
    "image_folder": (write_folder, "my_images", {}, TWO),
    "split_lists": (write_lists, "listed", LISTS, TWO),
}


def remove(*names):
    def spoil(root):
        for name in names:
            shutil.rmtree(root / name) if (root / name).is_dir() else (root / name).unlink()

    return spoil


def write(name, content):
    return lambda root: (root / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def move(name, other):
    return lambda root: (root / name).rename(root / other)


def each(pattern, change):
    """Every file by a pattern is read, changed and written again."""

    def spoil(root):
        for path in sorted(root.glob(pattern)):
            save(path, change(np.asarray(Image.open(path))))

    return spoil


def each_renamed(pattern, old, new):
    return lambda root: [path.rename(path.with_name(path.name.replace(old, new))) for path in root.glob(pattern)]


def drawn_anew(root):
    """VOC's masks by a palette in the order in which the colours were met."""
    for path in root.glob("SegmentationClassAug/*"):
        Image.open(path).convert("RGB").quantize(8).save(path)


def luminance(values):
    return np.asarray(Image.fromarray(np.uint8(default_palette(256))[values]).convert("L"))


VOC_MASKS, CITY_MASKS, ADE_MASKS, MASKS = "SegmentationClassAug/*", "gtFine/*/*/*", "annotations/*/*", "masks/*.png"

# name: (source, what is done to its folder, section data, section task, what the last line says, lines before it)
MISTAKES = {
    # where the data are
    **{f"no root of {source}": (source, None, {"root": "nowhere"}, None, ["data.root nowhere is not a directory"], [])
       for source in SOURCES},
    **{f"a file for the root of {source}": (source, write("x.txt", ""), {"root": f"{folder}/x.txt"}, None,
                                            [f"data.root {folder}/x.txt is not a directory"], [])
       for source, (_, folder, _, _) in SOURCES.items()},
    "one folder too high: voc": ("voc", None, {"root": "VOCdevkit"}, None,
                                 ["data.root", "cannot read ImageSets/Segmentation/train.txt", "which is",
                                  "VOCdevkit/VOC2012"], []),
    "one folder too low: voc": ("voc", None, {"root": "VOCdevkit/VOC2012/JPEGImages"}, None,
                                ["cannot read ImageSets/Segmentation/train.txt", "which is", "VOCdevkit/VOC2012"], []),
    "one folder too high: cityscapes": ("cityscapes", None, {"root": "."}, None,
                                        ["has no leftImg8bit/train/*/*", "which is", "/cityscapes"], []),
    "one folder too low: cityscapes": ("cityscapes", None, {"root": "cityscapes/gtFine"}, None,
                                       ["has no leftImg8bit/train/*/*", "which is", "/cityscapes"], []),
    "one folder too high: ade20k": ("ade20k", None, {"root": "."}, None,
                                    ["has no images/training/*.jpg", "which is", "/ADEChallengeData2016"], []),
    "one folder too low: ade20k": ("ade20k", None, {"root": "ADEChallengeData2016/images/training"}, None,
                                   ["has no images/training/*.jpg", "which is", "/ADEChallengeData2016"], []),
    "one folder too high: image_folder": ("image_folder", None, {"root": "."}, None,
                                          ["data.images: ./images is not a directory"], []),
    "one folder too high: split_lists": ("split_lists", None, {"root": "."}, None, ["relative to data.root"],
                                         [f"data.{name}: no file" for name in LISTS]),
    # layouts
    "voc without SBD": ("voc", move("SegmentationClassAug", "SegmentationClass"), {}, None,
                        ["data.labels SegmentationClassAug: no such folder", "VOC's own SegmentationClass"], []),
    "voc with a split that is no text": ("voc", write("ImageSets/Segmentation/train.txt", b"\xff\xfe\0"), {}, None,
                                         ["ImageSets/Segmentation/train.txt cannot be read as text"], []),
    "images of cityscapes alone": ("cityscapes", remove("gtFine"), {}, None, ["5 bad file(s)"],
                                   ["gtFine/: no such folder; beside it: leftImg8bit [data.labeled, data.validation]"]),
    "labels of cityscapes alone": ("cityscapes", remove("leftImg8bit"), {}, None, ["has no leftImg8bit/train"], []),
    "coarse labels of cityscapes": ("cityscapes", move("gtFine", "gtCoarse"), {}, None, ["5 bad file(s)"],
                                    ["gtFine/: no such folder; beside it: gtCoarse, leftImg8bit"]),
    "cityscapes without labels of numbers": (
        "cityscapes", each_renamed(CITY_MASKS, "labelIds", "color"), {}, None, ["5 bad file(s)"],
        ["gtFine/train/aachen/aachen_000000_000019_gtFine_labelIds.png: does not exist", "gtFine", "gtFine", "gtFine",
         "gtFine"]),
    "the full ade20k": ("ade20k", lambda root: [path.rename(save_place(path)) for path in root.glob("images/*/*.jpg")],
                        {}, None, ["has no images/training/*.jpg", "ADEChallengeData2016 of the challenge"], []),
    "ade20k without annotations": ("ade20k", remove("annotations"), {}, None, ["3 bad file(s)"],
                                   ["annotations/: no such folder; beside it: images"]),
    "no folder of masks": ("image_folder", remove("masks"), {}, None, ["data.masks: my_images/masks is not a dir"], []),
    "an empty folder of masks": ("image_folder", lambda root: (remove("masks")(root), (root / "masks").mkdir()), {},
                                 None, ["data.masks: my_images/masks has no file that ends in .png"], []),
    "masks of other names": ("image_folder", each_renamed(MASKS, ".png", "_mask.png"), {}, None,
                             ["data.masks: 7 mask(s) named above have no image in", "same name"],
                             [f"masks/{number}_mask.png" for number in (0, 1, 2, 4, 5, 6, 7)]),
    "images for masks": ("image_folder", None, {"masks": "images"}, None, ["data.images and data.masks are both"], []),
    # lists
    "a split of another name": ("voc", None, {"labeled": "trian"}, None, ["splits of its own: train, val, train_aug"],
                                ["data.labeled: no file"]),
    "a split of another dataset": ("ade20k", None, {"labeled": "train"}, None,
                                   ["splits of its own: training, validation"], ["data.labeled: no file"]),
    "a partition that is not there": ("split_lists", None, {"labeled": "splits/{partition}/labeled.txt",
                                                            "partition": "1_9"}, None, ["list file(s) missing"],
                                      ["data.labeled: no file ROOT/splits/1_9/labeled.txt; data.partition may be 1_8"]),
    "a list in UTF-16": ("split_lists", write("labeled.txt", pair(0).encode("utf-16")), {}, None,
                         ["data.labeled: the list", "cannot be read as text", "save it as UTF-8"], []),
    "a list with commas": ("split_lists", write("labeled.txt", "images/0.PNG,masks/0.png"), {}, None, ["list line(s)"],
                           ["data.labeled: ROOT/labeled.txt, line 1: expected IMAGE LABEL, found 'images/0.PNG,masks"]),
    "a list of another machine": ("split_lists", write("labeled.txt", "/data/me/0.png /data/me/0_mask.png"), {}, None,
                                  ["2 bad file(s)"], ["data/: no such folder; beside it: images, masks, splits"]),
    "a list of files that are not there": ("split_lists", write("labeled.txt", "images/x.png masks/x.png"), {}, None,
                                           ["2 bad file(s)"], ["images/x.png: does not exist [data.labeled]",
                                                               "masks/x.png: does not exist [data.labeled]"]),
    "masks before images": ("split_lists", write("labeled.txt", "masks/0.png images/0.PNG"), {}, None,
                            ["1 bad file(s)"], ["images/0.PNG: is a colour picture"]),
    # masks
    "labelTrainIds for labelIds": ("cityscapes", each(CITY_MASKS, lambda v: np.where(v > 18, 255, v).astype(np.uint8)),
                                   {}, None, ["5 bad file(s)"],
                                   ["gtFine/train/aachen/aachen_000000_000019_gtFine_labelIds.png: has values 255; "
                                    "allowed are 0 to 33", *["gtFine"] * 4]),
    "luminance for labelIds": ("cityscapes", each(CITY_MASKS, luminance), {}, None, ["5 bad file(s)"], ["gtFine"] * 5),
    "colours for labelIds": ("cityscapes", each(CITY_MASKS, lambda v: np.uint8(default_palette(256))[v]), {}, None,
                             ["5 bad file(s)"], ["gtFine/train/aachen/aachen_000000_000019_gtFine_labelIds.png: is a "
                                                 "colour picture", *["gtFine"] * 4]),
    "ade20k less one": ("ade20k", each(ADE_MASKS, lambda v: v - 1), {}, None, ["2 bad file(s)"],
                        [f"annotations/training/ADE_train_0000000{number}.png: has values 255; allowed are 0 to 150"
                         for number in (1, 2)]),
    "luminance for ade20k": ("ade20k", each(ADE_MASKS, luminance), {}, None, ["3 bad file(s)"], ["annotations"] * 3),
    "luminance for voc": ("voc", each(VOC_MASKS, luminance), {}, None, ["4 bad file(s)"], ["SegmentationClassAug"] * 4),
    "a palette of another order": ("voc", drawn_anew, {}, None, ["4 bad file(s)"],
                                   [f"SegmentationClassAug/{name}.png: draws value 1 in the colour of class 20"
                                    for name in (*IDS[:2], *IDS[4:])]),
    "16 bits": ("voc", each(VOC_MASKS, lambda v: v.astype(np.uint16)), {}, None, ["4 bad file(s)"],
                [f"SegmentationClassAug/{name}.png: is 16-bit gray" for name in (*IDS[:2], *IDS[4:])]),
    "0 and 255": ("image_folder", each("masks/**/*.png", lambda v: np.uint8(255 * (v == 1))), {}, None,
                  ["data.labeled: all labels show 'cat' alone", "alone", 'data.values {"0": 0, "255": 1}'], []),
    # classes
    **{f"classes for {source}": (source, None, {}, TWO, ["task.classes has 2 entries, which are not the"], [])
       for source in ("voc", "cityscapes", "ade20k")},
    "a palette for voc": ("voc", None, {}, {"palette": [[0, 0, 0]]}, ["task.palette has 1 entries", "leave"], []),
    "no classes": ("image_folder", None, {}, {}, ["task.classes: name the classes of your labels"], []),
    "a value that means no class": ("image_folder", None, {"values": {"0": 0, "1": 7}}, None,
                                    ["data.values: 1 means class 7, but there are 2"], []),
    "another value to ignore": ("ade20k", None, {}, {"ignore_index": 254}, ["task.ignore_index is 254", "by 255"], []),
}  # fmt: skip


def save_place(path):
    """Where the full ADE20K has an image: below a letter and a scene."""
    place = path.parent / "a/abbey" / path.name
    place.parent.mkdir(parents=True, exist_ok=True)
    return place


@pytest.fixture
def configured(tmp_path, monkeypatch):
    """A function that makes the data of a source, spoils them and writes a configuration; commands run beside it."""
    monkeypatch.chdir(tmp_path)

    def make(source, spoil=None, data=None, task=None):
        build, folder, own, classes = SOURCES[source]
        root = build(tmp_path / folder)
        if spoil:
            spoil(root)
        content = {"data": {"source": source, "root": folder, **own, **(data or {})},
                   "task": classes if task is None else task, "method": {"name": "supervised"}}  # fmt: skip
        (tmp_path / "my.json").write_text(json.dumps(content))
        return str(root)

    return make


def told(capsys, *arguments, main=command.main):
    """(last line, those before it) of a command that must end in status 2; warnings left out."""
    with pytest.raises(SystemExit) as end:
        errors.run(main, list(arguments))
    assert end.value.code == 2
    out, err = capsys.readouterr()
    *before, last = [line for line in err.splitlines() if not line.startswith("warning: ")]
    assert out == "" and last.startswith("error: ")
    return last, [line.removeprefix("  ") for line in before]


@pytest.mark.parametrize("source", SOURCES)
def test_unspoiled_all_of_them_are_good(configured, source, capsys):
    configured(source)
    errors.run(command.main, ["check", "my.json"])
    assert "all files can be used" in capsys.readouterr().out


def test_masks_of_0_and_255_by_their_values(configured, capsys):
    """What the message proposes does help."""
    spoil = MISTAKES["0 and 255"][1]
    configured("image_folder", spoil, {"values": {"0": 0, "255": 1}})
    errors.run(command.main, ["check", "my.json"])
    out, err = capsys.readouterr()
    assert "all files can be used" in out and err == ""


@pytest.mark.parametrize("name", MISTAKES)
def test_data_that_are_not_as_they_should_be(configured, capsys, name):
    source, spoil, data, task, says, lines = MISTAKES[name]
    root = configured(source, spoil, data, task)
    last, before = told(capsys, "check", "my.json")
    for part in says:
        assert part in last, last
    assert len(before) == len(lines), before
    for line, start in zip(before, lines, strict=True):
        assert line.startswith(start.replace("ROOT", root)), before


@pytest.mark.parametrize("source", SOURCES)
def test_what_a_run_writes_down_of_its_data_is_no_mistake(configured, source):
    """Its config.json has the classes and colours of the source, and is read again to evaluate."""
    configured(source)
    settings = runs.resolve(config.load("my.json"), "my.json")
    before = runs.make_source(settings)
    again = runs.make_source(runs.complete(settings, before))
    assert (again.classes, again.palette) == (before.classes, before.palette) and again.classes
    np.testing.assert_array_equal(again.labeled.label(0), before.labeled.label(0))


def test_a_partition_may_be_a_number(configured, capsys):
    """As --set has it, where it is read as JSON."""
    root = configured("split_lists", move("splits/1_8", "splits/8"), {"labeled": "splits/{partition}/labeled.txt"})
    errors.run(command.main, ["check", "my.json", "--set", "data.partition=8"])
    assert "all files can be used" in capsys.readouterr().out
    _, (line,) = told(capsys, "check", "my.json", "--set", "data.partition=16")
    assert line == f"data.labeled: no file {root}/splits/16/labeled.txt; data.partition may be 8"


DRY = {
    "classes for voc": ("voc", {}, TWO, "task.classes has 2 entries, which are not the 21 that data.source voc has"),
    "classes for digits": ("digit_scenes", {}, TWO, "task.classes has 2 entries, which are not the 11"),
    "classes for pets": ("tfds", {}, TWO, "task.classes names 2 classes, but data.dataset oxford_iiit_pet has 3"),
    "classes for images": ("denoising", {}, TWO | {"name": "regression"}, "task.classes has 2 entries"),
    "no classes": ("tfds", {"dataset": "coco"}, {}, "task.classes: name the classes"),
    "a palette for others": ("split_lists", LISTS | {"root": "x"}, TWO | {"palette": [[0, 0, 0]]}, "1 colours for 2"),
    "an ignored value": ("cityscapes", {}, {"ignore_index": 254}, "task.ignore_index is 254"),
    "images of labels": ("denoising", {}, {}, "task.name is segmentation, but the labels of data.source denoising"),
    "labels of images": ("voc", {}, {"name": "regression"}, "task.name is regression, but the labels of data.source"),
}


@pytest.mark.parametrize("name", DRY)
def test_what_can_be_told_without_data_is_told_by_a_dry_run(tmp_path, capsys, name):
    source, data, task, says = DRY[name]
    content = {"data": {"source": source, **data}, "task": task, "method": {"name": "supervised"}}
    path = tmp_path / "my.json"
    path.write_text(json.dumps(content))
    last, before = told(capsys, str(path), "--dry-run", main=fit.main)
    assert says in last and before == []
