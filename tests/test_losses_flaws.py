"""Flaw maps and their losses against slow NumPy versions, written from the paper one pixel at a time."""

import math

import numpy as np
import pytest
import tensorflow as tf

from tests.test_losses import both, pixels, slow_mean
from tfssl import losses, schedules
from tfssl.losses import flaws

SHAPE = (2, 18, 26)  # kernels: 2 -> 3 and 3 of an eighth, 4 -> 5 and 6 -> 7 of a quarter, 1 and 1 of a sixteenth


def random(seed=0):
    return np.random.default_rng(seed)


def some_map(seed=0, shape=SHAPE):
    return random(seed).uniform(0, 1, shape).astype("float32") ** 3


def some_inside(seed=4):
    return random(seed).uniform(size=SHAPE) < 0.7


def mirrored(place, side):
    while not 0 <= place < side:
        place = -place if place < 0 else 2 * (side - 1) - place
    return place


def slow_kernel(size):
    """A size made odd and its Gaussian, the deviation as OpenCV has it."""
    size += 1 - size % 2
    deviation = 0.3 * ((size - 1) / 2 - 1) + 0.8
    offsets = range(-(size // 2), size // 2 + 1)
    weights = [math.exp(-(offset**2) / (2 * deviation**2)) for offset in offsets]
    return [(offset, weight / sum(weights)) for offset, weight in zip(offsets, weights, strict=True)]


def slow_blur(value, parts):
    result = np.zeros(value.shape)
    _, height, width = value.shape
    for image, row, column in pixels(value.shape):
        for down, weight_down in slow_kernel(height // parts):
            for right, weight_right in slow_kernel(width // parts):
                place = image, mirrored(row + down, height), mirrored(column + right, width)
                result[image, row, column] += weight_down * weight_right * value[place]
    return result


def slow_dilate(value):
    result = np.zeros(value.shape)
    for image, row, column in pixels(value.shape):
        result[image, row, column] = value[image, max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2].max()
    return result


def slow_min_max(value, inside):
    result = np.zeros(value.shape)
    for image in range(len(value)):
        low, high = value[image][inside[image]].min(), value[image][inside[image]].max()
        result[image] = np.where(inside[image], (value[image] - low) / (high - low), 0)
    return result


def slow_truth(difference, known, repeats):
    value = slow_blur(np.where(known, difference, 0), 8)
    for _ in range(repeats):
        value = slow_blur(slow_dilate(value), 4)
    return slow_min_max(value, known)


@pytest.mark.parametrize("repeats", [0, 1, 3])
def test_flaw_truth(repeats):
    difference, known = some_map(), some_inside()
    found = both(lambda d, k: losses.flaw_truth(d, k, repeats), difference, known)
    np.testing.assert_allclose(found, slow_truth(difference, known, repeats), atol=1e-5)
    assert found.min() == 0 and (found.max(axis=(1, 2)) == 1).all()


@pytest.mark.parametrize("shape", [(1, 9, 40), (2, 33, 1), (1, 2, 3), (1, 64, 16)])
@pytest.mark.parametrize("parts", [2, 4, 8])
def test_blur_of_any_size(shape, parts):
    value = some_map(shape=shape)
    np.testing.assert_allclose(both(lambda v: flaws.blur(v, parts), value), slow_blur(value, parts), atol=1e-5)
    graph = tf.function(lambda v: flaws.blur(v, parts), input_signature=[tf.TensorSpec([None] * 3)])
    np.testing.assert_allclose(graph(value), slow_blur(value, parts), atol=1e-5)


def test_extreme_truths():
    """Perfect is 0, all wrong is 1; the scale of the difference has no effect; what is unknown is 0."""
    known, difference = some_inside(), some_map()
    np.testing.assert_array_equal(losses.flaw_truth(np.zeros(SHAPE, "float32"), known), np.zeros(SHAPE))
    np.testing.assert_allclose(losses.flaw_truth(np.ones(SHAPE, "float32"), np.ones(SHAPE, bool)), 1, atol=1e-5)
    truth = losses.flaw_truth(difference, known).numpy()
    np.testing.assert_allclose(losses.flaw_truth(0.5 * difference, known), truth, atol=1e-5)
    garbage = np.where(known, difference, np.nan)
    np.testing.assert_array_equal(losses.flaw_truth(garbage, known), truth)
    np.testing.assert_array_equal(losses.flaw_truth(difference, np.zeros(SHAPE, bool)), np.zeros(SHAPE))
    assert not truth[~known].any()


def slow_map(value, inside, threshold, smoothed):
    if smoothed:
        value = slow_blur(np.where(inside, np.maximum(value, 0), 0), 16)
        value[value.max(axis=(1, 2)) <= 0.1] = 0
    result = np.zeros(value.shape)
    for image in range(len(value)):
        if np.ptp(value[image]):
            result[image] = slow_min_max(value[image : image + 1], inside[image : image + 1])[0]
    return np.where(result > threshold, 1, result)


@pytest.mark.parametrize("smoothed", [False, True])
@pytest.mark.parametrize("threshold", [0.0, 0.6, 1.0])
def test_flaw_map(threshold, smoothed):
    value, inside = 3 * some_map(5, (2, 34, 50)) - 0.5, random(6).uniform(size=(2, 34, 50)) < 0.8
    value[1] *= 0.01  # no flaws worth the name for the authors' code
    found = both(lambda v, i: losses.flaw_map(v, i, threshold, smoothed), value, inside)
    np.testing.assert_allclose(found, slow_map(value, inside, threshold, smoothed), atol=1e-5)
    assert found.min() >= 0 and found.max() == 1 and found[1].any() == (not smoothed)
    if threshold == 1:
        assert not (found > threshold).any()


def test_maps_without_range_are_kept():
    inside = np.ones((5, 4, 4), bool)
    inside[4] = False
    value = np.broadcast_to(np.float32([0, 0.3, 1.7, -2, 0.5])[:, None, None], (5, 4, 4))
    found = both(flaws.min_max, value, inside)
    np.testing.assert_allclose(found, np.broadcast_to(np.float32([0, 0.3, 1, 0, 0])[:, None, None], (5, 4, 4)))


@pytest.mark.parametrize("threshold", [0.0, 0.4, 1.0])
def test_guidance(threshold):
    """Each network learns only from the other, nowhere both, and nowhere a pixel that both have wrong."""
    inside = np.ones(SHAPE, bool)
    first, second = (losses.flaw_map(np.round(5 * some_map(seed)), inside, threshold).numpy() for seed in (1, 2))
    one, other, flawed = both(lambda a, b: losses.guidance(a, b, threshold), first, second)
    for pixel in pixels(SHAPE):
        assert one[pixel] == (first[pixel] > second[pixel]) and other[pixel] == (second[pixel] > first[pixel])
        assert flawed[pixel] == (first[pixel] > threshold and second[pixel] > threshold)
    assert not (one * other).any() and not (one * flawed).any() and not (other * flawed).any()
    assert one.any() and other.any() and not (one + other)[first == second].any()
    if threshold == 0:
        assert not (one + other)[(first > 0) & (second > 0)].any() and flawed.any()
    if threshold == 1:
        assert not flawed.any()


def slow_consistency(prediction, peer, mask, inside):
    def distance(pixel):
        return 0.5 * mask[pixel] * sum((prediction[pixel][o] - peer[pixel][o]) ** 2 for o in range(4))

    return slow_mean(distance, inside)


def test_dynamic_consistency():
    prediction, peer = (random(seed).dirichlet(np.ones(4), SHAPE).astype("float32") for seed in (1, 2))
    mask, inside = (some_map(3) > 0.2).astype("float32"), some_inside()
    found = both(losses.dynamic_consistency, prediction, peer, mask, inside)
    assert found == pytest.approx(slow_consistency(prediction, peer, mask, inside), rel=1e-5)


def test_flaw_correction_and_error():
    value, truth, mask, inside = some_map(1) - 0.2, some_map(2), np.float32(some_map(3) > 0.2), some_inside()
    correction = both(losses.flaw_correction, value, mask, inside)
    assert correction == pytest.approx(slow_mean(lambda p: 0.5 * mask[p] * value[p] ** 2, inside), rel=1e-5)
    error = both(losses.flaw_error, value, truth, inside)
    assert error == pytest.approx(slow_mean(lambda p: 0.5 * (value[p] - truth[p]) ** 2, inside), rel=1e-5)


def test_gradients():
    """None for the peer, none where the mask is 0, and all of them finite where nothing counts."""
    prediction, peer = (tf.constant(random(seed).dirichlet(np.ones(4), SHAPE), tf.float32) for seed in (1, 2))
    mask, value = tf.cast(some_map(3) > 0.2, tf.float32), tf.constant(some_map(1))
    for inside in (some_inside(), np.zeros(SHAPE, bool)):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch([prediction, peer, value])
            consistency = losses.dynamic_consistency(prediction, peer, mask, inside)
            correction = losses.flaw_correction(value, mask, inside)
            guide = losses.flaw_map(value, inside, 0.6)
        assert tape.gradient(consistency, peer) is None and tape.gradient(guide, value) is None
        for loss, source in ((consistency, prediction), (correction, value)):
            gradient = tape.gradient(loss, source).numpy()
            counts = (mask.numpy() > 0) & inside
            np.testing.assert_array_equal(np.abs(gradient).reshape(*SHAPE, -1).sum(-1) > 0, counts)
        assert inside.any() or float(consistency) == float(correction) == 0


@pytest.mark.parametrize(
    ("ramp", "start"),
    [(schedules.linear_ramp, 0.0), (schedules.cosine_ramp, 0.0), (schedules.sigmoid_ramp, math.exp(-5))],
)
def test_ramps(ramp, start):
    values = [float(ramp(step, 8)) for step in range(12)]
    assert values[0] == pytest.approx(start, abs=1e-6) and values[8:] == pytest.approx([1] * 4)
    assert all(a < b for a, b in zip(values[:8], values[1:9], strict=True))
    assert float(ramp(0, 0)) == 1
    middle = {schedules.linear_ramp: 0.5, schedules.cosine_ramp: 0.5, schedules.sigmoid_ramp: math.exp(-5 / 4)}[ramp]
    assert values[4] == pytest.approx(middle)
