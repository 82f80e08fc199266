"""What the networks share: layers that Keras lacks, and the classifier at their end."""

from typing import Annotated

import keras
import pydantic
import tensorflow as tf

from tfssl import randomness
from tfssl.resizing import resize_like

Rate = Annotated[float, pydantic.Field(ge=0, lt=1)]  # an argument: the probability to drop something
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
    """Drop a sample's whole residual branch [B,H,W,C] (Huang et al., ECCV 2016, arXiv:1603.09382)."""

    def mask_shape(self, shape):
        return [shape[0], 1, 1, 1]


def drop_rate(rate, mode, index, count):
    """Of residual branch `index` out of `count`: `rate` itself, or in mode "linear" growing from 0 to it."""
    return rate * index / (count - 1) if mode == "linear" else rate


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
class ReshapeLike(keras.layers.Layer):
    """Reshape the first of [B,HW,C], [B,H,W,C] to the second's shape, whatever that is at run time."""

    def call(self, inputs):
        values, like = inputs
        return tf.reshape(values, tf.shape(like))

    def compute_output_shape(self, input_shape):
        return input_shape[1]


def image_input():
    """The input of every network and encoder: RGB 0..255, [B,H,W,3] of any height and width."""
    return keras.Input((None, None, 3), name="image", dtype="float32")


def with_classifier(encoder, classes, dropout):
    """The network on an encoder [B,H,W,3] -> [B,h,w,D]: dropout, last convolution, resize to the image."""
    maps = keras.Input((None, None, encoder.output.shape[-1]), name="features")
    x = Dropout(dropout, number=0, name="dropout")(maps)
    x = keras.layers.Conv2D(classes, 1, name="logits_convolution")(x)
    classifier = keras.Model(maps, x, name="classifier")
    image = image_input()
    features = encoder(image)
    # float32 under any precision policy: softmax and losses follow
    logits = ResizeLike(name="resize_to_image", dtype="float32")([classifier(features), image])
    return keras.Model(image, {"logits": logits, "features": features})
