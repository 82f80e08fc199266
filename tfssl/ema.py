"""Networks that follow other networks: mean teachers (Tarvainen and Valpola, NeurIPS 2017, arXiv:1703.01780)."""

import keras
import tensorflow as tf


def twin(network, name=None):
    """A copy with equal weights and variables of its own, which no gradient and no optimizer reaches."""
    copy = keras.models.clone_model(network)  # re-initialises: the weights must be set
    copy.set_weights(network.get_weights())
    copy.trainable = False
    if name:
        copy.name = name
    return copy


def trainable_twin(network):
    """A copy with equal weights and variables of its own, to be trained by itself."""
    copy = keras.models.clone_model(network)
    copy.set_weights(network.get_weights())
    return copy


def follow(target, source, decay, statistics="average"):
    """target <- decay * target + (1 - decay) * source, weight by weight, in float32; written with one product less.

    statistics: what happens to the non-trainable weights (batch-norm means and variances) of the source. "average"
    treats them like all others, so that they belong to the weights they stand beside. "copy" takes the source's
    present values, as ProDA's code does: when the source begins to see other images, as strong views after a warm-up,
    its new statistics do not fit the target's old weights, and what the target predicts collapses for a while. "keep"
    leaves the target its own, for a target that is trained too and has gathered them.
    """
    decay = tf.cast(decay, tf.float32)
    trained = {id(variable) for variable in source.trainable_variables}
    for mine, theirs in zip(target.weights, source.weights, strict=True):
        if not mine.dtype.startswith("float"):
            continue
        if statistics != "average" and id(theirs) not in trained:
            if statistics == "copy":
                mine.assign(theirs)
        else:
            apart = tf.cast(mine.value, tf.float32) - tf.cast(theirs.value, tf.float32)
            mine.value.assign_sub(tf.cast((1 - decay) * apart, mine.dtype))


def warmed_up(decay, updates):
    """min(1 - 1/(updates + 1), decay): the first update copies, then the mean of all steps until `decay` is reached."""
    updates = tf.cast(updates, tf.float32)
    return tf.minimum(1 - 1 / (updates + 1), decay)
