"""DeepLabV3+ on a light backbone."""

from typing import Literal

import keras
import pydantic

from tfssl.networks.efficientnet_lite import efficientnet_lite0
from tfssl.networks.layers import Rate, ResizeLike, image_input, with_classifier

_BACKBONES = {"efficientnet_lite0": efficientnet_lite0}
_LOW_LEVEL_CHANNELS = 48
_ATROUS_RATES = (6, 12, 18)  # at output stride 16


def deeplab_v3_plus(
    classes: pydantic.PositiveInt,
    *,
    backbone: Literal["efficientnet_lite0"] = "efficientnet_lite0",
    weights: Literal["imagenet"] | None = "imagenet",
    output_stride: Literal[16, 32] = 16,
    feature_channels: pydantic.PositiveInt = 128,
    dropout: Rate = 0.5,
    stochastic_depth: Rate = 0.2,
    stochastic_depth_mode: Literal["constant", "linear"] = "constant",
    batch_norm: Literal["local", "frozen"] = "local",
) -> keras.Model:
    """DeepLabV3+ (Chen et al., ECCV 2018, arXiv:1802.02611) with separable convolutions throughout.

    Args:
        classes: channels of the logits.
        backbone: the network under the head: EfficientNet-Lite0 (arXiv:1905.11946, its Lite variant).
        weights: of the backbone: "imagenet", or None for a random start.
        output_stride: of the backbone's last map; 16 costs more and draws finer.
        feature_channels: D of the features, and the width of the head.
        dropout: probability to drop a value of the features before the last convolution.
        stochastic_depth: probability to drop a residual branch of the backbone (arXiv:1603.09382); 0.2 is
            a "survival probability" of 0.8.
        stochastic_depth_mode: "constant" over the branches, or "linear": growing with the depth from 0.
        batch_norm: of the backbone: "local" trains with the batch's statistics; "frozen" keeps those that
            came with the weights, scale and offset too. The head has none to keep and always trains its own.

    Returns:
        a Functional model from `image` [B,H,W,3], RGB 0..255, to {"logits": [B,H,W,classes] float32,
        "features": [B,H/4,W/4,D]}, with the sub-models `encoder` (image -> features) and `classifier`.
    """
    image = image_input()
    low_level, high_level = _BACKBONES[backbone](
        weights=weights,
        output_stride=output_stride,
        stochastic_depth=stochastic_depth,
        stochastic_depth_mode=stochastic_depth_mode,
        batch_norm=batch_norm,
    )(image)
    rates = [rate * 16 // output_stride for rate in _ATROUS_RATES]
    context = _pyramid_pooling(high_level, feature_channels, rates)
    context = ResizeLike(name="context_upsample")([context, low_level])
    low_level = _convolution(low_level, _LOW_LEVEL_CHANNELS, "low_level")
    x = keras.layers.Concatenate(name="decoder_concatenate")([context, low_level])
    x = _separable_convolution(x, feature_channels, "decoder1")
    x = _separable_convolution(x, feature_channels, "decoder2")
    return with_classifier(keras.Model(image, x, name="encoder"), classes, dropout)


def _pyramid_pooling(x, channels, rates):
    """Atrous spatial pyramid pooling: one map at several scales, and its mean."""
    mean = keras.layers.GlobalAveragePooling2D(keepdims=True, name="pyramid_mean")(x)
    # Without batch norm: a batch has but one vector per image here, too few to normalise by.
    mean = keras.layers.Conv2D(channels, 1, activation="relu", name="pyramid_mean_convolution")(mean)
    scales = [ResizeLike(name="pyramid_mean_upsample")([mean, x]), _convolution(x, channels, "pyramid_point")]
    scales += [_separable_convolution(x, channels, f"pyramid_rate{rate}", rate) for rate in rates]
    return _convolution(keras.layers.Concatenate(name="pyramid_concatenate")(scales), channels, "pyramid")


def _separable_convolution(x, channels, name, rate=1):
    name_depthwise = name + "_depthwise"
    x = keras.layers.DepthwiseConv2D(3, dilation_rate=rate, padding="same", use_bias=False, name=name_depthwise)(x)
    return _convolution(_normalise(x, name_depthwise), channels, name)


def _convolution(x, channels, name):
    return _normalise(keras.layers.Conv2D(channels, 1, use_bias=False, name=name)(x), name)


def _normalise(x, name):
    x = keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=name + "_norm")(x)
    return keras.layers.ReLU(name=name + "_relu")(x)
