"""Reliability, ranks, samples and contrast of U2PL against slow NumPy versions, written from its equations."""

import math

import numpy as np
import pytest
import tensorflow as tf

from tests.test_losses import both, pixels, random, slow_cross_entropy, some_labels, some_logits
from tfssl import losses
from tfssl.resizing import pick_like

SHAPE, CLASSES = (2, 5, 7), 6
VOID = 255


def some_probability(seed=0, shape=SHAPE, classes=CLASSES):
    return random(seed).dirichlet(np.ones(classes), shape).astype("float32")


def some_labels_of(classes, seed=1):
    label = random(seed).integers(0, classes, SHAPE)
    return np.where(random(seed + 1).uniform(size=SHAPE) < 0.2, VOID, label).astype("int32")


def ranks(probability):
    """O of eq. 14 by sorting: the most probable class has rank 0."""
    return np.argsort(np.argsort(-probability, axis=-1), axis=-1)


# Reliable and unreliable.


@pytest.mark.parametrize("share", [0.0, 0.05, 0.2, 0.5, 1.0])
def test_entropy_parts(share):
    value, valid = random(2).normal(size=(3, 9, 11)).astype("float32"), random(3).random((3, 9, 11)) < 0.8
    compared = both if share == 0.2 else lambda function, *given: function(*given)
    parts = {name: np.array(part) for name, part in compared(losses.entropy_parts, value, valid, share).items()}
    gamma = np.percentile(value[valid].astype("float64"), 100 * (1 - share))
    np.testing.assert_array_equal(parts["reliable"], valid & (value <= gamma + 1e-6))
    np.testing.assert_array_equal(parts["reliable"] ^ parts["unreliable"], valid)  # each valid pixel is one of the two
    assert abs(parts["unreliable"].sum() / valid.sum() - share) <= 1 / valid.sum() + 1e-6
    assert abs(parts["lowest"].sum() / valid.sum() - share) <= 1 / valid.sum() + 1e-6
    np.testing.assert_array_equal(parts["all"], valid)
    if 0 < share < 1:
        assert value[parts["lowest"]].max() < value[valid & ~parts["lowest"]].min()
        assert value[parts["unreliable"]].min() > value[parts["reliable"]].max()


def test_with_a_share_of_zero_or_equal_entropies_every_pixel_is_reliable():
    equal = [(np.full(SHAPE, value), 0.23) for value in random(7).uniform(0, 3, 100)]
    for value, share in ((random().normal(size=SHAPE), 0.0), *equal):
        parts = losses.entropy_parts(value.astype("float32"), np.ones(SHAPE, bool), tf.constant(share))
        assert parts["reliable"].numpy().all() and not parts["unreliable"].numpy().any()
        assert not parts["lowest"].numpy().any()


def test_adaptive_weight():
    valid = random().random(SHAPE) < 0.8
    reliable = valid & (random(1).random(SHAPE) < 0.6)
    assert both(losses.adaptive_weight, reliable, valid) == pytest.approx(valid.sum() / reliable.sum())
    assert losses.adaptive_weight(valid, valid) == 1 < losses.adaptive_weight(reliable, valid)
    assert losses.adaptive_weight(valid & False, valid) == losses.adaptive_weight(valid & False, valid & False) == 0


def test_sure_label():
    label, probability = some_labels_of(CLASSES), some_probability()
    found = both(lambda *given: losses.sure_label(*given, 0.2), label, probability)
    for pixel in pixels(SHAPE):
        c = label[pixel]
        assert found[pixel] == (c if c != VOID and probability[pixel][c] > 0.2 else VOID)
    assert 0.1 < (found != VOID).mean() < 0.6
    assert losses.sure_label(np.zeros((1, 1, 1), "int32"), np.full((1, 1, 1, 2), 0.5), 0.5) == VOID  # strict


# Ranks and negatives.


def test_rank_below():
    probability = some_probability()
    each = both(lambda p: [losses.rank_below(p, rank) for rank in range(1, CLASSES + 3)], probability)
    for rank, found in enumerate(each, 1):
        np.testing.assert_array_equal(found, ranks(probability) < rank)


def test_equally_probable_classes_share_the_better_rank():
    probability = np.float32([0.1, 0.3, 0.3, 0.2, 0.1])  # ranks 3 0 0 2 3
    for rank, expected in ((1, [0, 1, 1, 0, 0]), (2, [0, 1, 1, 0, 0]), (3, [0, 1, 1, 1, 0]), (4, [1, 1, 1, 1, 1])):
        np.testing.assert_array_equal(losses.rank_below(probability, rank), np.bool_(expected))


@pytest.mark.parametrize("low", [1, 3, CLASSES, None])
def test_labeled_negatives(low):
    label, probability = some_labels_of(CLASSES), some_probability()
    found = both(lambda *given: losses.labeled_negatives(*given, low), label, probability)
    order = ranks(probability)
    for pixel in pixels(SHAPE):
        for c in range(CLASSES):
            expected = label[pixel] not in (c, VOID) and (low is None or order[pixel][c] < low)
            assert found[pixel][c] == expected
    assert found.any()


@pytest.mark.parametrize(("low", "high"), [(1, 3), (3, 5), (3, 20), (2, CLASSES), (CLASSES, 20), (None, 20)])
def test_unlabeled_negatives(low, high):
    candidate, probability = random(4).random(SHAPE) < 0.5, some_probability()
    found = both(lambda *given: losses.unlabeled_negatives(*given, low, high), candidate, probability)
    order = ranks(probability)
    for pixel in pixels(SHAPE):
        for c in range(CLASSES):
            window = order[pixel][c] > 0 if low is None else low <= order[pixel][c] < high
            assert found[pixel][c] == (candidate[pixel] and window)
    assert found.any() == (low != CLASSES)  # where r_l is no less than the number of classes there is none


@pytest.mark.parametrize("negatives", [
    lambda order: losses.labeled_negatives(some_labels_of(CLASSES), some_probability()[..., order], 3),
    lambda order: losses.unlabeled_negatives(np.ones(SHAPE, bool), some_probability()[..., order], 2, 4),
], ids=["labeled", "unlabeled"])  # fmt: skip
def test_negatives_go_by_class_and_not_by_its_number(negatives):
    order = random(5).permutation(CLASSES)
    plain, renamed = negatives(np.arange(CLASSES)).numpy(), negatives(order).numpy()
    rename = some_labels_of(CLASSES)[..., None] == np.arange(CLASSES)
    keep = ~(rename | rename[..., order])  # the labels of the labeled have kept their numbers
    np.testing.assert_array_equal(plain[..., order][keep], renamed[keep])


# Samples.


def test_choose_takes_candidates_without_repetition_and_tells_what_is_missing():
    mask = np.zeros((40, 3), bool)
    mask[5:30, 0], mask[[3, 7, 31], 1] = True, True
    features = np.arange(40, dtype="float32")[:, None].repeat(2, 1)
    scores = random().random(40).astype("float32")
    chosen, found = both(lambda *given: losses.choose(*given, 10), features, mask, scores)
    assert chosen.shape == (3, 10, 2)
    np.testing.assert_array_equal(found.sum(1), [10, 3, 0])
    np.testing.assert_array_equal(found[1], np.arange(10) < 3)  # what is there comes first
    for c, count in ((0, 10), (1, 3)):
        numbers = chosen[c, found[c], 0].astype(int)
        assert mask[numbers, c].all() and len(set(numbers)) == count
    everything, found = losses.choose(features, mask, scores, 500)
    assert everything.shape == (3, 40, 2) and found.numpy().sum() == mask.sum()


def test_choose_is_even():
    times, mask = np.zeros(12), np.ones((12, 1), bool)
    mask[4] = False
    for seed in range(400):
        chosen, _ = losses.choose(np.arange(12, dtype="float32")[:, None], mask, random(seed).random(12), 3)
        times[chosen.numpy().ravel().astype(int)] += 1
    assert times[4] == 0 and np.delete(times, 4).min() > 70 and times.max() < 150  # 109 expected


def test_class_centers():
    features = random().normal(size=(50, 4)).astype("float32")
    label = random(1).choice([0, 1, 3, VOID, -1], 50).astype("int32")
    found = both(lambda *given: losses.class_centers(*given, 4), features, label)
    for c in (0, 1, 3):
        np.testing.assert_allclose(found[c], features[label == c].mean(0), rtol=1e-4, atol=1e-6)
    assert not found[2].any()


def test_fresh_keys_are_drawn_as_if_they_had_been_pushed():
    remembered = np.zeros((4, 4000, 1), "float32")  # the old are 0, the fresh tell their number from 1
    fresh = np.tile(np.arange(1, 6, dtype="float32")[:, None], (4, 1, 1))
    found = np.arange(5) < np.array([5, 2, 0, 0])[:, None]
    filled = np.int32([15, 0, 7, 0])
    drawn, some = both(
        losses.with_fresh, remembered, filled, fresh, found, random().random((2, 4000)).astype("float32")
    )
    np.testing.assert_array_equal(some, [True, True, True, False])
    shares = [[np.mean(drawn[c] == number) for number in range(6)] for c in range(4)]
    np.testing.assert_allclose(shares[0], [15 / 20] + [1 / 20] * 5, atol=0.02)
    np.testing.assert_allclose(shares[1], [0, 1 / 2, 1 / 2, 0, 0, 0], atol=0.03)
    np.testing.assert_array_equal(shares[2:], [[1, 0, 0, 0, 0, 0]] * 2)


# The contrast.


def some_contrast(seed=0, classes=4, anchors=5, negatives=6, channels=3):
    draw = random(seed).normal
    counts = random(seed + 1).random((classes, anchors)) < 0.7
    counts[2] = False
    return (draw(size=(classes, anchors, channels)).astype("float32"), counts,
            draw(size=(classes, channels)).astype("float32"),
            draw(size=(classes, negatives, channels)).astype("float32"))  # fmt: skip


def slow_contrast(kind, anchors, counts, positives, negatives, temperature, present):
    def cosine(a, b):
        a, b = np.float64(a), np.float64(b)
        return (a @ b) / math.sqrt((a @ a) * (b @ b)) / temperature

    means = []
    for c in range(len(anchors)):
        found = []
        for i in range(anchors.shape[1]):
            if counts[c, i]:
                near = math.exp(cosine(anchors[c, i], positives[c]))
                far = [math.exp(cosine(anchors[c, i], negative)) for negative in negatives[c]]
                if kind == "info_nce":
                    found.append(-math.log(near / (near + sum(far))))
                else:
                    found.append(np.mean([-math.log(near / (near + one)) for one in far]))
        means.append(np.mean(found) if found else 0.0)
    return sum(means) / (counts.any(1).sum() if present else len(means))


KINDS = {"info_nce": losses.info_nce, "binary": losses.binary_contrast}
each_kind = pytest.mark.parametrize("kind", KINDS)


@each_kind
def test_contrast(kind):
    given = some_contrast()
    assert both(KINDS[kind], *given) == pytest.approx(slow_contrast(kind, *given, 0.5, False), rel=1e-4)
    for temperature, classes in ((0.1, "all"), (0.1, "present"), (0.5, "present")):
        found = float(KINDS[kind](*given, temperature, classes))
        assert found == pytest.approx(slow_contrast(kind, *given, temperature, classes == "present"), rel=1e-4)


def test_the_contrast_at_equal_and_at_best_similarities():
    counts = np.ones((1, 3), bool)
    one, other = np.float32([[1, 0]]), np.float32([[-1, 0]])
    anchors = np.tile(one, (1, 3, 1))
    for same in (one, other):
        far = np.tile(same, (1, 256, 1))
        assert float(losses.info_nce(anchors, counts, same, far)) == pytest.approx(math.log(257), rel=1e-6)
        assert float(losses.binary_contrast(anchors, counts, same, far)) == pytest.approx(math.log(2), rel=1e-6)
    best = losses.info_nce(anchors, counts, one, np.tile(other, (1, 256, 1)), 0.5)
    assert float(best) == pytest.approx(math.log(1 + 256 * math.exp(-4)), rel=1e-5) == pytest.approx(1.739, abs=1e-3)


@each_kind
def test_contrast_is_scale_invariant_and_knows_no_class_by_its_number(kind):
    anchors, counts, positives, negatives = some_contrast()
    plain = KINDS[kind](anchors, counts, positives, negatives)
    scaled = KINDS[kind](anchors * 7, counts, positives * 0.3, negatives * random().uniform(0.1, 9, (4, 6, 1)))
    assert float(scaled) == pytest.approx(float(plain), rel=1e-5)
    order = [1, 3, 0, 2]
    assert float(KINDS[kind](*(part[order] for part in (anchors, counts, positives, negatives)))) == pytest.approx(
        float(plain), rel=1e-5
    )
    misaligned = KINDS[kind](anchors, counts, positives[order], negatives)
    assert abs(float(misaligned) - float(plain)) > 0.01


@each_kind
def test_only_anchors_that_count_have_a_gradient(kind):
    anchors, counts, positives, negatives = map(tf.constant, some_contrast())
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([anchors, positives, negatives])
        loss = KINDS[kind](anchors, counts, positives, negatives)
    assert tape.gradient(loss, positives) is None and tape.gradient(loss, negatives) is None
    gradient = np.abs(tape.gradient(loss, anchors)).max(-1)
    np.testing.assert_array_equal(gradient > 0, counts)


@each_kind
def test_a_contrast_of_nothing_is_zero_and_of_no_length_finite(kind):
    anchors, counts, positives, negatives = some_contrast()
    for features, which in ((anchors, counts & False), (anchors * 0, counts)):
        features = tf.constant(features)
        for classes in ("all", "present"):
            with tf.GradientTape() as tape:
                tape.watch(features)
                loss = KINDS[kind](features, which, positives * 0, negatives * 0, classes=classes)
            assert np.isfinite(loss) and (which.any() or loss == 0)
            assert not tape.gradient(loss, features).numpy().any()
    coarse = KINDS[kind](tf.cast(anchors, tf.bfloat16), counts, positives, negatives)
    assert coarse.dtype == tf.float32


# Beside the contrast.


@pytest.mark.parametrize(("threshold", "least"), [(0.7, 0.0625), (0.2, 0.0625), (0.01, 0.3), (1.0, 0.1), (0.0, 0.25)])
def test_hard_cross_entropy(threshold, least):
    label, logits = some_labels(), some_logits(spread=1)
    compared = both if threshold == 0.7 else lambda function, *given: float(function(*given))
    found = compared(lambda *given: losses.hard_cross_entropy(*given, threshold, least), label, logits)
    exponents = np.exp(np.float64(logits))
    probability = exponents / exponents.sum(-1, keepdims=True)
    known = label != VOID
    own = np.take_along_axis(probability, np.where(known, label, 0)[..., None], -1)[..., 0]
    hard = known & (own <= threshold)
    if hard.sum() < least * known.sum():
        hard = known & (own <= np.quantile(own[known], least))
        assert abs(hard.sum() - least * known.sum()) <= 1
    expected = slow_cross_entropy(np.where(hard, label, VOID), logits, np.ones(label.shape), VOID)
    assert found == pytest.approx(expected, rel=1e-3)


def test_hard_cross_entropy_of_nothing_is_zero_with_zero_gradient():
    logits = tf.constant(some_logits())
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = losses.hard_cross_entropy(np.full(logits.shape[:3], VOID, "int32"), logits)
    assert loss == 0 and not tape.gradient(loss, logits).numpy().any()
    easy = tf.one_hot(np.zeros(logits.shape[:3], "int32"), logits.shape[-1]) * 20
    label = np.zeros(logits.shape[:3], "int32")
    assert losses.hard_cross_entropy(label, easy) < 1e-6


@pytest.mark.parametrize("size", [(8, 12), (9, 13), (2, 3), (5, 3)])
def test_pick_like_takes_the_pixel_in_the_middle(size):
    values = random().normal(size=(2, *size, 3)).astype("float32")
    like = np.zeros((1, 2, 3, 7), "float32")
    found = both(pick_like, values, like)
    for row in range(2):
        for column in range(3):
            y, x = math.floor((row + 0.5) * size[0] / 2), math.floor((column + 0.5) * size[1] / 3)
            np.testing.assert_array_equal(found[:, row, column], values[:, y, x])
    assert pick_like(tf.constant(values[..., 0] > 0), like).dtype == tf.bool
