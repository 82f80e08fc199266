"""Functions of the step: learning rates, and the rise of a weight."""

import math

import keras
import tensorflow as tf

from tfssl.errors import UserError


@keras.saving.register_keras_serializable(package="tfssl")
class Polynomial(keras.optimizers.schedules.LearningRateSchedule):
    """rate * (1 - t/T)^power within each stage: stages = [first step of each stage, ..., total steps].

    The papers' "poly" policy (power 0.9). Each stage of a method that trains in stages starts it anew; with one
    stage it is the usual single decay. `warm_up` steps of a linear rise begin each stage.
    """

    def __init__(self, rate, stages, power=0.9, warm_up=0):
        self.rate, self.stages, self.power, self.warm_up = rate, list(stages), power, warm_up
        if any(a >= b for a, b in zip(self.stages, self.stages[1:], strict=False)):
            raise ValueError(f"stages must increase: {self.stages}")

    def __call__(self, step):
        step = tf.cast(step, tf.float32)
        edges = tf.constant(self.stages, tf.float32)
        stage = tf.clip_by_value(tf.searchsorted(edges, step[None], side="right")[0] - 1, 0, len(self.stages) - 2)
        start, stop = edges[stage], edges[stage + 1]
        share = tf.clip_by_value((step - start) / (stop - start), 0.0, 1.0)
        rise = tf.minimum(1.0, (step - start + 1) / (self.warm_up + 1))
        return self.rate * rise * tf.pow(1 - share, self.power)

    def get_config(self):
        return {"rate": self.rate, "stages": self.stages, "power": self.power, "warm_up": self.warm_up}


def steps_of(amount, total):
    """An amount of training as steps: a share of all steps below 1, else a number of steps (0 is none)."""
    return round(amount * total) if amount < 1 else int(amount)


def warm_up_of(amount, total):
    """The steps of a warm-up, which must leave some for the method itself."""
    steps = steps_of(amount, total)
    if steps >= total:
        raise UserError(f"method.warm_up is {steps} steps, but training.steps is {total}: make it shorter")
    return steps


def linear_ramp(step, length):
    """t / length, from 0 at step 0 to 1 from step `length` on; without length 1 throughout."""
    return _share(step, length)


def cosine_ramp(step, length):
    """(1 - cos(pi t / length)) / 2, from 0 at step 0 to 1 from step `length` on; without length 1 throughout."""
    return 0.5 - 0.5 * tf.cos(math.pi * _share(step, length))


def sigmoid_ramp(step, length):
    """exp(-5 (1 - t / length)^2), from e^-5 at step 0 to 1 from step `length` on (Laine and Aila, arXiv:1610.02242)."""
    return tf.exp(-5.0 * tf.square(1.0 - _share(step, length)))


def _share(step, length):
    return tf.clip_by_value(tf.cast(step, tf.float32) / length, 0.0, 1.0) if length else tf.constant(1.0)
