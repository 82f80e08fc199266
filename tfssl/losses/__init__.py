"""The losses and pseudo-labels of every method, as pure functions of tensors.

Letters: B images, H x W pixels, h x w feature pixels, C classes, D feature channels. Every mean over pixels counts
only pixels that count: a loss over no pixel at all is 0, not NaN. Everything is computed in float32.
"""

from tfssl.losses.pixels import (
    confident,
    cross_entropy,
    entropy,
    image_means,
    masked_mean,
    masked_percentile,
    masked_pool,
    pseudo_label,
    squared_error,
    total_variation,
)
from tfssl.losses.prototypes import class_confidence, prototype_means, rectify

__all__ = [
    "class_confidence",
    "confident",
    "cross_entropy",
    "entropy",
    "image_means",
    "masked_mean",
    "masked_percentile",
    "masked_pool",
    "prototype_means",
    "pseudo_label",
    "rectify",
    "squared_error",
    "total_variation",
]
