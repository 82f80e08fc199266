"""CutMix between different images of the batch (Yun et al., ICCV 2019; French et al., BMVC 2020, arXiv:1906.01916).

One mask serves image, pseudo-label and weight. Partners are found inside the replica, and are never the image itself.
"""

import tensorflow as tf

from tfssl.errors import UserError
from tfssl.randomness import fold


def box_masks(key, batch, height, width, area=0.5):
    """One rectangle per image covering `area` of it, its aspect ratio and place random: bool [B, H, W].

    The proportions are drawn as in French et al.: the height's share is uniform on a log scale in [area, 1] and
    the width's share makes up the area.
    """
    draws = tf.random.stateless_uniform([3, batch, 1], key)
    share = tf.exp(draws[0] * tf.math.log(tf.cast(area, tf.float32)))  # in (area, 1]
    tall, wide = tf.round(share * height), tf.round(area / share * width)
    top, left = tf.round(draws[1] * (height - tall)), tf.round(draws[2] * (width - wide))
    rows, columns = tf.range(height, dtype=tf.float32)[None], tf.range(width, dtype=tf.float32)[None]
    inside_rows = (rows >= top) & (rows < top + tall)
    inside_columns = (columns >= left) & (columns < left + wide)
    return inside_rows[:, :, None] & inside_columns[:, None, :]


def partners(key, batch):
    """A random cyclic shift of 0..B-1: int32 [B], no image its own partner (with one image there is no other)."""
    if batch == 1:
        raise UserError("training.unlabeled_batch: mixing needs at least two unlabeled images on each replica")
    shift = tf.random.stateless_uniform([], key, minval=1, maxval=batch, dtype=tf.int32)
    return (tf.range(batch) + shift) % batch


def mix(mask, partner, *tensors):
    """Each tensor [B, H, W, ...] with the pixels under `mask` taken from the partner image, by one mask for all."""

    def mixed(tensor):
        here = tf.reshape(mask, tf.concat([tf.shape(mask), tf.ones([tensor.shape.rank - 3], tf.int32)], 0))
        return tf.where(here, tf.gather(tensor, partner), tensor)

    return tuple(mixed(tensor) for tensor in tensors)


def cutmix(key, image, *others, area=0.5):
    """(image, *others) after CutMix: each image gets a box of its partner, in image, pseudo-label and weight alike."""
    batch, height, width = image.shape[:3]
    mask = box_masks(fold(key, 0), batch, height, width, area)
    return mix(mask, partners(fold(key, 1), batch), image, *others)
