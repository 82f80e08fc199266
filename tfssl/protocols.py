"""How an image and its label are scored: what of them is looked at, and by which views of the image.

Published protocols. In each the network sees pixels of the image alone: where others fill an image up, here the crop or
the window is as small as the image, so no padding is there to be scored.
"""

import tensorflow as tf

WINDOWS = 4  # at a time


def prepare(evaluation):
    """A function (image [H,W,3], label [h,w] or [h,w,C]) -> the same as the protocol scores them.

    whole, sliding: as they are. center_crop: both cut to `crop` about the centre. short_side: both resized, the image
    bilinearly and the label by nearest neighbour, so that the shorter side has so many pixels.
    """
    if evaluation.protocol == "center_crop":
        return lambda image, label: (_centre(image, evaluation.crop),
                                     _centre(like(label, tf.shape(image)[:2]), evaluation.crop))  # fmt: skip
    if evaluation.protocol == "short_side":
        return lambda image, label: _short(image, label, evaluation.short_side)
    return lambda image, label: (image, label)


def predictor(network, task, evaluation):
    """(predict, activated): a function image [1,H,W,3] -> what the network predicts of it by the protocol, [1,H,W,C];
    and whether that is activations, as probabilities, or else logits.

    network: images [B,H,W,3] -> logits [B,H,W,C]. One view of the whole image gives its logits; several views (scales,
    mirrored, windows) give the mean of their activations at the image's size.
    """
    windows = evaluation.protocol == "sliding"
    scales, flip = tuple(evaluation.scales), evaluation.flip
    if not windows and scales == (1.0,) and not flip:
        return network, False

    def activations(image):
        return task.activation(network(image))

    def one(image):
        if not windows:
            return activations(image)
        return slide(activations, image, task.channels, evaluation.crop, evaluation.overlap)

    def predict(image):
        size, total = tf.shape(image)[1:3], 0.0
        for scale in scales:
            scaled = tf.cast(tf.round(tf.cast(size, tf.float32) * scale), tf.int32)
            view = image if scale == 1.0 else tf.image.resize(image, scaled, antialias=True)
            total += tf.image.resize(one(view), size)
            if flip:
                total += tf.image.resize(one(view[:, :, ::-1])[:, :, ::-1], size)
        return total / (len(scales) * (2 if flip else 1))

    return predict, True


def slide(predict, image, channels, crop, overlap):
    """The mean of what windows predict of an image [1,H,W,3], [1,H,W,channels].

    predict: images [B,h,w,3] -> [B,h,w,channels]. crop: (height, width) of a window, smaller where the image is.
    overlap: the share of a window that the next one covers again at least; the last window of a row or column ends with
    the image.
    """
    size = tf.shape(image)[1:3]
    crop = tf.minimum(tf.constant(crop), size)
    tops, lefts = (_starts(size[axis], crop[axis], overlap) for axis in (0, 1))
    corners = tf.reshape(tf.stack(tf.meshgrid(tops, lefts, indexing="ij"), -1), [-1, 2])

    def window(corner):
        return tf.slice(image[0], [*tf.unstack(corner), 0], [crop[0], crop[1], 3])

    def laid(canvas, inputs):
        corner, values = inputs
        after = size - crop - corner
        return canvas + tf.pad(values, [[corner[0], after[0]], [corner[1], after[1]], [0, 0]])

    def add(start, total):
        some = corners[start : start + WINDOWS]
        found = predict(tf.map_fn(window, some, fn_output_signature=tf.float32))
        with_count = tf.concat([found, tf.ones_like(found[..., :1])], axis=-1)
        return start + WINDOWS, tf.foldl(laid, (some, with_count), total)

    total = tf.zeros([size[0], size[1], channels + 1])
    # One after the other: it bounds memory, and a convolution of oneDNN that has an addition fused into it (TensorFlow
    # 2.21) keeps what it adds in its kernel, so that two iterations at once wrote into each other's memory.
    _, total = tf.while_loop(lambda start, _: start < tf.shape(corners)[0], add, (0, total), parallel_iterations=1)
    return (total[..., :-1] / total[..., -1:])[None]


def _starts(side, window, overlap):
    """Where windows begin along a side, int32 [n]."""
    step = tf.maximum(1, tf.cast(tf.round(tf.cast(window, tf.float32) * (1 - overlap)), tf.int32))
    count = 1 + -(-(side - window) // step)
    return tf.minimum(tf.range(count) * step, side - window)


def _centre(values, crop):
    """The middle of [H,W,...], at most crop (height, width)."""
    size = tf.shape(values)[:2]
    kept = tf.minimum(tf.constant(crop), size)
    top, left = tf.unstack((size - kept) // 2)
    return values[top : top + kept[0], left : left + kept[1]]


def _short(image, label, side):
    """Image and label at one size, whose shorter side is `side`."""
    size = tf.cast(tf.shape(image)[:2], tf.float32)
    size = tf.cast(tf.round(size * side / tf.reduce_min(size)), tf.int32)
    return tf.image.resize(image, size, antialias=True), like(label, size)


def like(label, size):
    """A label [h,w] or [h,w,C] at another size, by nearest neighbour."""
    channels = label if label.shape.rank == 3 else label[..., None]
    resized = tf.image.resize(channels, size, method="nearest")
    return resized if label.shape.rank == 3 else resized[..., 0]
