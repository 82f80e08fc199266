"""Confidence weights of GTA-Seg against NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from tests.test_losses import CLASSES, SHAPE, random, some_probability, some_valid
from tfssl import losses

PIXELS = int(np.prod(SHAPE))


def slow_weights(confidence, kept, tau):
    """Equation 6, pixel by pixel."""
    total = sum(c + tau for c, k in zip(confidence.ravel(), kept.ravel(), strict=True) if k)
    count = sum(kept.ravel())
    weights = [(c + tau) / total * count if k else 0.0 for c, k in zip(confidence.ravel(), kept.ravel(), strict=True)]
    return np.reshape(weights, confidence.shape)


@pytest.mark.parametrize("tau", [0.0, 1.0, 7.0])
def test_weights_are_equation_6(tau):
    probability, valid = np.array(some_probability(), "float64"), some_valid()
    confidence = probability.max(-1)
    gamma = np.percentile(confidence[valid], 20)
    kept = valid & (confidence > gamma)
    label, weight = losses.reweighted_pseudo_labels(tf.constant(probability, tf.float32), valid, 0.2, tau)
    np.testing.assert_array_equal(label, np.where(kept, probability.argmax(-1), 255))
    np.testing.assert_allclose(weight, slow_weights(confidence, kept, tau), rtol=1e-5)
    assert abs(kept.sum() - 0.8 * valid.sum()) <= 1  # 80 %, give or take a pixel
    assert not weight.numpy()[~kept].any()
    np.testing.assert_allclose(weight.numpy()[kept].mean(), 1, rtol=1e-5)
    order = np.argsort(confidence[kept])
    assert (np.diff(weight.numpy()[kept][order]) >= -1e-6).all()  # the surer, the heavier


def test_great_smoothing_makes_all_weights_alike():
    _, weight = losses.reweighted_pseudo_labels(some_probability(), some_valid(), 0.2, 1e6)
    np.testing.assert_allclose(weight.numpy()[weight.numpy() > 0], 1, rtol=1e-4)
    _, equal = losses.reweighted_pseudo_labels(some_probability(), some_valid(), 0.2, None)
    assert set(np.unique(equal)) == {0, 1}
    np.testing.assert_array_equal(equal.numpy() > 0, weight.numpy() > 0)


def test_nothing_dropped_and_everything_dropped():
    probability, valid = some_probability(), some_valid()
    label, _ = losses.reweighted_pseudo_labels(probability, valid, 0.0)
    assert (label.numpy() != 255).sum() >= valid.sum() - 1
    label, _ = losses.reweighted_pseudo_labels(probability, valid, 1.0)
    assert (label.numpy() != 255).sum() == 1  # the surest of all


def test_where_the_network_is_certain_almost_everywhere_the_certain_pixels_are_kept():
    confidence = np.ones(SHAPE, "float32")
    confidence[0, 0] = 0.7
    kept = losses.confident_share(tf.constant(confidence), np.ones(SHAPE, bool), 0.9)
    np.testing.assert_array_equal(kept, confidence == 1)


@pytest.mark.parametrize("share", [0.1, 0.2, 0.77])
def test_pixels_of_one_confidence_are_kept_whatever_it_is(share):
    """A threshold that is off by a rounding would keep none of them."""
    for value in random(7).uniform(0.1, 1, 100).astype("float32"):
        confidence = np.full(SHAPE, value)
        assert losses.confident_share(tf.constant(confidence), np.ones(SHAPE, bool), share).numpy().all()


def test_no_pixel_at_all():
    label, weight = losses.reweighted_pseudo_labels(some_probability(), np.zeros(SHAPE, bool))
    assert (label.numpy() == 255).all() and not weight.numpy().any()
    assert CLASSES > 1 and PIXELS > 10
