"""The evaluation protocols against slow NumPy versions, and the measures against what can be counted by hand."""

import numpy as np
import pytest
import tensorflow as tf

from tfssl import config, evaluate, measures, protocols
from tfssl.data.examples import Examples
from tfssl.errors import UserError
from tfssl.tasks import Segmentation

TASK = Segmentation(["a", "b", "c"])


def evaluation(**values):
    return config.Evaluation(**values)


def image(height, width, seed=0):
    return np.random.default_rng(seed).uniform(0, 255, (1, height, width, 3)).astype("float32")


def blur(values):
    """A network whose logits depend on what is around a pixel and on where in the window it is."""
    values = tf.cast(values, tf.float32) / 50
    near = tf.nn.avg_pool2d(values, 3, 1, "SAME")
    rows = tf.range(tf.shape(values)[1], dtype=tf.float32)[None, :, None, None]
    return near + 0.1 * tf.sin(rows)


def slow_windows(one, crop, overlap):
    """The mean of the probabilities of all windows, window by window and pixel by pixel."""
    _, height, width, _ = one.shape
    sides = [min(side, length) for side, length in zip(crop, (height, width), strict=True)]
    starts = []
    for side, length in zip(sides, (height, width), strict=True):
        step, places = max(1, round(side * (1 - overlap))), [0]
        while places[-1] + side < length:
            places.append(min(places[-1] + step, length - side))
        starts.append(places)
    total, count = np.zeros((height, width, 3)), np.zeros((height, width, 1))
    for top in starts[0]:
        for left in starts[1]:
            window = one[:, top : top + sides[0], left : left + sides[1]]
            total[top : top + sides[0], left : left + sides[1]] += tf.nn.softmax(blur(window))[0].numpy()
            count[top : top + sides[0], left : left + sides[1]] += 1
    return total / count


@pytest.mark.parametrize("size", [(37, 53), (16, 24), (9, 70), (16, 25), (50, 7)])
@pytest.mark.parametrize("overlap", [0.0, 1 / 3, 0.75])
@pytest.mark.parametrize("compiled", [False, True])
def test_sliding_window(size, overlap, compiled):
    one = image(*size)
    settings = evaluation(protocol="sliding", crop=(16, 24), overlap=overlap)
    predict, activated = protocols.predictor(blur, TASK, settings)
    if compiled:
        predict = tf.function(predict, input_signature=[tf.TensorSpec([1, None, None, 3])])
    assert activated
    np.testing.assert_allclose(predict(one)[0], slow_windows(one, (16, 24), overlap), atol=1e-5)


def test_one_view_gives_the_logits():
    predict, activated = protocols.predictor(blur, TASK, evaluation())
    assert predict is blur and not activated


def test_scales_and_mirrored():
    one = image(20, 31)
    predict, activated = protocols.predictor(blur, TASK, evaluation(scales=[0.5, 1.0, 1.5], flip=True))
    expected = 0.0
    for scale in (0.5, 1.0, 1.5):
        size = (round(20 * scale), round(31 * scale))
        view = one if scale == 1 else tf.image.resize(one, size, antialias=True)
        for mirrored in (False, True):
            seen = view[:, :, ::-1] if mirrored else view
            found = tf.nn.softmax(blur(seen))
            found = found[:, :, ::-1] if mirrored else found
            expected = expected + tf.image.resize(found, (20, 31)).numpy() / 6
    assert activated
    np.testing.assert_allclose(predict(one), expected, atol=1e-5)


def test_a_mirrored_view_makes_the_mirrored_prediction():
    predict, _ = protocols.predictor(blur, TASK, evaluation(flip=True))
    one = image(12, 17)
    np.testing.assert_allclose(predict(one[:, :, ::-1]), predict(one)[:, :, ::-1], atol=1e-6)


@pytest.mark.parametrize("size, kept", [
    ((20, 30), (slice(4, 16), slice(7, 23))), ((9, 31), (slice(0, 9), slice(7, 23))),
    ((12, 16), (slice(0, 12), slice(0, 16))),
])  # fmt: skip
def test_centre_crop_adds_nothing(size, kept):
    one, label = image(*size)[0], np.random.default_rng(1).integers(0, 3, size)
    cut, marked = protocols.prepare(evaluation(protocol="center_crop", crop=(12, 16)))(one, tf.constant(label))
    np.testing.assert_array_equal(cut, one[kept])
    np.testing.assert_array_equal(marked, label[kept])


def test_short_side():
    label = np.repeat(np.arange(3), 20)[:, None] + np.zeros((1, 90), int)
    prepare = protocols.prepare(evaluation(protocol="short_side", short_side=30))
    one, marked = prepare(image(60, 90)[0], tf.constant(label))
    assert one.shape == (30, 45, 3)
    np.testing.assert_array_equal(marked, np.repeat(np.arange(3), 10)[:, None] + np.zeros((1, 45), int))


@pytest.mark.parametrize("protocol", ["whole", "sliding", "center_crop", "short_side"])
def test_a_network_is_scored_by_the_protocol(protocol):
    """Pictures and labels, as evaluation goes through them."""
    pictures = np.concatenate([image(37, 53), image(37, 53, 1)])
    labels = np.random.default_rng(0).choice([0, 1, 2, 255], (2, 37, 53)).astype("int32")
    examples = Examples(("a", "b"), lambda n: tf.gather(pictures, n), lambda n: tf.gather(labels, n))
    crop = (16, 24)
    settings = evaluation(protocol=protocol, crop=crop, short_side=30)
    scores, tallies = evaluate.score(lambda image, training: {"logits": blur(image)}, examples, TASK, settings)
    for picture, label, tally in zip(pictures, labels, tallies, strict=True):
        if protocol == "center_crop":
            picture, label = picture[10:26, 14:38], label[10:26, 14:38]
        if protocol == "short_side":
            picture = tf.image.resize(picture, (30, 43), antialias=True)
            label = tf.image.resize(label[..., None], (30, 43), method="nearest")[..., 0]
        found = slow_windows(picture[None], crop, 1 / 3) if protocol == "sliding" else blur(picture[None])[0]
        np.testing.assert_array_equal(tally, TASK.tally(label, np.argmax(found, -1)))
    assert scores["miou"] == TASK.scores(tallies.sum(0))["miou"] < 0.9


@pytest.mark.parametrize("values, words", [({"protocol": "sliding"}, "protocol sliding needs crop"),
                                           ({"protocol": "short_side"}, "needs short_side"),
                                           ({"overlap": 1.0}, "evaluation.overlap"),
                                           ({"scales": []}, "evaluation.scales")])  # fmt: skip
def test_mistakes(values, words):
    with pytest.raises(UserError, match=words):
        config.parse({"method": {"name": "supervised"}, "evaluation": values}, "file.json")


# Measures


def slow_boundary(mask, reach):
    """Pixels of a mask that have one outside of it, or outside of the image, within `reach` steps to the neighbours."""
    height, width = mask.shape
    found = np.zeros_like(mask)
    for y, x in zip(*np.nonzero(mask), strict=True):
        near = [(i, j) for i in range(y - reach, y + reach + 1) for j in range(x - reach, x + reach + 1)]
        found[y, x] = any(not (0 <= i < height and 0 <= j < width) or not mask[i, j] for i, j in near)
    return found


def test_boundary_iou():
    random = np.random.default_rng(0)
    label = np.kron(random.integers(0, 3, (6, 8)), np.ones((12, 12), int))
    prediction = np.roll(label, 2, axis=1)
    label[:5, :9] = 255
    reach = round(0.02 * np.hypot(72, 96))
    counts = measures.boundary_counts(label, prediction, 4, 255)
    for number in range(4):
        one, other = (slow_boundary((values == number) & (label != 255), reach) for values in (label, prediction))
        np.testing.assert_array_equal(counts[number], [(one & other).sum(), (one | other).sum()])
    same = measures.boundary_counts(label, np.where(label == 255, 0, label), 4, 255)
    np.testing.assert_array_equal(same[:3, 0], same[:3, 1])


def test_calibration_error():
    confidence = np.array([0.95, 0.95, 0.95, 0.95, 0.55, 0.55, 1.0])
    correct = np.array([True, True, True, False, True, False, True])
    counts = measures.calibration_counts(correct, confidence)
    assert counts[:, 0].sum() == 7
    # one bin of the four at 0.95 and that at 1, one of those at 0.55
    expected = (abs(4 * 0.95 + 1 - 4) + abs(2 * 0.55 - 1)) / 7
    assert measures.calibration_error(counts) == pytest.approx(expected)
    assert measures.calibration_error(counts * 0) == 0.0


def test_bootstrap_of_a_mean():
    values = np.random.default_rng(0).normal(5, 2, 400)
    low, high = measures.bootstrap(400, lambda weights: weights @ values / weights.sum())
    error = values.std() / 20
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.3 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.3 * error)
    assert measures.bootstrap(5, lambda weights: 1.0) == (1.0, 1.0)


def test_detailed_scores():
    random = np.random.default_rng(0)
    labels, told = random.integers(0, 3, (2, 7, 20, 30))
    tallies = np.stack([TASK.tally(label, one).numpy() for label, one in zip(labels, told, strict=True)])
    activation = np.float32(np.eye(3))[told] * 0.7 + 0.1
    details = [TASK.details(*one) for one in zip(labels, activation, told, strict=True)]
    scores = {**TASK.scores(tallies.sum(0)), **TASK.detailed_scores(tallies, details)}
    low, high = scores["miou_interval"]
    assert low < scores["miou"] < high < low + 0.1
    assert scores["per_class_pixels"]["b"] == (labels == 1).sum()
    accuracy = [np.mean(told[labels == number] == number) for number in range(3)]
    assert scores["mean_class_accuracy"] == pytest.approx(np.mean(accuracy))
    assert scores["calibration_error"] == pytest.approx(0.8 - np.mean(labels == told), abs=1e-6)
    assert 0 < scores["boundary_iou"] < 1


def test_no_two_groups_of_windows_are_computed_at_once():
    """TensorFlow's fused convolutions keep state: two iterations at once wrote into each other's memory."""
    slide = tf.function(lambda image: protocols.slide(lambda part: part, image, 3, (24, 24), 0.5))
    graph = slide.get_concrete_function(tf.TensorSpec([1, None, None, 3])).graph
    loops = [operation for operation in graph.get_operations() if operation.type in ("While", "StatelessWhile")]
    assert [loop.get_attr("parallel_iterations") for loop in loops] == [1]
