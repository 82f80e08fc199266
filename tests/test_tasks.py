"""Segmentation's counts and scores against loops over pixels."""

import itertools
import json

import numpy as np
import pytest
import tensorflow as tf

from tfssl.tasks import Segmentation

NAMES = ("road", "car", "tree", "sky")


def case(seed=0, ignore_index=255, shape=(3, 6, 7), classes=4):
    random = np.random.default_rng(seed)
    label, prediction = random.integers(0, classes, (2, *shape)).astype("int32")
    return np.where(random.uniform(size=shape) < 0.3, ignore_index, label).astype("int32"), prediction


def slow_confusion(label, prediction, classes, ignore_index):
    counts = np.zeros((classes, classes), np.int64)
    for true, predicted in zip(label.ravel(), prediction.ravel(), strict=True):
        if true != ignore_index:
            counts[true, predicted] += 1
    return counts


def slow_scores(label, prediction, classes, ignore_index):
    """Each IoU from the two sets of pixels; None where both are empty."""
    counts, iou = label != ignore_index, []
    for k in range(classes):
        true, predicted = (label == k) & counts, (prediction == k) & counts
        union = np.count_nonzero(true | predicted)
        iou.append(np.count_nonzero(true & predicted) / union if union else None)
    return iou, np.count_nonzero((label == prediction) & counts) / np.count_nonzero(counts)


@pytest.mark.parametrize("ignore_index", [255, -1])
def test_confusion(ignore_index):
    task = Segmentation(NAMES, ignore_index)
    label, prediction = case(ignore_index=ignore_index)
    found = task.confusion(tf.constant(label), tf.constant(prediction))
    assert found.dtype == tf.int64
    wanted = slow_confusion(label, prediction, 4, ignore_index)
    assert (wanted != wanted.T).any()  # true class by predicted class, not the other way round
    np.testing.assert_array_equal(found, wanted)
    graph = tf.function(task.confusion, input_signature=[tf.TensorSpec([None, None, None], tf.int32)] * 2)
    np.testing.assert_array_equal(graph(label, prediction), wanted)
    np.testing.assert_array_equal(sum(task.confusion(*pair) for pair in zip(label, prediction, strict=True)), wanted)


def test_ignored_pixels_are_not_counted_whatever_is_predicted_there():
    task = Segmentation(NAMES)
    label, prediction = case()
    changed = np.where(label == 255, (prediction + 1) % 4, prediction).astype("int32")
    assert not np.array_equal(changed, prediction)
    np.testing.assert_array_equal(task.confusion(label, changed), task.confusion(label, prediction))
    assert int(tf.reduce_sum(task.confusion(label, prediction))) == np.count_nonzero(label != 255)


@pytest.mark.parametrize("ignore_index", [255, -1])
def test_scores(ignore_index):
    task = Segmentation(NAMES, ignore_index)
    label, prediction = case(1, ignore_index)
    found = task.scores(task.confusion(label, prediction).numpy())
    iou, accuracy = slow_scores(label, prediction, 4, ignore_index)
    assert list(found["per_class_iou"]) == list(NAMES)
    assert list(found["per_class_iou"].values()) == pytest.approx(iou)
    assert found["miou"] == pytest.approx(np.mean(iou))
    assert found["pixel_accuracy"] == pytest.approx(accuracy)


def test_an_absent_class_has_no_score_and_a_predicted_one_scores_zero():
    task = Segmentation(NAMES)
    label = np.int32([[0, 0, 0, 0, 1, 1, 255]])
    prediction = np.int32([[0, 0, 0, 3, 1, 1, 2]])  # 2 is predicted on an ignored pixel only
    found = task.scores(task.confusion(label, prediction).numpy())
    assert found["per_class_iou"] == {"road": 0.75, "car": 1.0, "tree": None, "sky": 0.0}
    assert found["miou"] == pytest.approx((0.75 + 1 + 0) / 3)
    assert found["pixel_accuracy"] == pytest.approx(5 / 6)


def test_extremes():
    task = Segmentation(NAMES)
    label, _ = case()
    perfect = task.scores(task.confusion(label, np.minimum(label, 3)).numpy())
    assert perfect["miou"] == perfect["pixel_accuracy"] == 1
    nothing = task.scores(task.confusion(np.full_like(label, 255), label % 4).numpy())
    unknown = dict.fromkeys(NAMES)
    assert nothing == {"miou": 0.0, "per_class_iou": unknown, "per_class_accuracy": unknown, "pixel_accuracy": 0.0,
                       "mean_class_accuracy": 0.0, "per_class_pixels": dict.fromkeys(NAMES, 0),
                       "one_class": None}  # fmt: skip
    assert json.loads(json.dumps(perfect)) == perfect
    huge = 2**40 * np.eye(4, dtype=np.int64)
    huge[0, 1] = 2**40
    assert task.scores(huge)["per_class_iou"] == {"road": 0.5, "car": 0.5, "tree": 1, "sky": 1}


def test_scores_follow_a_permutation_of_classes():
    label, prediction = case(2)
    for order in itertools.islice(itertools.permutations(range(4)), 1, 24, 5):
        renamed = np.append(order, [0] * 251 + [255])  # class k becomes order[k], 255 stays
        plain, permuted = Segmentation(NAMES), Segmentation([NAMES[order.index(k)] for k in range(4)])
        first = plain.scores(plain.confusion(label, prediction).numpy())
        second = permuted.scores(permuted.confusion(renamed[label], renamed[prediction]).numpy())
        assert second["per_class_iou"] == pytest.approx(first["per_class_iou"])
        assert second["miou"] == pytest.approx(first["miou"])


def test_loss_leaves_out_the_tasks_own_ignore_index():
    logits = tf.constant([[[[9.0, 0, 0, 0], [0, 0, 0, 0]]]])
    label = np.int32([[[1, 3]]])
    for ignore_index, wanted in ((1, np.log(4)), (3, np.log(np.exp(9) + 3)), (255, np.log(4 * (np.exp(9) + 3)) / 2)):
        assert float(Segmentation(NAMES, ignore_index).loss(label, logits)) == pytest.approx(wanted, rel=1e-5)


def test_activation_and_decode():
    task = Segmentation(NAMES)
    assert task.channels == 4 and task.ignore_index == 255
    logits = np.random.default_rng(3).normal(0, 3, (2, 3, 4, 4)).astype("float32")
    terms = np.exp(logits.astype("float64"))
    np.testing.assert_allclose(task.activation(logits), terms / terms.sum(-1, keepdims=True), rtol=1e-5)
    assert task.activation(tf.cast(logits, tf.bfloat16)).dtype == tf.float32
    assert task.decode(logits).dtype == tf.int32
    np.testing.assert_array_equal(task.decode(logits), logits.argmax(-1))
