"""What the networks share: layers that Keras lacks, and the classifier at their end."""

import math
from typing import Annotated, Literal

import keras
import pydantic
import tensorflow as tf

from tfssl import randomness
from tfssl.resizing import resize, resize_like

Rate = Annotated[float, pydantic.Field(ge=0, lt=1)]  # an argument: the probability to drop something
BatchNorm = Literal["local", "synchronized", "frozen"]  # an argument: see `normalise`
IMAGENET = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # mean and deviation of its pixels, RGB
register = keras.saving.register_keras_serializable(package="tfssl")


class Noise(keras.layers.Layer):
    """Base of the layers that drop at `rate` in training and scale up what stays, so that the mean is kept.

    `number` is the layer's own within its network. The mask is a function of `randomness.noise_key(number)`,
    hence the same after a resume and another on every replica, which `keras.layers.Dropout` does not give.
    (XLA draws other numbers from a key than TensorFlow's own kernels do, each always the same ones.)
    """

    def __init__(self, rate, number, **options):
        super().__init__(**options)
        self.rate, self.number = rate, number

    def mask_shape(self, shape):
        """The shape of the mask for inputs of this dynamic shape."""
        raise NotImplementedError

    def call(self, inputs, training=None):
        if not training or self.rate == 0:
            return inputs
        key = randomness.noise_key(self.number)
        if key is None:
            return inputs
        keep = 1 - self.rate
        uniform = tf.random.stateless_uniform(self.mask_shape(tf.shape(inputs)), key)
        return inputs * tf.cast(tf.where(uniform < keep, 1 / keep, 0.0), inputs.dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return super().get_config() | {"rate": self.rate, "number": self.number}


@register
class Dropout(Noise):
    """Drop single values of [B, ...] (Srivastava et al., JMLR 2014)."""

    def mask_shape(self, shape):
        return shape


@register
class StochasticDepth(Noise):
    """Drop a sample's whole residual branch [B,...] (Huang et al., ECCV 2016, arXiv:1603.09382)."""

    def mask_shape(self, shape):
        return tf.concat([shape[:1], tf.ones_like(shape[1:])], axis=0)


def drop_rate(rate, mode, index, count):
    """Of residual branch `index` out of `count`: `rate` itself, or in mode "linear" growing from 0 to it."""
    return rate * index / (count - 1) if mode == "linear" else rate


@register
class Sum(keras.layers.Add):
    """The sum of maps [B,H,W,C], kept apart from the convolutions before it.

    TensorFlow 2.21 fuses a convolution, its bias and a sum into one oneDNN kernel, which keeps what it adds in itself:
    two calls at the same time, as a server makes them, then add each other's maps or end in a segmentation fault.
    """

    def call(self, inputs):
        return super().call([tf.ensure_shape(each, each.shape) for each in inputs])


@register
def gelu(x):
    """GELU, exact. (That of Keras uses erfc, which ONNX does not have.)"""
    return 0.5 * x * (1.0 + tf.math.erf(x / tf.cast(math.sqrt(2.0), x.dtype)))


@register
class ResizeLike(keras.layers.Layer):
    """Resize the first of [B,h,w,C], [B,H,W,_] to the second's H x W, bilinearly with half-pixel centres.

    Neither `keras.ops.image.resize` nor a bilinear `UpSampling2D` traces with dynamic height and width.
    """

    def call(self, inputs):
        values, like = inputs
        return resize_like(values, like)

    def compute_output_shape(self, input_shape):
        values, like = input_shape
        return (*like[:3], values[3])


@register
class Enlarge(keras.layers.Layer):
    """[B,h,w,C] at a multiple of its size, bilinearly with half-pixel centres."""

    def __init__(self, factor, **options):
        super().__init__(**options)
        self.factor = factor

    def call(self, values):
        return resize(values, self.compute_output_shape(values.shape)[1:3], self.factor * tf.shape(values)[1:3])

    def compute_output_shape(self, shape):
        sides = [None if side is None else self.factor * side for side in shape[1:3]]
        return (shape[0], *sides, shape[3])

    def get_config(self):
        return super().get_config() | {"factor": self.factor}


def whole_patches(side, patch):
    """The side of an image, a number or a tensor, filled up to a multiple of `patch`.

    (Not side + -side % patch: for ONNX the remainder of a negative number is converted as if it were C's.)
    """
    return (side + patch - 1) // patch * patch


@register
class ResizeToPatches(keras.layers.Layer):
    """The first of [B,h,w,C], [B,H,W,_] at the second's size filled up to whole patches, cut to H x W.

    For maps of an image that was filled up so: what the fill saw is left out.
    """

    def __init__(self, patch, **options):
        super().__init__(**options)
        self.patch = patch

    def call(self, inputs):
        values, like = inputs
        size = tf.shape(like)[1:3]
        static = [None if side is None else whole_patches(side, self.patch) for side in like.shape[1:3]]
        return resize(values, static, whole_patches(size, self.patch))[:, : size[0], : size[1]]

    def compute_output_shape(self, input_shape):
        values, like = input_shape
        return (*like[:3], values[3])

    def get_config(self):
        return super().get_config() | {"patch": self.patch}


@register
class ReshapeLike(keras.layers.Layer):
    """Reshape the first of [B,HW,C], [B,H,W,C] to the second's shape, whatever that is at run time."""

    def call(self, inputs):
        values, like = inputs
        return tf.reshape(values, tf.shape(like))

    def compute_output_shape(self, input_shape):
        return input_shape[1]


@register
class Standardise(keras.layers.Layer):
    """(image - mean) / deviation for each channel of [B,H,W,3]; reverse: RGB becomes BGR before.

    In float32 under any policy: bfloat16 would round what resizing has put between whole brightnesses.
    """

    def __init__(self, mean, deviation, reverse=False, dtype="float32", **options):
        super().__init__(dtype=dtype, **options)
        self.mean, self.deviation, self.reverse = tuple(mean), tuple(deviation), reverse

    def call(self, inputs):
        image = tf.gather(inputs, [2, 1, 0], axis=-1) if self.reverse else inputs
        mean, deviation = (tf.constant(values, image.dtype) for values in (self.mean, self.deviation))
        return (image - mean) / deviation

    def get_config(self):
        return super().get_config() | {"mean": self.mean, "deviation": self.deviation, "reverse": self.reverse}


def normalise(x, name, batch_norm="local", epsilon=1e-5):
    """Batch norm of [B,H,W,C]. batch_norm: "local" trains with the statistics of each device's part of the batch,
    "synchronized" with those of the whole batch; "frozen" fixes statistics, scale and offset.

    Momentum is low because runs are short: within some tens of steps the statistics are those of our images, and they
    keep up with the moving weights.
    """
    return keras.layers.BatchNormalization(
        momentum=0.9, epsilon=epsilon, trainable=batch_norm != "frozen", synchronized=batch_norm == "synchronized",
        name=name,
    )(x)  # fmt: skip


def image_input():
    """The input of every network and encoder: RGB 0..255, [B,H,W,3] of any height and width."""
    return keras.Input((None, None, 3), name="image", dtype="float32")


def point_classifier(channels, classes, dropout):
    """Features [B,h,w,channels] -> logits [B,h,w,classes]: dropout and the last convolution."""
    maps = keras.Input((None, None, channels), name="features")
    x = Dropout(dropout, number=0, name="dropout")(maps)
    return keras.Model(maps, keras.layers.Conv2D(classes, 1, name="logits_convolution")(x), name="classifier")


def with_classifier(encoder, classifier, patch=1):
    """The network of an encoder [B,H,W,3] -> [B,h,w,D] and a classifier of its maps: the logits at the image's size.

    patch: what the encoder fills the image up to multiples of.
    """
    image = image_input()
    features = encoder(image)
    # float32 under any precision policy: softmax and losses follow
    options = {"name": "resize_to_image", "dtype": "float32"}
    resize_to_image = ResizeToPatches(patch, **options) if patch > 1 else ResizeLike(**options)
    logits = resize_to_image([classifier(features), image])
    return keras.Model(image, {"logits": logits, "features": features})
