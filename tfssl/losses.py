"""The losses and pseudo-labels of every method, as pure functions of tensors.

Letters: B images, H x W pixels, h x w feature pixels, C classes, D feature channels. Every mean over pixels counts
only pixels that count: a loss over no pixel at all is 0, not NaN. Everything is computed in float32.
"""

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


def pseudo_label(probability, valid, ignore_index=255):
    """Hard pseudo-labels, one_hot of eq. 4 as class indices: argmax where `valid`, else the ignore index.

    probability: [B, H, W, C] (any positive scale); valid: bool [B, H, W]. Returns int32 [B, H, W].
    """
    return tf.where(valid, tf.argmax(probability, axis=-1, output_type=tf.int32), ignore_index)


def confident(probability, threshold):
    """The indicator 1(max p > threshold) of eq. 2 as float [B, H, W]: 1 where the teacher is sure enough."""
    return tf.cast(tf.reduce_max(probability, axis=-1) > threshold, tf.float32)


def masked_mean(value, valid):
    """Mean of value [B, H, W] over the pixels where valid (bool) holds; 0 where there are none."""
    counts = tf.cast(valid, tf.float32)
    return tf.math.divide_no_nan(tf.reduce_sum(value * counts), tf.reduce_sum(counts))


def squared_error(target, probability, weight, valid):
    """Consistency as squared distance (Tarvainen and Valpola eq. for J; French et al. eq. 1), mean over valid pixels.

    sum over classes of (target - probability)^2; target, probability: [B, H, W, C]; weight: float [B, H, W];
    valid: bool [B, H, W]. The gradient reaches both arguments: pass a target that has none.
    """
    return masked_mean(tf.reduce_sum(tf.square(target - probability), axis=-1) * weight, valid)


def class_confidence(features, prototypes, known=None):
    """Class-wise confidence by distance to the prototypes (RML eq. 9; Zhang et al., arXiv:2106.00609).

    omega_k = exp(-||f - eta_k||) / sum_k' exp(-||f - eta_k'||), the Euclidean distance, not its square.
    features: [B, h, w, D]; prototypes: [C, D]. Returns [B, h, w, C], positive, summing to 1 over classes.
    known: bool [C], which classes have a prototype by now (None: all). The paper has all of them from the start; here
    a class without one is taken to be as near as the nearest other, so that rectification never takes its pixels away.
    """
    features, prototypes = tf.cast(features, tf.float32)[..., None, :], tf.convert_to_tensor(prototypes)
    squared = tf.reduce_sum(tf.square(features - prototypes), axis=-1)  # direct: ||f||^2 - 2fe + ||e||^2 cancels
    distance = tf.sqrt(squared)
    if known is not None:
        nearest = tf.reduce_min(tf.where(known, distance, distance.dtype.max), axis=-1, keepdims=True)
        distance = tf.where(known, distance, nearest)
    return tf.nn.softmax(-distance, axis=-1)


def rectify(probability, confidence):
    """Self-rectification, the product of RML eq. 6: p_t,k = omega_k * p_0,k (not normalised: argmax follows).

    probability: p_0, [B, H, W, C]; confidence: omega, [B, h, w, C], enlarged bilinearly to H x W, which keeps it
    positive and its sum 1. (The paper has one resolution; a network's features are coarser than its output.)
    """
    return probability * resize_like(confidence, probability)


def prototype_means(features, probability, valid, least=10):
    """Mean feature of each class in each image (RML eq. 10, per image): what a prototype moves towards.

    features: [B, h, w, D]; probability: [B, H, W, C], whose argmax at feature resolution gives the class of each
    feature; valid: bool [B, H, W]. Returns (means [B, C, D], present [B, C] as float: 1 where at least `least`
    feature pixels have the class). As printed, eq. 10 divides by H W and so scales a prototype by its class's
    frequency; the mean over the class's own pixels is meant (methods.md 1.3, and ProDA, which it follows).
    """
    classes = probability.shape[-1]
    coarse = resize_like(probability, features)
    inside = resize_like(tf.cast(valid, tf.float32)[..., None], features)[..., 0] > 0.999
    member = tf.one_hot(tf.argmax(coarse, axis=-1), classes) * tf.cast(inside, tf.float32)[..., None]
    count = tf.reduce_sum(member, axis=[1, 2])
    total = tf.einsum("bhwc,bhwd->bcd", member, tf.cast(features, tf.float32))
    present = tf.cast(count >= least, tf.float32)
    return tf.math.divide_no_nan(total, count[..., None]) * present[..., None], present


def total_variation(first, second, valid):
    """Total variation distance between two predictions, mean over valid pixels (RML figure 2): 0 equal, 1 disjoint.

    first, second: softmax outputs [B, H, W, C]; valid: bool [B, H, W].
    """
    return masked_mean(0.5 * tf.reduce_sum(tf.abs(first - second), axis=-1), valid)
