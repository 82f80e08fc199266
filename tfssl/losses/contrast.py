"""Reliable and unreliable pixels, and the contrast of pixels by class (U2PL: Wang et al., CVPR 2022).

P is the number of feature pixels of a batch, M that of anchors and N that of negatives of a class.
"""

import tensorflow as tf

from tfssl.losses.pixels import masked_percentile


def entropy_parts(uncertainty, valid, share):
    """The pixels of a batch by their entropy (U2PL eq. 6): {name: bool [B, H, W]}.

    uncertainty: entropies [B, H, W]; valid: bool [B, H, W]; share: alpha_t, of the valid pixels. "unreliable" are those
    above gamma_t, the percentile 100 (1 - alpha_t) over valid pixels, "reliable" all others: of a share of 0, all.
    (Eq. 6 leaves out those at gamma_t itself, the text below eq. 10 does not.) "lowest": the share of lowest entropy,
    table 4's "Reliable". "all": the valid.
    """
    above, below = (masked_percentile(uncertainty, valid, part) for part in (1.0 - share, share))  # gamma_t first
    unreliable = uncertainty > above
    return {"reliable": valid & ~unreliable, "unreliable": valid & unreliable,
            "lowest": valid & (uncertainty < below), "all": valid}  # fmt: skip


def adaptive_weight(reliable, valid):
    """The weight of the unsupervised loss without its factor eta (U2PL eq. 8): 1 / the share of reliable pixels.

    reliable, valid: bool [B, H, W]. The paper divides by all pixels, here by those inside the images; 0 if none is.
    """
    counts = (tf.reduce_sum(tf.cast(part, tf.float32)) for part in (valid, reliable))
    return tf.math.divide_no_nan(*counts)


def sure_label(label, probability, threshold, ignore_index=255):
    """The class as whose anchor a pixel may serve (U2PL eq. 9, eq. 10): its label where p(label) > delta_p.

    label: labels or pseudo-labels, int [B, H, W]; probability: the teacher's, [B, H, W, C]; threshold: delta_p.
    Returns int32 [B, H, W], the ignore index elsewhere.
    """
    known = label != ignore_index
    chosen = tf.gather(probability, tf.where(known, label, 0), batch_dims=3)
    return tf.where(known & (chosen > threshold), label, ignore_index)


def rank_below(probability, rank):
    """Whether O(c) < rank (U2PL eq. 14, eq. 15): bool [..., C]. O(c) is how many classes are more probable than c.

    probability: [..., C]. Equally probable classes share the better rank. By the one value that separates the ranks,
    so that classes are never compared in pairs.
    """
    if rank >= probability.shape[-1]:
        return tf.ones_like(probability, tf.bool)
    return probability >= tf.math.top_k(probability, rank).values[..., -1:]


def labeled_negatives(label, probability, low, ignore_index=255):
    """n^l of U2PL eq. 14: bool [..., C], where a labeled pixel is a negative of class c.

    It has another label, and c is among the `low` most probable classes; with `low` None, whatever c's rank.
    label: int [...]; probability: the teacher's, [..., C]. An ignored pixel is nobody's negative.
    """
    other = label[..., None] != tf.range(probability.shape[-1], dtype=label.dtype)
    other &= (label != ignore_index)[..., None]
    return other if low is None else other & rank_below(probability, low)


def unlabeled_negatives(candidate, probability, low, high):
    """n^u of U2PL eq. 15: bool [..., C], where an unlabeled pixel is a negative of class c.

    candidate: bool [...], the unreliable ones. Class c is one of rank low <= O(c) < high: probably not the pixel's,
    and not among the most unlikely either. With `low` None every class but the most probable is.
    """
    if low is None:
        return candidate[..., None] & ~rank_below(probability, 1)
    return candidate[..., None] & ~rank_below(probability, low) & rank_below(probability, high)


def choose(features, mask, scores, count):
    """Of each class `count` pixels at random, without repetition: (features [C, count, D], found bool [C, count]).

    features: [P, D]; mask: bool [P, C], the candidates of each class; scores: uniform random numbers [P] in [0, 1), the
    same for all classes. A class with fewer candidates has them first; what follows is not found. Shapes are static.
    """
    highest = tf.math.top_k(tf.where(tf.transpose(mask), scores, -1.0), min(count, mask.shape[0]))
    return tf.gather(features, highest.indices), highest.values >= 0


def class_centers(features, label, classes):
    """z_c^+ of U2PL eq. 12, the mean feature of each class: [C, D]; zeros for a class without pixels.

    features: [P, D]; label: int [P], of any other value than a class where a pixel has no part.
    """
    place = tf.where((label >= 0) & (label < classes), label, classes)
    features = tf.cast(features, tf.float32)
    total = tf.math.unsorted_segment_sum(features, place, classes + 1)[:classes]
    count = tf.math.unsorted_segment_sum(tf.ones_like(features[:, :1]), place, classes + 1)[:classes]
    return tf.math.divide_no_nan(total, count)


def with_fresh(remembered, filled, fresh, found, draws):
    """Negatives drawn from queues into which this step's keys were pushed: ([C, N, D], whether there are any [C]).

    remembered: [C, N, D], drawn from the queues as they were; filled: [C], how many keys these hold; fresh: [C, K, D],
    this step's keys, first those that are there (found: bool [C, K]); draws: uniform random numbers [2, N].
    """
    old, new = tf.cast(filled, tf.float32)[:, None], tf.reduce_sum(tf.cast(found, tf.float32), axis=1, keepdims=True)
    place = tf.minimum(tf.cast(draws[1] * new, tf.int32), tf.cast(tf.maximum(new - 1, 0), tf.int32))
    is_new = draws[0] * (old + new) < new
    drawn = tf.where(is_new[..., None], tf.gather(fresh, place, batch_dims=1), remembered)
    return drawn, (old + new)[:, 0] > 0


def info_nce(anchors, counts, positives, negatives, temperature=0.5, classes="all"):
    """The contrastive loss L_c of U2PL eq. 4, cosine similarities over a temperature (van den Oord et al., 2018).

    anchors: [C, M, D], the only ones with a gradient; counts: bool [C, M], which anchors there are (in a class that has
    negatives); positives: [C, D]; negatives: [C, N, D], shared by the anchors of a class. Of each class the mean over
    its anchors, then over all C classes (as eq. 4), or, with classes "present", over those that have anchors.
    """
    near, far = _similarities(anchors, positives, negatives, temperature)
    together = tf.concat([near[..., None], far], axis=-1)
    return _class_mean(tf.reduce_logsumexp(together, axis=-1) - near, counts, classes)


def binary_contrast(anchors, counts, positives, negatives, temperature=0.5, classes="all"):
    """The alternative L_b of U2PL eq. A1: of each anchor, the mean over its negatives taken one by one.

    Arguments as of info_nce. -log(e^near / (e^near + e^far)) is softplus(far - near).
    """
    near, far = _similarities(anchors, positives, negatives, temperature)
    return _class_mean(tf.reduce_mean(tf.math.softplus(far - near[..., None]), axis=-1), counts, classes)


def _similarities(anchors, positives, negatives, temperature):
    """Cosines over the temperature, of anchors with their positive [C, M] and with the negatives [C, M, N]."""
    anchors, positives, negatives = map(_direction, (anchors, positives, negatives))
    positives, negatives = tf.stop_gradient(positives), tf.stop_gradient(negatives)
    near = tf.einsum("cmd,cd->cm", anchors, positives)
    return near / temperature, tf.matmul(anchors, negatives, transpose_b=True) / temperature


def _direction(features):
    """Features at length 1; one of no length has no direction, similarity 0 and no gradient, which would be endless."""
    features = tf.cast(features, tf.float32)
    squared = tf.reduce_sum(tf.square(features), axis=-1, keepdims=True)
    some = squared > 1e-8
    return tf.where(some, features * tf.math.rsqrt(tf.where(some, squared, 1.0)), 0.0)


def _class_mean(loss, counts, classes):
    """Mean over the anchors of each class, then over classes. loss: [C, M]; counts: bool [C, M]."""
    counts = tf.cast(counts, tf.float32)
    per_class = tf.math.divide_no_nan(tf.reduce_sum(loss * counts, axis=1), tf.reduce_sum(counts, axis=1))
    present = tf.reduce_sum(tf.reduce_max(counts, axis=1))
    divisor = present if classes == "present" else tf.cast(loss.shape[0], tf.float32)
    return tf.math.divide_no_nan(tf.reduce_sum(per_class), divisor)
