"""The table of convolutional backbones: image -> [map of stride 4, map of the output stride]."""

from functools import partial
from typing import Literal

from tfssl.networks.efficientnet_lite import efficientnet_lite0
from tfssl.networks.resnet import resnet

BACKBONES = {
    "efficientnet_lite0": efficientnet_lite0,
    "resnet50": partial(resnet, "resnet50", variant="keras"),
    "resnet101": partial(resnet, "resnet101", variant="keras"),
    "resnet50_caffe": partial(resnet, "resnet50", variant="caffe"),
    "resnet101_caffe": partial(resnet, "resnet101", variant="caffe"),
    "resnet50_torchvision": partial(resnet, "resnet50", variant="torchvision"),
    "resnet101_torchvision": partial(resnet, "resnet101", variant="torchvision"),
    "resnet50_deep_stem": partial(resnet, "resnet50", variant="deep_stem"),
    "resnet101_deep_stem": partial(resnet, "resnet101", variant="deep_stem"),
}
Backbone = Literal[tuple(BACKBONES)]


def build_backbone(name, **arguments):
    return BACKBONES[name](**arguments)
