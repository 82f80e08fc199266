"""SGD and Adam as the papers use them: L2 weight decay inside the gradient, and a faster head.

Keras has no parameter groups and its SGD's own `weight_decay` is decoupled, so both are done here, per variable.
"""

import keras
import tensorflow as tf

PLACED = ("bias", "class_token", "places")  # of several dimensions in transformers, and no kernels


class _Grouped:
    """Mixed into an optimizer: per-variable learning-rate factors, and L2 decay of kernels (SGD)."""

    _factors, _undecayed = {}, set()

    def set_factors(self, variables, factor):
        """`variables` learn at `factor` times the learning rate."""
        self._factors = {self._get_variable_index(variable): factor for variable in variables}

    def spare(self, variables):
        """`variables` do not decay."""
        self._undecayed = {self._get_variable_index(variable) for variable in variables}

    def update_step(self, gradient, variable, learning_rate):
        # Under a strategy `variable` is one replica's part of a Keras variable: only its index tells which.
        factor = self._factors.get(self._get_variable_index(variable), 1.0)
        super().update_step(self._decayed(gradient, variable), variable, learning_rate * factor)

    def _decayed(self, gradient, variable):
        return gradient


class SGD(_Grouped, keras.optimizers.SGD):
    """Momentum SGD with weight decay as L2: gradient + decay * weight, on all kernels, none on biases and norms."""

    def __init__(self, learning_rate, momentum=0.9, l2=0.0, **arguments):
        super().__init__(learning_rate, momentum=momentum, **arguments)
        self.l2 = l2

    def _decayed(self, gradient, variable):
        if not self.l2 or self._get_variable_index(variable) in self._undecayed:
            return gradient
        return gradient + tf.cast(self.l2, gradient.dtype) * tf.cast(tf.convert_to_tensor(variable), gradient.dtype)


class AdamW(_Grouped, keras.optimizers.AdamW):
    """Keras's AdamW (decoupled decay, here as with SGD of kernels only) with learning-rate factors."""


class LossScale(keras.optimizers.LossScaleOptimizer):
    """Keras's dynamic loss scaling, in which a step whose gradients overflow moves nothing but counts: the data, the
    schedules and the random keys go by the steps."""

    def check_finite(self, grads):
        """On all devices: Keras asks the first one alone, before gradients are summed, and moves by them on all."""
        finite, replica = super().check_finite(grads), tf.distribute.get_replica_context()
        if replica is None or replica.num_replicas_in_sync == 1:
            return finite
        return replica.all_reduce(tf.distribute.ReduceOp.SUM, tf.cast(~finite, tf.float32)) == 0

    def _stateful_handle_non_finite_grads(self):
        super()._stateful_handle_non_finite_grads()
        self.inner_optimizer.iterations.assign_add(1)


def scaled(optimizer):
    """The optimizer, with its losses scaled where the policy computes in float16, whose smallest gradients vanish."""
    half = keras.mixed_precision.dtype_policy().compute_dtype == "float16"
    return LossScale(optimizer) if half else optimizer


def build(name, learning_rate, weight_decay, variables, head, head_factor):
    """The optimizer over exactly `variables`, built eagerly so that its slots exist before any checkpoint."""
    spared = [variable for variable in variables if len(variable.shape) < 2 or variable.name in PLACED]
    if name == "sgd":
        optimizer = SGD(learning_rate, momentum=0.9, l2=weight_decay)
    else:
        optimizer = AdamW(learning_rate, weight_decay=weight_decay)
        optimizer.exclude_from_weight_decay(spared)
    whole = scaled(optimizer)
    whole.build(variables)
    optimizer.set_factors(head, head_factor)
    optimizer.spare(spared)
    return whole
