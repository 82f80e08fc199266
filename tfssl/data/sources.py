"""The table of data sources: the name in the configuration, and the function that makes a Source."""

from tfssl.data.denoising import denoising
from tfssl.data.digit_scenes import digit_scenes
from tfssl.data.split_lists import split_lists

SOURCES = {"digit_scenes": digit_scenes, "split_lists": split_lists, "denoising": denoising}
