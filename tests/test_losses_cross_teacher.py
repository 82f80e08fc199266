"""The contrasts of Cross Teacher Training against slow NumPy versions, one pixel and one key at a time."""

import math

import numpy as np
import pytest
import tensorflow as tf

from tests.test_losses import both
from tfssl import losses
from tfssl.resizing import pick_like

PIXELS, CLASSES, ROOM, CHANNELS, TAU = 9, 3, 4, 5, 0.3


def data(seed=0):
    """(features, classes, present, better, keys, held): some pixels void, places empty, and class 2 without a key."""
    random = np.random.default_rng(seed)
    features, better = random.normal(size=(2, PIXELS, CHANNELS)).astype("float32")
    classes = random.integers(0, CLASSES, PIXELS).astype("int32")
    present = random.uniform(size=PIXELS) < 0.7
    classes = np.where(present, classes, 255).astype("int32")
    keys = random.normal(size=(CLASSES, ROOM, CHANNELS)).astype("float32")
    held = np.arange(ROOM) < np.array([4, 2, 0])[:, None]
    return features, classes, present, better, keys, held


def similar(a, b):
    a, b = np.float64(a), np.float64(b)
    return math.exp(a @ b / math.sqrt((a @ a) * (b @ b)) / TAU)


def negatives(feature, label, keys, held):
    others = (key for k in range(len(keys)) if k != label for key in keys[k][held[k]])
    return sum(similar(feature, key) for key in others)


def slow_high(features, classes, present, keys, held):
    """Equation 6."""
    found = []
    for feature, label, counts in zip(features, classes, present, strict=True):
        if counts and held[label].any():
            positives = [similar(feature, key) for key in keys[label][held[label]]]
            rest = negatives(feature, label, keys, held)
            found.append(np.mean([-math.log(each / (each + rest)) for each in positives]))
    return np.mean(found) if found else 0.0


def slow_low(features, classes, present, better, keys, held):
    """Equation 8."""
    found = []
    for feature, label, counts, other in zip(features, classes, present, better, strict=True):
        if counts:
            positive = similar(feature, other)
            found.append(-math.log(positive / (positive + negatives(feature, label, keys, held))))
    return np.mean(found) if found else 0.0


def high(features, classes, present, better, keys, held):
    return losses.high_contrast(features, classes, present, keys, held, TAU)


def low(*arguments):
    return losses.low_contrast(*arguments, TAU)


@pytest.mark.parametrize("seed", [0, 1])
def test_contrasts(seed):
    features, classes, present, better, keys, held = data(seed)
    assert {0, 1, 2, 255} <= set(classes)
    wanted = slow_high(features, classes, present, keys, held)
    assert both(high, *data(seed)) == pytest.approx(wanted, rel=1e-5) and wanted > 0.1
    wanted = slow_low(features, classes, present, better, keys, held)
    assert both(low, *data(seed)) == pytest.approx(wanted, rel=1e-5) and wanted > 0.1


def test_equal_similarities_and_perfect_separation():
    """log(1 + n) when all are alike; nearly 0 when a feature is its key and far from all others."""
    one = np.ones([1, CHANNELS], "float32")
    keys, held = np.ones([CLASSES, ROOM, CHANNELS], "float32"), np.ones([CLASSES, ROOM], bool)
    classes, present = np.array([1], "int32"), np.array([True])
    wanted = math.log(1 + (CLASSES - 1) * ROOM)
    assert both(high, one, classes, present, one, keys, held) == pytest.approx(wanted, rel=1e-5)
    assert both(low, one, classes, present, one, keys, held) == pytest.approx(wanted, rel=1e-5)
    apart = -keys
    apart[1] = 1
    wanted = math.log(1 + (CLASSES - 1) * ROOM * math.exp(-2 / TAU))
    assert both(high, one, classes, present, one, apart, held) == pytest.approx(wanted, rel=1e-3)


def test_lengths_do_not_matter():
    features, classes, present, better, keys, held = data()
    scaled = 3 * features, classes, present, 0.5 * better, 7 * keys, held
    for contrast in (high, low):
        assert float(contrast(*map(tf.constant, scaled))) == pytest.approx(float(contrast(*map(tf.constant, data()))))


@pytest.mark.parametrize("contrast", [high, low])
@pytest.mark.parametrize("empty", ["no pixel", "no key", "no feature", "one class"])
def test_where_nothing_counts_all_is_finite(contrast, empty):
    features, classes, present, better, keys, held = map(tf.constant, data())
    present = present & (empty != "no pixel")
    held = held & (empty != "no key")
    classes = tf.where(empty == "one class", tf.where(present, 0, 255), classes)
    held = tf.where(empty == "one class", held & (tf.range(CLASSES) == 0)[:, None], held)
    features = features * (0.0 if empty == "no feature" else 1.0)
    with tf.GradientTape() as tape:
        tape.watch(features)
        loss = contrast(features, classes, present, better, keys, held)
    gradient = tape.gradient(loss, features).numpy()
    assert np.isfinite(gradient).all() and np.isfinite(loss)
    if empty != "no feature":  # without a negative nothing is to be told apart
        assert loss == 0 and not gradient.any()
    else:
        assert np.abs(gradient).max() < 1000


@pytest.mark.parametrize("contrast", [high, low])
def test_only_the_features_of_pixels_that_count_have_a_gradient(contrast):
    features, classes, present, better, keys, held = map(tf.constant, data())
    with tf.GradientTape() as tape:
        tape.watch([features, better, keys])
        loss = contrast(features, classes, present, better, keys, held)
    mine, *others = tape.gradient(loss, [features, better, keys])
    assert others == [None, None]
    counts = present.numpy() & ((classes.numpy() != 2) | (contrast is low))
    np.testing.assert_array_equal(np.abs(mine).max(-1) > 0, counts)


def test_half_precision_is_computed_in_single():
    exact = data()
    features, classes, present, better, keys, held = map(tf.constant, exact)
    coarse = tf.cast(features, tf.bfloat16), classes, present, tf.cast(better, tf.bfloat16), keys, held
    for contrast in (high, low):
        assert contrast(*coarse).dtype == tf.float32
        assert float(contrast(*coarse)) == pytest.approx(float(contrast(*map(tf.constant, exact))), rel=0.02)


def test_masks():
    """Equations 7 and 9: strictly above phi, strictly below the peer; never both; not both students' at once."""
    sure = np.array([0.9, 0.75, 0.5, 0.5, 0.2, 0.9, 0.3], "float32")
    peer = np.array([0.95, 0.8, 0.5, 0.6, 0.1, 0.3, 0.9], "float32")
    np.testing.assert_array_equal(losses.high_quality(sure, 0.75), [1, 0, 0, 0, 0, 1, 0])
    np.testing.assert_array_equal(losses.low_quality(tf.constant(sure), peer, 0.75), [0, 1, 0, 1, 0, 0, 1])
    theirs = losses.low_quality(tf.constant(peer), sure, 0.75)
    np.testing.assert_array_equal(theirs, [0, 0, 0, 0, 1, 1, 0])
    undirected = losses.low_quality(tf.constant(sure), peer, 0.75, directional=False)
    np.testing.assert_array_equal(undirected, ~np.array(losses.high_quality(sure, 0.75)))
    everything, nothing = (losses.high_quality(tf.constant(sure), phi).numpy() for phi in (0.0, 1.0))
    assert everything.all() and not nothing.any()
    assert not np.array(losses.low_quality(tf.constant(sure), peer, 0.0, directional=False)).any()


def test_the_surest_of_several():
    views = [(tf.fill([3, 2], float(n)), tf.constant(sure)) for n, sure in
             enumerate([[0.1, 0.9, 0.3], [0.2, 0.5, 0.3]])]  # fmt: skip
    features, sure = losses.surest(*views)
    np.testing.assert_array_equal(features, [[1, 1], [0, 0], [0, 0]])
    np.testing.assert_array_equal(sure, views[0][1].numpy().clip(views[1][1]))


def test_pixels_are_drawn_evenly_and_once():
    mask = np.arange(40) % 4 == 0

    def draw(mask, seed, count):
        return losses.draw_pixels(tf.random.stateless_uniform([40], [3, seed]), tf.constant(mask), count)

    index, present = (part.numpy() for part in draw(mask, 0, 99))
    assert sorted(index) == list(range(40)) and sorted(index[present]) == list(range(0, 40, 4))  # all that hold
    times = np.zeros(40)
    for seed in range(300):
        index, present = (np.array(part) for part in draw(mask, seed, 5))
        assert present.all() and len(set(index)) == 5
        times[index] += 1
    assert not times[~mask].any() and 100 < times[mask].min() <= times[mask].max() < 200
    _, present = draw(np.zeros(40, bool), 0, 5)
    assert present.shape == 5 and not np.array(present).any()


@pytest.mark.parametrize("chosen", ["confident", "random"])
@pytest.mark.parametrize("quota", [1, 3, 99])
def test_the_best_keys_of_each_class_and_image(quota, chosen):
    random = np.random.default_rng(0)
    features = random.normal(size=(2, 3, 4, CHANNELS)).astype("float32")
    probability = random.dirichlet(np.ones(CLASSES), (2, 3, 4)).astype("float32")
    told = probability.argmax(-1)
    label = np.where(random.uniform(size=told.shape) < 0.3, (told + 1) % CLASSES, told).astype("int32")
    label[0][label[0] == 1] = 255
    score = random.uniform(size=(2, 3, 4)).astype("float32") if chosen == "random" else probability.max(-1)
    given = (score,) if chosen == "random" else ()
    keys, present = both(lambda f, y, p, *s: losses.best_keys(f, y, p, quota, *s), features, label, probability, *given)
    for k in range(CLASSES):
        wanted = []
        for image in range(2):
            right = [place for place in np.ndindex(3, 4) if label[image][place] == told[image][place] == k]
            wanted += [features[image][place] for place in sorted(right, key=lambda p: -score[image][p])[:quota]]
        np.testing.assert_array_equal(keys[k][present[k]], np.reshape(wanted, [-1, CHANNELS]))
    assert not present[1][: min(quota, 12)].any() and keys.shape == (CLASSES, 2 * min(quota, 12), CHANNELS)


@pytest.mark.parametrize(("old", "new"), [((12, 16), (3, 4)), ((9, 10), (3, 7)), ((5, 4), (5, 4)), ((3, 4), (6, 9))])
def test_labels_are_taken_at_the_centre_of_a_pixel(old, new):
    label = np.random.default_rng(0).integers(0, 200, (2, *old)).astype("int32")
    found = both(lambda label: pick_like(label, tf.zeros([2, *new, 1])), label)
    np.testing.assert_array_equal(found, tf.image.resize(label[..., None], new, "nearest")[..., 0])
