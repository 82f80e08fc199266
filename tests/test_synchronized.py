"""Synchronized batch norm: two replicas with half of a batch each compute what one device computes of all of it."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.networks_for_tests import QUIET, assert_close, make_batch, make_method, snapshot, step
from tests.test_distribution import assert_equal_on_replicas
from tfssl.methods import METHODS
from tfssl.networks.layers import normalise

SOON = ("robust_mutual", "u2pl")  # the other methods are among the slow tests


def network(batch_norm, strategy=None):
    with (strategy or tf.distribute.get_strategy()).scope():
        image = keras.Input((None, None, 3))
        x = keras.layers.Conv2D(4, 3, kernel_initializer=keras.initializers.GlorotUniform(seed=1))(image)
        return keras.Model(image, normalise(x, "norm", batch_norm))


def gradients(model, image):
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(model(image, training=True) ** 3)  # depends on every output's size
    return tape.gradient(loss, [variable.value for variable in model.trainable_variables])


@pytest.mark.parametrize("batch_norm", ["synchronized", "local"])
def test_gradients_and_statistics_are_those_of_the_whole_batch(batch_norm, two_replicas):
    image = np.random.default_rng(0).normal([0, 1, 2], 1, (4, 8, 8, 3)).astype("float32")
    image[2:] *= 3.0  # the halves differ
    alone, together = network(batch_norm), network(batch_norm, two_replicas)
    expected = gradients(alone, tf.constant(image))

    def on_replica():
        number = tf.distribute.get_replica_context().replica_id_in_sync_group
        return gradients(together, tf.constant(image)[2 * number : 2 * number + 2])

    found = tf.function(lambda: two_replicas.run(on_replica))()
    means = [np.mean([part.numpy() for part in two_replicas.experimental_local_results(one)], 0) for one in found]
    close = [np.allclose(one, other, rtol=1e-4, atol=1e-6) for one, other in zip(expected, means, strict=True)]
    assert all(close) == (batch_norm == "synchronized")
    if batch_norm == "synchronized":
        for statistics in ("moving_mean", "moving_variance"):
            one, both = (getattr(model.get_layer("norm"), statistics).numpy() for model in (alone, together))
            np.testing.assert_allclose(one, both, rtol=1e-4, err_msg=statistics)


def synchronized(method):
    for learner in method.roles.values():
        norms = [layer for layer in learner._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)]
        assert norms
        for norm in norms:
            norm.synchronized = True
    return method


@pytest.mark.parametrize("parts", [1, 2])
def test_a_step_is_that_of_the_whole_batch(parts, two_replicas):
    """In parts too: each part of a replica's share with the same part of the other's."""
    alone, together = (synchronized(make_method("supervised", strategy=strategy, **QUIET))
                       for strategy in (None, two_replicas))  # fmt: skip
    together.parts, batch = parts, make_batch()
    before = snapshot(alone)
    if parts == 2:  # of four images, the replicas have the first and the second two
        batch = {"labeled": tuple(tf.repeat(values[:2], 2, axis=0) for values in batch["labeled"])}
    assert_close(step(together, batch), step(alone, batch), 1e-4)
    assert_close(snapshot(together), snapshot(alone), 1e-4)
    moved = [np.abs(value - before[role][name]).max() for role, values in snapshot(alone).items() for name, value in
             values.items()]  # fmt: skip
    assert np.max(moved) > 0.1


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in SOON else pytest.mark.slow)
                                  for name in METHODS])  # fmt: skip
def test_every_method_takes_it(name, two_replicas):
    """With what `fit` measures now and then too: the shares of the terms in the gradient."""
    method = synchronized(make_method(name, strategy=two_replicas, rate=0.01, probe_every=2))
    for seed in range(3):
        assert all(np.isfinite(value) for value in step(method, make_batch(seed=seed)).values()), seed
    assert_equal_on_replicas(method)
