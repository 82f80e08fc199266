"""Losses and pseudo-labels pixel by pixel."""

import numpy as np
import tensorflow as tf

from tfssl.resizing import resize_like


def cross_entropy(label, logits, weight=None, ignore_index=255):
    """Pixel-wise cross-entropy H(y, softmax(logits)), the mean over pixels that count (RML eq. 1, eq. 2).

    label: int [B, H, W]; logits: [B, H, W, C]; weight: float [B, H, W] or None (all 1). A pixel with the ignore
    index has no part, whatever its weight. Divided by the number of pixels that are not ignored, so weights scale
    the loss: a weight of 0 on half of the pixels halves it.
    """
    logits = tf.cast(logits, tf.float32)
    counts = tf.cast(label != ignore_index, tf.float32)
    safe = tf.where(label != ignore_index, label, 0)
    loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=safe, logits=logits)
    weighted = loss * counts if weight is None else loss * counts * tf.cast(weight, tf.float32)
    return tf.math.divide_no_nan(tf.reduce_sum(weighted), tf.reduce_sum(counts))


def hard_cross_entropy(label, logits, threshold=0.7, least=1 / 16, ignore_index=255):
    """Cross-entropy over the hard pixels alone, OHEM (Shrivastava et al., CVPR 2016, arXiv:1604.03540; U2PL app. A).

    label: int [B, H, W]; logits: [B, H, W, C]. Hard is a pixel to whose label the network gives a probability of at
    most `threshold`; if fewer than the share `least` of the pixels that are not ignored are, the hardest of these up
    to that share. The mean over them.
    """
    logits = tf.cast(logits, tf.float32)
    known = label != ignore_index
    loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=tf.where(known, label, 0), logits=logits)
    enough = tf.minimum(-tf.math.log(threshold), masked_percentile(loss, known, 1.0 - least))
    return masked_mean(loss, known & (loss >= tf.stop_gradient(enough)))


def pseudo_label(probability, valid, ignore_index=255):
    """Hard pseudo-labels, one_hot of eq. 4 as class indices: argmax where `valid`, else the ignore index.

    probability: [B, H, W, C] (any positive scale); valid: bool [B, H, W]. Returns int32 [B, H, W].
    """
    return tf.where(valid, tf.argmax(probability, axis=-1, output_type=tf.int32), ignore_index)


def confident(probability, threshold, inclusive=False):
    """The indicator 1(max p > threshold) of eq. 2 as float [B, H, W]: 1 where the teacher is sure enough.

    inclusive: 1(max p >= threshold), as FixMatch and UniMatch (arXiv:2001.07685, 2208.09910) have it.
    """
    surest = tf.reduce_max(probability, axis=-1)
    return tf.cast(surest >= threshold if inclusive else surest > threshold, tf.float32)


def masked_mean(value, valid):
    """Mean of value [B, H, W] over the pixels where valid (bool) holds; 0 where there are none."""
    counts = tf.cast(valid, tf.float32)
    return tf.math.divide_no_nan(tf.reduce_sum(value * counts), tf.reduce_sum(counts))


def labeled_share(label, valid, ignore_index=255):
    """The share of the pixels inside an image that have a label: scalar; label int [B,H,W], valid bool [B,H,W]."""
    return masked_mean(tf.cast(label != ignore_index, tf.float32), valid)


def image_means(value, valid):
    """Mean of value [B, H, W] of each image over its pixels where valid (bool) holds, 0 where it has none: [B, 1, 1].

    Of "the teacher is sure": ClassMix's lambda, one weight for each image (Olsson et al., arXiv:2007.07936).
    """
    counts = tf.cast(valid, tf.float32)
    total = tf.reduce_sum(value * counts, axis=[1, 2], keepdims=True)
    return tf.math.divide_no_nan(total, tf.reduce_sum(counts, axis=[1, 2], keepdims=True))


def masked_pool(features, valid):
    """Mean feature of each image over its valid pixels (S4L's pooling; Zhai et al., arXiv:1905.03670).

    features: [B, h, w, D]; valid: bool [B, H, W], of which a feature pixel counts where all that it is resized from
    is valid. Returns (means [B, D], bool [B]: whether any pixel counts; if none does the mean is 0).
    """
    inside = resize_like(tf.cast(valid, tf.float32)[..., None], features) > 0.999
    counts = tf.cast(inside, tf.float32)
    total = tf.reduce_sum(tf.cast(features, tf.float32) * counts, axis=[1, 2])
    count = tf.reduce_sum(counts, axis=[1, 2])
    return tf.math.divide_no_nan(total, count), count[:, 0] > 0


def squared_error(target, probability, weight, valid):
    """Consistency as squared distance (Tarvainen and Valpola eq. for J; French et al. eq. 1), mean over valid pixels.

    sum over classes of (target - probability)^2; target, probability: [B, H, W, C]; weight: float [B, H, W];
    valid: bool [B, H, W]. The gradient reaches both arguments: pass a target that has none.
    """
    return masked_mean(tf.reduce_sum(tf.square(target - probability), axis=-1) * weight, valid)


def total_variation(first, second, valid):
    """Total variation distance between two predictions, mean over valid pixels (RML figure 2): 0 equal, 1 disjoint.

    first, second: softmax outputs [B, H, W, C]; valid: bool [B, H, W].
    """
    return masked_mean(0.5 * tf.reduce_sum(tf.abs(first - second), axis=-1), valid)


def entropy(probability):
    """H(p) = -sum_k p_k log p_k of each pixel, in nats (U2PL eq. 5), 0 log 0 = 0. probability: [B, H, W, C]."""
    return -tf.reduce_sum(tf.math.xlogy(probability, probability), axis=-1)


def masked_percentile(value, valid, share):
    """The value that the share `share` (0..1) of the valid pixels lies below, interpolated linearly as NumPy does.

    value: float [B, H, W]; valid: bool [B, H, W]; over all pixels of the batch on this replica. Of no pixel: 0.
    Found bit by bit from the integers that are ordered as the values are: these 32 counts take a sixth of the time
    that sorting takes.
    """
    count = tf.reduce_sum(tf.cast(valid, tf.int32))
    place = tf.cast(share, tf.float32) * tf.cast(tf.maximum(count - 1, 0), tf.float32)
    low = tf.cast(tf.floor(place), tf.int32)
    ordered = _ordered(tf.bitcast(tf.where(valid, tf.cast(value, tf.float32), np.inf), tf.int32))

    def below(number):
        return tf.math.count_nonzero(ordered < number, dtype=tf.int32)

    found = tf.where(below(0) <= low, 0, np.int32(-(2**31)))
    for bit in reversed(range(31)):  # to the greatest number with at most `low` pixels below it
        found = tf.where(below(found + 2**bit) <= low, found + 2**bit, found)
    following = tf.reduce_min(tf.where(ordered > found, ordered, np.int32(2**31 - 1)))
    following = tf.where((below(found + 1) > low + 1) | (low + 1 >= count), found, following)
    least, greatest = (tf.bitcast(_ordered(number), tf.float32) for number in (found, following))
    between = least + (place - tf.floor(place)) * (greatest - least)  # of equal values exactly that value
    return tf.where(count > 0, between, 0.0)


def _ordered(bits):
    """Of the bits of a float an int32 that is ordered as floats are; and back."""
    return tf.bitwise.bitwise_xor(bits, tf.bitwise.bitwise_and(tf.bitwise.right_shift(bits, 31), 2**31 - 1))
