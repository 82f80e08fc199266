"""Prototypes and the rectification of pseudo-labels by them (RML: Zhang et al., arXiv:2106.00609)."""

import tensorflow as tf

from tfssl.resizing import resize_like


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
