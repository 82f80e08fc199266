"""Two replicas compute what one process computes from each half of the batch in turn, with XLA and without."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.contracts import CONTRACTS
from tests.networks_for_tests import (
    QUIET,
    all_networks,
    assert_close,
    fill,
    half,
    make_batch,
    make_method,
    remember,
    snapshot,
    step,
    stream,
    weights,
)
from tfssl.methods import METHODS, replicas
from tfssl.networks.layers import Dropout
from tfssl.randomness import fold, noise

STEP = 3  # where the comparison starts: teachers then keep three quarters of themselves
# GTA's student would begin its move where each half has brought the assistant, and not where both have.
SEPARATE = {"gta": {"transmission_decay": 1.0}}


def ready(name, strategy=None, **options):
    """A method at step 3 whose teachers differ from the students and whose prototypes matter."""
    method = make_method(name, strategy=strategy, **{**CONTRACTS[name].shown, **SEPARATE.get(name, {}), **options})
    method.optimizer.iterations.assign(STEP)
    generator = np.random.default_rng(5)
    for network in all_networks(method).values():
        if network not in method.minimised:
            network.set_weights([weight * 1.1 for weight in network.get_weights()])
    for memory in method.memories:
        fill(memory, generator)
    return method


def draw_as_replica(method):
    """Let a method in one process draw what a replica draws, the one whose number is in the variable returned."""
    replica = tf.Variable(0)
    key = tf.constant([0, method.seed], tf.int32)
    method.key = lambda: fold(fold(key, method.optimizer.iterations), replica)
    return replica


def in_turn(name, batch, **options):
    """One process sees one half of the batch, then the other, both times from the same start.

    Returns the losses and the weights of all networks, averaged: the rate is 1, so that this averages gradients too.
    Then it does so once more but keeps the prototypes of the first half, and returns those after both.
    """
    method = ready(name, **options)
    replica, restore = draw_as_replica(method), remember(method)
    memories = method.memories

    def step_on_half(number):
        restore()
        replica.assign(number)
        return step(method, half(batch, number)), {role: weights(net) for role, net in all_networks(method).items()}

    logged, networks = zip(*(step_on_half(number) for number in range(2)), strict=True)
    step_on_half(0)
    after_first = [memory.get_weights() for memory in memories]
    restore()
    for memory, values in zip(memories, after_first, strict=True):
        memory.set_weights(values)
    replica.assign(1)
    step(method, half(batch, 1))
    return mean(*logged), mean(*networks), [memory.get_weights() for memory in memories]


def mean(*nests):
    return tf.nest.map_structure(lambda *values: np.mean(values, axis=0), *nests)


def assert_equal_on_replicas(method):
    strategy = method.distribute_strategy
    lists = [network.weights for network in all_networks(method).values()]
    lists += [memory.weights for memory in method.memories]
    for weight in itertools.chain(*lists, *(optimizer.variables for optimizer in method.optimizers)):
        first, second = (value.numpy() for value in strategy.experimental_local_results(weight.value))
        np.testing.assert_array_equal(first, second, weight.path)


def compare(name, strategy, xla=False, equal=assert_equal_on_replicas, **options):
    """Two replicas against two halves in turn (these without XLA); then the replicas stay equal for some steps."""
    batch = make_batch(seed=1)
    logged, networks, memories = in_turn(name, batch, **options)
    method = ready(name, strategy, xla=xla, **options)
    before, traces, train_step = snapshot(method), [], method.train_step
    method.train_step = lambda data: traces.append(data) or train_step(data)
    assert_close(step(method, batch), logged)
    after = snapshot(method)
    assert_close({role: after[role] for role in networks}, networks)
    for memory, expected in zip(method.memories, memories, strict=True):
        assert_close(dict(enumerate(memory.get_weights())), dict(enumerate(expected)))
    moved = [np.abs(after[role][weight] - before[role][weight]).max() for role in networks for weight in networks[role]]
    assert np.max(moved) > 0.1  # far above the tolerance: the comparison is of something
    traced = len(traces)
    for seed in range(3):
        equal(method)
        step(method, make_batch(seed=seed))
    assert len(traces) == traced > 0  # a trace serves all steps


def soon(*names):
    """All methods, those not named among the slow tests."""
    return [name if name in names else pytest.param(name, marks=pytest.mark.slow) for name in METHODS]


@pytest.mark.parametrize("name", soon("supervised", "mean_teacher", "robust_mutual", "u2pl", "gta"))
def test_losses_and_gradients_of_two_replicas(name, two_replicas):
    compare(name, two_replicas, **QUIET, **CONTRACTS[name].unmixed)


@pytest.mark.parametrize("name", soon("supervised", "mean_teacher"))
def test_losses_and_gradients_of_two_replicas_under_xla(name, two_replicas):
    compare(name, two_replicas, xla=True, **QUIET, **CONTRACTS[name].unmixed)


def test_the_student_follows_the_assistant_that_all_replicas_have_taught(two_replicas):
    method = ready("gta", two_replicas, transmission_decay=0.5, **QUIET)
    method.optimizer.learning_rate = 0.0
    student, assistant = (network.get_layer("encoder") for network in (method.student, method.assistant))
    before, was = ([weight.numpy() for weight in each.trainable_variables] for each in (student, assistant))
    step(method, make_batch(seed=1))
    assert_equal_on_replicas(method)
    moved = [weight.numpy() for weight in assistant.trainable_variables]
    for weight, old, new in zip(student.trainable_variables, before, moved, strict=True):
        np.testing.assert_allclose(weight.numpy(), 0.5 * old + 0.5 * new, rtol=1e-5, atol=1e-6)
    assert max(np.abs(new - old).max() for new, old in zip(moved, was, strict=True)) > 0.1


@pytest.mark.parametrize("xla", [False, True])
def test_xla_is_on_where_it_is_asked_for(xla):
    """A Python function inside the compiled part runs without XLA and cannot be compiled with it."""
    method = make_method("supervised", xla=xla)

    def terms():
        loss = tf.reduce_sum(method.network(make_batch()["labeled"][0])["logits"])
        return {"supervised": loss + 0 * tf.stop_gradient(tf.py_function(lambda: 1.0, [], tf.float32))}, ()

    minimize = tf.function(lambda: method.minimize(terms, [method.network], method.optimizer))
    if xla:
        with pytest.raises((tf.errors.InvalidArgumentError, tf.errors.UnimplementedError), match="PyFunc"):
            minimize()
    else:
        minimize()


@pytest.mark.parametrize("name", soon("supervised", "mean_teacher", "robust_mutual", "u2pl", "gta"))
def test_noise_mixing_and_batch_statistics_on_two_replicas(name, two_replicas):
    """With the keys that the replicas have, one process draws their noise, and statistics are averaged too."""
    compare(name, two_replicas)


@pytest.mark.parametrize(
    "options",
    [{"labels_from": "students", "self_supervision": False}, {"p0": "stage", "teacher_statistics": "average"}],
)
def test_settings_of_mutual_learning_on_two_replicas(options, two_replicas):
    compare("robust_mutual", two_replicas, **options)


@pytest.mark.parametrize("name", soon("supervised", "mean_teacher", "cutmix", "robust_mutual", "u2pl"))
def test_each_replica_draws_masks_of_its_own(name, two_replicas, monkeypatch):
    draws_of_replicas(name, two_replicas, monkeypatch, differ=True)


def test_replicas_without_noise_do_the_same(two_replicas, monkeypatch):
    options = {**QUIET, **CONTRACTS["mean_teacher"].unmixed}
    draws_of_replicas("mean_teacher", two_replicas, monkeypatch, differ=False, **options)


def draws_of_replicas(name, two_replicas, monkeypatch, differ, **options):
    """Both replicas get the same images: their losses differ by what they draw, and by nothing else."""
    monkeypatch.setattr(replicas, "mean_of_numbers", dict)  # each logs what is its own
    once = half(make_batch(), 0)
    twice = tf.nest.map_structure(lambda tensor: tf.concat([tensor, tensor], 0), once)
    method = ready(name, two_replicas, **options)
    method.enter(STEP, list)
    (data,) = stream(method, twice)
    logged = tf.function(lambda: two_replicas.run(method.train_step, args=(data,)))()
    for term in method.terms:
        first, second = two_replicas.experimental_local_results(logged[term])
        assert (float(first) != float(second)) == differ, term


@pytest.mark.parametrize("name", soon("supervised"))
def test_mixed_precision_on_two_replicas(name, two_replicas):
    """Finite losses, weights in float32 that are equal on both and move."""
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        method = make_method(name, strategy=two_replicas, rate=0.01, **CONTRACTS[name].shown)
        before = snapshot(method)
        logged = [step(method, make_batch(seed=seed)) for seed in range(2)]
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert np.isfinite([list(each.values()) for each in logged]).all()
    assert_equal_on_replicas(method)
    for role in CONTRACTS[name].taught_networks:
        values = snapshot(method)[role]
        assert {value.dtype for value in values.values()} == {np.dtype("float32")}
        assert any(not np.array_equal(value, before[role][key]) for key, value in values.items()), role


def test_dropout_masks_differ_between_replicas(two_replicas):
    method = make_method("supervised", strategy=two_replicas)

    def masks():
        with noise(method.key()):
            return Dropout(0.5, number=3)(tf.ones([100]), training=True)

    first, second = two_replicas.experimental_local_results(tf.function(lambda: two_replicas.run(masks))())
    assert 20 < np.sum(first.numpy() != second.numpy()) < 80


def test_full_pass_on_two_replicas(two_replicas):
    """The prototypes before a stage come out of both replicas as out of one process, and so does their count."""
    options = {"warm_up": 0, "prototype_start": "full_pass"}
    alone, together = (make_method("robust_mutual", strategy=strategy, **options) for strategy in (None, two_replicas))
    for method in (alone, together):
        method.begin_stage(lambda: stream(method, make_batch(seed=1), make_batch(seed=2)))  # noqa: B023
    first, second = snapshot(alone), snapshot(together)
    assert_close(first["memory_1"], second["memory_1"])
    assert_close(first["memory_2"], second["memory_2"])
    assert_equal_on_replicas(together)
