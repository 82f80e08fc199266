"""Pseudo-labels weighted by confidence (GTA-Seg: Jin et al., NeurIPS 2022, "Semi-supervised semantic segmentation via
gentle teaching assistant")."""

import tensorflow as tf

from tfssl.losses.pixels import masked_percentile, pseudo_label


def confident_share(confidence, valid, dropped):
    """The pixels kept when the share `dropped` of the least confident is abandoned: 1(c > gamma) of eq. 2, bool.

    confidence: float [B, H, W]; valid: bool [B, H, W]; gamma is the percentile over the valid pixels of the batch on
    this replica. Where gamma is the greatest confidence of all (a network that is certain almost everywhere) the
    strict inequality would keep nothing; pixels of that confidence are then kept, which the paper does not say.
    """
    gamma = masked_percentile(confidence, valid, dropped)
    most = tf.reduce_max(tf.where(valid, confidence, 0.0))
    return valid & ((confidence > gamma) | ((gamma >= most) & (confidence >= gamma)))


def confidence_weights(confidence, kept, smoothing=1.0):
    """w of eq. 6: (c + tau) over its sum over the kept pixels, times their number; 0 elsewhere, mean 1 over the kept.

    confidence: float [B, H, W], max_k p_k; kept: bool [B, H, W]; smoothing: tau, of Laplace smoothing; the greater,
    the more alike all weights are. Sums run over the batch on this replica.
    """
    inside = tf.cast(kept, tf.float32)
    raised = (confidence + smoothing) * inside
    return tf.math.divide_no_nan(raised, tf.reduce_sum(raised)) * tf.reduce_sum(inside)


def reweighted_pseudo_labels(probability, valid, dropped=0.2, smoothing=1.0, ignore_index=255):
    """Hard pseudo-labels of the confident pixels, the others ignored (eq. 2), and their weights (eq. 6).

    probability: softmax output [B, H, W, C]; valid: bool [B, H, W]; dropped: share of pixels abandoned; smoothing:
    tau, or None for equal weights. Returns (int32 [B, H, W], float [B, H, W]).
    """
    confidence = tf.reduce_max(probability, axis=-1)
    kept = confident_share(confidence, valid, dropped)
    weight = tf.cast(kept, tf.float32) if smoothing is None else confidence_weights(confidence, kept, smoothing)
    return pseudo_label(probability, kept, ignore_index), weight
