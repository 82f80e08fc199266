"""Random keys as values: everything random in a step is a function of (seed, step, replica).

A key is an int32 tensor of shape [2], the seed of TensorFlow's stateless random ops. Layers with noise
(dropout, stochastic depth) cannot take a key as an argument of a Functional model, so the method that
calls the network lays one down with `noise(key)` and every layer folds its own number into it. Nothing
random is hidden state: a resumed step, or another replica's, can be computed from its key alone.
"""

import contextlib
import threading

import tensorflow as tf

_current = threading.local()  # MirroredStrategy traces each replica in a thread of its own


def fold(key, number):
    """A new key from a key and an integer (Python or tensor): different numbers, unrelated keys."""
    return tf.random.experimental.stateless_fold_in(tf.convert_to_tensor(key, tf.int32), tf.cast(number, tf.int32))


def step_key(seed, step):
    """The key of one training step on this replica, and in this part of the step."""
    replica = tf.distribute.get_replica_context()
    number = replica.replica_id_in_sync_group if replica is not None else 0
    part_number, parts = getattr(_current, "part", (0, 1))
    number = number * parts + part_number
    return fold(fold(tf.constant([0, seed], tf.int32), step), number)


@contextlib.contextmanager
def part(number, count):
    """Within this block keys are those of part `number` of `count` in which a replica does a step."""
    _current.part = (number, count)
    try:
        yield
    finally:
        del _current.part


@contextlib.contextmanager
def noise(key):
    """Within this block, noisy layers called with training=True draw from `key`; with None they are silent."""
    previous = getattr(_current, "keys", ())
    _current.keys = (*previous, key)
    try:
        yield
    finally:
        _current.keys = previous


def noise_key(number):
    """The key of noisy layer `number`: None inside `noise(None)`, a fresh stateful draw outside of any block."""
    keys = getattr(_current, "keys", ())
    if not keys:  # the network is trained outside a method, by plain Keras
        return tf.random.uniform([2], maxval=tf.int32.max, dtype=tf.int32)
    return None if keys[-1] is None else fold(keys[-1], number)
