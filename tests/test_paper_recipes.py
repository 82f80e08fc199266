"""The recipes of configs/paper have the settings of their papers and quote the right results."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.papers_for_tests import OPEN, RECIPES, SOME, Confessed
from tfssl import config, fit, runs
from tfssl.methods import METHODS
from tfssl.schedules import steps_of

FOLDER = Path(fit.__file__).parent.parent / "configs" / "paper"
EVERYWHERE = {"data.source", "data.crop", "data.weak.scale", "data.weak.flip", "networks.0.name", "networks.0.backbone",
              "networks.0.weights", "networks.0.output_stride", "training.optimizer", "training.learning_rate",
              "training.head_factor", "training.weight_decay", "training.labeled_batch", "training.epochs",
              "evaluation.protocol"}  # fmt: skip
WORDS = {
    "ctt": ("Cross teacher training of Xiao et al. (arXiv:2209.01327)", "hardware unstated"),
    "gct": ("Ke et al. (GCT, ECCV 2020)", "hardware unstated"),
    "gta_cityscapes": ("GTA-Seg of Jin et al. (NeurIPS 2022)", "8 GPUs"),  # 4.2
    "gta_voc": ("GTA-Seg of Jin et al. (NeurIPS 2022)", "4 GPUs"),
    "rml": ("Robust mutual learning of Zhang et al. (arXiv:2106.00609)", "4 V100"),  # 5.2
    "u2pl": ("Wang et al. (U2PL, CVPR 2022)", "hardware unstated"),
}
ROWS = {  # the name of the row in the table, where there are several
    "gct_voc": "GCT", "gct_voc_adversarial": "AdvSSL", "gct_voc_mean_teacher": "MT", "gct_voc_s4l": "S4L",
    "gct_voc_supervised": "SupOnly", "u2pl_cityscapes": "U2PL (with CutMix)", "u2pl_cityscapes_cutmix": "CutMix",
    "u2pl_cityscapes_mean_teacher": "MT", "u2pl_cityscapes_supervised": "SupOnly", "u2pl_voc": "U2PL",
    "u2pl_voc_cutmix": "CutMix", "u2pl_voc_mean_teacher": "MT", "u2pl_voc_supervised": "SupOnly",
}  # fmt: skip
SIXTEENTHS = "1/16, 1/8, 1/4, 1/2"
HUNDREDTHS = "1/100, 1/50, 1/20, 1/8"
CLASSIC, BLENDER, CITIES = "92, 183, 366, 732", "662, 1323, 2646, 5291", "186, 372, 744, 1488"
PUBLISHED = {  # (table, labels, mIoU in percent, and that of the supervised baseline where it has no recipe)
    "ctt_cityscapes": [
        (1, "100, 372, 744, 1487", "59.53 / 64.04 / 65.83 / 67.83", "48.36 / 57.74 / 61.63 / 63.13")],
    "ctt_voc": [(2, "212, 529, 1322, 2645", "69.24 / 72.02 / 73.66 / 75.07", "55.69 / 61.36 / 67.14 / 70.20")],
    "ctt_voc_classic": [(3, CLASSIC, "64.00 / 71.05 / 72.36 / 76.13", "41.22 / 50.82 / 60.37 / 66.29")],
    "gct_voc": [(1, SIXTEENTHS, "67.19 / 72.14 / 73.62 / 74.82", "")],
    "gct_voc_adversarial": [(1, SIXTEENTHS, "65.67 / 69.89 / 71.53 / 74.48", "")],
    "gct_voc_mean_teacher": [(1, SIXTEENTHS, "66.08 / 69.81 / 71.28 / 73.23", "")],
    "gct_voc_s4l": [(1, SIXTEENTHS, "64.71 / 68.65 / 70.97 / 73.43", "")],
    "gct_voc_supervised": [(1, SIXTEENTHS, "64.55 / 68.38 / 70.69 / 73.56", "")],
    "gta_cityscapes": [(3, "100, 186, 372, 744", "its numbers are not in our copy", "")],  # 4.1; the table is lost
    "gta_voc": [(1, CLASSIC, "70.02 / 73.16 / 75.57 / 78.37", ""),
                (2, "662, 1323, 2645, 5291", "77.82 / 80.47 / 80.57 / 81.01", "")],
    "rml_cityscapes": [(1, "1/30, 1/8, 1/4", "58.25 / 63.97 / 66.15", "45.40 / 56.08 / 60.91")],
    "rml_voc": [(2, HUNDREDTHS, "53.77 / 64.63 / 68.82 / 70.34", "36.25 / 46.30 / 55.92 / 63.73"),
                (3, "", "63.60 / 68.66 / 71.19 / 73.38", "")],
    "u2pl_cityscapes": [(3, CITIES, "70.30 / 74.37 / 76.47 / 79.05", "")],
    "u2pl_cityscapes_cutmix": [(3, CITIES, "67.06 / 71.83 / 76.36 / 78.25", "")],
    "u2pl_cityscapes_mean_teacher": [(3, CITIES, "69.03 / 72.06 / 74.20 / 78.15", "")],
    "u2pl_cityscapes_supervised": [(3, CITIES, "65.74 / 72.53 / 74.43 / 77.83", "")],
    "u2pl_voc": [(1, CLASSIC, "67.98 / 69.15 / 73.66 / 76.16", ""),
                 (2, BLENDER, "77.21 / 79.01 / 79.30 / 80.50", "")],
    "u2pl_voc_cutmix": [(1, CLASSIC, "52.16 / 63.47 / 69.46 / 73.73", ""),
                        (2, BLENDER, "71.66 / 75.51 / 77.33 / 78.21", "")],
    "u2pl_voc_mean_teacher": [(1, CLASSIC, "51.72 / 58.93 / 63.86 / 69.51", ""),
                              (2, BLENDER, "70.51 / 71.53 / 73.02 / 76.58", "")],
    "u2pl_voc_supervised": [(1, CLASSIC, "45.77 / 54.92 / 65.88 / 71.69", ""),
                            (2, BLENDER, "67.87 / 71.55 / 75.80 / 77.13", "")],
}  # fmt: skip


def resolved(name, *overrides):
    path = FOLDER / f"{name}.json"
    return runs.resolve(config.load(path, overrides), path)


def flat(value, place=""):
    """(place, value) of all leaves of nested dicts and lists of dicts."""
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        items = enumerate(value)
    else:
        yield place, tuple(value) if isinstance(value, list) else value
        return
    for key, inner in items:
        yield from flat(inner, f"{place}.{key}" if place else str(key))


def reading(settings):
    """{place: value} of resolved settings, in the words of the papers."""
    found, training = dict(flat(settings.model_dump())), settings.training
    found["data.weak.flip"] = found["data.weak.flip"] is not False  # null: wherever a mirrored image means the same
    found["networks.0.backbone"] = found["networks.0.backbone"].removesuffix("_caffe")  # the same, as Caffe had it
    found["networks.0.weights"] = "coco" if "coco" in found["networks.0.weights"] else found["networks.0.weights"]
    if found.get("networks.0.cut") == "decoder":
        found["channels of features"] = found["networks.0.feature_channels"] + found["networks.0.low_level_channels"]
    for place in ("method.warm_up", "method.ramp_up"):
        if training.epochs is not None and found.get(place, 1) < 1:  # a share, of all epochs as of all steps
            found[f"epochs of {place}"] = round(found[place] * training.epochs, 6)
    if "method.stages" in found:
        steps = training.steps - steps_of(found["method.warm_up"], training.steps)
        found["steps of a stage"] = steps / found["method.stages"]
    return found


def key_of(name, table):
    return name if name in table else name.partition("_")[0]


every_recipe = pytest.mark.parametrize("name", RECIPES)


def test_the_tables_are_of_all_recipes():
    assert {path.name for path in FOLDER.iterdir()} == {f"{name}.json" for name in RECIPES}
    assert len(RECIPES) <= 20 and PUBLISHED.keys() == RECIPES.keys()


@every_recipe
def test_a_recipe_has_the_settings_of_its_paper(name):
    settings = resolved(name)
    found, different = reading(settings), {}
    for place, (value, where) in RECIPES[name].items():
        paper = value.value if isinstance(value, Confessed) else value
        if paper == OPEN:
            assert place in found, place
            continue
        same = bool(found.get(place)) if paper == SOME else place in found and found[place] == paper
        confessed = isinstance(value, Confessed)  # one that is mended meanwhile is no longer to be confessed
        if same == confessed:
            different[place] = {"recipe": found.get(place), "paper": value, "where": where}
        if confessed and value.words not in settings.about:
            different[place] = f"its about does not say: {value.words}"
    assert not different


@every_recipe
def test_a_table_says_of_every_setting_what_the_paper_does(name):
    """Each option of the method and all that papers usually tell is compared, or left open, but not forgotten."""
    settings, told = resolved(name), {place.removeprefix("epochs of ") for place in RECIPES[name]}
    learned = {"training.unlabeled_batch"} if METHODS[settings.method.name].uses_unlabeled else set()
    options = {f"method.{key}" for key in settings.method.model_dump()}
    assert not (EVERYWHERE | learned | options) - told


@every_recipe
def test_about_names_paper_tables_numbers_and_hardware(name):
    about = resolved(name).about
    paper, hardware = WORDS[key_of(name, WORDS)]
    assert about.startswith(f"{ROWS[name]} of " if name in ROWS else paper)
    assert paper in about and hardware in about
    rows = PUBLISHED[name]
    assert about.count("table ") == len(rows)
    for table, labels, numbers, supervised in rows:
        _, _, told = about.partition(f"table {table},")
        told = told.partition("; table")[0]
        assert numbers in told and labels in told and (f"supervised {supervised}" if supervised else "") in told


def test_methods_of_one_table_differ_in_the_method_alone():
    """GCT's section 4 and U2PL's appendix A; what GTA-Seg's paper leaves open is U2PL's, as its recipes say."""

    def rest(name):
        content = json.loads((FOLDER / f"{name}.json").read_text())
        return {key: content[key] for key in ("data", "networks", "training", "evaluation")}

    for first in ("gct_voc", "u2pl_voc", "u2pl_cityscapes"):
        for name in [name for name in RECIPES if name.startswith(f"{first}_")]:
            expected = rest(first)
            if name.endswith("supervised"):
                del expected["training"]["unlabeled_batch"]
            if name == "gct_voc_supervised":  # as many samples in a step, and the epochs of the authors' code
                expected["training"] |= {"epochs": 40, "labeled_batch": 16}
            assert rest(name) == expected, name
    for dataset in ("voc", "cityscapes"):
        assert rest(f"gta_{dataset}") == rest(f"u2pl_{dataset}")
        one, other = (resolved(f"u2pl_{dataset}_{end}").method.model_dump() for end in ("mean_teacher", "cutmix"))
        differing = {key for key in other if other[key] != one[key]}
        assert differing == {"name", "mix"}


PLACES = {  # of image number i: the word that lists have for it, its file, its label
    "voc": ("{i}", "JPEGImages/{i}.jpg", "SegmentationClassAug/{i}.png"),
    "cityscapes": ("{image}", "leftImg8bit/{part}/ulm/{i}_leftImg8bit.png",
                   "gtFine/{part}/ulm/{i}_gtFine_labelTrainIds.png"),
}  # fmt: skip


def write_small(root, settings, partition, count):
    """Four images for training and one that is "val", with lists of which `count` images are labeled."""
    lines = []
    for i in range(5):
        part = "train" if i < 4 else "val"
        word, image, label = (place.replace("{i}", str(i)).replace("{part}", part)
                              for place in PLACES[settings.data.source])  # fmt: skip
        lines.append(word.replace("{image}", image) + "\n")
        two = np.uint8([[7] * 16, [8] * 16] * 4)  # a class each, in VOC's numbers and in Cityscapes' labelIds
        for place, pixels in ((image, np.zeros((8, 16, 3), np.uint8)), (label, two)):
            (root / place).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / place)
    given = settings.data.model_extra
    written = {"ImageSets/Segmentation/val.txt": lines[4:], given["labeled"]: lines[:count]}
    written |= {given["unlabeled"]: lines[count:4]} if given["unlabeled"] else {}
    for place, words in written.items():
        path = root / place.replace("{partition}", partition)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(words))


@every_recipe
def test_another_partition_is_one_setting_away(name, tmp_path):
    own = resolved(name).data.model_extra["partition"]
    for partition, count in ((own, 1), ("other/7", 3)):
        settings = resolved(name, f"data.root={tmp_path}", f"data.partition={json.dumps(partition)}")
        write_small(tmp_path, settings, partition, count)
        source = runs.make_source(settings)
        assert (source.labeled.count, source.unlabeled.count, source.validation.count) == (count, 4 - count, 1)
    with pytest.raises(runs.UserError, match="data.partition is not given"):
        runs.make_source(resolved(name, f"data.root={tmp_path}", "data.partition=null"))
