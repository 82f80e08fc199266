"""SegFormer, trained from scratch."""

from typing import Literal

import keras
import pydantic

from tfssl.errors import UserError
from tfssl.networks.layers import (
    Rate,
    ReshapeLike,
    ResizeLike,
    StochasticDepth,
    drop_rate,
    image_input,
    register,
    with_classifier,
)

_REDUCTIONS = (8, 4, 2, 1)  # of the keys' and values' resolution, by stage
_HEAD_CHANNELS = 32
_EXPANSION = 4

Four = tuple[pydantic.PositiveInt, pydantic.PositiveInt, pydantic.PositiveInt, pydantic.PositiveInt]


def segformer(
    classes: pydantic.PositiveInt,
    *,
    weights: None = None,
    embed_dims: Four = (32, 64, 160, 256),
    depths: Four = (2, 2, 2, 2),
    feature_channels: pydantic.PositiveInt = 128,
    dropout: Rate = 0.5,
    stochastic_depth: Rate = 0.2,
    stochastic_depth_mode: Literal["constant", "linear"] = "constant",
    batch_norm: Literal["local", "frozen"] = "local",
) -> keras.Model:
    """SegFormer (Xie et al., NeurIPS 2021, arXiv:2105.15203), by default in the proportions of MiT-B0.

    Args:
        classes: channels of the logits.
        weights: None; there are no pretrained ones.
        embed_dims: channels of the four stages, at strides 4, 8, 16 and 32; multiples of 32, one head each.
        depths: transformer blocks of the four stages.
        feature_channels: D of the features.
        dropout: probability to drop a value of the features before the last convolution.
        stochastic_depth: probability to drop a residual branch of a sample (arXiv:1603.09382).
        stochastic_depth_mode: "constant" over the branches, or "linear": growing with the depth from 0.
        batch_norm: the decoder's: "local" trains with the batch's statistics; "frozen" makes it an identity.

    Returns:
        a Functional model from `image` [B,H,W,3], RGB 0..255, to {"logits": [B,H,W,classes] float32,
        "features": [B,H/4,W/4,D]}, with the sub-models `encoder` (image -> features) and `classifier`.
    """
    if any(channels % _HEAD_CHANNELS for channels in embed_dims):
        raise UserError(f"embed_dims {list(embed_dims)}: every one must be a multiple of {_HEAD_CHANNELS}")
    image = image_input()
    stages = _mix_transformer(embed_dims, depths, stochastic_depth, stochastic_depth_mode)(image)
    # The all-MLP decoder: bring every stage to the same width and size, and mix.
    maps = []
    for stage, x in enumerate(stages):
        x = keras.layers.Dense(feature_channels, name=f"decoder{stage}_project")(x)
        maps.append(ResizeLike(name=f"decoder{stage}_upsample")([x, maps[0]]) if maps else x)
    x = keras.layers.Concatenate(name="decoder_concatenate")(maps)
    x = keras.layers.Conv2D(feature_channels, 1, use_bias=False, name="decoder_mix")(x)
    x = keras.layers.BatchNormalization(
        momentum=0.9, epsilon=1e-5, trainable=batch_norm == "local", name="decoder_norm"
    )(x)
    x = keras.layers.ReLU(name="decoder_relu")(x)
    return with_classifier(keras.Model(image, x, name="encoder"), classes, dropout)


def _mix_transformer(embed_dims, depths, rate, mode):
    """The hierarchical encoder: [B,H,W,3] -> four maps [B,H/s,W/s,C], s = 4, 8, 16, 32, sizes rounded up."""
    image = image_input()
    x = keras.layers.Rescaling(1 / 128, offset=-127 / 128, name="rescaling")(image)
    stages, index = [], 0
    for stage, (channels, depth, reduction) in enumerate(zip(embed_dims, depths, _REDUCTIONS, strict=True)):
        x = _embed_patches(x, channels, f"stage{stage}_embed", stage)
        for block in range(depth):
            name = f"stage{stage}_block{block}"
            block_rate = drop_rate(rate, mode, index, sum(depths))
            branch = _attention(_layer_norm(x, name + "_attention"), channels, reduction, name + "_attention")
            x = _residual(x, branch, block_rate, 2 * index + 1, name + "_attention")
            branch = _mix_ffn(_layer_norm(x, name + "_ffn"), channels, name + "_ffn")
            x = _residual(x, branch, block_rate, 2 * index + 2, name + "_ffn")
            index += 1
        x = _layer_norm(x, f"stage{stage}")
        stages.append(x)
    return keras.Model(image, stages, name="backbone")


def _embed_patches(x, channels, name, stage):
    """Overlapping patches: 7x7 at stride 4 in the first stage, 3x3 at stride 2 in the others."""
    kernel, stride = (7, 4) if stage == 0 else (3, 2)
    x = keras.layers.ZeroPadding2D(kernel // 2, name=name + "_pad")(x)
    x = keras.layers.Conv2D(channels, kernel, strides=stride, name=name)(x)
    return _layer_norm(x, name)


def _attention(x, channels, reduction, name):
    """Efficient self-attention: every position asks, a map smaller by `reduction` each way answers."""
    keys = x
    if reduction > 1:
        # "same", so that a map smaller than the kernel or not divisible by it is covered to its border
        keys = keras.layers.Conv2D(channels, reduction, strides=reduction, padding="same", name=name + "_reduce")(keys)
        keys = _layer_norm(keys, name + "_reduce")
    queries = keras.layers.Reshape((-1, channels), name=name + "_queries")(x)
    keys = keras.layers.Reshape((-1, channels), name=name + "_keys")(keys)
    heads = channels // _HEAD_CHANNELS
    answer = keras.layers.MultiHeadAttention(heads, _HEAD_CHANNELS, name=name)(queries, keys)
    return ReshapeLike(name=name + "_map")([answer, x])


def _mix_ffn(x, channels, name):
    """Two dense layers; the depthwise convolution in between tells positions apart by the borders' zeros."""
    x = keras.layers.Dense(_EXPANSION * channels, name=name + "_expand")(x)
    x = keras.layers.DepthwiseConv2D(3, padding="same", name=name + "_depthwise")(x)
    x = keras.layers.Activation(gelu, name=name + "_gelu")(x)
    return keras.layers.Dense(channels, name=name + "_project")(x)


@register
def gelu(x):
    """GELU by its tanh approximation: the exact one needs erfc, which ONNX does not have."""
    return keras.activations.gelu(x, approximate=True)


def _residual(x, branch, rate, number, name):
    branch = StochasticDepth(rate, number, name=name + "_stochastic_depth")(branch)
    return keras.layers.Add(name=name + "_add")([x, branch])


def _layer_norm(x, name):
    return keras.layers.LayerNormalization(epsilon=1e-6, name=name + "_norm")(x)
