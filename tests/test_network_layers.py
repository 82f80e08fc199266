"""The networks' own layers: noise as a function of the key, and a resize that XLA does not spoil."""

import numpy as np
import pytest
import tensorflow as tf

from tfssl import randomness
from tfssl.networks.layers import Dropout, ResizeLike, StochasticDepth


def images(*shape):
    return np.random.default_rng(0).uniform(0, 255, shape).astype("float32")


def key(number):
    return tf.constant([0, number], tf.int32)


@pytest.mark.parametrize("layer", [Dropout(0.3, number=7), StochasticDepth(0.3, number=7)])
def test_noise_layers(layer):
    ones = tf.ones([4000, 1, 1, 5])
    with randomness.noise(key(1)):
        first, again = layer(ones, training=True).numpy(), layer(ones, training=True).numpy()
        other_layer = type(layer)(0.3, number=8)(ones, training=True).numpy()
    with randomness.noise(key(2)):
        other_key = layer(ones, training=True).numpy()
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other_layer) and not np.array_equal(first, other_key)
    np.testing.assert_allclose(np.unique(first), [0, 1 / 0.7])
    assert abs(first.mean() - 1) < 0.04
    assert (first.std(axis=-1) == 0).all() == isinstance(layer, StochasticDepth)  # one draw for a sample
    with randomness.noise(None):
        np.testing.assert_array_equal(layer(ones, training=True), ones)
    np.testing.assert_array_equal(layer(ones, training=False), ones)
    assert type(layer).from_config(layer.get_config()).get_config() == layer.get_config()


def test_noise_under_xla_is_a_function_of_the_key():
    @tf.function(jit_compile=True)
    def draw(key):
        with randomness.noise(key):
            return Dropout(0.5, number=1)(tf.ones([64]), training=True)

    np.testing.assert_array_equal(draw(key(1)), draw(key(1)))
    assert not np.array_equal(draw(key(1)), draw(key(2)))


def test_noise_differs_between_replicas(two_replicas):
    layer = Dropout(0.5, number=1)

    @tf.function
    def draw():
        with randomness.noise(randomness.step_key(seed=0, step=3)):
            return layer(tf.ones([64]), training=True)

    one, other = two_replicas.experimental_local_results(two_replicas.run(draw))
    assert not np.array_equal(one, other)


def test_resize_like_uses_half_pixel_centres():
    values = tf.reshape([0.0, 4.0], [1, 1, 2, 1])
    resized = ResizeLike()([values, tf.zeros([1, 1, 4, 3])])
    np.testing.assert_allclose(np.ravel(resized), [0, 1, 3, 4])


def test_resize_like_takes_sizes_known_only_in_part():
    values, like = images(1, 9, 12, 3), images(1, 33, 36, 1)
    dynamic = [tf.TensorSpec([None, None, 12, 3]), tf.TensorSpec([None, 33, None, 1])]
    resize = tf.function(lambda *inputs: ResizeLike()(inputs), input_signature=dynamic)
    np.testing.assert_allclose(resize(values, like), ResizeLike()([values, like]), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("old, new", [((9, 12), (33, 47)), ((5, 6), (36, 44)), ((9, 9), (3, 5))])
def test_resize_like_is_that_of_tensorflow_under_xla_too(old, new):
    values, like, slope = images(2, *old, 3), tf.zeros([2, *new, 1]), images(2, *new, 3)

    def resize(values, by=lambda values: ResizeLike()([values, like])):
        with tf.GradientTape() as tape:
            tape.watch(values)
            resized = by(values)
        return resized, tape.gradient(resized, values, slope)

    values = tf.constant(values)
    expected = resize(values, by=lambda values: tf.image.resize(values, new))
    for run in (resize, tf.function(resize, jit_compile=True)):
        for one, other in zip(run(values), expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-2)
