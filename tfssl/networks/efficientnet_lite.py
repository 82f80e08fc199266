"""EfficientNet-Lite0 as a backbone for dense prediction."""

import keras

from tfssl.networks.layers import StochasticDepth, Sum, drop_rate, image_input, normalise

# kernel, repeats, filters, expansion, stride of the seven groups of blocks
_GROUPS = [
    (3, 1, 16, 1, 1),
    (3, 2, 24, 6, 2),
    (5, 2, 40, 6, 2),
    (3, 3, 80, 6, 2),
    (5, 3, 112, 6, 1),
    (5, 4, 192, 6, 2),
    (3, 1, 320, 6, 1),
]
_BLOCKS = sum(repeats for _, repeats, *_ in _GROUPS)
_LOW_LEVEL_BLOCK = 2  # the last one of stride 4


def efficientnet_lite0(
    *,
    output_stride=16,
    stochastic_depth=0.0,
    stochastic_depth_mode="constant",
    batch_norm="local",
):
    """The convolutional part of EfficientNet-Lite0, at a random start: image -> [low-level map, high-level map].

    EfficientNet (Tan and Le, ICML 2019, arXiv:1905.11946) without squeeze-and-excitation and with ReLU6; the
    Lite variant is from github.com/tensorflow/tpu, models/official/efficientnet/lite. Its last convolution,
    to 1280 channels, is left out: it serves classification, and would widen the head's pyramid four times.

    Args:
        output_stride: 32, or 16: then the last group of stride 2 keeps its resolution and what follows
            dilates by 2, so that every pretrained filter meets samples as far apart as it was trained for.
        stochastic_depth: the probability to drop a residual branch in training. Layer numbers are 1 to 16.
        stochastic_depth_mode: "constant", or "linear": growing with the depth from 0.
        batch_norm: see `layers.normalise`.

    Returns:
        a Functional model from [B,H,W,3], RGB 0..255, to [[B,H/4,W/4,24], [B,H/s,W/s,320]], sizes rounded up.
    """
    image = image_input()
    x = keras.layers.Rescaling(1 / 128, offset=-127 / 128, name="rescaling")(image)
    x = keras.layers.Conv2D(32, 3, strides=2, padding="same", use_bias=False, name="conv_stem")(x)
    x = _relu6(_normalise(x, "bn0", batch_norm))
    low_level, index, total_stride, dilation = None, 0, 2, 1
    for kernel, repeats, filters, expansion, stride in _GROUPS:
        dilate = total_stride * stride > output_stride
        total_stride *= 1 if dilate else stride
        for repeat in range(repeats):
            rate = drop_rate(stochastic_depth, stochastic_depth_mode, index, _BLOCKS)
            step = 1 if dilate or repeat else stride
            x = _block(x, index, kernel, filters, expansion, step, dilation, rate, batch_norm)
            if dilate and not repeat:
                dilation *= stride  # only after the block that does not stride: its own input is still dense
            if index == _LOW_LEVEL_BLOCK:
                low_level = x
            index += 1
    return keras.Model(image, [low_level, x], name="backbone")


def _block(x, index, kernel, filters, expansion, stride, dilation, rate, batch_norm):
    """Inverted residual block: expand 1x1, depthwise, project 1x1; a shortcut where the shapes allow it."""
    name, inputs = f"block{index}_", x
    if expansion != 1:
        x = keras.layers.Conv2D(x.shape[-1] * expansion, 1, use_bias=False, name=name + "expand_conv")(x)
        x = _relu6(_normalise(x, name + "bn0", batch_norm))
    x = keras.layers.DepthwiseConv2D(
        kernel,
        strides=stride,
        dilation_rate=dilation,
        padding="same",  # at stride 2 the padding depends on whether the size is even, as the weights expect
        use_bias=False,
        name=name + "depthwise_conv",
    )(x)
    x = _relu6(_normalise(x, name + "bn1", batch_norm))
    x = keras.layers.Conv2D(filters, 1, use_bias=False, name=name + "project_conv")(x)
    x = _normalise(x, name + "bn2", batch_norm)
    if stride == 1 and inputs.shape[-1] == filters:
        x = StochasticDepth(rate, number=index + 1, name=name + "stochastic_depth")(x)
        x = Sum(name=name + "add")([inputs, x])
    return x


def _normalise(x, name, batch_norm):
    return normalise(x, name, batch_norm, epsilon=1e-3)  # that of the ImageNet training (momentum there: 0.99)


def _relu6(x):
    return keras.layers.ReLU(6.0)(x)
