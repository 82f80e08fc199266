"""SETR: a vision transformer under two simple heads."""

from typing import Literal

import keras
import pydantic

from tfssl.networks.layers import BatchNorm, Enlarge, Rate, image_input, normalise, point_classifier, with_classifier
from tfssl.networks.pretrained import load
from tfssl.networks.vit import ENCODERS, vision_transformer


def setr(
    classes: pydantic.PositiveInt,
    *,
    encoder: Literal["vit_tiny", "vit_base", "vit_large"] = "vit_large",
    weights: str | None = None,
    head: Literal["naive", "pup"] = "pup",
    feature_channels: pydantic.PositiveInt = 256,
    dropout: Rate = 0.0,
    stochastic_depth: Rate = 0.0,
    stochastic_depth_mode: Literal["constant", "linear"] = "constant",
    batch_norm: BatchNorm = "local",
) -> keras.Model:
    """SETR (Zheng et al., CVPR 2021, arXiv:2012.15840).

    Args:
        classes: channels of the logits.
        encoder: the vision transformer, of patches of 16 pixels.
        weights: see `pretrained.load`.
        head: "naive", one convolution of 1 x 1 before the last one; or "pup", progressive upsampling: four of 3 x 3
            with an enlargement by 2 between them and one after them. The last enlargement is of the logits here, which
            is the same: neither it nor the last convolution mixes what the other keeps apart.
        feature_channels: D of the features.
        dropout: probability to drop a value of the features before the last convolution.
        stochastic_depth, stochastic_depth_mode: as in `deeplab_v3_plus`, of the transformer's branches.
        batch_norm: the head's, see `layers.normalise`; "frozen" makes it an identity.

    Returns:
        a Functional model from `image` [B,H,W,3], RGB 0..255, to {"logits": [B,H,W,classes] float32, "features":
        [B,h,w,D]}, h and w the sides over 16 rounded up, and eight times that with "pup"; with the sub-models `encoder`
        (image -> features) and `classifier`.
    """
    sizes = ENCODERS[encoder]
    image = image_input()
    x = vision_transformer(sizes, stochastic_depth=stochastic_depth,
                           stochastic_depth_mode=stochastic_depth_mode)(image)  # fmt: skip
    for number in range(1 if head == "naive" else 4):
        name = f"head{number + 1}"
        x = Enlarge(2, name=f"{name}_enlarge")(x) if number else x
        kernel = 1 if head == "naive" else 3
        x = keras.layers.Conv2D(feature_channels, kernel, padding="same", use_bias=False, name=name)(x)
        x = keras.layers.ReLU(name=f"{name}_relu")(normalise(x, f"{name}_norm", batch_norm))
    classifier = point_classifier(feature_channels, classes, dropout)
    network = with_classifier(keras.Model(image, x, name="encoder"), classifier, patch=sizes.patch)
    load(network, weights, encoder)
    return network
