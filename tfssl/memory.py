"""What a method remembers between steps, as Keras layers with non-trainable weights, so that it is checkpointed."""

import os

import keras
import numpy as np
import tensorflow as tf

from tfssl import soundness
from tfssl.errors import UserError


class Prototypes(keras.layers.Layer):
    """One mean feature per class, moved slowly (RML eq. 11): eta_k <- lambda eta_k + (1 - lambda) eta'_k.

    momentum: lambda. With bias_corrected, the momentum of class k is min(1 - 1/(n_k + 1), lambda) for its n_k-th
    image, so that a prototype starts as the plain mean of what it has seen: from zero, lambda = 0.9999 would take
    tens of thousands of steps to arrive, and the paper does not say where it starts. A class that an image does not
    show keeps its prototype to the bit. The paper moves them once a batch, by the batch's mean; here images are taken
    one after another, so that the result does not depend on how a batch is spread over replicas.
    """

    def __init__(self, classes, channels, momentum=0.9999, bias_corrected=True, **arguments):
        super().__init__(trainable=False, **arguments)
        self.momentum, self.bias_corrected = momentum, bias_corrected
        self.value = self.add_weight(name="value", shape=(classes, channels), initializer="zeros", trainable=False)
        self.seen = self.add_weight(name="seen", shape=(classes,), initializer="zeros", trainable=False)
        self.built = True

    @property
    def megabytes(self):
        return float(np.prod(self.value.shape)) * 4 / 1e6

    def update(self, means, present, cumulative=False):
        """Take the images of a batch one after another; `cumulative` makes it the plain mean of all images so far.

        means: [B, C, D] class means of each image; present: [B, C], 1 where an image shows a class.

        Under a strategy every replica first gathers the images of all, so all take the same steps.
        """
        replica = tf.distribute.get_replica_context()
        if replica is not None and replica.num_replicas_in_sync > 1:
            images = means.shape[0] * replica.num_replicas_in_sync
            means, present = replica.all_gather([means, present], axis=0)
            means, present = tf.ensure_shape(means, [images, None, None]), tf.ensure_shape(present, [images, None])
        soundness.remember([self.value, self.seen])
        value, seen = tf.convert_to_tensor(self.value), tf.convert_to_tensor(self.seen)
        present = soundness.unless_spoiled(present, tf.zeros_like(present))
        for image in range(means.shape[0]):
            here = present[image] > 0
            keep = self.momentum
            if cumulative or self.bias_corrected:
                keep = tf.minimum(1 - 1 / (seen + 1), 1.0 if cumulative else self.momentum)[:, None]
            moved = keep * value + (1 - keep) * means[image]
            value = tf.where(here[:, None], moved, value)
            seen = seen + present[image]
        self.value.assign(value)
        self.seen.assign(seen)

    @property
    def known(self):
        """Which classes have a prototype by now: bool [C]."""
        return tf.convert_to_tensor(self.seen) > 0

    def reset(self):
        """Forget everything, for a new full pass over the data."""
        self.value.assign(tf.zeros_like(self.value))
        self.seen.assign(tf.zeros_like(self.seen))


class ClassQueues(keras.layers.Layer):
    """One first-in-first-out queue of keys per class (U2PL; Cross Teacher Training).

    capacity: of each queue, one number or one per class. What is stored has no gradient. `value` [sum of capacities +
    1, D] holds the queues one after another, that of class c from row `first[c]` on, and in the last row nothing: what
    is absent from a push is written there, as zeros. `filled` [C] is how many keys count, `next` [C] where in its
    queue the next one goes.

    Queues may take a gigabyte, so a step reads and writes only the places it is about, never a copy of the whole.
    """

    settings = "method.queue_capacity, background_capacity or channels"  # what makes them smaller

    def __init__(self, classes, capacity, channels, **arguments):
        super().__init__(trainable=False, **arguments)
        sizes = np.broadcast_to(np.asarray(capacity, np.int64), [classes])
        refuse_too_large(int(sizes.sum()), channels, self.settings)
        self.capacity = sizes.astype(np.int32)
        self.first = np.cumsum(self.capacity, dtype=np.int32) - self.capacity
        shape = (int(self.capacity.sum()) + 1, channels)
        self.value = self.add_weight(name="value", shape=shape, initializer="zeros", trainable=False)
        self.filled = self.add_weight(
            name="filled", shape=(classes,), initializer="zeros", dtype="int32", trainable=False
        )
        self.next = self.add_weight(name="next", shape=(classes,), initializer="zeros", dtype="int32", trainable=False)
        self.built = True

    @property
    def megabytes(self):
        return float(np.prod(self.value.shape)) * 4 / 1e6

    @property
    def full(self):
        """Which queues hold all they can: bool [C]."""
        return tf.convert_to_tensor(self.filled) >= self.capacity

    def push(self, keys, present):
        """Append the keys [C, K, D] where present (bool [C, K]) to their classes' queues, the oldest making room.

        Under a strategy every replica first gathers the keys of all, replica after replica, so all hold the same.
        """
        replica, keys = tf.distribute.get_replica_context(), tf.cast(keys, tf.float32)  # no gathering in bfloat16
        if replica is not None and replica.num_replicas_in_sync > 1:
            count = keys.shape[1] * replica.num_replicas_in_sync
            keys, present = replica.all_gather([keys, tf.cast(present, tf.float32)], axis=1)
            keys, present = tf.ensure_shape(keys, [None, count, None]), tf.ensure_shape(present, [None, count]) > 0
        if keys.shape[1] > self.capacity.min():
            raise ValueError(f"a queue of {self.capacity.min()} cannot take {keys.shape[1]} keys at once")
        present = soundness.unless_spoiled(present, tf.zeros_like(present))
        order = tf.cumsum(tf.cast(present, tf.int32), axis=1, exclusive=True)
        row = self.first[:, None] + (self.next[:, None] + order) % self.capacity[:, None]
        row = tf.where(present, row, self.value.shape[0] - 1)
        keys = tf.where(present[..., None], keys, 0.0)
        soundness.remember_rows(self.value, row)
        soundness.remember([self.filled, self.next])
        # A mirrored variable knows no scatter_update, the part of this replica does.
        tf.raw_ops.ResourceScatterUpdate(resource=self.value.value.handle, indices=row, updates=tf.stop_gradient(keys))
        pushed = tf.reduce_sum(tf.cast(present, tf.int32), axis=1)
        self.filled.assign(tf.minimum(self.filled + pushed, self.capacity))
        self.next.assign((self.next + pushed) % self.capacity)

    def sample(self, key, count):
        """`count` keys of each class, drawn evenly with replacement: [C, count, D]; zeros where a queue is empty.

        All classes share the draws, so that what a class gets does not depend on its number. Outside of the part
        that XLA compiles: it has no kernel that gathers from a variable without reading all of it.
        """
        draws = tf.random.stateless_uniform([1, count], key)
        filled = self.filled[:, None]
        index = tf.cast(draws * tf.cast(filled, tf.float32), tf.int32)
        index = tf.minimum(index, tf.maximum(filled - 1, 0))
        row = self.first[:, None] + index
        found = tf.raw_ops.ResourceGather(resource=self.value.value.handle, indices=row, dtype=tf.float32)
        return tf.where(filled[..., None] > 0, found, 0.0)


class LabeledQueues(ClassQueues):
    """Queues of one length V that know which classes labels have shown so far (Cross Teacher Training): `seen` [C].

    `begun`: whether the queues of all of them have been full once. A class that is first seen later changes nothing.
    """

    settings = "method.memory_size"

    def __init__(self, classes, capacity, channels, **arguments):
        super().__init__(classes, capacity, channels, **arguments)
        self.seen = self.add_weight(name="seen", shape=(classes,), initializer="zeros", trainable=False)
        self.begun = self.add_weight(name="begun", shape=(), initializer="zeros", trainable=False)

    @property
    def ready(self):
        """Whether the queues of all classes seen are full, and there is one, or once were."""
        seen = tf.convert_to_tensor(self.seen) > 0
        return (self.begun > 0) | (tf.reduce_any(seen) & tf.reduce_all(self.full | ~seen))

    @property
    def keys(self):
        """All places, [C, V, D]."""
        return tf.reshape(tf.convert_to_tensor(self.value)[:-1], [len(self.capacity), -1, self.value.shape[1]])

    @property
    def held(self):
        """Which of them hold a key: bool [C, V]."""
        return tf.range(self.capacity[0]) < tf.convert_to_tensor(self.filled)[:, None]

    @property
    def fill(self):
        """The share of all places that hold a key."""
        return tf.reduce_sum(tf.cast(self.filled, tf.float32)) / float(self.capacity.sum())

    def push(self, keys, present, shown):
        """Append keys as all queues do; shown: float [C], above 0 for the classes that the labels of this step show."""
        before = self.ready  # which a class that this step is the first to show would end
        super().push(keys, present)
        replica = tf.distribute.get_replica_context()
        if replica is not None and replica.num_replicas_in_sync > 1:
            shown = replica.all_reduce(tf.distribute.ReduceOp.SUM, shown)
        soundness.remember([self.seen, self.begun])
        shown = soundness.unless_spoiled(shown, tf.zeros_like(shown))
        self.seen.assign(tf.maximum(self.seen, tf.cast(shown > 0, tf.float32)))
        self.begun.assign(tf.cast(before | self.ready, tf.float32))


def refuse_too_large(keys, channels, settings):
    """More than the machine has would end the process without a word. (What a smaller accelerator lacks, it says.)"""
    needed, there = 4 * keys * channels, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise UserError(f"method: a memory of {keys:,} keys of {channels} channels takes {needed / 1e9:,.0f} GB, but "
                        f"this machine has {there / 1e9:,.0f}; lower {settings}")  # fmt: skip
