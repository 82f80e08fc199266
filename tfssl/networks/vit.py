"""Vision transformers as backbones for dense prediction, for images of any size."""

from dataclasses import dataclass

import keras
import tensorflow as tf

from tfssl.networks.layers import (
    IMAGENET,
    Standardise,
    StochasticDepth,
    Sum,
    drop_rate,
    gelu,
    image_input,
    register,
    whole_patches,
)
from tfssl.resizing import stretch_grid

_HALF = (127.5, 127.5, 127.5)


@dataclass(frozen=True)
class Sizes:
    """Of a vision transformer: channels, blocks, heads, patches in pixels, and patches a side that positions know."""

    channels: int
    blocks: int
    heads: int
    patch: int
    grid: int
    layer_scale: bool = False  # and with it the preparation of images: DINOv2's
    taken: tuple = ()  # the blocks whose maps are given, counted from 1


ENCODERS = {
    "vit_tiny": Sizes(192, 12, 3, 16, 24),
    "vit_base": Sizes(768, 12, 12, 16, 24),
    "vit_large": Sizes(1024, 24, 16, 16, 24),
    "dinov2_small": Sizes(384, 12, 6, 14, 37, True, (3, 6, 9, 12)),
    "dinov2_base": Sizes(768, 12, 12, 14, 37, True, (3, 6, 9, 12)),
    "dinov2_large": Sizes(1024, 24, 16, 14, 37, True, (5, 12, 18, 24)),
}


def vision_transformer(sizes, *, stochastic_depth=0.0, stochastic_depth_mode="constant"):
    """The encoder of a vision transformer: image -> [map of each block that is taken], or the last block's map.

    ViT (Dosovitskiy et al., ICLR 2021, arXiv:2010.11929); with layer_scale as in DINOv2 (Oquab et al.,
    arXiv:2304.07193). An image whose sides are no multiples of the patch is filled up at the bottom and on the right by
    the mean colour of all images. The learned positions are stretched to the patches of the image (bicubically, as in
    DINOv2). The class token takes part in the attention and is left out of the maps.

    Returns:
        a Functional model from [B,H,W,3], RGB 0..255, to [[B,H/patch,W/patch,channels], ...], sizes rounded up.
    """
    image = image_input()
    x = Standardise(*(IMAGENET if sizes.layer_scale else (_HALF, _HALF)), name="standardise")(image)
    x = FillPatches(sizes.patch, name="fill_patches")(x)
    patches = keras.layers.Conv2D(sizes.channels, sizes.patch, strides=sizes.patch, name="embed_patches")(x)
    x = Tokens(sizes.grid, name="tokens")(patches)
    maps = []
    last = keras.layers.LayerNormalization(epsilon=1e-6, name="norm")
    for block in range(1, sizes.blocks + 1):
        rate = drop_rate(stochastic_depth, stochastic_depth_mode, block - 1, sizes.blocks)
        x = _block(x, f"block{block}", sizes, rate, 2 * block - 1)
        if block in (sizes.taken or (sizes.blocks,)):
            maps.append(TokensAsMap(name=f"map{block}")([last(x), patches]))
    return keras.Model(image, maps if sizes.taken else maps[0], name="backbone")


def _block(x, name, sizes, rate, number):
    """Attention of all patches to all, then two dense layers, each beside a shortcut."""
    y = keras.layers.LayerNormalization(epsilon=1e-6, name=f"{name}_attention_norm")(x)
    y = keras.layers.MultiHeadAttention(sizes.heads, sizes.channels // sizes.heads, name=f"{name}_attention")(y, y)
    x = _beside(x, y, f"{name}_attention", sizes, rate, number)
    y = keras.layers.LayerNormalization(epsilon=1e-6, name=f"{name}_mlp_norm")(x)
    y = keras.layers.Dense(4 * sizes.channels, activation=gelu, name=f"{name}_mlp_expand")(y)
    y = keras.layers.Dense(sizes.channels, name=f"{name}_mlp_project")(y)
    return _beside(x, y, f"{name}_mlp", sizes, rate, number + 1)


def _beside(x, branch, name, sizes, rate, number):
    if sizes.layer_scale:
        branch = Scale(name=f"{name}_scale")(branch)
    branch = StochasticDepth(rate, number, name=f"{name}_stochastic_depth")(branch)
    return Sum(name=f"{name}_add")([x, branch])


@register
class FillPatches(keras.layers.Layer):
    """Zeros at the bottom and on the right of [B,H,W,C], up to whole patches."""

    def __init__(self, patch, **options):
        super().__init__(**options)
        self.patch = patch

    def call(self, image):
        rows, columns = (whole_patches(side, self.patch) - side for side in tf.unstack(tf.shape(image)[1:3]))
        filled = tf.pad(image, [[0, 0], [0, rows], [0, columns], [0, 0]])
        return tf.ensure_shape(filled, self.compute_output_shape(image.shape))

    def compute_output_shape(self, shape):
        sides = [None if side is None else whole_patches(side, self.patch) for side in shape[1:3]]
        return (shape[0], *sides, shape[3])

    def get_config(self):
        return super().get_config() | {"patch": self.patch}


@register
class Tokens(keras.layers.Layer):
    """Patches [B,h,w,C] -> tokens [B,1+hw,C]: a class token in front, and what tells their places added.

    grid: the patches a side that the learned places are of, to be stretched to h x w.
    """

    def __init__(self, grid, **options):
        super().__init__(**options)
        self.grid = grid

    def build(self, shape):
        normal = keras.initializers.TruncatedNormal(stddev=0.02)
        kind = {"initializer": normal, "autocast": False}  # places are stretched in float32
        self.class_token = self.add_weight(shape=(1, 1, shape[-1]), name="class_token", **kind)
        self.places = self.add_weight(shape=(1, 1 + self.grid**2, shape[-1]), name="places", **kind)

    def call(self, patches):
        batch, height, width = tf.unstack(tf.shape(patches)[:3])
        channels = patches.shape[-1]
        first, others = self.places[:, :1], self.places[:, 1:]
        others = stretch_grid(tf.reshape(others, [1, self.grid, self.grid, channels]), height, width)
        tokens = tf.reshape(patches + tf.cast(others, patches.dtype), [batch, height * width, channels])
        token = tf.cast(self.class_token + first, patches.dtype)
        return tf.concat([tf.tile(token, [batch, 1, 1]), tokens], axis=1)

    def compute_output_shape(self, shape):
        count = None if None in shape[1:3] else 1 + shape[1] * shape[2]
        return (shape[0], count, shape[3])

    def get_config(self):
        return super().get_config() | {"grid": self.grid}


@register
class TokensAsMap(keras.layers.Layer):
    """Tokens [B,1+hw,C] without the class token as the map [B,h,w,C] that the patches were."""

    def call(self, inputs):
        tokens, patches = inputs
        return tf.reshape(tokens[:, 1:], tf.shape(patches))

    def compute_output_shape(self, input_shape):
        return input_shape[1]


@register
class Scale(keras.layers.Layer):
    """A learned factor for each channel (LayerScale, Touvron et al., ICCV 2021, arXiv:2103.17239)."""

    def build(self, shape):
        self.factor = self.add_weight(shape=(shape[-1],), initializer=keras.initializers.Constant(1e-5), name="factor")

    def call(self, inputs):
        return inputs * self.factor

    def compute_output_shape(self, shape):
        return shape
