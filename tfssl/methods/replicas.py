"""What replicas tell each other outside of optimizers and memories: means, so that all of them hold the same."""

import keras
import tensorflow as tf

from tfssl import soundness


def others():
    """The context of this replica if there are others, else None."""
    replica = tf.distribute.get_replica_context()
    return replica if replica is not None and replica.num_replicas_in_sync > 1 else None


def mean(values):
    """The means over all replicas of a list of float tensors; all replicas get the same bits."""
    replica = others()
    if replica is None or not values:
        return values
    # a variable's value is on no device by name, but of one replica in a process the device tells where a mean goes
    return replica.all_reduce(tf.distribute.ReduceOp.MEAN, [tf.identity(value) for value in values])


def mean_of_numbers(numbers):
    """The same of {name: scalar}, in one message."""
    if others() is None or not numbers:
        return numbers
    (together,) = mean([tf.stack([tf.cast(number, tf.float32) for number in numbers.values()])])
    return dict(zip(numbers, tf.unstack(together), strict=True))


def average_statistics(network):
    """Give all replicas the mean of their batch-norm statistics, so that every network is equal on all of them."""
    if others() is None:
        return
    moving = soundness.moving_statistics(network)
    for weight, average in zip(moving, mean(moving), strict=True):  # a head may have no batch norm
        weight.assign(average)


class Mean(keras.metrics.Mean):
    """A mean that each replica holds for itself, of numbers that are equal on all. Keras's own is summed over all
    replicas whenever it is read, so that no worker could save it without the others."""

    def add_variable(self, shape, initializer, dtype=None, aggregation=None, name=None):
        variable = keras.Variable(keras.initializers.get(initializer), shape, dtype, trainable=False, name=name)
        self._tracker.add_to_store("variables", variable)
        return variable
