"""The table of data sources: the name in the configuration, and the function that makes a Source."""

from tfssl.data.datasets import ade20k, cityscapes, voc
from tfssl.data.denoising import denoising
from tfssl.data.digit_scenes import CLASSES, digit_scenes
from tfssl.data.image_folder import image_folder
from tfssl.data.palettes import ADE20K, CITYSCAPES, VOC, colours_of, default_palette
from tfssl.data.split_lists import split_lists
from tfssl.data.tfds import own_classes, tfds
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
OWN = {**PUBLISHED, "digit_scenes": dict(zip(CLASSES, default_palette(len(CLASSES)), strict=True))}
IMAGES = ("denoising",)  # their labels are images
RESIZED = ("image_folder", "split_lists", "voc", "cityscapes", "ade20k", "tfds")  # on reading, where they have a `size`


def task_of(settings):
    """The name of the task that the labels of a configuration's data are for."""
    return "regression" if settings.data.source in IMAGES else "segmentation"


def classes_of(settings):
    """The names of the classes that a configuration's data has, told without a look at the data."""
    own = _own(settings)
    return tuple(settings.task.classes if settings.task.classes and settings.data.source not in OWN else own)


def palette_of(settings):
    """Their colours."""
    if settings.data.source in OWN or not (settings.task.classes or settings.task.palette):
        return tuple(_own(settings).values())
    return colours_of(settings.task.palette, len(classes_of(settings)))


def _own(settings):
    """{class: colour} of labels that are not of the user's making; nothing where task.classes has to say it."""
    source, data = settings.data.source, settings.data.model_extra
    if source == "tfds":
        known = own_classes(data["dataset"], data["label"], settings.task.classes, data["values"])
        own = known.colours if known else {}
    else:
        own = OWN.get(source, {})
    if not own and not settings.task.classes:
        raise UserError("task.classes: name the classes of your labels, in the order of their values")
    return own
