"""Losses of a discriminator that tells labels from predictions pixel by pixel (AdvSSL: Hung et al., BMVC 2018)."""

import tensorflow as tf

from tfssl.losses.pixels import masked_mean


def discrimination(real, fake, known):
    """What the discriminator learns by (AdvSSL eq. 1; arXiv:1802.07934): -log D(Y) - log(1 - D(S(X))).

    real, fake: its logits, float [B, H, W], of one-hot labels and of predictions; known: bool [B, H, W]. The paper's
    sum over pixels is the mean over those that have a label.
    """
    return masked_mean(tf.nn.softplus(-tf.cast(real, tf.float32)) + tf.nn.softplus(tf.cast(fake, tf.float32)), known)


def adversarial(fake, inside):
    """What makes predictions look like labels (AdvSSL eq. 4): -log D(S(X)), the mean over the pixels inside.

    fake: the discriminator's logits of predictions, float [B, H, W]; inside: bool [B, H, W].
    """
    return masked_mean(tf.nn.softplus(-tf.cast(fake, tf.float32)), inside)
