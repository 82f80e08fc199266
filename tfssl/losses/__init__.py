"""The losses and pseudo-labels of every method, as pure functions of tensors.

Letters: B images, H x W pixels, h x w feature pixels, C classes, D feature channels. Every mean over pixels counts
only pixels that count: a loss over no pixel at all is 0, not NaN. Everything is computed in float32.
"""

from tfssl.losses.adversarial import (
    adversarial,
    discrimination,
)
from tfssl.losses.contrast import (
    adaptive_weight,
    binary_contrast,
    choose,
    class_centers,
    entropy_parts,
    info_nce,
    labeled_negatives,
    rank_below,
    sure_label,
    unlabeled_negatives,
    with_fresh,
)
from tfssl.losses.cross_teacher import (
    best_keys,
    draw_pixels,
    high_contrast,
    high_quality,
    low_contrast,
    low_quality,
    surest,
)
from tfssl.losses.flaws import (
    blur,
    dynamic_consistency,
    flaw_correction,
    flaw_error,
    flaw_map,
    flaw_truth,
    guidance,
    min_max,
)
from tfssl.losses.pixels import (
    confident,
    cross_entropy,
    entropy,
    hard_cross_entropy,
    image_means,
    labeled_share,
    masked_mean,
    masked_percentile,
    masked_pool,
    pseudo_label,
    squared_error,
    total_variation,
)
from tfssl.losses.prototypes import (
    class_confidence,
    prototype_means,
    rectify,
)
from tfssl.losses.reweighting import (
    confidence_weights,
    confident_share,
    reweighted_pseudo_labels,
)

__all__ = [
    "adaptive_weight",
    "adversarial",
    "best_keys",
    "binary_contrast",
    "blur",
    "choose",
    "class_centers",
    "class_confidence",
    "confidence_weights",
    "confident",
    "confident_share",
    "cross_entropy",
    "discrimination",
    "draw_pixels",
    "dynamic_consistency",
    "entropy",
    "entropy_parts",
    "flaw_correction",
    "flaw_error",
    "flaw_map",
    "flaw_truth",
    "guidance",
    "hard_cross_entropy",
    "high_contrast",
    "high_quality",
    "image_means",
    "labeled_share",
    "info_nce",
    "labeled_negatives",
    "low_contrast",
    "low_quality",
    "masked_mean",
    "masked_percentile",
    "masked_pool",
    "min_max",
    "prototype_means",
    "pseudo_label",
    "rank_below",
    "rectify",
    "reweighted_pseudo_labels",
    "squared_error",
    "sure_label",
    "surest",
    "total_variation",
    "unlabeled_negatives",
    "with_fresh",
]
