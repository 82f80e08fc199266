"""Guided collaborative training, and mean teacher with its flaw detector: the paper in NumPy, and what follows."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.mutual_for_tests import cross_entropy, softmax
from tests.networks_for_tests import (
    CLASSES,
    QUIET,
    VOID,
    all_networks,
    assert_close,
    make_batch,
    make_method,
    remember,
    same,
    snapshot,
    step,
    tiny_network,
    weights,
)
from tfssl import losses, mixing
from tfssl.errors import UserError
from tfssl.heads import flaw_detector
from tfssl.methods.gct import GCT, MIX
from tfssl.randomness import fold
from tfssl.tasks import Regression, Segmentation

SMALL = {"detector_width": 4, "detector_stride": 8, "ramp_up": 4, "rate": 0.02}


def make(name="gct", **options):
    method = make_method(name, **{**SMALL, **QUIET, **options})
    method.optimizer.iterations.assign(1)
    for norm in (layer for layer in method.detector.layers if isinstance(layer, keras.layers.BatchNormalization)):
        norm.moving_mean.assign(0.1 * tf.ones_like(norm.moving_mean))
        norm.moving_variance.assign(0.5 * tf.ones_like(norm.moving_variance))
    last = method.detector.get_layer("convolution_8")
    last.kernel.assign(20 * last.kernel)  # as after some training: its maps are far above what counts as harmless
    last.bias.assign([0.3])
    return method


def arrays(batch):
    return [np.array(tensor) for tensor in (*batch["labeled"], *batch["unlabeled"][:2])]


def detect(method, image, prediction, training=False):
    """F on the scaled image and the prediction, enlarged; its statistics are as before afterwards."""
    held = method.detector.get_weights()
    seen = np.concatenate([image / 127.5 - 1, prediction], -1).astype("float32")
    small = method.detector(seen, training=training)
    method.detector.set_weights(held)
    return stretched(np.array(small)[..., 0], image.shape[1:3])


def stretched(maps, size):
    """Bilinear, corner on corner."""
    for axis, new in ((1, size[0]), (2, size[1])):
        places = np.linspace(0, maps.shape[axis] - 1, new)
        maps = np.apply_along_axis(lambda line, at=places: np.interp(at, np.arange(len(line)), line), axis, maps)
    return maps.astype("float32")


def wrongness(prediction, label):
    """mu sum_o |T(x) - y| with mu = 1/2."""
    return 0.5 * np.abs(prediction - np.eye(len(CLASSES))[np.where(label == VOID, 0, label)]).sum(-1)


def detector_error(method, image, label, predictions, repeats):
    """Equation 3, summed over the networks; one pass over all predictions."""
    count = len(predictions)
    found = detect(method, np.concatenate([image] * count), np.concatenate(predictions), training=True)
    error = 0.0
    for flaws, prediction in zip(np.split(found, count), predictions, strict=True):
        truth = losses.flaw_truth(wrongness(prediction, label), label != VOID, repeats).numpy()
        error += 0.5 * ((flaws - truth) ** 2)[label != VOID].mean()
    return error


def outputs(network, image, training):
    return np.array(network(image, training=training)["logits"], "float64")


@pytest.mark.parametrize(
    "options",
    [{}, {"flaw_threshold": 0.2, "consistency_weight": 7.0}, {"flaw_map": "smoothed", "correction_weight": 3.0},
     {"ramp": "sigmoid", "truth_repeats": 3}, {"mix": "paste"}],
    ids=str,
)  # fmt: skip
def test_the_step_is_what_the_paper_says(options):
    """With "paste", of images on which labeled classes lie, which are learned from as labels are."""
    method, batch = make(**options), make_batch()
    image, label, weak, valid = arrays(batch)
    learned = label
    if "mix" in options:
        given = (*batch["labeled"], batch["unlabeled"][0], tf.fill(valid.shape, VOID), tf.constant(valid))
        pasted = mixing.paste(fold(method.key(), MIX), *given, classes=3, ignore_index=VOID)
        weak, pasted, valid = map(np.array, pasted)
        assert 0.1 < (pasted != VOID).mean() < 0.9
        learned = np.concatenate([label, pasted])
    seen, inside = np.concatenate([image, weak]), np.concatenate([label != VOID, valid])
    logits = [outputs(network, seen, True) for network in method.networks]
    p = [softmax(each) for each in logits]
    raw = [detect(method, seen, each) for each in p]
    xi = options.get("flaw_threshold", 0.6)
    maps = [losses.flaw_map(each, inside, xi, "flaw_map" in options).numpy() for each in raw]
    rise = np.exp(-5 * (3 / 4) ** 2) if "ramp" in options else (1 - np.cos(np.pi / 4)) / 2  # step 1 of 4
    flawed = (maps[0] > xi) & (maps[1] > xi)
    expected = {}
    for k in range(2):
        mask = maps[k] > maps[1 - k]
        distance = 0.5 * mask * ((p[k] - p[1 - k]) ** 2).sum(-1)
        expected[f"supervised_{k + 1}"] = cross_entropy(learned, logits[k][: len(learned)])
        expected[f"consistency_{k + 1}"] = options.get("consistency_weight", 100) * rise * distance[inside].mean()
        correction = 0.5 * flawed * raw[k] ** 2
        expected[f"correction_{k + 1}"] = options.get("correction_weight", 1) * correction[inside].mean()
        assert 0.02 < mask[inside].mean() < 0.95
    expected["detector"] = detector_error(
        method, image, label, [each[:4] for each in p], options.get("truth_repeats", 1)
    )
    there = inside & (np.arange(len(inside)) >= len(label))[:, None, None]  # what is watched: unlabeled pixels alone
    expected["total_variation"] = 0.5 * np.abs(p[0] - p[1]).sum(-1)[there].mean()
    expected["used_pixels"] = (maps[0] != maps[1])[there].mean()
    expected["corrected_pixels"] = flawed[there].mean()
    assert 0.01 < expected["corrected_pixels"] < 0.95
    assert_close(step(method, batch), expected, 2e-3)


def test_swapping_the_networks_swaps_the_terms():
    method, other = (
        make(learners=[tiny_network(seed, frozen_norm=True) for seed in pair]) for pair in ((1, 2), (2, 1))
    )
    other.detector.set_weights(method.detector.get_weights())
    logged, mirrored = step(method, make_batch()), step(other, make_batch())
    swap = str.maketrans("12", "21")
    assert_close(logged, {name.translate(swap): value for name, value in mirrored.items()}, 1e-4)
    swapped = {name.translate(swap): found for name, found in snapshot(other).items()}
    assert_close(snapshot(method), swapped, 1e-4)


def test_equal_networks_are_refused():
    with pytest.raises(UserError, match="networks: the two learners have equal weights"):
        make(learners=[tiny_network(3), tiny_network(3)])


def test_the_warm_up_learns_from_labels_alone_and_then_the_consistency_rises():
    methods = [make(warm_up=3, ramp_up=2, steps=10, ema_decay=0.5) for _ in range(2)]
    assert [first for first, *_ in methods[0].phases()] == [0, 3]
    batch, logged = make_batch(), []
    garbage = tuple(tf.fill(view.shape, np.nan) if view.dtype == tf.float32 else view for view in batch["unlabeled"])
    before = snapshot(methods[0])
    for method, unlabeled in zip(methods, (batch["unlabeled"], garbage), strict=True):
        logged.append(step(method, {**batch, "unlabeled": unlabeled}))
    assert logged[0] == logged[1] and set(logged[0]) == {"supervised_1", "supervised_2", "detector"}
    after = snapshot(methods[0])
    assert same(after, snapshot(methods[1])) and not any(same(before[role], after[role]) for role in after)
    step(methods[0], batch)
    found = [step(methods[0], batch) for _ in range(2)]  # the steps 3, where the rise begins, and 4
    assert found[0]["consistency_1"] == 0 < found[1]["consistency_1"] and found[0]["correction_1"] > 0


# The two moves.


@pytest.mark.parametrize("name", ["gct", "guided_mean_teacher"])
def test_each_move_leaves_the_others_networks_to_the_bit(name):
    method, batch = make(name, frozen_norm=False), make_batch()
    image, label, *_ = arrays(batch)
    before = snapshot(method)
    predictions = [tf.constant(np.random.default_rng(k).dirichlet(np.ones(3), label.shape), tf.float32) for k in (0, 1)]
    method.learn_flaws(tf.constant(image), tf.constant(label), predictions)
    second = snapshot(method)
    assert {role for role in before if not same(before[role], second[role])} == {"flaw_detector"}
    assert not any(np.array_equal(before["flaw_detector"][weight], value)
                   for weight, value in second["flaw_detector"].items())  # fmt: skip
    method.learn_flaws = lambda *_: {"detector": tf.constant(0.0)}
    step(method, batch)
    first = snapshot(method)
    assert same(first["flaw_detector"], second["flaw_detector"])  # moving statistics too
    assert all(not same(first[role], second[role]) for role in method.roles)


@pytest.mark.parametrize("name", ["gct", "guided_mean_teacher"])
def test_the_detector_learns_from_labeled_images_alone(name):
    method, batch = make(name), make_batch()
    if name == "guided_mean_teacher":
        method.teacher.set_weights([1.2 * weight for weight in method.teacher.get_weights()])
    restore, results = remember(method), []
    for other in (0, 7):
        restore()
        logged = step(method, {**batch, "unlabeled": make_batch(other)["unlabeled"]})
        results.append(
            (logged["detector"], weights(method.detector), logged["consistency_1" if name == "gct" else "consistency"])
        )
    assert same(*(result[:2] for result in results)) and results[0][2] != results[1][2]


def test_the_gradient_of_the_correction_goes_through_the_detector():
    """Without the detector's last kernel its word is a constant, and the correction teaches nothing."""
    for factor in (1.0, 0.0):
        method = make(consistency_weight=0.0, flaw_threshold=0.0)
        last = method.detector.get_layer("convolution_8")
        last.kernel.assign(factor * last.kernel)
        network, (image, *_) = method.networks[0], arrays(make_batch())
        with tf.GradientTape() as tape:
            flaws = method.detect(image, method.task.activation(network(image, training=True)["logits"]))
            loss = losses.flaw_correction(flaws, tf.ones_like(flaws), tf.ones(flaws.shape, tf.bool))
        gradients = tape.gradient(loss, [variable.value for variable in network.trainable_variables])
        assert any(np.abs(gradient).max() > 1e-6 for gradient in gradients) == bool(factor)


def test_the_detector_has_an_optimizer_of_its_own():
    learners = [tiny_network(seed) for seed in (1, 2)]
    method = GCT(learners, Segmentation(CLASSES), steps=10, detector_rate=1e-3, detector_width=4)
    (optimizer,) = method.further_optimizers.values()
    assert isinstance(optimizer, keras.optimizers.Adam) and method.minimised == learners
    assert [id(v) for v in optimizer._trainable_variables] == [id(v) for v in method.detector.trainable_variables]
    rates = []
    for step_number in (0, 5, 10):
        optimizer.iterations.assign(step_number)
        rates.append(float(optimizer.learning_rate))
    assert rates == pytest.approx([1e-3, 1e-3 * 0.5**0.9, 0])
    optimizer.iterations.assign(0)
    before = [variable.numpy() for variable in optimizer._trainable_variables]
    optimizer.apply([tf.fill(variable.shape, -5.0) for variable in before])
    for old, new in zip(before, optimizer._trainable_variables, strict=True):
        np.testing.assert_allclose(new.numpy() - old, 1e-3, rtol=1e-2)


# The detector.


def test_the_detector_is_the_one_of_appendix_b():
    detector = flaw_detector(5)
    convolutions = [layer for layer in detector.layers if isinstance(layer, keras.layers.Conv2D)]
    assert [layer.filters for layer in convolutions] == [64, 128, 128, 256, 256, 512, 512, 1]
    assert [layer.strides[0] for layer in convolutions] == [2, 2, 1, 2, 1, 2, 1, 2]
    assert {layer.kernel_size for layer in convolutions} == {(4, 4)}
    assert sum(isinstance(layer, keras.layers.BatchNormalization) for layer in detector.layers) == 7
    assert {layer.negative_slope for layer in detector.layers if isinstance(layer, keras.layers.LeakyReLU)} == {0.2}
    assert detector(tf.zeros([1, 96, 65, 5])).shape == (1, 3, 3, 1)


@pytest.mark.parametrize(("stride", "size"), [(32, (3, 2)), (16, (6, 4)), (8, (12, 8))])
def test_a_narrower_detector_with_a_finer_map(stride, size):
    detector = flaw_detector(4, width=2, stride=stride)
    assert detector(tf.zeros([1, 96, 64, 4])).shape == (1, *size, 1)
    assert [layer.filters for layer in detector.layers if isinstance(layer, keras.layers.Conv2D)][:7] == [
        2, 4, 4, 8, 8, 16, 16
    ]  # fmt: skip


def test_pseudo_labels_are_those_of_the_network_with_fewer_flaws():
    method, (image, *_) = make(), arrays(make_batch())
    p = [softmax(outputs(network, image, False)) for network in method.networks]
    maps = [losses.flaw_map(detect(method, image, each), np.ones(image.shape[:3], bool), 0.6).numpy() for each in p]
    chosen = np.where((maps[0] <= maps[1])[..., None], *p)
    np.testing.assert_array_equal(method.pseudo_labels(image), chosen.argmax(-1))
    assert all((chosen.argmax(-1) != each.argmax(-1)).any() for each in p)
    np.testing.assert_allclose(method.coupling(image), 0.5 * np.abs(p[0] - p[1]).sum(-1).mean(), rtol=1e-4)


# Mean teacher with a flaw detector.


@pytest.mark.parametrize(
    "options", [{}, {"flaw_map": "smoothed", "consistency_weight": 5.0, "ramp": "sigmoid"}], ids=str
)
def test_the_teacher_is_followed_where_it_is_no_worse(options):
    method, batch = make("guided_mean_teacher", **options), make_batch()
    method.teacher.set_weights([1.2 * weight for weight in method.teacher.get_weights()])
    image, label, weak, valid = arrays(batch)
    seen = np.concatenate([image, weak])
    told, found = (softmax(outputs(network, seen, training)) for network, training in
                   ((method.teacher, False), (method.student, True)))  # fmt: skip
    theirs, mine = (
        losses.flaw_map(detect(method, weak, each[4:]), valid, 1.0, "flaw_map" in options).numpy()
        for each in (told, found)
    )
    follows = theirs <= mine
    distance = follows * ((told - found) ** 2).sum(-1)[4:]
    rise = np.exp(-5 * (3 / 4) ** 2) if "ramp" in options else (1 - np.cos(np.pi / 4)) / 2
    expected = {
        "supervised": cross_entropy(label, outputs(method.student, image, True)),
        "consistency": options.get("consistency_weight", 1) * rise * distance[valid].mean(),
        "detector": detector_error(method, image, label, [told[:4], found[:4]], 1),
        "used_pixels": follows[valid].mean(),
    }
    assert 0.05 < expected["used_pixels"] < 0.95
    assert_close(step(method, batch), expected, 2e-3)
    assert len(all_networks(method)) == 3


def test_images_have_no_classes_to_paste():
    with pytest.raises(UserError, match="method.mix is .paste., but task regression has no classes"):
        GCT([tiny_network(1), tiny_network(2)], Regression(), steps=8, detector_rate=1e-4, detector_width=4,
            detector_stride=8, truth_repeats=1, mix="paste")  # fmt: skip
