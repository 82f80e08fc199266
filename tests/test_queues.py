"""Class-wise queues against Python's own deques."""

from collections import deque

import numpy as np
import pytest
import tensorflow as tf

from tfssl.memory import ClassQueues

CLASSES, CHANNELS, KEYS = 3, 4, 5
CAPACITY = [5, 7, 6]


def pushes(count, seed=0):
    """(keys [C, K, D], present [C, K]) of `count` steps; each key is another."""
    random = np.random.default_rng(seed)
    for _ in range(count):
        yield random.normal(size=(CLASSES, KEYS, CHANNELS)).astype("float32"), random.random((CLASSES, KEYS)) < 0.5


def queues(**options):
    return ClassQueues(CLASSES, CAPACITY, CHANNELS, **options)


def slow(all_pushes):
    held = [deque(maxlen=capacity) for capacity in CAPACITY]
    for keys, present in all_pushes:
        for k in range(CLASSES):
            held[k].extend(keys[k][present[k]])
    return held


def oldest_first(memory, k):
    filled, following = int(memory.filled[k]), int(memory.next[k])
    places = (following - filled + np.arange(filled)) % CAPACITY[k]
    return memory.value.numpy()[memory.first[k] + places]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 9])
@pytest.mark.parametrize("compiled", [False, True])
def test_first_in_first_out_by_class(count, compiled):
    memory = queues()
    push = tf.function(memory.push, jit_compile=True) if compiled else memory.push
    for keys, present in pushes(count):
        push(tf.constant(keys), tf.constant(present))
    for k, held in enumerate(slow(pushes(count))):
        np.testing.assert_array_equal(oldest_first(memory, k), np.reshape(held, [-1, CHANNELS]))
        assert bool(memory.full[k]) == (len(held) == CAPACITY[k])


def test_a_class_that_gets_nothing_stays_as_it_is():
    memory = queues()
    for keys, present in pushes(1):
        memory.push(tf.constant(keys), tf.constant(present))
    before = memory.get_weights()
    keys, present = next(pushes(1, seed=1))
    present[1] = False
    memory.push(tf.constant(keys), tf.constant(present))
    own = slice(CAPACITY[0], CAPACITY[0] + CAPACITY[1])
    for held, now, part in zip(before, memory.get_weights(), (own, 1, 1), strict=True):
        np.testing.assert_array_equal(held[part], now[part])
        assert (held != now).any()


def test_more_keys_than_a_queue_holds_are_refused():
    with pytest.raises(ValueError, match="a queue of 5 cannot take 6 keys at once"):
        queues().push(tf.zeros([CLASSES, 6, CHANNELS]), tf.zeros([CLASSES, 6], tf.bool))


def test_samples_are_drawn_evenly_from_what_is_there():
    memory = queues()
    keys = np.arange(CLASSES * KEYS, dtype="float32").reshape(CLASSES, KEYS, 1).repeat(CHANNELS, -1)
    present = np.array([[1, 1, 1, 0, 0], [0] * 5, [1] * 5], bool)
    memory.push(tf.constant(keys), tf.constant(present))
    found = memory.sample(tf.constant([1, 2]), 3000).numpy()
    assert found.shape == (CLASSES, 3000, CHANNELS) and not found[1].any()
    for k, count in ((0, 3), (2, 5)):
        values, times = np.unique(found[k, :, 0], return_counts=True)
        np.testing.assert_array_equal(values, keys[k, :count, 0])
        assert times.min() > 0.8 * 3000 / count
    np.testing.assert_array_equal(found, memory.sample(tf.constant([1, 2]), 3000))
    assert (found[2] != memory.sample(tf.constant([1, 3]), 3000).numpy()[2]).any()


def test_what_is_stored_has_no_gradient_and_size_is_told():
    memory = queues()
    keys, present = next(pushes(1))
    source = tf.Variable(keys)
    with tf.GradientTape() as tape:
        memory.push(2 * source, tf.constant(present))
        total = tf.reduce_sum(memory.value)
    assert tape.gradient(total, source) is None and memory.trainable_variables == []
    assert memory.megabytes == (5 + 7 + 6 + 1) * CHANNELS * 4 / 1e6  # one place for what is absent


def test_replicas_together_hold_what_one_does(two_replicas):
    alone = ClassQueues(CLASSES, 12, CHANNELS)
    with two_replicas.scope():
        shared = ClassQueues(CLASSES, 12, CHANNELS)
    push = tf.function(lambda keys, present: two_replicas.run(shared.push, args=(keys, present)))
    steps = list(pushes(6))

    def on_replicas(part, number):
        return two_replicas.experimental_distribute_values_from_function(
            lambda context: tf.constant(steps[number + context.replica_id_in_sync_group][part])
        )

    for number in range(0, 6, 2):
        for keys, present in steps[number : number + 2]:
            alone.push(tf.constant(keys), tf.constant(present))
        push(on_replicas(0, number), on_replicas(1, number))
    for mine, theirs in zip(shared.weights, alone.weights, strict=True):
        for copy in two_replicas.experimental_local_results(mine.value):
            np.testing.assert_array_equal(copy, theirs)
