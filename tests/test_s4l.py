"""S4L's rotation: images, labels and masks turn together, and its terms are what the paper says."""

import numpy as np
import pytest
import tensorflow as tf

from tests.mutual_for_tests import cross_entropy, softmax
from tests.networks_for_tests import (
    QUIET,
    VOID,
    gradients_by_network,
    make_batch,
    make_method,
    remember,
    same,
    snapshot,
    step,
)
from tfssl.methods import s4l


def make(**options):
    return make_method("s4l", **{"rate": 0.02, **options})


def key(number):
    return tf.constant([5, number], tf.int32)


@pytest.mark.parametrize("shape", [(3, 5, 5), (3, 4, 4, 2)])
def test_turns_are_by_90_degrees_anticlockwise(shape):
    images = np.random.default_rng(0).integers(0, 9, shape)
    for quarters in range(4):
        np.testing.assert_array_equal(s4l.turn(tf.constant(images), quarters), np.rot90(images, quarters, (1, 2)))
    each = tf.function(s4l.turn_each, jit_compile=True)(tf.constant(images), tf.constant([3, 0, 2]))
    expected = [np.rot90(image, quarters) for image, quarters in zip(images, [3, 0, 2], strict=True)]
    np.testing.assert_array_equal(each, expected)
    assert s4l.turn(tf.constant(images > 4), 1).dtype == tf.bool


@pytest.mark.parametrize("rotations", ["all", "drawn"])
def test_images_and_labels_turn_together(rotations):
    method = make(rotations=rotations)
    label = tf.constant(np.random.default_rng(0).integers(0, 5, (6, 4, 4)))
    image = tf.repeat(label[..., None], 3, -1)
    seen = []
    for number in range(30):
        turns, images, labels = (part.numpy() for part in method.turned(key(number), image, label))
        np.testing.assert_array_equal(images, np.repeat(labels[..., None], 3, -1))
        count = 4 if rotations == "all" else 1
        assert len(turns) == len(labels) == 6 * count
        for n, quarters in enumerate(turns):
            np.testing.assert_array_equal(labels[n], np.rot90(label[n % 6], quarters))
        seen.append(turns)
    if rotations == "all":
        assert all(sorted(turns.tolist()) == sorted([0, 1, 2, 3] * 6) for turns in seen)
    else:
        np.testing.assert_allclose(np.bincount(np.concatenate(seen)) / 180, 0.25, atol=0.1)
        assert len({turns.tobytes() for turns in seen}) == 30


def pooled(features, inside):
    """Mean feature over those that are wholly inside; None for an image that has none."""
    whole = tf.image.resize(inside[..., None].astype("float32"), features.shape[1:3]).numpy()[..., 0] > 0.999
    return [f[here].mean(0) if here.any() else None for f, here in zip(features, whole, strict=True)]


def rotation_loss(method, images, turns, inside):
    kernel, bias = (np.array(weight) for weight in method.head.weights)
    features = np.array(method.network(images)["features"])
    lost = [-np.log(softmax(mean @ kernel + bias)[quarters])
            for mean, quarters in zip(pooled(features, inside), turns, strict=True) if mean is not None]  # fmt: skip
    return np.mean(lost), len(lost)


@pytest.mark.parametrize("rotations", ["all", "drawn"])
@pytest.mark.parametrize("rotated_labels", [True, False])
def test_the_step_is_what_the_paper_says(rotations, rotated_labels):
    """L = L_l + w L_rot: cross-entropy of the turns over labeled and unlabeled images, all together."""
    method = make(rotations=rotations, rotated_labels=rotated_labels, rotation_weight=3.0, **QUIET)
    turned, original = [], method.turned

    def record(key, *tensors):
        turned.append((key, original(key, *tensors)))
        return turned[-1][1]

    method.turned = record
    batch = make_batch()
    (image, label), (weak, valid, *_) = batch["labeled"], batch["unlabeled"]
    label = tf.where(np.arange(4).reshape(-1, 1, 1) == 2, VOID, label)  # one image tells nothing
    batch["labeled"] = (image, label)
    gradients_by_network(method, batch)
    del method.turned
    ((first_key, labeled), (second_key, unlabeled)) = turned
    assert (first_key != second_key).numpy().any()
    turns, images, labels = (np.array(part) for part in labeled)
    more_turns, more_images, inside = (np.array(part) for part in unlabeled)
    np.testing.assert_array_equal(more_images, original(second_key, weak, valid)[1])
    rotation, count = rotation_loss(
        method, np.concatenate([images, more_images]), [*turns, *more_turns], np.concatenate([labels != VOID, inside])
    )
    assert count == (28 if rotations == "all" else 7)
    taught = (labels, images) if rotated_labels else (label.numpy(), image)
    expected = {"supervised": cross_entropy(taught[0], method.network(taught[1])["logits"]), "rotation": 3 * rotation}
    logged = step(method, batch)
    assert logged.keys() == expected.keys()
    for name, value in logged.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-4, err_msg=name)


def test_the_turn_is_learned():
    """Images that are bright at the top tell their turn by what the encoder sees, and in the end it is known."""
    batch = make_batch()
    bright = tf.constant(np.linspace(255, 0, 32).reshape(1, 32, 1, 1) * np.ones([4, 1, 32, 3]), tf.float32)
    batch = {"labeled": (bright, batch["labeled"][1]), "unlabeled": (bright, batch["unlabeled"][1])}
    method = make(steps=60, rate=0.2, dropout=0.0, stochastic_depth=0.0)
    history = [step(method, batch, traced=True)["rotation"] for _ in range(60)]
    assert history[0] > 1 and history[-1] < 0.5 * history[0]


def test_the_classifier_learns_from_labels_alone_and_the_head_from_turns_alone():
    found = gradients_by_network(make(), make_batch())
    assert found["supervised"]["rotation"] == [None, None]
    assert all(np.abs(gradient).max() > 0 for gradient in found["rotation"]["rotation"])
    names = [weight.path for weight in make().network.weights]
    last = [n for n, name in enumerate(names) if "logits_convolution" in name]
    assert len(last) == 2 and all(found["rotation"]["network"][n] is None for n in last)


def test_without_an_average_the_network_ships():
    plain, averaged = make(), make(ema_decay=0.9)
    assert plain.deployed is plain.network and averaged.deployed is averaged.roles["average"]
    restore = remember(averaged)
    averaged.average.set_weights([-weight for weight in averaged.average.get_weights()])
    assert same(step(plain, make_batch()), step(averaged, make_batch()))
    assert same(snapshot(plain)["network"], snapshot(averaged)["network"])
    restore()
    assert plain.pseudo_labels(make_batch()["labeled"][0]) is None


def test_the_papers_values_are_the_defaults():
    method = make_method("s4l")
    assert (method.rotations, method.rotated_labels, method.rotation_weight) == ("all", True, 1.0)
    assert method.average is None and method.turns and method.strong_views == 0
