"""The optimizers and the learning rate against NumPy versions of their formulas."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfssl import optimizers
from tfssl.schedules import Polynomial, steps_of

SHAPES = {"dense": (3, 4), "convolution": (3, 3, 2, 4), "bias": (4,), "places": (1, 2, 3),
          "head": (4, 2), "head_bias": (2,)}  # fmt: skip
DECAYED = ("dense", "convolution", "head")
HEAD = ("head", "head_bias")
DECAY = 0.05


def random_arrays(seed):
    random = np.random.default_rng(seed)
    return {name: random.normal(0, 1, shape).astype("float32") for name, shape in SHAPES.items()}


def variables(values):
    return {name: keras.Variable(value, name=name) for name, value in values.items()}


def build(name, rate, decay, given, head_factor=10.0):
    return optimizers.build(name, rate, decay, list(given.values()), [given[name] for name in HEAD], head_factor)


def apply(optimizer, gradients, given):
    optimizer.apply_gradients([(tf.convert_to_tensor(gradients[name]), given[name]) for name in given])


@pytest.mark.parametrize("compiled", [False, True])
def test_sgd_with_l2_in_the_gradient_and_momentum(compiled):
    start = random_arrays(0)
    given = variables(start)
    rate = Polynomial(0.1, [0, 10])
    optimizer = build("sgd", rate, DECAY, given)

    def step(gradients):
        apply(optimizer, gradients, given)

    step = tf.function(step) if compiled else step
    wanted = {name: value.astype("float64") for name, value in start.items()}
    velocity = dict.fromkeys(start, 0.0)
    for number in range(3):
        gradients = random_arrays(1 + number)
        step({name: tf.constant(gradient) for name, gradient in gradients.items()})
        for name, gradient in gradients.items():
            full = gradient + (DECAY * wanted[name] if name in DECAYED else 0)
            factor = 10 if name in HEAD else 1
            velocity[name] = 0.9 * velocity[name] - 0.1 * (1 - number / 10) ** 0.9 * factor * full
            wanted[name] = wanted[name] + velocity[name]
    for name in given:
        np.testing.assert_allclose(given[name], wanted[name], rtol=1e-4, atol=1e-5, err_msg=name)
    assert int(optimizer.iterations) == 3


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_biases_and_norms_do_not_decay(name):
    start = random_arrays(0)
    given = variables(start)
    optimizer = build(name, 0.1, DECAY, given, head_factor=1.0)
    apply(optimizer, {name: np.zeros(shape, "float32") for name, shape in SHAPES.items()}, given)
    for name, value in start.items():
        if name not in DECAYED:
            np.testing.assert_array_equal(given[name], value)
        else:
            np.testing.assert_allclose(given[name], value * (1 - 0.1 * DECAY), rtol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_the_head_learns_by_the_exact_factor(name):
    """From zero, with powers of two for rate and factor, the floating-point results are exact multiples."""
    gradient = random_arrays(1)["dense"]
    given = {name: keras.Variable(np.zeros((3, 4), "float32"), name=name) for name in ("body", *HEAD)}
    optimizer = build(name, 0.125, 0.0, given, head_factor=8.0)
    for _ in range(3):
        apply(optimizer, dict.fromkeys(given, gradient), given)
    assert given["body"].numpy().all()
    for part in HEAD:
        np.testing.assert_array_equal(given[part], 8 * given["body"].numpy())


def test_adamw_against_its_formula():
    start = random_arrays(0)
    given = variables(start)
    optimizer = build("adamw", 0.01, DECAY, given, head_factor=1.0)
    wanted = {name: value.astype("float64") for name, value in start.items()}
    first, second = (dict.fromkeys(start, 0.0) for _ in range(2))
    for number in range(1, 4):
        gradients = random_arrays(number)
        apply(optimizer, gradients, given)
        for name, gradient in gradients.items():
            first[name] = 0.9 * first[name] + 0.1 * gradient
            second[name] = 0.999 * second[name] + 0.001 * np.square(gradient, dtype="float64")
            moved = first[name] / (1 - 0.9**number) / (np.sqrt(second[name] / (1 - 0.999**number)) + 1e-7)
            wanted[name] = wanted[name] * (1 - 0.01 * DECAY * (name in DECAYED)) - 0.01 * moved
    for name in given:
        np.testing.assert_allclose(given[name], wanted[name], rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("name, slots", [("sgd", 1), ("adamw", 2)])
def test_slots_exist_before_the_first_step_for_exactly_the_given_variables(name, slots):
    given, rate = variables(random_arrays(0)), Polynomial(0.1, [0, 10])
    optimizer = build(name, rate, DECAY, given)
    kept = [variable for variable in optimizer.variables if variable is not optimizer.iterations]
    assert sorted(tuple(variable.shape) for variable in kept) == sorted([*SHAPES.values()] * slots)
    before = len(optimizer.variables)
    apply(optimizer, random_arrays(1), given)
    assert len(optimizer.variables) == before
    stranger = keras.Variable(np.zeros((3, 4), "float32"), name="stranger")
    with pytest.raises((KeyError, ValueError)):
        optimizer.apply_gradients([(tf.ones([3, 4]), stranger)])
    assert not stranger.numpy().any()


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_decay_and_factor_hold_under_a_strategy(two_replicas, name):
    start, gradients = random_arrays(0), random_arrays(1)
    alone = variables(start)
    apply(build(name, 0.1, DECAY, alone), gradients, alone)
    with two_replicas.scope():
        shared = variables(start)
        optimizer = build(name, 0.1, DECAY, shared)

    @tf.function
    def step():
        two_replicas.run(lambda: apply(optimizer, {name: g / 2 for name, g in gradients.items()}, shared))

    step()  # optimizers sum over replicas: two halves
    for part in start:
        for copy in two_replicas.experimental_local_results(shared[part].value):
            np.testing.assert_allclose(copy, alone[part], rtol=1e-5, atol=1e-6, err_msg=part)


def slow_polynomial(rate, stages, power, warm_up, step):
    for start, stop in zip(stages, stages[1:], strict=False):
        if start <= step < stop:
            rise = (step - start + 1) / (warm_up + 1) if step - start < warm_up else 1
            return rate * rise * (1 - (step - start) / (stop - start)) ** power
    return 0.0


@pytest.mark.parametrize("stages, power, warm_up", [([0, 20], 0.9, 0), ([0, 7, 20], 0.9, 0), ([0, 12, 20], 2.0, 3)])
def test_polynomial(stages, power, warm_up):
    schedule = Polynomial(0.3, stages, power, warm_up)
    for step in range(25):
        wanted = slow_polynomial(0.3, stages, power, warm_up, step)
        assert float(schedule(tf.constant(step, tf.int64))) == pytest.approx(wanted, rel=1e-5, abs=1e-9)


def test_polynomial_starts_restarts_and_ends():
    schedule = Polynomial(0.5, [0, 1000, 3000])
    assert float(schedule(0)) == float(schedule(1000)) == 0.5
    assert 0 < float(schedule(999)) < 0.002
    assert float(schedule(3000)) == float(schedule(10_000)) == 0
    assert float(Polynomial(0.5, [0, 1000], warm_up=4)(0)) == pytest.approx(0.1)
    steps = tf.range(1000)
    rates = tf.function(lambda: tf.map_fn(schedule, steps, fn_output_signature=tf.float32))().numpy()
    assert (np.diff(rates) < 0).all()


def test_polynomial_survives_saving_and_refuses_stages_out_of_order():
    schedule = Polynomial(0.3, [0, 7, 20], 0.8, 2)
    copy = keras.optimizers.schedules.deserialize(keras.optimizers.schedules.serialize(schedule))
    assert [float(copy(step)) for step in range(21)] == [float(schedule(step)) for step in range(21)]
    for stages in ([0, 0, 10], [0, 20, 10]):
        with pytest.raises(ValueError, match="stages"):
            Polynomial(0.1, stages)


def test_steps_of():
    assert [steps_of(amount, 1000) for amount in (0, 0.2, 0.999, 1, 300, 300.0)] == [0, 200, 999, 1, 300, 300]
    assert steps_of(0.0004, 1000) == 0
