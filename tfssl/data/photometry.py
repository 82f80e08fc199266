"""Colour operations that never move a pixel, so that a label stays true for the changed image.

Each operation takes (image, strength) and returns the image: float32 [H,W,3], RGB 0..255 in and out, any H
and W; `strength` is a scalar tensor from -1 to 1. Strength 0 gives the image back; 1 or -1 is the far end of
RandAugment's range (Cubuk et al., arXiv:1909.13719; the ranges are those of AutoAugment, arXiv:1805.09501,
table 6). An operation with one direction only ignores the sign. Autocontrast and equalize, all or nothing
there, are blended in by |strength| as in CTAugment (Berthelot et al., arXiv:1911.09785). On whole numbers the
operations agree with Pillow's ImageOps and ImageEnhance up to rounding.
"""

import tensorflow as tf

ENHANCEMENT = 0.9  # the enhancing operations' factor is 1 +- this: 0.1 to 1.9
POSTERIZED_BITS = 4.0  # at most so many of the eight bits are dropped
HUE_TURN = 0.1  # of the colour circle, 36 degrees either way; not part of RandAugment
BLUR_RADIUS = 6  # pixels: three standard deviations of the widest blur


def identity(image, strength):
    """The image as it is."""
    return image


def autocontrast(image, strength):
    """Stretches each channel to 0..255; |strength| is the share of the stretched image."""
    low, high = tf.reduce_min(image, [0, 1]), tf.reduce_max(image, [0, 1])
    flat = high - low < 1.0  # one level only: there is no contrast to stretch
    low, factor = tf.where(flat, 0.0, low), tf.where(flat, 1.0, 255.0 / (high - low))
    return _blend(image, (image - low) * factor, tf.abs(strength))


def equalize(image, strength):
    """Flattens each channel's histogram of 256 levels; |strength| is the share of the flattened image."""
    levels = tf.cast(tf.round(image), tf.int32) + tf.constant([0, 256, 512])  # each channel its own 256 bins
    counts = tf.math.bincount(tf.reshape(levels, [-1]), minlength=768, maxlength=768)
    counts = tf.reshape(counts, [3, 256])
    highest = tf.reduce_max(tf.where(counts > 0, tf.range(256), 0), axis=1)  # not in the step, as in Pillow
    step = (tf.reduce_sum(counts, 1) - tf.gather(counts, highest, batch_dims=1))[:, None] // 255
    below = tf.cumsum(counts, axis=1, exclusive=True)
    table = tf.minimum((step // 2 + below) // tf.maximum(step, 1), 255)
    table = tf.cast(tf.where(step > 0, table, tf.range(256)), tf.float32)
    return _blend(image, tf.gather(tf.reshape(table, [-1]), levels), tf.abs(strength))


def brightness(image, strength):
    """Away from or towards black: factor 0.1 to 1.9."""
    return _blend(tf.zeros_like(image), image, 1.0 + ENHANCEMENT * strength)


def contrast(image, strength):
    """Away from or towards the image's mean gray: factor 0.1 to 1.9."""
    return _blend(tf.round(tf.reduce_mean(_luma(image))), image, 1.0 + ENHANCEMENT * strength)


def color(image, strength):
    """Away from or towards the gray image (saturation): factor 0.1 to 1.9."""
    return _blend(_luma(image), image, 1.0 + ENHANCEMENT * strength)


def hue(image, strength):
    """Turns every pixel's hue by up to 36 degrees either way."""
    return tf.clip_by_value(tf.image.adjust_hue(image, HUE_TURN * strength), 0.0, 255.0)


def sharpness(image, strength):
    """Away from or towards the image smoothed by the kernel [1 1 1; 1 5 1; 1 1 1]/13: factor 0.1 to 1.9."""
    columns = image[:-2] + image[1:-1] + image[2:]
    squares = columns[:, :-2] + columns[:, 1:-1] + columns[:, 2:]
    inside = image[1:-1, 1:-1]
    detail = inside - (squares + 4.0 * inside) / 13.0
    detail = tf.pad(detail, [[1, 1], [1, 1], [0, 0]])  # Pillow leaves the outermost pixels alone too
    return tf.clip_by_value(image + ENHANCEMENT * strength * detail, 0.0, 255.0)


def posterize(image, strength):
    """Drops up to four of the eight bits of each value."""
    step = tf.pow(2.0, tf.round(POSTERIZED_BITS * tf.abs(strength)))
    return tf.where(step > 1.0, tf.floor(image / step) * step, image)


def solarize(image, strength):
    """Inverts the values from a threshold on: 256 (none) down to 0 (all)."""
    return tf.where(image < 256.0 * (1.0 - tf.abs(strength)), image, 255.0 - image)


OPERATIONS = (
    identity, autocontrast, equalize, brightness, contrast, color, hue, sharpness, posterize, solarize,
)  # fmt: skip


def gaussian_blur(image, sigma):
    """The image [H,W,3] blurred by a Gaussian of `sigma` pixels (scalar, at most 2), mirrored at its borders.

    H and W are at least 7. The kernel has 13 taps whatever the sigma, so shapes stay static.
    """
    distance = tf.range(-BLUR_RADIUS, BLUR_RADIUS + 1, dtype=tf.float32)
    weight = tf.nn.softmax(-0.5 * tf.square(distance / sigma))
    down = tf.tile(weight[:, None, None, None], [1, 1, 3, 1])  # [13,1,3,1]: one column for each channel
    margin = [BLUR_RADIUS, BLUR_RADIUS]
    blurred = tf.pad(image, [margin, margin, [0, 0]], "REFLECT")[None]
    for kernel in (down, tf.transpose(down, [1, 0, 2, 3])):
        blurred = tf.nn.depthwise_conv2d(blurred, kernel, [1, 1, 1, 1], "VALID")
    return tf.ensure_shape(blurred[0], image.shape)


def grayscale(image):
    """The image [H,W,3] without its colour, still in three channels."""
    return tf.tile(_luma(image), [1, 1, 3])


def _luma(image):
    """The brightness [H,W,1] by the weights of ITU-R 601-2, as in Pillow."""
    return tf.tensordot(image, tf.constant([[0.299], [0.587], [0.114]]), 1)


def _blend(start, end, factor):
    """From start (factor 0) to end (factor 1) and beyond, within 0..255."""
    return tf.clip_by_value(start + factor * (end - start), 0.0, 255.0)
