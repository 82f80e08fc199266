"""A dense prediction transformer on DINOv2: the network of UniMatch V2."""

from typing import Literal

import keras
import pydantic

from tfssl.networks.layers import Enlarge, Rate, ResizeLike, Sum, image_input, point_classifier, with_classifier
from tfssl.networks.pretrained import load
from tfssl.networks.vit import ENCODERS, vision_transformer

_WIDTHS = {  # of the four maps, and of what they are put together in
    "dinov2_small": ((48, 96, 192, 384), 64),
    "dinov2_base": ((96, 192, 384, 768), 128),
    "dinov2_large": ((256, 512, 1024, 1024), 256),
}


def dpt(
    classes: pydantic.PositiveInt,
    *,
    encoder: Literal["dinov2_small", "dinov2_base", "dinov2_large"] = "dinov2_small",
    weights: str | None = None,
    dropout: Rate = 0.0,
    stochastic_depth: Rate = 0.0,
    stochastic_depth_mode: Literal["constant", "linear"] = "constant",
) -> keras.Model:
    """DPT (Ranftl et al., ICCV 2021, arXiv:2103.13413) on DINOv2 (Oquab et al., arXiv:2304.07193), with the widths of
    UniMatch V2 (Yang et al., arXiv:2410.10777, its public code).

    Two things differ from that code: maps are enlarged by half-pixel centres, not corner on corner, and its unit of
    two convolutions that no map ever enters is left out.

    Args:
        classes: channels of the logits.
        encoder: the vision transformer, of patches of 14 pixels.
        weights: see `pretrained.load`, "keras_hub:dinov2_small" for one.
        dropout: probability to drop a value of the features before the last convolution.
        stochastic_depth, stochastic_depth_mode: as in `deeplab_v3_plus`, of the transformer's branches.

    Returns:
        a Functional model from `image` [B,H,W,3], RGB 0..255, to {"logits": [B,H,W,classes] float32, "features":
        [B,8h,8w,D]}, h and w the sides over 14 rounded up; with the sub-models `encoder` (image -> features) and
        `classifier`.
    """
    sizes = ENCODERS[encoder]
    image = image_input()
    maps = vision_transformer(sizes, stochastic_depth=stochastic_depth,
                              stochastic_depth_mode=stochastic_depth_mode)(image)  # fmt: skip
    widths, channels = _WIDTHS[encoder]
    levels = [_level(x, number, width, channels) for number, (x, width) in enumerate(zip(maps, widths, strict=True), 1)]
    x = None
    for number, level in reversed(list(enumerate(levels, start=1))):
        name = f"fuse{number}"
        if x is not None:
            level = Sum(name=f"{name}_add")([x, _unit(level, f"{name}_level")])
        x = _unit(level, f"{name}_sum")
        if number > 1:
            x = ResizeLike(name=f"{name}_resize")([x, levels[number - 2]])
        else:
            x = Enlarge(2, name=f"{name}_enlarge")(x)
        x = keras.layers.Conv2D(channels, 1, name=f"{name}_project")(x)
    x = keras.layers.Conv2D(channels, 3, padding="same", activation="relu", name="head")(x)
    classifier = point_classifier(channels, classes, dropout)
    network = with_classifier(keras.Model(image, x, name="encoder"), classifier, patch=sizes.patch)
    load(network, weights, encoder)
    return network


def _level(x, number, width, channels):
    """Map `number` of the transformer at 4, 2, 1 or 1/2 times its resolution, brought to so many channels."""
    name = f"level{number}"
    x = keras.layers.Conv2D(width, 1, name=f"{name}_project")(x)
    if number < 3:
        factor = {1: 4, 2: 2}[number]
        x = keras.layers.Conv2DTranspose(width, factor, strides=factor, name=f"{name}_enlarge")(x)
    elif number == 4:
        x = keras.layers.ZeroPadding2D(1, name=f"{name}_pad")(x)
        x = keras.layers.Conv2D(width, 3, strides=2, name=f"{name}_reduce")(x)
    return keras.layers.Conv2D(channels, 3, padding="same", use_bias=False, name=name)(x)


def _unit(x, name):
    """Two rectified convolutions beside a shortcut."""
    y = x
    for part in "ab":
        y = keras.layers.ReLU(name=f"{name}_{part}_relu")(y)
        y = keras.layers.Conv2D(x.shape[-1], 3, padding="same", name=f"{name}_{part}")(y)
    return Sum(name=f"{name}_shortcut")([x, y])
