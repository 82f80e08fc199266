"""python -m benchmarks.oracle fit|evaluate ...: tfssl.fit and tfssl.evaluate of mean teachers that are told the truth.

A control, no method: it needs labels of the unlabeled images, which the list `data.unlabeled` must name, and says how
much better pseudo-labels could bring at the same budget, on one device. (So its scores on unlabeled images say
nothing.) Under `method.name` the configuration has one of these, each with the options of `classmix`:

oracle: every pixel is learned with its true class; nothing is left of the teacher.
corrected: the pixels that the teacher is sure of have their true class, the others are left out as ever: its errors
    are gone, what it leaves out is not.
selected: the pixels where the teacher is right have its label whether it is sure or not, the others are left out: a
    threshold that knows.
"""

import sys

import tensorflow as tf

from tfssl import errors, evaluate, fit, runs
from tfssl.data import augment
from tfssl.data.streams import paired_stream
from tfssl.methods import METHODS
from tfssl.methods.mean_teacher import ClassMix
from tfssl.randomness import fold

ordinary_batches = runs.batches


class Oracle(ClassMix):
    """What it is told is the truth; of what carries no label nothing is."""

    def refuse_batch(self, *batch):
        super().refuse_batch(*batch)
        if not (self.threshold and self.confidence == "selects" and self.strong_views):
            raise errors.UserError('method: controls leave pixels out by confidence: set confidence to "selects", '
                                   'threshold above 0 and student_view to "strong"')  # fmt: skip

    def learn(self, batch):
        self.truth = tf.one_hot(batch["unlabeled"][-1], self.task.channels)  # zeros where a label is ignored
        return super().learn(batch)

    def taught(self, weak):
        return self.truth


class Corrected(Oracle):
    def taught(self, weak):
        told = ClassMix.taught(self, weak)
        sure = tf.reduce_max(told, axis=-1, keepdims=True) >= self.threshold
        return tf.where(sure, self.truth, told)


class Selected(Oracle):
    def taught(self, weak):
        told = ClassMix.taught(self, weak)
        right = tf.reduce_sum(tf.one_hot(tf.argmax(told, axis=-1), self.task.channels) * self.truth, -1, keepdims=True)
        return self.truth * right


def batches(run, start, stop, shares=(0, 1, 1)):
    """The batches of a run, but that its unlabeled images come from another stream, with their labels at the end."""
    settings, training = run.settings, run.settings.training
    told = settings.data.model_copy(update={"labeled": settings.data.unlabeled, "unlabeled": None, "held_out": None})
    told = runs.make_source(settings.model_copy(update={"data": told}))
    views = paired_stream(
        told, seed=settings.seed + 1, start=start, stop=stop, labeled_batch=training.unlabeled_batch, unlabeled_batch=0,
        strong_views=0, crop=settings.data.crop, ignore_index=run.task.ignore_index,
        weak=settings.data.weak.model_dump(), shares=shares,
    )  # fmt: skip
    key = tf.constant([settings.seed, 3], tf.int32)

    def joined(number, batch, view):
        image, label = view["labeled"]
        strong = [augment.strong(each, fold(fold(key, number), place), **settings.data.strong.model_dump())
                  for place, each in enumerate(tf.unstack(image))]  # fmt: skip
        return {**batch, "unlabeled": (image, label != run.task.ignore_index, tf.stack(strong), label)}

    numbers = tf.data.Dataset.range(start, stop)
    return tf.data.Dataset.zip(numbers, ordinary_batches(run, start, stop, shares), views).map(joined)


def main():
    commands = {"fit": fit.main, "evaluate": evaluate.main}
    if len(sys.argv) < 2 or sys.argv[1] not in commands:
        raise errors.UserError(f"give {' or '.join(commands)}, and after it what that command takes")
    METHODS.update(oracle=Oracle, corrected=Corrected, selected=Selected)
    runs.batches = batches
    commands[sys.argv[1]](sys.argv[2:])


if __name__ == "__main__":
    errors.run(main)
