"""Contrast of pixels with class-wise memory banks (CTT: Xiao et al., "Semi-supervised semantic segmentation with cross
teacher training", arXiv:2209.01327).

Letters here: P pixels of a batch at the features' resolution, N of them drawn, V keys a class in a bank. The paper
does not say how features are compared: here by their cosine. A mean is taken over pixels, whatever their class.
"""

import tensorflow as tf

NEVER = -1e9  # a logarithm of nothing that has a finite gradient
SMALLEST = 1e-4  # of a squared length: a feature of nearly nothing must not have a gradient without bound


def high_quality(confidence, threshold):
    """M_hc of CTT eq. 7 as bool [P]: where max C(f) > phi. confidence: the student's, [P]."""
    return confidence > threshold


def low_quality(confidence, peer, threshold, directional=True):
    """M_lc of CTT eq. 9 as bool [P]: no high quality, and the peer is surer; equally sure is not surer.

    Without `directional` it is 1 - M_hc, as in table 9. confidence, peer: of the student and of its peer, [P].
    """
    low = ~high_quality(confidence, threshold)
    return low & (confidence < peer) if directional else low


def surest(first, second):
    """Of two views (features [P, D], confidence [P]) the surer at each pixel."""
    return tf.where((first[1] >= second[1])[:, None], first[0], second[0]), tf.maximum(first[1], second[1])


def draw_pixels(scores, mask, count):
    """At most `count` of the pixels where mask (bool [P]) holds, evenly, none twice: (index int [N], present bool [N]).

    scores: uniform random numbers [P] in [0, 1). The paper takes all of them. A fixed number bounds the step's cost and
    keeps shapes static; where no more than `count` hold, it is all of them here too.
    """
    best, index = tf.math.top_k(tf.where(mask, scores, -1.0), min(count, mask.shape[0]))
    return index, best >= 0


def high_contrast(features, classes, present, keys, held, temperature):
    """CTT eq. 6: the mean of -log(e^(f k+ / tau) / (e^(f k+ / tau) + sum over k- of e^(f k- / tau))).

    Over all keys k+ of the pixel's class, each against all keys k- of all other classes, then over the pixels.
    features: [N, D]; classes: int [N]; present: bool [N], the pixels that count; keys: [C, V, D]; held: bool [C, V],
    the places of the bank that are filled. A pixel whose class has no key does not count. Keys have no gradient.
    """
    _, classes, similarity, others = _compare(features, classes, present, keys, held, temperature)
    own = tf.gather(similarity, classes, axis=1, batch_dims=1)
    positive = tf.cast(tf.gather(held, classes), tf.float32)
    each = tf.reduce_sum(tf.nn.softplus(others[:, None] - own) * positive, axis=-1)
    count = tf.reduce_sum(positive, axis=-1)
    return _mean(tf.math.divide_no_nan(each, count), present & (count > 0))


def low_contrast(features, classes, present, better, keys, held, temperature):
    """CTT eq. 8: as eq. 6, with one positive key: `better` [N, D], what a surer peer makes of the same pixel.

    keys: [C, V', D], the keys of the banks of both pairs side by side. Neither they nor `better` have a gradient.
    """
    unit, _, _, others = _compare(features, classes, present, keys, held, temperature)
    own = tf.reduce_sum(unit * _unit(tf.stop_gradient(better)), axis=-1) / temperature
    return _mean(tf.nn.softplus(others - own), present)


def best_keys(features, label, probability, quota, score=None):
    """The features that go into the bank (CTT, "Feature Selection Criteria"): of each class the best of each image.

    features: [B, h, w, D]; label: int [B, h, w]; probability: the teacher's, [B, h, w, C], and where it is wrong a
    pixel is no candidate; quota: at most so many of a class and an image; score: [B, h, w], at least 0, the greatest
    are taken, by default the teacher's confidence. Returns (keys [C, B * n, D], present bool [C, B * n]).
    """
    batch, height, width, classes = probability.shape
    right = tf.argmax(probability, axis=-1, output_type=label.dtype) == label
    score = tf.reduce_max(probability, axis=-1) if score is None else score
    member = tf.one_hot(tf.reshape(tf.where(right, label, -1), [batch, -1]), classes, axis=1)
    scores = tf.where(member > 0, tf.reshape(score, [batch, 1, -1]), -1.0)
    best, index = tf.math.top_k(scores, min(quota, height * width))
    keys = tf.gather(tf.reshape(features, [batch, height * width, -1]), index, batch_dims=1)
    keys = tf.reshape(tf.transpose(keys, [1, 0, 2, 3]), [classes, -1, features.shape[-1]])
    return keys, tf.reshape(tf.transpose(best, [1, 0, 2]), [classes, -1]) >= 0


def _compare(features, classes, present, keys, held, temperature):
    """(unit features [N, D], safe classes [N], cosine / tau [N, C, V], log of the sum over negatives [N])."""
    unit, classes = _unit(features), tf.where(present, classes, 0)
    count, room, channels = keys.shape
    flat = tf.reshape(_unit(tf.stop_gradient(keys)), [count * room, channels])
    similarity = tf.reshape(tf.matmul(unit, flat, transpose_b=True) / temperature, [-1, count, room])
    by_class = tf.reduce_logsumexp(similarity + tf.where(held, 0.0, NEVER), axis=-1)
    others = tf.where(tf.one_hot(classes, count) > 0, NEVER, by_class)
    return unit, classes, similarity, tf.reduce_logsumexp(others, axis=-1)


def _unit(values):
    values = tf.cast(values, tf.float32)
    return values * tf.math.rsqrt(tf.maximum(tf.reduce_sum(tf.square(values), axis=-1, keepdims=True), SMALLEST))


def _mean(values, present):
    counts = tf.cast(present, tf.float32)
    return tf.math.divide_no_nan(tf.reduce_sum(values * counts), tf.reduce_sum(counts))
