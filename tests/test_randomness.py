"""Random keys as values, and bilinear resizing that is the same under XLA."""

import threading

import numpy as np
import pytest
import tensorflow as tf

from tfssl import randomness
from tfssl.randomness import fold, noise, noise_key, step_key
from tfssl.resizing import resize_like, stretch_like

KEY = tf.constant([0, 5], tf.int32)


def value(key):
    assert key.dtype == tf.int32 and key.shape == (2,)
    return tuple(key.numpy().tolist())


def test_fold_gives_unrelated_keys():
    keys = [value(fold(KEY, number)) for number in range(300)]
    assert len(set(keys)) == 300 and value(KEY) not in keys
    assert keys[7] == value(fold([0, 5], tf.constant(7, tf.int64))) == value(tf.function(fold)(KEY, tf.constant(7)))
    assert value(fold(fold(KEY, 1), 2)) != value(fold(fold(KEY, 2), 1))
    uniform = np.array([tf.random.stateless_uniform([], key) for key in keys])
    assert abs(uniform.mean() - 0.5) < 0.06 and abs(np.corrcoef(uniform[1:], uniform[:-1])[0, 1]) < 0.2


def test_step_key_is_a_function_of_seed_and_step():
    keys = {(seed, step): value(step_key(seed, step)) for seed in range(5) for step in range(20)}
    assert len(set(keys.values())) == 100
    assert keys[3, 7] == value(step_key(3, tf.constant(7, tf.int64)))


def test_replicas_have_keys_of_their_own_and_the_first_that_of_a_single_device(two_replicas):
    keys = two_replicas.run(tf.function(lambda: step_key(3, 7)))
    first, second = map(value, two_replicas.experimental_local_results(keys))
    assert first == value(step_key(3, 7))
    assert second not in {value(step_key(3, step)) for step in range(20)}  # nor that of another step
    with two_replicas.scope():
        assert value(step_key(3, 7)) == first  # outside of the replicas too


def test_noise_gives_each_layer_a_key_within_its_block():
    with noise(KEY):
        assert value(noise_key(4)) == value(fold(KEY, 4)) == value(noise_key(4)) != value(noise_key(5))
        with noise(None):
            assert noise_key(4) is None
            with noise(fold(KEY, 1)):
                assert value(noise_key(4)) == value(fold(fold(KEY, 1), 4))
            assert noise_key(4) is None
        assert value(noise_key(4)) == value(fold(KEY, 4))


def test_outside_of_any_block_the_noise_is_fresh():
    assert value(noise_key(4)) != value(noise_key(4))
    with pytest.raises(RuntimeError, match="within"), noise(None):
        raise RuntimeError("within")
    assert noise_key(4) is not None  # the block ended with the error


def test_threads_do_not_see_each_others_keys():
    """MirroredStrategy traces each replica in a thread of its own."""
    seen = []
    with noise(None):
        thread = threading.Thread(target=lambda: seen.append(noise_key(4)))
        thread.start()
        thread.join()
        assert noise_key(4) is None
    assert seen[0] is not None
    assert randomness.noise_key(4) is not None


def slow_resize(values, height, width):
    """One output pixel at a time, half-pixel centres."""
    resized = np.zeros((len(values), height, width, values.shape[-1]))
    for row in range(height):
        y = np.clip((row + 0.5) * values.shape[1] / height - 0.5, 0, values.shape[1] - 1)
        for column in range(width):
            x = np.clip((column + 0.5) * values.shape[2] / width - 0.5, 0, values.shape[2] - 1)
            top, left = int(y), int(x)
            bottom, right = min(top + 1, values.shape[1] - 1), min(left + 1, values.shape[2] - 1)
            resized[:, row, column] = ((values[:, top, left] * (1 - (x - left)) + values[:, top, right] * (x - left))
                                       * (1 - (y - top))
                                       + (values[:, bottom, left] * (1 - (x - left))
                                          + values[:, bottom, right] * (x - left)) * (y - top))  # fmt: skip
    return resized


SIZES = [((9, 9), (33, 33)), ((3, 5), (9, 20)), ((4, 4), (16, 24)), ((12, 10), (4, 5)), ((5, 7), (5, 21)),
         ((1, 1), (3, 4)), ((6, 6), (6, 6)), ((33, 20), (11, 7))]  # fmt: skip


@pytest.mark.parametrize("old, new", SIZES)
def test_stretch_like(old, new):
    """Row by row as NumPy interpolates; the corners stay."""
    values = np.random.default_rng(0).normal(0, 1, (2, *old, 3)).astype("float32")
    wanted = values
    for axis in (1, 2):
        places = np.linspace(0, old[axis - 1] - 1, new[axis - 1])
        between = lambda line, at=places: np.interp(at, np.arange(len(line)), line)  # noqa: E731
        wanted = np.apply_along_axis(between, axis, wanted)
    like = tf.zeros([2, *new, 1])
    np.testing.assert_allclose(stretch_like(tf.constant(values), like), wanted, atol=1e-5)
    compiled = tf.function(stretch_like, jit_compile=True)(tf.constant(values), like)
    assert compiled.shape == (2, *new, 3)
    np.testing.assert_allclose(compiled, wanted, atol=1e-5)
    if min(old) > 1:
        np.testing.assert_allclose(wanted[:, [0, -1]][:, :, [0, -1]], values[:, [0, -1]][:, :, [0, -1]], atol=1e-6)


@pytest.mark.parametrize("old, new", SIZES)
def test_resize_like(old, new):
    values = np.random.default_rng(0).normal(0, 1, (2, *old, 3)).astype("float32")
    like = tf.zeros([2, *new, 1])
    wanted = slow_resize(values, *new)
    np.testing.assert_allclose(resize_like(tf.constant(values), like), wanted, atol=1e-5)
    compiled = tf.function(resize_like, jit_compile=True)(tf.constant(values), like)
    assert compiled.shape == (2, *new, 3)
    np.testing.assert_allclose(compiled, wanted, atol=1e-5)


def test_resize_like_with_sizes_known_only_at_run_time():
    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3]), tf.TensorSpec([None, None, None, 1])])
    def resize(values, like):
        return resize_like(values, like)

    for old, new in SIZES[:4]:
        values = np.random.default_rng(0).normal(0, 1, (2, *old, 3)).astype("float32")
        np.testing.assert_allclose(resize(values, np.zeros((2, *new, 1), "float32")), slow_resize(values, *new),
                                   atol=1e-5)  # fmt: skip


@pytest.mark.parametrize("old, new", SIZES[:3])
def test_resize_like_keeps_the_type_and_a_constant(old, new):
    constant = resize_like(tf.fill([1, *old, 2], tf.constant(0.375, tf.bfloat16)), tf.zeros([1, *new, 4]))
    assert constant.dtype == tf.bfloat16 and constant.shape == (1, *new, 2)
    assert (tf.cast(constant, tf.float32).numpy() == 0.375).all()
