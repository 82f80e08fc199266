"""Dilated residual networks as backbones, in the variants that published weights belong to."""

from dataclasses import dataclass

import keras

from tfssl.networks.layers import IMAGENET, Standardise, StochasticDepth, Sum, drop_rate, image_input, normalise

DEPTHS = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}
_BLUE_GREEN_RED = (103.939, 116.779, 123.68)  # means of ImageNet, as Caffe subtracts them


@dataclass(frozen=True)
class Variant:
    """What differs between the residual networks that weights have been published for.

    early_stride: a block that strides does so in its first convolution, of 1 x 1 (He et al., arXiv:1512.03385), else
    in its second, of 3 x 3. bias: of the convolutions. caffe: reads BGR without its mean, else RGB over its deviation.
    deep_stem: three convolutions of 3 x 3 in place of one of 7 x 7 (arXiv:1812.01187, ResNet-C).
    """

    early_stride: bool
    bias: bool
    caffe: bool
    epsilon: float = 1e-5
    deep_stem: bool = False


VARIANTS = {
    "keras": Variant(early_stride=True, bias=True, caffe=True, epsilon=1.001e-5),  # keras.applications
    "caffe": Variant(early_stride=True, bias=False, caffe=True),  # the COCO weights of DeepLabV2
    "torchvision": Variant(early_stride=False, bias=False, caffe=False),
    "deep_stem": Variant(early_stride=False, bias=False, caffe=False, deep_stem=True),  # U2PL's and GTA-Seg's code
}


def resnet(name, *, variant="keras", output_stride=16, stochastic_depth=0.0, stochastic_depth_mode="constant",
           batch_norm="local"):  # fmt: skip
    """The convolutional part of a ResNet: image -> [low-level map, high-level map], at a random start.

    He et al., CVPR 2016, arXiv:1512.03385; layers are called as in `keras.applications`, whatever the variant.

    Args:
        name: "resnet50" or "resnet101".
        variant: of VARIANTS.
        output_stride: 32, 16 or 8: below 32 the last stages keep their resolution, and dilate so that every filter
            meets samples as far apart as at stride 32 (Chen et al., arXiv:1706.05587, section 3.1).
        stochastic_depth, stochastic_depth_mode: as in `efficientnet_lite0`; layer numbers from 1 on.
        batch_norm: see `layers.normalise`.

    Returns:
        a Functional model from [B,H,W,3], RGB 0..255, to [[B,H/4,W/4,256], [B,H/s,W/s,2048]], sizes rounded up.
    """
    kind = VARIANTS[variant]
    image = image_input()
    x = _stem(_prepared(image, kind), kind, batch_norm)
    total_stride, dilation, index = 4, 1, 0
    maps = []
    for stage, repeats in enumerate(DEPTHS[name]):
        stride = 1 if stage == 0 else 2
        dilate = total_stride * stride > output_stride
        after = dilation * stride if dilate else dilation
        for block in range(repeats):
            first = block == 0
            # The 3 x 3 convolution of the block that would stride meets samples that are still dense, unless the 1 x 1
            # before it would have thinned them.
            rate = after if kind.early_stride or not first else dilation
            drop = drop_rate(stochastic_depth, stochastic_depth_mode, index, sum(DEPTHS[name]))
            step = stride if first and not dilate else 1
            x = _block(x, f"conv{stage + 2}_block{block + 1}", 64 * 2**stage, step, rate, kind, batch_norm,
                       shortcut=first, drop=drop, number=index + 1)  # fmt: skip
            index += 1
        dilation, total_stride = after, total_stride * (1 if dilate else stride)
        maps.append(x)
    return keras.Model(image, [maps[0], maps[-1]], name="backbone")


def _prepared(image, kind):
    """RGB 0..255 as the variant's weights expect it."""
    if kind.caffe:
        return Standardise(_BLUE_GREEN_RED, (1.0, 1.0, 1.0), reverse=True, name="standardise")(image)
    return Standardise(*IMAGENET, name="standardise")(image)


def _stem(x, kind, batch_norm):
    """Convolution of stride 2 and pooling of stride 2."""
    convolutions = [(64, 3, 2), (64, 3, 1), (128, 3, 1)] if kind.deep_stem else [(64, 7, 2)]
    for number, (channels, kernel, stride) in enumerate(convolutions, start=1):
        name = f"conv1_{number}" if kind.deep_stem else "conv1"
        x = _convolution(x, channels, name, kind, batch_norm, kernel, stride)
        x = keras.layers.ReLU(name=f"{name}_relu")(x)
    x = keras.layers.ZeroPadding2D(1, name="pool1_pad")(x)  # no value is below 0 here
    return keras.layers.MaxPooling2D(3, strides=2, name="pool1_pool")(x)


def _block(x, name, channels, stride, dilation, kind, batch_norm, *, shortcut, drop, number):
    """Bottleneck: 1 x 1, 3 x 3, 1 x 1 to four times the channels, beside the input or a projection of it."""
    early, late = (stride, 1) if kind.early_stride else (1, stride)
    inputs = x
    if shortcut:
        inputs = _convolution(x, 4 * channels, f"{name}_0", kind, batch_norm, 1, stride)
    x = _convolution(x, channels, f"{name}_1", kind, batch_norm, 1, early)
    x = keras.layers.ReLU(name=f"{name}_1_relu")(x)
    x = _convolution(x, channels, f"{name}_2", kind, batch_norm, 3, late, dilation)
    x = keras.layers.ReLU(name=f"{name}_2_relu")(x)
    x = _convolution(x, 4 * channels, f"{name}_3", kind, batch_norm)
    x = StochasticDepth(drop, number, name=f"{name}_stochastic_depth")(x)
    x = Sum(name=f"{name}_add")([inputs, x])
    return keras.layers.ReLU(name=f"{name}_out")(x)


def _convolution(x, channels, name, kind, batch_norm, kernel=1, stride=1, dilation=1):
    """Convolution and batch norm. Padding is equal on all sides, as where the weights come from, not TensorFlow's."""
    if stride > 1 and kernel > 1:
        x = keras.layers.ZeroPadding2D(kernel // 2, name=f"{name}_pad")(x)
    x = keras.layers.Conv2D(channels, kernel, strides=stride, dilation_rate=dilation, use_bias=kind.bias,
                            padding="valid" if stride > 1 else "same", name=f"{name}_conv")(x)  # fmt: skip
    return normalise(x, f"{name}_bn", batch_norm, kind.epsilon)
