"""DeepLabV2 and DeepLabV3+."""

from typing import Literal

import keras
import pydantic

from tfssl.networks.backbones import Backbone, build_backbone
from tfssl.networks.layers import (
    BatchNorm,
    Dropout,
    Rate,
    ResizeLike,
    Sum,
    image_input,
    normalise,
    point_classifier,
    with_classifier,
)
from tfssl.networks.pretrained import load

_V2_RATES = (6, 12, 18, 24)  # at output stride 8, as V2 has it: pixels of the map
_V3_RATES = (6, 12, 18)  # at output stride 16


def deeplab_v2(
    classes: pydantic.PositiveInt,
    *,
    backbone: Backbone = "resnet101",
    weights: str | None = "imagenet",
    output_stride: Literal[8, 16, 32] = 8,
    feature_channels: pydantic.PositiveInt | None = None,
    dropout: Rate = 0.0,
    stochastic_depth: Rate = 0.0,
    stochastic_depth_mode: Literal["constant", "linear"] = "constant",
    batch_norm: BatchNorm = "local",
) -> keras.Model:
    """DeepLabV2 (Chen et al., TPAMI 2018, arXiv:1606.00915) with its large pyramid of four atrous convolutions.

    Args:
        classes: channels of the logits.
        backbone: the network under the pyramid.
        weights: see `pretrained.load`; "imagenet", a file, or None for a random start.
        output_stride: of the backbone's last map. The pyramid's rates do not follow it, as in the public code.
        feature_channels: None: the features are the backbone's map, the classifier is the pyramid, whose branches
            tell classes and are summed, as in the paper. A number: the branches give so many channels, whose sum is
            normalised in groups and rectified; these are the features, and one convolution classifies them. Robust
            mutual learning needs features in front of a last layer, which V2 does not have; ours is a lighter form of
            what ProDA (Zhang et al., arXiv:2101.10979), by authors of that paper, put there.
        dropout: probability to drop a value of the features before the classifier.
        stochastic_depth, stochastic_depth_mode: as in `deeplab_v3_plus`.
        batch_norm: of the backbone, see `layers.normalise`; the rest has none.

    Returns:
        a Functional model from `image` [B,H,W,3], RGB 0..255, to {"logits": [B,H,W,classes] float32,
        "features": [B,H/s,W/s,D]}, with the sub-models `encoder` (image -> features) and `classifier`.
    """
    image = image_input()
    _, x = build_backbone(backbone, output_stride=output_stride, stochastic_depth=stochastic_depth,
                          stochastic_depth_mode=stochastic_depth_mode, batch_norm=batch_norm)(image)  # fmt: skip
    if feature_channels is None:
        maps = keras.Input((None, None, x.shape[-1]), name="features")
        logits = _summed_pyramid(Dropout(dropout, number=0, name="dropout")(maps), classes)
        classifier = keras.Model(maps, logits, name="classifier")
    else:
        x = _summed_pyramid(x, feature_channels)
        x = keras.layers.GroupNormalization(_groups(feature_channels), epsilon=1e-5, name="pyramid_norm")(x)
        x = keras.layers.ReLU(name="pyramid_relu")(x)
        classifier = point_classifier(feature_channels, classes, dropout)
    network = with_classifier(keras.Model(image, x, name="encoder"), classifier)
    load(network, weights, backbone)
    return network


def _summed_pyramid(x, channels):
    branches = [
        keras.layers.Conv2D(channels, 3, dilation_rate=rate, padding="same", name=f"pyramid_rate{rate}",
                            kernel_initializer=keras.initializers.RandomNormal(stddev=0.01))(x)
        for rate in _V2_RATES
    ]  # fmt: skip
    return Sum(name="pyramid_sum")(branches)


def _groups(channels):
    """The most groups up to 32 that divide the channels."""
    return max(count for count in range(1, 33) if channels % count == 0)


def deeplab_v3_plus(
    classes: pydantic.PositiveInt,
    *,
    backbone: Backbone = "efficientnet_lite0",
    weights: str | None = "imagenet",
    output_stride: Literal[8, 16, 32] = 16,
    feature_channels: pydantic.PositiveInt = 128,
    low_level_channels: pydantic.PositiveInt = 48,
    separable: bool = True,
    cut: Literal["classifier", "decoder"] = "classifier",
    dropout: Rate = 0.5,
    stochastic_depth: Rate = 0.2,
    stochastic_depth_mode: Literal["constant", "linear"] = "constant",
    batch_norm: BatchNorm = "local",
) -> keras.Model:
    """DeepLabV3+ (Chen et al., ECCV 2018, arXiv:1802.02611).

    Args:
        classes: channels of the logits.
        backbone: the network under the head.
        weights: see `pretrained.load`; "imagenet", a file, or None for a random start.
        output_stride: of the backbone's last map; a smaller one costs more and draws finer.
        feature_channels: the width of the head, and D of the features.
        low_level_channels: to which the backbone's map of stride 4 is brought before it joins.
        separable: whether the head's convolutions of 3 x 3 are depthwise separable.
        cut: where the encoder ends: before the last convolution ("classifier"), or where the pyramid and the low-level
            map have been put together ("decoder"): then the classifier has the two convolutions of 3 x 3 too, and
            D is feature_channels + low_level_channels. U2PL and GTA-Seg cut there. (U2PL's code puts the pyramid
            together by a convolution of 3 x 3; ours, like the paper of DeepLabV3+, by one of 1 x 1.)
        dropout: probability to drop a value before the last convolution.
        stochastic_depth: probability to drop a residual branch of the backbone (arXiv:1603.09382); 0.2 is
            a "survival probability" of 0.8.
        stochastic_depth_mode: "constant" over the branches, or "linear": growing with the depth from 0.
        batch_norm: see `layers.normalise`. "frozen" is for the backbone, keeping what came with the weights; the head
            has none to keep and then trains with the batch's own.

    Returns:
        a Functional model from `image` [B,H,W,3], RGB 0..255, to {"logits": [B,H,W,classes] float32,
        "features": [B,H/4,W/4,D]}, with the sub-models `encoder` (image -> features) and `classifier`.
    """
    head = _Head(separable, "local" if batch_norm == "frozen" else batch_norm)
    image = image_input()
    low_level, high_level = build_backbone(
        backbone, output_stride=output_stride, stochastic_depth=stochastic_depth,
        stochastic_depth_mode=stochastic_depth_mode, batch_norm=batch_norm,
    )(image)  # fmt: skip
    rates = [rate * 16 // output_stride for rate in _V3_RATES]
    context = head.pyramid(high_level, feature_channels, rates)
    context = ResizeLike(name="context_upsample")([context, low_level])
    low_level = head.point(low_level, low_level_channels, "low_level")
    x = keras.layers.Concatenate(name="decoder_concatenate")([context, low_level])
    if cut == "decoder":
        maps = keras.Input((None, None, x.shape[-1]), name="features")
        y = Dropout(dropout, number=0, name="dropout")(head.decoder(maps, feature_channels))
        logits = keras.layers.Conv2D(classes, 1, name="logits_convolution")(y)
        classifier = keras.Model(maps, logits, name="classifier")
    else:
        x = head.decoder(x, feature_channels)
        classifier = point_classifier(feature_channels, classes, dropout)
    network = with_classifier(keras.Model(image, x, name="encoder"), classifier)
    load(network, weights, backbone)
    return network


class _Head:
    """What is above the backbone, of separable convolutions or of full ones."""

    def __init__(self, separable, batch_norm):
        self.separable, self.batch_norm = separable, batch_norm

    def pyramid(self, x, channels, rates):
        """Atrous spatial pyramid pooling: one map at several scales, and its mean."""
        mean = keras.layers.GlobalAveragePooling2D(keepdims=True, name="pyramid_mean")(x)
        # A bias, where the paper has batch norm: a batch has but one vector per image here, too few to normalise by.
        mean = keras.layers.Conv2D(channels, 1, activation="relu", name="pyramid_mean_convolution")(mean)
        scales = [ResizeLike(name="pyramid_mean_upsample")([mean, x]), self.point(x, channels, "pyramid_point")]
        scales += [self.wide(x, channels, f"pyramid_rate{rate}", rate) for rate in rates]
        return self.point(keras.layers.Concatenate(name="pyramid_concatenate")(scales), channels, "pyramid")

    def decoder(self, x, channels):
        return self.wide(self.wide(x, channels, "decoder1"), channels, "decoder2")

    def point(self, x, channels, name):
        return self._rectified(keras.layers.Conv2D(channels, 1, use_bias=False, name=name)(x), name)

    def wide(self, x, channels, name, rate=1):
        """A convolution of 3 x 3."""
        options = {"dilation_rate": rate, "padding": "same", "use_bias": False}
        if not self.separable:
            return self._rectified(keras.layers.Conv2D(channels, 3, name=name, **options)(x), name)
        x = keras.layers.DepthwiseConv2D(3, name=f"{name}_depthwise", **options)(x)
        return self.point(self._rectified(x, f"{name}_depthwise"), channels, name)

    def _rectified(self, x, name):
        return keras.layers.ReLU(name=f"{name}_relu")(normalise(x, f"{name}_norm", self.batch_norm))
