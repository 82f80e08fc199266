"""Geometry (weak) and photometry (strong) of one image: a random key goes in, tensors come out.

They run on single images inside a tf.data map and keep no state. Both draw from the key itself: give each
call a key of its own.
"""

import functools
import math

import tensorflow as tf

from tfssl.data import photometry

PADDING = 127.0  # mid-gray, which the networks' normalisation takes to about 0
BLUR_SIGMA = (0.1, 2.0)  # pixels
LEAST_SIDE = 7  # pixels a strong view must have along each side: the blur mirrors six


def weak(image, label, key, *, crop, scale=(0.5, 1.5), flip=True, rotation=0.0, translation=0.0,
         ignore_index=255):  # fmt: skip
    """Random scaling, cropping and mirroring, and if wanted rotation and translation, in one resampling.

    image: float32 [H,W,3], 0..255; label: integer [H,W], or an image of its own, float32 [H,W,C], or None for an
    unlabeled image; key: int32 [2].
    crop: (h, w) of the result in pixels. scale: range of the one factor for both sides of the image.
    rotation: at most so many degrees either way about the crop's centre. translation: at most this fraction
    of the crop either way, along each side. What then lies outside of the image is padding.

    Returns image float32 [h,w,3], label int32 [h,w] (float32 [h,w,C]) or None, valid bool [h,w]; in the padding the
    image is PADDING, the label ignore_index and valid False. Images are interpolated bilinearly, a label of classes
    by nearest neighbour at the same places. The random draws do not depend on whether there is a label. Random
    scale and crop as in DeepLab (Chen et al., arXiv:1606.00915, section 4), but a window of whole pixels is cut out
    before it is scaled, which is cheaper; that is why the factor of a side is off by up to half a pixel of the window.
    """
    draws = tf.random.stateless_uniform([7], key)
    image, label = tf.convert_to_tensor(image), None if label is None else tf.convert_to_tensor(label)
    window = _window(tf.shape(image)[:2], crop, _between(scale, draws[0]), draws[1:3])
    mirrored = flip & (draws[5] < 0.5)
    if not (rotation or translation):
        return _cut(image, label, crop, window, mirrored, ignore_index)
    # Whole pixels, so that an image that is not scaled is copied and not blurred.
    shift = tf.round(tf.cast(crop, tf.float32) * (2.0 * draws[3:5] - 1.0) * translation)
    angle = math.radians(rotation) * (2.0 * draws[6] - 1.0)
    return _turn(image, label, crop, _crop_to_image(crop, window, mirrored, shift, angle), ignore_index)


def strong(image, key, *, operations=2, magnitude=1.0, blur=0.5, grayscale=0.2):
    """Random changes of colour that leave every pixel in its place.

    image: float32 [H,W,3], 0..255, H and W at least LEAST_SIDE; key: int32 [2]. Returns the same shape and range.
    operations: how many of photometry.OPERATIONS are drawn, with replacement, each with a strength of its own
    that is uniform up to `magnitude` (0..1) either way: RandAugment without its geometric operations (Cubuk
    et al., arXiv:1909.13719), the strengths random as in FixMatch (Sohn et al., arXiv:2001.07685, section
    2.3). Then with probability `blur` a Gaussian blur of 0.1 to 2 pixels, and with probability `grayscale`
    the colours go, as in SimCLR (Chen et al., arXiv:2002.05709, appendix A).
    """
    draws = tf.random.stateless_uniform([2 * operations + 3], key)
    blurs, sigma, grays = tf.unstack(draws[2 * operations :])
    for number in range(operations):
        choice, strength = draws[2 * number], magnitude * (2.0 * draws[2 * number + 1] - 1.0)
        image = _one_of(photometry.OPERATIONS, choice, image, strength)
    blurred = functools.partial(photometry.gaussian_blur, image, _between(BLUR_SIGMA, sigma))
    image = tf.cond(blurs < blur, blurred, lambda: image)
    image = tf.cond(grays < grayscale, lambda: photometry.grayscale(image), lambda: image)
    return tf.clip_by_value(image, 0.0, 255.0)  # weights that sum to 1 do so only up to rounding


def _one_of(functions, choice, image, strength):
    """The operation that the uniform draw `choice` falls on, done on the image."""
    branches = [functools.partial(function, image, strength) for function in functions]
    changed = tf.switch_case(tf.cast(choice * len(functions), tf.int32), branches)
    return tf.ensure_shape(changed, image.shape)


def _window(size, crop, factor, draws):
    """The part of the image that is shown, and where in the crop it comes to lie: four int32 [2], each (y, x).

    size: int32 [2], the image's (H, W). start, length: the part, in pixels of the image. before, inside: its place, in
    pixels of the crop; where the scaled image is the smaller one there is padding on either side of it.
    """
    scaled = tf.maximum(tf.cast(tf.round(tf.cast(size, tf.float32) * factor), tf.int32), 1)
    inside = tf.minimum(scaled, crop)
    length = tf.maximum(tf.cast(tf.round(inside * size / scaled), tf.int32), 1)
    start, before = (tf.cast(tf.floor(draws * tf.cast(room + 1, tf.float32)), tf.int32)
                     for room in (size - length, crop - inside))  # fmt: skip
    return start, length, before, inside


def _cut(image, label, crop, window, mirrored, ignore_index):
    """What `weak` returns where nothing is turned or shifted: the same as _turn, several times as fast."""
    start, length, before, inside = window
    margins = tf.stack([before, crop - inside - before], axis=1)

    def laid(part, padding):
        """The part in its place within the crop, mirrored or not."""
        shape = [*crop, *part.shape[2:]]
        around = tf.pad(margins, [[0, len(shape) - 2], [0, 0]])
        whole = tf.reduce_all(tf.equal(inside, crop))
        part = tf.cond(whole, lambda: part, lambda: tf.pad(part, around, constant_values=padding))
        part = tf.cond(mirrored, lambda: tf.reverse(part, [1]), lambda: part)
        return tf.ensure_shape(part, shape)

    def scaled(image):
        part = tf.slice(image, [*tf.unstack(start), 0], [*tf.unstack(length), image.shape[-1]])
        return tf.image.resize(part, inside)

    valid = laid(tf.ones(inside, tf.bool), False)
    image = laid(scaled(image), PADDING)
    if label is not None and label.dtype.is_floating:
        label = laid(scaled(label), ignore_index)
    elif label is not None:
        # The pixel that a pixel's centre falls into, in whole numbers: no rounding.
        rows, columns = (start[axis] + (2 * tf.range(inside[axis]) + 1) * length[axis] // (2 * inside[axis])
                         for axis in (0, 1))  # fmt: skip
        label = tf.transpose(tf.gather(tf.cast(label, tf.int32), rows))  # gathering columns takes three times as long
        label = laid(tf.transpose(tf.gather(label, columns)), ignore_index)
    return image, label, valid


def _turn(image, label, crop, matrix, ignore_index):
    """What `weak` returns for any affine map."""
    valid = _within(tf.shape(image)[:2], matrix, crop)
    image = tf.where(valid[..., None], _resample(image, matrix, crop, "BILINEAR"), PADDING)
    if label is not None and label.dtype.is_floating:
        label = tf.where(valid[..., None], _resample(label, matrix, crop, "BILINEAR"), ignore_index)
    elif label is not None:
        label = _resample(tf.cast(label, tf.int32)[..., None], matrix, crop, "NEAREST")[..., 0]
        label = tf.where(valid, label, ignore_index)
    return image, label, valid


def _crop_to_image(crop, window, mirrored, shift, angle):
    """The affine map [2,3] from a pixel (x, y, 1) of the crop to its place (x, y) in the image.

    shift: float32 [2], (y, x) in pixels of the crop. angle: in radians, about the crop's centre.
    """
    start, length, before, inside = (tf.cast(part, tf.float32)[::-1] for part in window)  # x before y
    mirror = tf.where(mirrored, -1.0, 1.0)
    cosine, sine = tf.cos(angle), tf.sin(angle)

    linear = tf.stack([[cosine * mirror, -sine], [sine * mirror, cosine]])
    centre = (tf.cast(crop, tf.float32)[::-1] - 1.0) / 2.0
    offset = centre - tf.linalg.matvec(linear, centre) - before - shift[::-1]  # pixels of the crop
    factor = length / inside
    # Pixel centres lie at half pixels: the first pixel's centre is 0.5 from the border at every scale.
    return tf.concat([linear * factor[:, None], (start + (offset + 0.5) * factor - 0.5)[:, None]], axis=1)


def _within(size, matrix, crop):
    """Whether each pixel of the crop lies in the image: bool [h,w]."""
    y, x = (tf.range(side, dtype=tf.float32) for side in crop)
    height, width = tf.unstack(tf.cast(size, tf.float32))
    inside = True
    for row, side in zip(tf.unstack(matrix), (width, height), strict=True):
        place = row[0] * x + (row[1] * y + row[2])[:, None]
        inside &= (place >= -0.5) & (place <= side - 0.5)
    return inside


def _resample(image, matrix, crop, interpolation):
    """The crop [h,w,C] of an image [H,W,C]; the image's border pixels go on outside of it."""
    transform = tf.concat([tf.reshape(matrix, [1, 6]), tf.zeros([1, 2])], axis=1)
    resampled = tf.raw_ops.ImageProjectiveTransformV3(
        images=image[None],
        transforms=transform,
        output_shape=tf.constant(crop, tf.int32),
        fill_value=0.0,
        interpolation=interpolation,
        fill_mode="NEAREST",
    )[0]
    return tf.ensure_shape(resampled, [*crop, image.shape[-1]])


def _between(limits, draw):
    low, high = limits
    return low + (high - low) * draw
