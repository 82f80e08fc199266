"""The table of data sources: the name in the configuration, and the function that makes a Source."""

from tfssl.data.datasets import ade20k, cityscapes, voc
from tfssl.data.denoising import denoising
from tfssl.data.digit_scenes import digit_scenes
from tfssl.data.image_folder import image_folder
from tfssl.data.split_lists import split_lists
from tfssl.data.tfds import tfds

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
RESIZED = ("image_folder", "split_lists", "voc", "cityscapes", "ade20k", "tfds")  # on reading, where they have a `size`
