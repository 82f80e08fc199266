"""Flaw maps and the losses under their guidance (GCT: Ke et al., ECCV 2020, arXiv:2008.05258)."""

import numpy as np
import tensorflow as tf

from tfssl.losses.pixels import masked_mean, squared_error

FLAT = 1e-5  # a map whose range is below this share of its values has none: what is left is rounding
HARMLESS = 0.1  # the authors' code calls a smoothed flaw map whose maximum is no more than this free of flaws


def flaw_truth(difference, known, repeats=1):
    """The pipeline C: how flawed each pixel of a prediction is, dense enough to be learned (GCT, algorithm 1).

    Blur by a kernel of (H/8, W/8); `repeats` (nu) times dilate by 3 x 3 and blur by (H/4, W/4); normalise to 0..1.
    difference: mu sum_o |T(x) - y|, float [B, H, W], 0..1; known: bool [B, H, W], False where there is no label: no
    flaw is seen there and the truth is 0. Returns float [B, H, W] in 0..1: 0 for a perfect prediction, in each other
    image 1 at the worst pixel (but a map that is the same everywhere stays what it is). As the last line normalises,
    mu has no effect elsewhere.
    """
    flaws = tf.where(known, tf.cast(difference, tf.float32), 0.0)
    flaws = blur(flaws, 8)
    for _ in range(repeats):
        flaws = tf.nn.max_pool2d(flaws[..., None], 3, 1, "SAME")[..., 0]
        flaws = blur(flaws, 4)
    return min_max(flaws, known)


def blur(value, parts):
    """Gaussian blur of maps [B, H, W] by a kernel as high as H / parts and as wide as W / parts.

    The paper gives the kernel's size alone. Here it is made odd, its deviation is 0.3 ((size - 1) / 2 - 1) + 0.8, as
    OpenCV derives it from a size and the authors' code does, and maps are mirrored at their borders.
    """
    size = tf.shape(value)
    rows, columns = _blurring(size[1], size[1] // parts), _blurring(size[2], size[2] // parts)
    return tf.einsum("ij,bjk,lk->bil", rows, value, columns)


def _blurring(side, size):
    """The matrix [side, side] that blurs one side: row i holds what each position gives to position i."""
    radius = size // 2
    deviation = 0.3 * (tf.cast(radius, tf.float32) - 1.0) + 0.8
    to, place = tf.range(side)[:, None], tf.range(side)[None]

    def kernel(position):
        offset = position - to
        weight = tf.exp(-0.5 * tf.square(tf.cast(offset, tf.float32) / deviation))
        return tf.where(tf.abs(offset) <= radius, weight, 0.0)

    before = tf.where(place > 0, kernel(-place), 0.0)  # its mirror images beyond either border
    behind = tf.where(place < side - 1, kernel(2 * (side - 1) - place), 0.0)
    weights = kernel(place) + before + behind
    return weights / tf.reduce_sum(weights, axis=1, keepdims=True)


def min_max(value, inside):
    """Each map [B, H, W] brought to 0..1 by its least and greatest value inside (bool [B, H, W]); outside it is 0.

    A map without range cannot be, and keeps its value, clipped: flawless everywhere is not flawed everywhere.
    """
    value = tf.cast(value, tf.float32)
    low = tf.reduce_min(tf.where(inside, value, np.inf), axis=[1, 2], keepdims=True)
    high = tf.reduce_max(tf.where(inside, value, -np.inf), axis=[1, 2], keepdims=True)
    flat = ~(high - low > FLAT * tf.maximum(tf.abs(low), tf.abs(high)))  # also where nothing is inside
    scaled = (value - tf.where(flat, 0.0, low)) / tf.where(flat, 1.0, high - low)
    return tf.where(inside, tf.clip_by_value(scaled, 0.0, 1.0), 0.0)


def flaw_map(flaws, inside, threshold, smoothed=False):
    """The flaw map that guides, without gradient (GCT eq. 4): normalised to 0..1, and 1 where above `threshold` (xi).

    flaws: the detector's output, float [B, H, W]; inside: bool [B, H, W]. "Normalise" is read as in the last line of
    algorithm 1, image by image. smoothed: before it, as the authors' code does and the paper does not say, negative
    values become 0, the map is blurred by (H/16, W/16), and it is 0 if its maximum is no more than 0.1.
    """
    flaws = tf.stop_gradient(tf.cast(flaws, tf.float32))
    if smoothed:
        flaws = blur(tf.where(inside, tf.maximum(flaws, 0.0), 0.0), 16)
        harmless = tf.reduce_max(flaws, axis=[1, 2], keepdims=True) <= HARMLESS
        flaws = tf.where(harmless, 0.0, flaws)
    normalised = min_max(flaws, inside)
    return tf.maximum(normalised, tf.cast(normalised > threshold, tf.float32))


def guidance(first, second, threshold):
    """Who learns from whom (GCT eq. 5 and 7), from the flaw maps of the two predictions as eq. 4 gives them.

    Returns (m_dc of network 1, m_dc of network 2, m_fc), float [B, H, W]: where the first, where the second has the
    strictly greater flaws and so learns from the other, and where both are flawed beyond the threshold.
    """
    masks = first > second, second > first, (first > threshold) & (second > threshold)
    return tuple(tf.cast(mask, tf.float32) for mask in masks)


def dynamic_consistency(prediction, peer, mask, inside):
    """Dynamic consistency (GCT eq. 5): 1/2 m_dc sum_o (T^k - T^k~)^2, the mean over the pixels inside.

    prediction, peer: [B, H, W, O]; the peer is the pseudo-label and has no gradient; mask: m_dc, float [B, H, W];
    inside: bool [B, H, W]. The paper's sum over pixels is a mean here, as its weights ask for; that over o stays.
    """
    return 0.5 * squared_error(tf.stop_gradient(peer), prediction, mask, inside)


def flaw_correction(flaws, mask, inside):
    """Flaw correction (GCT eq. 6): 1/2 m_fc (F(x, T(x)) - 0)^2, the mean over the pixels inside.

    flaws: the detector's own output with its gradient, float [B, H, W], not the map of eq. 4: that is constant where
    m_fc is 1. mask: m_fc of eq. 7, float [B, H, W]; inside: bool [B, H, W].
    """
    return flaw_error(flaws, 0.0, inside, mask)


def flaw_error(flaws, truth, known, weight=1.0):
    """What the detector learns by (GCT eq. 3): 1/2 (F(x, T(x)) - C)^2, the mean over the pixels that are known.

    flaws: float [B, H, W]; truth: C, the same; known: bool [B, H, W].
    """
    return 0.5 * masked_mean(tf.square(tf.cast(flaws, tf.float32) - truth) * weight, known)
