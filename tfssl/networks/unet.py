"""A small U-Net for images as output, at full resolution throughout."""

import keras
import pydantic
import tensorflow as tf

from tfssl.networks.layers import Rate, ResizeLike, image_input, point_classifier, with_classifier

_WHITE = 255.0


def unet(
    classes: pydantic.PositiveInt,
    *,
    weights: None = None,
    width: pydantic.PositiveInt = 16,
    levels: pydantic.PositiveInt = 2,
    batch_norm: bool = True,
    dropout: Rate = 0.0,
) -> keras.Model:
    """U-Net (Ronneberger et al., MICCAI 2015, arXiv:1505.04597), narrow, with the image among its features.

    It goes down by strides in place of pooling, and up by plain enlargement and one convolution a level, not two.
    Where it has three channels to predict it starts near the identity, from the image to the same image in 0..1: like
    the denoisers that predict the noise alone (Zhang et al., arXiv:1608.03981), it has only to learn what to change.

    Args:
        classes: channels of the logits.
        weights: None; there are no pretrained ones.
        width: channels at full resolution, doubled at each level below.
        levels: how often the resolution is halved.
        batch_norm: whether each convolution but the last is normalised by its batch.
        dropout: probability to drop a value of the features, the image's too, before the last convolution.

    Returns:
        a Functional model from `image` [B,H,W,3], RGB 0..255, to {"logits": [B,H,W,classes] float32,
        "features": [B,H,W,width + 3]}, with the sub-models `encoder` (image -> features) and `classifier`.
    """
    image = image_input()
    *skips, x = _contraction(width, levels, batch_norm)(image)
    for level, skip in reversed(list(enumerate(skips))):
        x = ResizeLike(name=f"up{level}_resize")([x, skip])
        x = keras.layers.Concatenate(name=f"up{level}_concatenate")([x, skip])
        x = _convolution(x, width * 2**level, f"up{level}", batch_norm)
    scaled = keras.layers.Rescaling(1 / _WHITE, name="image_as_features")(image)
    x = keras.layers.Concatenate(name="features_and_image")([x, scaled])
    network = with_classifier(keras.Model(image, x, name="encoder"), point_classifier(x.shape[-1], classes, dropout))
    if classes == 3:
        last = network.get_layer("classifier").get_layer("logits_convolution")
        identity = tf.pad(tf.eye(3), [[width, 0], [0, 0]])
        last.kernel.assign(0.1 * last.kernel * (1 - tf.reduce_sum(identity, 1, keepdims=True)) + identity)
    return network


def _contraction(width, levels, batch_norm):
    """The way down, [B,H,W,3] -> [maps of stride 1, 2, 4, ...], sizes rounded up."""
    image = image_input()
    x = keras.layers.Rescaling(2 / _WHITE, offset=-1.0, name="rescaling")(image)
    x = _convolution(_convolution(x, width, "down0_a", batch_norm), width, "down0_b", batch_norm)
    maps = [x]
    for level in range(1, levels + 1):
        x = _convolution(x, width * 2**level, f"down{level}_a", batch_norm, strides=2)
        x = _convolution(x, width * 2**level, f"down{level}_b", batch_norm)
        maps.append(x)
    return keras.Model(image, maps, name="backbone")


def _convolution(x, channels, name, batch_norm, strides=1):
    x = keras.layers.Conv2D(channels, 3, strides=strides, padding="same", use_bias=not batch_norm, name=name)(x)
    if batch_norm:
        x = keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=name + "_norm")(x)
    return keras.layers.ReLU(name=name + "_relu")(x)
