"""Keras's `fit` with several workers: two things fail in Keras 3 (its issue 20585), mended here and nowhere else.

`tests/test_multi_worker.py` trains plain Keras models with each half of the remedy left out, expects them to fail, and
so tells when a newer Keras needs it no longer.
"""

import keras
import tensorflow as tf


class ManyWorkers(keras.Model):
    """A model, all of it built already, whose `fit` works under tf.distribute.MultiWorkerMirroredStrategy."""

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        """Nothing. Keras would take the sum of a batch over the workers here, and fails, as it does on booleans."""

    def make_train_function(self, force=False):
        """As in Keras, but what a step returns goes to Keras as one vector with a first axis of 1.

        Keras takes means of numbers over all workers along an axis that they do not have. All in one vector: that is
        two messages in a step, not two for each number.
        """
        if self.train_function is not None and not force:
            return
        names = []

        def one_row(data):
            logged = self.train_step(data)
            names[:] = logged
            return tf.stack([tf.cast(value, tf.float32) for value in logged.values()])[None]

        rows = self._make_function(one_row)

        def train_function(iterator):
            values = tf.unstack(tf.reshape(rows(iterator), [-1]))  # of several workers Keras has taken the axis away
            return dict(zip(names, values, strict=True))

        self.train_function = train_function
