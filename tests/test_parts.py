"""A batch done in parts moves the networks as replicas that share it do; and float16 loses no step."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.contracts import CONTRACTS
from tests.networks_for_tests import (
    CLASSES,
    QUIET,
    VOID,
    all_networks,
    assert_close,
    make_batch,
    make_method,
    step,
    tiny_network,
)
from tests.test_distribution import in_turn, ready, soon
from tfssl import optimizers
from tfssl.methods import METHODS
from tfssl.methods.parts import in_parts, last, summed
from tfssl.tasks import Segmentation

REMEMBERING = ("robust_mutual", "u2pl", "cross_teacher")  # the second part finds what the first left in the memories


@pytest.mark.parametrize("xla", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", soon("supervised", "gta", "adversarial", "unimatch"))
def test_two_parts_are_two_halves_in_turn(name, xla):
    options = {**QUIET, **CONTRACTS[name].unmixed}
    batch = make_batch(seed=1)
    method = ready(name, xla=xla, **options)
    method.parts = 2
    logged = step(method, batch)
    if name in REMEMBERING:
        assert all(np.isfinite(value) for value in logged.values())
        return
    expected, networks, _ = in_turn(name, batch, **options)
    assert_close({term: logged[term] for term in method.terms}, {term: expected[term] for term in method.terms})
    for role, network in all_networks(method).items():
        trained = {id(variable) for variable in network.trainable_variables}  # statistics follow part after part
        for variable, (_, expected) in zip(network.weights, networks[role].items(), strict=True):
            if id(variable) in trained:
                np.testing.assert_allclose(variable, expected, rtol=1e-4, atol=1e-5)
    assert int(method.optimizer.iterations) == 4  # one step, not two


def test_networks_that_follow_do_so_once():
    method = ready("mean_teacher", **QUIET)
    method.parts, method.optimizer.learning_rate = 2, 0.0
    before, student = ([weight.numpy() for weight in each.weights] for each in (method.teacher, method.student))
    step(method, make_batch(seed=1))
    for weight, old, new in zip(method.teacher.weights, before, student, strict=True):
        np.testing.assert_allclose(weight, 0.75 * old + 0.25 * new, rtol=1e-5, atol=1e-6)


def test_gradients_are_averaged_and_parts_are_cut_in_order():
    seen = []

    def one(batch):
        seen.append((batch["a"].numpy().tolist(), last()))
        return summed([tf.reduce_mean(batch["a"]), None])

    result = in_parts(one, {"a": tf.constant([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])}, 3)
    assert seen == [([1, 2], False), ([3, 4], False), ([5, 6], True)]
    assert result[0].numpy() == 3.5 and result[1] is None
    assert last() and summed([1, 2]) == [1, 2]


def test_the_two_halves_draw_as_two_replicas():
    keys = []
    method = make_method("supervised", **QUIET)
    learn = method.learn
    method.learn = lambda batch: keys.append(method.key().numpy().tolist()) or learn(batch)
    method.parts = 2
    method.enter(0, None)
    method.train_step(make_batch())
    assert len(keys) == 2 and keys[0] != keys[1]
    method.optimizer.iterations.assign(0)
    assert method.key().numpy().tolist() == keys[0]


# float16


@pytest.fixture
def half_precision():
    keras.mixed_precision.set_dtype_policy("mixed_float16")
    yield
    keras.mixed_precision.set_dtype_policy("float32")


def test_a_step_that_overflows_moves_nothing_but_counts(half_precision):
    variable = keras.Variable([1.0, 2.0])
    optimizer = optimizers.build("sgd", 0.1, 0.0, [variable], [], 1.0)
    scale = float(optimizer.dynamic_scale)
    optimizer.apply_gradients([(tf.constant([np.inf, 0.0]), variable)])
    np.testing.assert_array_equal(variable, [1.0, 2.0])
    assert int(optimizer.iterations) == 1 and float(optimizer.dynamic_scale) == scale / 2
    optimizer.apply_gradients([(tf.constant([1.0, 0.0]) * optimizer.dynamic_scale, variable)])
    np.testing.assert_allclose(variable, [0.9, 2.0])
    assert int(optimizer.iterations) == 2


def test_an_overflow_on_the_second_device_alone_moves_nothing(half_precision, two_replicas):
    with two_replicas.scope():
        variable = keras.Variable([1.0, 2.0])
        optimizer = optimizers.build("sgd", 0.1, 0.0, [variable], [], 1.0)
    scale = optimizer.dynamic_scale.numpy()

    def move():
        number = tf.distribute.get_replica_context().replica_id_in_sync_group
        gradient = tf.where(number == 1, np.float32(np.inf), 0.0) * tf.constant([1.0, 1.0])
        optimizer.apply_gradients([(gradient, variable)])

    tf.function(lambda: two_replicas.run(move))()
    np.testing.assert_array_equal(variable, [1.0, 2.0])
    assert optimizer.iterations.numpy() == 1 and optimizer.dynamic_scale.numpy() == scale / 2


def test_a_head_of_its_own_has_a_scale_of_its_own(half_precision):
    method = METHODS["adversarial"]([tiny_network()], Segmentation(CLASSES, VOID), steps=8)
    assert isinstance(method.further_optimizers["discriminator"], optimizers.LossScale)


def test_factors_and_decay_are_those_of_the_optimizer_inside(half_precision):
    fast, slow = keras.Variable([[1.0]]), keras.Variable([[1.0]])
    optimizer = optimizers.build("sgd", 0.1, 0.5, [slow, fast], [fast], 10.0)
    scale = optimizer.dynamic_scale
    optimizer.apply_gradients([(tf.constant([[0.0]]) * scale, variable) for variable in (slow, fast)])
    np.testing.assert_allclose([float(slow[0, 0]), float(fast[0, 0])], [0.95, 0.5], rtol=1e-6)


@pytest.mark.parametrize("name", soon("supervised", "gct"))
def test_methods_learn_in_float16(name, half_precision):
    method = make_method(name, rate=0.01, **CONTRACTS[name].shown)
    assert isinstance(method.optimizer, optimizers.LossScale)
    for seed in range(4):
        logged = step(method, make_batch(seed=seed))
    assert all(np.isfinite(value) for value in logged.values())
    assert int(method.optimizer.iterations) == 4
