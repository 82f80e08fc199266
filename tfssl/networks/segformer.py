"""SegFormer."""

from dataclasses import dataclass, replace
from typing import Literal

import keras
import pydantic

from tfssl.errors import UserError
from tfssl.networks.layers import (
    IMAGENET,
    BatchNorm,
    Rate,
    ReshapeLike,
    ResizeLike,
    Standardise,
    StochasticDepth,
    Sum,
    drop_rate,
    gelu,
    image_input,
    normalise,
    point_classifier,
    with_classifier,
)
from tfssl.networks.pretrained import load

_REDUCTIONS = (8, 4, 2, 1)  # of the keys' and values' resolution, by stage
_EXPANSION = 4

Four = tuple[pydantic.PositiveInt, pydantic.PositiveInt, pydantic.PositiveInt, pydantic.PositiveInt]


@dataclass(frozen=True)
class Sizes:
    """Of a mix transformer: channels of its stages, at strides 4, 8, 16 and 32; their blocks; channels of a head."""

    channels: tuple
    blocks: tuple
    head: int = 64


ENCODERS = {  # table 6 of the paper
    "mit_b0": Sizes((32, 64, 160, 256), (2, 2, 2, 2), head=32),
    "mit_b1": Sizes((64, 128, 320, 512), (2, 2, 2, 2)),
    "mit_b2": Sizes((64, 128, 320, 512), (3, 4, 6, 3)),
    "mit_b3": Sizes((64, 128, 320, 512), (3, 4, 18, 3)),
    "mit_b4": Sizes((64, 128, 320, 512), (3, 8, 27, 3)),
    "mit_b5": Sizes((64, 128, 320, 512), (3, 6, 40, 3)),
}


def segformer(
    classes: pydantic.PositiveInt,
    *,
    encoder: Literal[tuple(ENCODERS)] = "mit_b0",
    weights: str | None = None,
    embed_dims: Four | None = None,
    depths: Four | None = None,
    feature_channels: pydantic.PositiveInt = 128,
    dropout: Rate = 0.5,
    stochastic_depth: Rate = 0.2,
    stochastic_depth_mode: Literal["constant", "linear"] = "constant",
    batch_norm: BatchNorm = "local",
) -> keras.Model:
    """SegFormer (Xie et al., NeurIPS 2021, arXiv:2105.15203).

    Args:
        classes: channels of the logits.
        encoder: the mix transformer.
        weights: see `pretrained.load`, "keras_hub:mit_b0_ade20k_512" for one.
        embed_dims: channels of the four stages, multiples of a head's; None: the encoder's.
        depths: transformer blocks of the four stages; None: the encoder's.
        feature_channels: D of the features; in the paper 256 with B0 and B1, 768 with the others.
        dropout: probability to drop a value of the features before the last convolution.
        stochastic_depth: probability to drop a residual branch of a sample (arXiv:1603.09382).
        stochastic_depth_mode: "constant" over the branches, or "linear": growing with the depth from 0.
        batch_norm: the decoder's, see `layers.normalise`; "frozen" makes it an identity.

    Returns:
        a Functional model from `image` [B,H,W,3], RGB 0..255, to {"logits": [B,H,W,classes] float32,
        "features": [B,H/4,W/4,D]}, with the sub-models `encoder` (image -> features) and `classifier`.
    """
    sizes = ENCODERS[encoder]
    sizes = replace(sizes, channels=embed_dims or sizes.channels, blocks=depths or sizes.blocks)
    if any(channels % sizes.head for channels in sizes.channels):
        raise UserError(f"embed_dims {list(embed_dims)}: every one must be a multiple of {sizes.head}")
    image = image_input()
    stages = _mix_transformer(sizes, stochastic_depth, stochastic_depth_mode)(image)
    # The all-MLP decoder: bring every stage to the same width and size, and mix.
    maps = []
    for stage, x in enumerate(stages):
        x = keras.layers.Dense(feature_channels, name=f"decoder{stage}_project")(x)
        maps.append(ResizeLike(name=f"decoder{stage}_upsample")([x, maps[0]]) if maps else x)
    x = keras.layers.Concatenate(name="decoder_concatenate")(maps)
    x = keras.layers.Conv2D(feature_channels, 1, use_bias=False, name="decoder_mix")(x)
    x = keras.layers.ReLU(name="decoder_relu")(normalise(x, "decoder_norm", batch_norm))
    classifier = point_classifier(feature_channels, classes, dropout)
    network = with_classifier(keras.Model(image, x, name="encoder"), classifier)
    load(network, weights, encoder)
    return network


def _mix_transformer(sizes, rate, mode):
    """The hierarchical encoder: [B,H,W,3] -> four maps [B,H/s,W/s,C], s = 4, 8, 16, 32, sizes rounded up."""
    image = image_input()
    x = Standardise(*IMAGENET, name="standardise")(image)
    stages, index = [], 0
    for stage, (channels, blocks, reduction) in enumerate(zip(sizes.channels, sizes.blocks, _REDUCTIONS, strict=True)):
        x = _embed_patches(x, channels, f"stage{stage}_embed", stage)
        for block in range(blocks):
            name = f"stage{stage}_block{block}"
            block_rate = drop_rate(rate, mode, index, sum(sizes.blocks))
            branch = _attention(_layer_norm(x, name + "_attention"), channels, channels // sizes.head, reduction,
                                name + "_attention")  # fmt: skip
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
    return _layer_norm(x, name, epsilon=1e-5)


def _attention(x, channels, heads, reduction, name):
    """Efficient self-attention: every position asks, a map smaller by `reduction` each way answers."""
    keys = x
    if reduction > 1:
        # "same", so that a map smaller than the kernel or not divisible by it is covered to its border
        keys = keras.layers.Conv2D(channels, reduction, strides=reduction, padding="same", name=name + "_reduce")(keys)
        keys = _layer_norm(keys, name + "_reduce", epsilon=1e-5)
    queries = keras.layers.Reshape((-1, channels), name=name + "_queries")(x)
    keys = keras.layers.Reshape((-1, channels), name=name + "_keys")(keys)
    answer = keras.layers.MultiHeadAttention(heads, channels // heads, name=name)(queries, keys)
    return ReshapeLike(name=name + "_map")([answer, x])


def _mix_ffn(x, channels, name):
    """Two dense layers; the depthwise convolution in between tells positions apart by the borders' zeros."""
    x = keras.layers.Dense(_EXPANSION * channels, name=name + "_expand")(x)
    x = keras.layers.DepthwiseConv2D(3, padding="same", name=name + "_depthwise")(x)
    x = keras.layers.Activation(gelu, name=name + "_gelu")(x)
    return keras.layers.Dense(channels, name=name + "_project")(x)


def _residual(x, branch, rate, number, name):
    branch = StochasticDepth(rate, number, name=name + "_stochastic_depth")(branch)
    return Sum(name=name + "_add")([x, branch])


def _layer_norm(x, name, epsilon=1e-6):
    return keras.layers.LayerNormalization(epsilon=epsilon, name=name + "_norm")(x)
