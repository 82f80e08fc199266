"""The losses against slow NumPy versions, written from the papers' equations one pixel at a time."""

import itertools
import math

import numpy as np
import pytest
import tensorflow as tf

from tfssl import losses

SHAPE, CLASSES = (2, 5, 7), 4
NOTHING = np.zeros(SHAPE, bool)
RESOLUTIONS = [(7, 9), (9, 12), (12, 16), (3, 4)]  # of the output, for features of 3 x 4: odd and even ratios, and 1


def random(seed=0):
    return np.random.default_rng(seed)


def some_labels(seed=0, ignore_index=255):
    label = random(seed).integers(0, CLASSES, SHAPE).astype("int32")
    return np.where(random(seed + 1).uniform(size=SHAPE) < 0.3, ignore_index, label).astype("int32")


def some_logits(seed=2, shape=SHAPE, spread=3):
    return random(seed).normal(0, spread, (*shape, CLASSES)).astype("float32")


def some_probability(seed=3, shape=SHAPE, classes=CLASSES):
    return random(seed).dirichlet(np.ones(classes), shape).astype("float32")


def some_valid(seed=4, shape=SHAPE):
    return random(seed).uniform(size=shape) < 0.7


def pixels(shape):
    return itertools.product(*map(range, shape))


def both(function, *arguments):
    """function(*arguments) as NumPy arrays, having seen that XLA gives the same."""
    arguments = [tf.constant(argument) for argument in arguments]
    eager = tf.nest.map_structure(lambda tensor: tensor.numpy(), function(*arguments))
    compiled = tf.function(function, jit_compile=True)(*arguments)
    tf.nest.map_structure(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), eager, compiled)
    return eager


def slow_cross_entropy(label, logits, weight, ignore_index):
    total, count = 0.0, 0
    for pixel in pixels(label.shape):
        if label[pixel] != ignore_index:
            scores = [float(score) for score in logits[pixel]]
            log_sum = max(scores) + math.log(sum(math.exp(score - max(scores)) for score in scores))
            total += weight[pixel] * (log_sum - scores[label[pixel]])
            count += 1
    return total / count if count else 0.0


def slow_mean(value, valid):
    """Mean of value(pixel) over valid pixels, 0 if there are none."""
    found = [value(pixel) for pixel in pixels(valid.shape) if valid[pixel]]
    return sum(found) / len(found) if found else 0.0


def slow_resize(values, height, width):
    """Bilinear with half-pixel centres, [B,h,w,C] -> [B,height,width,C]."""

    def neighbours(index, new, old):
        place = min(max((index + 0.5) * old / new - 0.5, 0), old - 1)
        low = int(place)
        return [(low, 1 - (place - low)), (min(low + 1, old - 1), place - low)]

    resized = np.zeros((values.shape[0], height, width, values.shape[3]))
    for image, row, column in pixels(resized.shape[:3]):
        for y, weight_y in neighbours(row, height, values.shape[1]):
            for x, weight_x in neighbours(column, width, values.shape[2]):
                resized[image, row, column] += weight_y * weight_x * values[image, y, x]
    return resized


def slow_confidence(features, prototypes):
    omega = np.zeros((*features.shape[:3], len(prototypes)))
    for pixel in pixels(features.shape[:3]):
        distances = [math.sqrt(sum((float(f) - float(e)) ** 2 for f, e in zip(features[pixel], eta, strict=True)))
                     for eta in prototypes]  # fmt: skip
        terms = [math.exp(-distance) for distance in distances]
        omega[pixel] = [term / sum(terms) for term in terms]
    return omega


def slow_prototype_means(features, probability, valid, least):
    height, width = features.shape[1:3]
    coarse = slow_resize(probability, height, width)
    outside = slow_resize(1.0 - valid[..., None], height, width)
    means = np.zeros((len(features), probability.shape[-1], features.shape[-1]))
    present = np.zeros(means.shape[:2])
    for image, k in pixels(present.shape):
        members = [features[image, row, column] for row, column in pixels((height, width))
                   if coarse[image, row, column].argmax() == k and outside[image, row, column, 0] == 0]  # fmt: skip
        if len(members) >= least:
            present[image, k] = 1
            means[image, k] = sum(np.float64(member) for member in members) / len(members)
    return means, present


@pytest.mark.parametrize("ignore_index", [255, -1])
@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy(ignore_index, weighted):
    label, logits = some_labels(ignore_index=ignore_index), some_logits()
    weight = random(5).uniform(0, 2, SHAPE).astype("float32") if weighted else None
    found = both(lambda y, z: losses.cross_entropy(y, z, weight, ignore_index), label, logits)
    wanted = slow_cross_entropy(label, logits, np.ones(SHAPE) if weight is None else weight, ignore_index)
    assert found == pytest.approx(wanted, rel=1e-5)


def test_ignored_pixels_have_no_part_in_loss_and_gradient():
    label, logits = some_labels(), tf.constant(some_logits())
    ignored = (label == 255)[..., None]
    weight = tf.ones(SHAPE)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = losses.cross_entropy(label, logits)
    gradient = tape.gradient(loss, logits).numpy()
    assert (gradient[label == 255] == 0).all() and (gradient[label != 255] != 0).all()
    changed = tf.where(ignored, logits + 100.0, logits)
    assert losses.cross_entropy(label, changed, tf.where(ignored[..., 0], 50.0, weight)) == loss


def test_weights_scale_the_loss_and_do_not_change_the_divisor():
    label, even = np.zeros(SHAPE, "int32"), tf.zeros([*SHAPE, CLASSES])
    first_image = np.zeros(SHAPE, "float32")
    first_image[0] = 1
    assert float(losses.cross_entropy(label, even)) == pytest.approx(math.log(CLASSES))
    assert float(losses.cross_entropy(label, even, first_image)) == pytest.approx(math.log(CLASSES) / 2)
    assert float(losses.cross_entropy(label, even, tf.zeros(SHAPE))) == 0


def test_cross_entropy_is_computed_in_float32_and_stays_finite():
    label, logits = some_labels(), some_logits()
    coarse = tf.cast(logits, tf.bfloat16)
    found = losses.cross_entropy(label, coarse, tf.ones(SHAPE, tf.bfloat16))
    assert found.dtype == tf.float32
    assert found == losses.cross_entropy(label, tf.cast(coarse, tf.float32))
    assert np.isfinite(losses.cross_entropy(label, 1e6 * logits))


def test_losses_over_no_pixel_are_zero_with_zero_gradient():
    logits = tf.constant(some_logits())
    probability = some_probability()
    void = np.full(SHAPE, 255, "int32")
    each = {
        "cross_entropy": lambda z: losses.cross_entropy(void, z),
        "squared_error": lambda z: losses.squared_error(probability, tf.nn.softmax(z), tf.ones(SHAPE), NOTHING),
        "total_variation": lambda z: losses.total_variation(probability, tf.nn.softmax(z), NOTHING),
        "masked_mean": lambda z: losses.masked_mean(z[..., 0], NOTHING),
    }
    for name, loss in each.items():
        with tf.GradientTape() as tape:
            tape.watch(logits)
            value = loss(logits)
        assert value == 0, name
        assert not tape.gradient(value, logits).numpy().any(), name


def test_cross_entropy_is_equivariant_to_a_permutation_of_classes():
    label, logits = some_labels(), some_logits()
    order = random(6).permutation(CLASSES)  # new class k was order[k]
    renamed = np.where(label == 255, 255, np.argsort(order)[np.minimum(label, CLASSES - 1)])
    assert not np.array_equal(renamed, label)
    permuted = losses.cross_entropy(renamed, logits[..., order])
    assert float(permuted) == pytest.approx(float(losses.cross_entropy(label, logits)), rel=1e-6)


@pytest.mark.parametrize("ignore_index", [255, -1])
def test_pseudo_label(ignore_index):
    probability, valid = some_probability(), some_valid()
    found = both(lambda p, v: losses.pseudo_label(p, v, ignore_index), probability, valid)
    assert found.dtype == np.int32 and (found == ignore_index).any()
    for pixel in pixels(SHAPE):
        best = max(range(CLASSES), key=lambda k: probability[pixel][k])
        assert found[pixel] == (best if valid[pixel] else ignore_index)
    scale = random(7).uniform(0.01, 100, (*SHAPE, 1)).astype("float32")
    np.testing.assert_array_equal(losses.pseudo_label(probability * scale, valid, ignore_index), found)
    assert (losses.pseudo_label(probability, NOTHING, ignore_index).numpy() == ignore_index).all()


def test_confident_is_strict_or_inclusive():
    probability = np.float32([[[[0.5, 0.5], [0.25, 0.75], [0.76, 0.24]]]])
    found = both(lambda p: losses.confident(p, 0.75), probability)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [[[0, 0, 1]]])
    found = both(lambda p: losses.confident(p, 0.75, inclusive=True), probability)
    np.testing.assert_array_equal(found, [[[0, 1, 1]]])
    assert losses.confident(some_probability(), 0.0).numpy().all()


def test_image_means():
    value, valid = random(8).uniform(size=SHAPE).astype("float32"), some_valid()
    valid[1] = False
    expected = np.zeros((2, 1, 1))
    inside = [value[0][pixel] for pixel in pixels(SHAPE[1:]) if valid[0][pixel]]
    expected[0] = sum(inside) / len(inside)
    np.testing.assert_allclose(both(losses.image_means, value, valid), expected, rtol=1e-5)


@pytest.mark.parametrize("size", RESOLUTIONS)
def test_masked_pool(size):
    features = random(9).normal(size=(2, 3, 4, 5)).astype("float32")
    valid = np.ones((2, *size), bool)
    valid[0, :, size[1] // 2 :] = False
    valid[1] = False
    means, present = both(losses.masked_pool, features, valid)
    share = tf.image.resize(valid[..., None].astype("float32"), (3, 4)).numpy()[..., 0]
    inside = [features[0][pixel] for pixel in pixels((3, 4)) if share[0][pixel] > 0.999]
    np.testing.assert_allclose(means[0], sum(inside) / len(inside), rtol=1e-4, atol=1e-6)
    assert 0 < len(inside) < 12 and not means[1].any() and list(present) == [True, False]


def test_squared_error():
    target, probability, valid = some_probability(8), some_probability(9), some_valid()
    weight = random(10).uniform(0, 2, SHAPE).astype("float32")
    found = both(losses.squared_error, target, probability, weight, valid)

    def distance(pixel):
        return weight[pixel] * sum((float(a) - float(b)) ** 2
                                   for a, b in zip(target[pixel], probability[pixel], strict=True))  # fmt: skip

    assert found == pytest.approx(slow_mean(distance, valid), rel=1e-5)
    order = random(6).permutation(CLASSES)
    permuted = losses.squared_error(target[..., order], probability[..., order], weight, valid)
    assert float(permuted) == pytest.approx(found, rel=1e-5)


def test_total_variation():
    first, second, valid = some_probability(8), some_probability(9), some_valid()
    found = both(losses.total_variation, first, second, valid)

    def distance(pixel):
        return sum(abs(float(a) - float(b)) for a, b in zip(first[pixel], second[pixel], strict=True)) / 2

    assert found == pytest.approx(slow_mean(distance, valid), rel=1e-5)
    assert losses.total_variation(second, first, valid) == found
    assert losses.total_variation(first, first, valid) == 0
    one_hot = np.eye(CLASSES, dtype="float32")
    disjoint = losses.total_variation(np.broadcast_to(one_hot[0], (*SHAPE, CLASSES)),
                                      np.broadcast_to(one_hot[2], (*SHAPE, CLASSES)), valid)  # fmt: skip
    assert disjoint == 1


def test_class_confidence():
    features = random(11).normal(0, 2, (2, 3, 4, 6)).astype("float32")
    prototypes = random(12).normal(0, 2, (CLASSES, 6)).astype("float32")
    omega = both(losses.class_confidence, features, prototypes)
    np.testing.assert_allclose(omega, slow_confidence(features, prototypes), rtol=1e-4)
    assert (omega > 0).all()
    np.testing.assert_allclose(omega.sum(-1), 1, rtol=1e-6)
    shift = random(13).normal(0, 3, 6).astype("float32")
    np.testing.assert_allclose(losses.class_confidence(features + shift, prototypes + shift), omega, rtol=1e-4)
    order = random(6).permutation(CLASSES)
    np.testing.assert_allclose(losses.class_confidence(features, prototypes[order]), omega[..., order], rtol=1e-5)


def test_a_class_without_a_prototype_is_as_near_as_the_nearest_other():
    """Without one it lies nowhere: its row, whatever it holds, has no effect, and its pixels are not taken away."""
    features = random(14).normal(0, 2, (1, 3, 4, 6)).astype("float32")
    prototypes = random(15).normal(0, 2, (CLASSES, 6)).astype("float32")
    known = np.array([True, False] + [True] * (CLASSES - 2))
    distance = np.linalg.norm(features[..., None, :] - prototypes, axis=-1)
    distance[..., 1] = distance[..., known].min(-1)
    expected = np.exp(-distance) / np.exp(-distance).sum(-1, keepdims=True)
    omega = losses.class_confidence(features, prototypes, known).numpy()
    np.testing.assert_allclose(omega, expected, rtol=1e-4)
    np.testing.assert_array_equal(omega[..., 1], omega.max(-1))
    nobody = losses.class_confidence(features, prototypes, np.zeros(CLASSES, bool))
    np.testing.assert_allclose(nobody, 1 / CLASSES, rtol=1e-6)


def test_class_confidence_is_by_distance_and_not_by_its_square():
    prototypes = np.float32([[3, 0], [0, -1], [0, 0]])
    omega = losses.class_confidence(np.zeros((1, 1, 1, 2), "float32"), prototypes)[0, 0, 0].numpy()
    np.testing.assert_allclose(omega, np.exp([-3, -1, 0]) / np.exp([-3, -1, 0]).sum(), rtol=1e-6)
    assert losses.class_confidence(tf.zeros([1, 1, 1, 2], tf.bfloat16), prototypes).dtype == tf.float32


def test_class_confidence_is_uniform_when_equidistant():
    prototypes = 5 * np.eye(CLASSES, dtype="float32")
    features = np.float32([0, 0, 0, 0]), np.float32([2, 2, 2, 2])
    for feature in features:
        omega = losses.class_confidence(feature[None, None, None], prototypes)
        np.testing.assert_allclose(omega[0, 0, 0], 1 / CLASSES, rtol=1e-6)


def test_class_confidence_keeps_its_digits_far_from_the_origin():
    features = np.full((1, 1, 1, 8), 1000, "float32")
    prototypes = np.full((2, 8), 1000, "float32")
    prototypes[1, 0] += 0.125
    omega = losses.class_confidence(features, prototypes)[0, 0, 0].numpy()
    assert omega[0] / omega[1] == pytest.approx(math.exp(0.125), rel=1e-4)


@pytest.mark.parametrize("size", RESOLUTIONS)
def test_rectify(size):
    probability = some_probability(14, (2, *size))
    omega = some_probability(15, (2, 3, 4))
    found = both(losses.rectify, probability, omega)
    np.testing.assert_allclose(found, probability * slow_resize(omega, *size), rtol=1e-4, atol=1e-6)
    assert (found.argmax(-1) != probability.argmax(-1)).any()  # it does change labels
    even = both(losses.rectify, probability, np.full((2, 3, 4, CLASSES), 1 / CLASSES, "float32"))
    np.testing.assert_array_equal(even.argmax(-1), probability.argmax(-1))
    scale = 2.0 ** random(16).integers(-5, 6, (2, *size, 1)).astype("float32")
    np.testing.assert_array_equal(losses.rectify(probability * scale, omega).numpy().argmax(-1), found.argmax(-1))


def test_rectification_moves_a_label_towards_the_near_prototype():
    probability = np.float32([[[[0.5, 0.4, 0.1]]]])
    prototypes = np.float32([[2.0], [0.5], [0.0]])
    omega = losses.class_confidence(np.zeros((1, 1, 1, 1), "float32"), prototypes)
    rectified = losses.rectify(probability, omega)
    assert losses.pseudo_label(rectified, [[[True]]]) == 1  # 0.5 e^-2 < 0.1 e^0 < 0.4 e^-0.5


@pytest.mark.parametrize("size", RESOLUTIONS)
def test_prototype_means(size):
    features = random(17).normal(0, 2, (3, 3, 4, 5)).astype("float32")
    probability = some_probability(18, (3, *size))
    valid = some_valid(19, (3, *size)) if size[0] < 5 else random(19).uniform(size=(3, *size)) < 0.95
    means, present = both(lambda *given: losses.prototype_means(*given, least=2), features, probability, valid)
    wanted, wanted_present = slow_prototype_means(features, probability, valid, 2)
    assert 0 < wanted_present.sum() < wanted_present.size
    np.testing.assert_array_equal(present, wanted_present)
    np.testing.assert_allclose(means, wanted, rtol=1e-4, atol=1e-5)
    order = random(6).permutation(CLASSES)
    permuted, _ = losses.prototype_means(features, probability[..., order], valid, least=2)
    np.testing.assert_allclose(permuted, means[:, order], rtol=1e-5, atol=1e-6)


def test_prototype_means_are_of_each_image_and_not_scaled_by_frequency():
    features = np.zeros((2, 4, 5, 1), "float32")
    features[0], features[1] = 3, 8
    one_class = np.zeros((2, 4, 5, 2), "float32")
    one_class[..., 1] = 1
    valid = np.ones((2, 4, 5), bool)
    valid[0, :2] = False
    means, present = losses.prototype_means(features, one_class, valid)
    np.testing.assert_array_equal(means[:, 1, 0], [3, 8])
    np.testing.assert_array_equal(present, [[0, 1], [0, 1]])


def test_a_class_of_fewer_than_ten_pixels_is_skipped():
    classes = np.repeat([0, 1, 2], [9, 10, 1]).reshape(1, 4, 5)
    probability = np.eye(3, dtype="float32")[classes]
    features = 1 + classes[..., None].astype("float32")
    means, present = losses.prototype_means(features, probability, np.ones((1, 4, 5), bool))
    np.testing.assert_array_equal(present, [[0, 1, 0]])
    np.testing.assert_array_equal(means[0, :, 0], [0, 2, 0])
    means, present = losses.prototype_means(features, probability, np.zeros((1, 4, 5), bool))
    assert not means.numpy().any() and not present.numpy().any()


def test_entropy():
    probability = some_probability()
    expected = [-sum(p * np.log(p) for p in pixel) for pixel in np.array(probability, "float64").reshape(-1, CLASSES)]
    np.testing.assert_allclose(np.ravel(losses.entropy(tf.constant(probability))), expected, rtol=1e-5)
    certain = tf.constant([[[[1.0, 0.0], [0.5, 0.5]]]])
    np.testing.assert_allclose(losses.entropy(certain)[0, 0], [0, np.log(2)], rtol=1e-6)


@pytest.mark.parametrize("compiled", [False, True])
def test_masked_percentile(compiled):
    value, valid = random().normal(size=SHAPE).astype("float32"), some_valid()
    found = tf.function(losses.masked_percentile, jit_compile=compiled)
    for share in (0.0, 0.2, 0.5, 0.83, 1.0):
        expected = np.percentile(value[valid], 100 * share)
        np.testing.assert_allclose(found(value, valid, tf.constant(share)), expected, rtol=1e-4, atol=1e-6)
    one = np.zeros(SHAPE, bool)
    one[0, 1, 2] = True
    assert found(value, one, tf.constant(0.2)) == value[0, 1, 2]
    assert found(value, np.zeros(SHAPE, bool), tf.constant(0.2)) == 0
