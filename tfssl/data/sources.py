"""The table of data sources: the name in the configuration, and the function that makes a Source."""

from tfssl.data.datasets import ade20k, cityscapes, voc
from tfssl.data.denoising import denoising
from tfssl.data.digit_scenes import CLASSES, digit_scenes
from tfssl.data.image_folder import image_folder
from tfssl.data.palettes import ADE20K, CITYSCAPES, VOC, default_palette
from tfssl.data.split_lists import split_lists
from tfssl.data.tfds import KNOWN, tfds
from tfssl.errors import UserError

SOURCES = {
    "digit_scenes": digit_scenes,
    "image_folder": image_folder,
    "split_lists": split_lists,
    "voc": voc,
    "cityscapes": cityscapes,
    "ade20k": ade20k,
    "tfds": tfds,
    "denoising": denoising,
}
PUBLISHED = {"voc": VOC, "cityscapes": CITYSCAPES, "ade20k": ADE20K}
RESIZED = ("image_folder", "split_lists", "voc", "cityscapes", "ade20k", "tfds")  # on reading, where they have a `size`


def classes_of(settings):
    """The names of the classes that a configuration's data has, told without a look at the data."""
    if settings.task.classes:
        return tuple(settings.task.classes)
    return tuple(_colours(settings))


def palette_of(settings):
    """Their colours."""
    if settings.task.palette:
        return tuple(settings.task.palette)
    return default_palette(len(settings.task.classes)) if settings.task.classes else tuple(_colours(settings).values())


def _colours(settings):
    source, data = settings.data.source, settings.data.model_extra
    known = {**PUBLISHED, "digit_scenes": dict(zip(CLASSES, default_palette(len(CLASSES)), strict=True))}
    if source == "tfds" and data["dataset"].partition("/")[0] in KNOWN:
        return KNOWN[data["dataset"].partition("/")[0]].colours
    if source not in known:
        raise UserError("task.classes: name the classes of your labels, in the order of their values")
    return known[source]
