"""What a method remembers between steps, as Keras layers with non-trainable weights, so that it is checkpointed."""

import keras
import tensorflow as tf


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
        value, seen = tf.convert_to_tensor(self.value), tf.convert_to_tensor(self.seen)
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
