"""What is told of predictions beside the confusion of classes: pure functions on NumPy arrays."""

import numpy as np
from scipy import ndimage

BINS = 15  # of confidence
BOUNDARY = 0.02  # of an image's diagonal: how far from its contour a pixel of a mask is one of the boundary
RESAMPLES = 2000


def boundary_counts(label, prediction, classes, ignore_index):
    """Pixels [classes, 2] in which the boundaries of truth and prediction of each class meet, and in either of them.

    label, prediction: int [H, W]. Boundary IoU is the first over the second (Cheng et al., CVPR 2021,
    arXiv:2103.16562): the boundary of a mask is its own pixels within a distance d of its contour, the image's border
    being one too. d is 2 % of the diagonal, by steps to the eight neighbours as in the authors' code. Ignored pixels
    belong to no mask, so along them truth and prediction end together: with VOC's ignored outlines the number is high.
    """
    known = label != ignore_index
    reach = max(1, round(BOUNDARY * float(np.hypot(*label.shape))))
    counts = np.zeros([classes, 2], np.int64)
    shown = np.union1d(label[known], prediction[known])
    for number in shown:
        edges = [_boundary((values == number) & known, reach) for values in (label, prediction)]
        counts[number] = np.sum(edges[0] & edges[1]), np.sum(edges[0] | edges[1])
    return counts


def _boundary(mask, reach):
    inner = ndimage.minimum_filter(mask, size=2 * reach + 1, mode="constant", cval=False)
    return mask & ~inner


def calibration_counts(correct, confidence):
    """Of pixels by their confidence, [BINS, 3]: how many, their summed confidence, and how many are right.

    correct: bool [N]; confidence: float [N], the probability of the class that was told.
    """
    places = np.clip((confidence * BINS).astype(np.int64), 0, BINS - 1)
    return np.stack([np.bincount(places, weights, BINS) for weights in (None, confidence, correct)], axis=-1)


def calibration_error(counts):
    """Expected calibration error (Guo et al., ICML 2017, arXiv:1706.04599, eq. 3), 0 to 1: the mean over pixels of how
    far confidence and share of right ones are apart in a bin."""
    return float(np.abs(counts[:, 1] - counts[:, 2]).sum() / max(counts[:, 0].sum(), 1))


def bootstrap(count, statistic, resamples=RESAMPLES, seed=0):
    """(low, high): the 95 % interval of statistic(weights), where weights [count] say how often each image counts.

    Efron's percentile interval; images are drawn with replacement, the same ones for equal counts and seeds.
    """
    times = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)
    return tuple(np.percentile([statistic(weights) for weights in times], [2.5, 97.5]))
