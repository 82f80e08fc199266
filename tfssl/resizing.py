"""Resizing that computes the same with and without XLA: bilinear, with static and with dynamic sizes, and nearest."""

import math

import numpy as np
import tensorflow as tf


def resize_like(values, like):
    """values [B,h,w,C] at the height and width of like [B,H,W,...]: bilinear, half-pixel centres, dtype kept."""
    return resize(values, like.shape[1:3], tf.shape(like)[1:3])


def resize(values, static, dynamic):
    """values [B,h,w,C] at a size given as far as it is known, each side a number or None, and as a tensor [2]."""
    old = values.shape[1:3]
    if None not in (*old, *static) and any(map(_samples_coincide, old, static)):
        resized = _resize_by_matrices(tf.cast(values, tf.float32), *static)
    else:
        resized = tf.image.resize(values, dynamic)
    return tf.cast(resized, values.dtype)


def stretch_like(values, like):
    """values float32 [B,h,w,C] at the height and width of like [B,H,W,...]: bilinear, corner on corner."""
    for axis, product in ((1, "ij,bjwc->biwc"), (2, "ij,bhjc->bhic")):
        old, new = (tf.cast(tf.shape(each)[axis], tf.float32) for each in (values, like))
        positions = tf.range(new) * (old - 1) / tf.maximum(new - 1, 1)
        weight = tf.nn.relu(1 - tf.abs(positions[:, None] - tf.range(old)))
        values = tf.einsum(product, weight, values)
    return tf.ensure_shape(values, [None, *like.shape[1:3], None])


def stretch_grid(values, height, width):
    """values float32 [1,h,w,C] at [1,height,width,C], bicubically: as `tf.image.resize`, which XLA cannot compile.

    Sizes may be known only at run time. Keys's kernel with a = -0.5; where it reaches past the border, what is inside
    weighs for the rest.
    """
    for axis, new, product in ((1, height, "ij,bjwc->biwc"), (2, width, "ij,bhjc->bhic")):
        old = tf.shape(values)[axis]
        step = tf.cast(old, tf.float32) / tf.cast(new, tf.float32)
        positions = (tf.range(new, dtype=tf.float32) + 0.5) * step - 0.5
        apart = tf.abs(positions[:, None] - tf.range(old, dtype=tf.float32))
        near = (1.5 * apart - 2.5) * apart * apart + 1.0
        far = ((-0.5 * apart + 2.5) * apart - 4.0) * apart + 2.0
        weight = tf.where(apart < 1, near, tf.where(apart < 2, far, 0.0))
        values = tf.einsum(product, weight / tf.reduce_sum(weight, axis=1, keepdims=True), values)
    return values


def pick_like(values, like):
    """values [B,H,W,...] at the height and width of like [B,h,w,...]: of each cell the pixel in its middle, unmixed.

    For labels, which have no mean, and for what must stay consistent with them. Sizes must be static.
    """
    for axis in (1, 2):
        old, new = values.shape[axis], like.shape[axis]
        if old != new:
            values = tf.gather(values, np.int32((np.arange(new) + 0.5) * old / new), axis=axis)
    return values


def read_at(image, size):
    """image float [B,H,W,C] at size (h, w), as images are read for training: bilinear, with antialiasing.

    What `tf.image.resize(antialias=True)` gives, as matrix products with dynamic sizes: its own operation has no
    counterpart in ONNX. (Nor are these sums over indices: as such they would transpose the image.)
    """
    batch, height, width, channels = (tf.shape(image)[axis] for axis in range(4))
    rows = tf.reshape(image, [batch, height, width * channels])
    rows = tf.matmul(_antialiased(size[0], height), rows)
    read = tf.matmul(_antialiased(size[1], width), tf.reshape(rows, [batch, size[0], width, channels]))
    return tf.ensure_shape(read, [None, *size, image.shape[3]])


def _antialiased(new, old):
    """Matrix [new, old] of linear interpolation that averages over what it leaves out; `old` may be a tensor."""
    step = tf.cast(old, tf.float32) / new
    centres = (tf.range(new, dtype=tf.float32) + 0.5) * step - 0.5
    distance = tf.abs(centres[:, None] - tf.cast(tf.range(old), tf.float32)) / tf.maximum(step, 1.0)
    weight = tf.nn.relu(1.0 - distance)
    return weight / tf.reduce_sum(weight, axis=1, keepdims=True)


def _samples_coincide(old, new):
    """Whether some of `new` samples lie exactly on one of `old`.

    For some such sizes, 9 to 33 among them, XLA's bilinear resize returns wrong rows (TensorFlow 2.21, issue
    118344 there). XLA knows all sizes, so those known only at run time are safe from it.
    """
    divisor = math.gcd(old, new)
    return old != new and old // divisor % 2 == new // divisor % 2 == 1


def _resize_by_matrices(values, height, width):
    """[B,h,w,C] -> [B,height,width,C]: what `tf.image.resize` does, as a product with one matrix a side."""
    _, old_height, old_width, channels = values.shape
    values = tf.reshape(values, [-1, old_height, old_width * channels])
    values = tf.matmul(_interpolation(height, old_height), values)
    values = tf.reshape(values, [-1, old_width, channels])
    values = tf.matmul(_interpolation(width, old_width), values)
    return tf.reshape(values, [-1, height, width, channels])


def _interpolation(new, old):
    """Matrix [new, old] of linear interpolation: row i weighs the two samples next to position i."""
    positions = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    return np.maximum(0, 1 - np.abs(positions[:, None] - np.arange(old))).astype("float32")
