"""Mean teacher with a flaw detector: the student follows its teacher only where that is not the worse of the two."""

from typing import Literal

import tensorflow as tf

from tfssl import losses, schedules
from tfssl.ema import twin, warmed_up
from tfssl.kinds import Amount, Share, Weight
from tfssl.methods.base import chain, unchain
from tfssl.methods.gct import RAMPS, Count, FlawGuided, Width
from tfssl.randomness import fold, noise

NOISE = 1  # what the random keys of a step are for


class GuidedMeanTeacher(FlawGuided):
    """weak --> teacher --predictions, where no more flawed--> student <-- weak;  student --EMA--> teacher
    labels --C(prediction)--> flaw detector --flaw maps of teacher and student--> where

    Ke et al., "Guided collaborative training ...", ECCV 2020, arXiv:2008.05258, section 4.5, "Combination of the flaw
    detector and MT"; the numbers of its mean teacher are those of appendix C.

    Options as in `gct`, which holds the detector. Readings: the maps that are compared are normalised as in eq. 4, but
    without its threshold, of which the section does not speak; the detector learns what is wrong with the predictions
    of both; the consistency is on unlabeled images, as in `mean_teacher`, and there is no flaw correction. Its squared
    error is a sum over classes; as the mean that "MSE" says it would be C times weaker.
    """

    terms = ("supervised", "consistency", "detector")
    watched = ("used_pixels",)

    def __init__(self, networks, task, *, ema_decay: Share = 0.99, consistency_weight: Weight = 1.0,
                 ramp_up: Amount = 0.15, ramp: Literal["cosine", "sigmoid"] = "cosine",
                 flaw_map: Literal["min_max", "smoothed"] = "min_max", truth_repeats: Count = 1,
                 detector_rate: Weight = 1e-4, detector_width: Width = 64,
                 detector_stride: Literal[8, 16, 32] = 32, **shared):  # fmt: skip
        super().__init__(task, detector_rate=detector_rate, detector_width=detector_width,
                         detector_stride=detector_stride, truth_repeats=truth_repeats, **shared)  # fmt: skip
        (self.student,) = networks
        self.teacher = twin(self.student)
        self.roles, self.guides = {"teacher": self.teacher, "student": self.student}, [self.teacher]
        self.apart = [self.teacher, self.student]
        self.ema_decay, self.consistency_weight, self.smoothed = ema_decay, consistency_weight, flaw_map == "smoothed"
        self.ramp, self.ramp_up = RAMPS[ramp], schedules.steps_of(ramp_up, self.steps)
        self.built = True

    def learn(self, batch):
        (image, label), (weak, valid) = batch["labeled"], batch["unlabeled"]
        step, key = self.optimizer.iterations + 0, self.key()
        weight = self.consistency_weight * self.ramp(step, self.ramp_up)

        def terms():
            seen = chain(image, weak)
            told = tf.stop_gradient(self.task.activation(self.teacher(seen, training=False)["logits"]))
            with noise(fold(key, NOISE)):
                logits = self.student(seen, training=True)["logits"]
            found = self.task.activation(logits)
            (told_labeled, told), (found_labeled, found) = (unchain(each, image, weak) for each in (told, found))
            theirs, mine = (
                losses.flaw_map(self.detect(weak, each), valid, 1.0, self.smoothed) for each in (told, found)
            )
            follows = tf.cast(theirs <= mine, tf.float32)
            consistency = losses.squared_error(told, found, follows, valid)
            return {
                "supervised": self.task.loss(label, unchain(logits, image, weak)[0]),
                "consistency": weight * consistency,
            }, ([told_labeled, found_labeled], losses.masked_mean(follows, valid))

        minimised, (predictions, used) = self.minimize(terms, [self.student], self.optimizer)
        minimised |= self.learn_flaws(image, label, predictions)
        self.follow(self.teacher, self.student, warmed_up(self.ema_decay, step))
        return self.track(minimised, used_pixels=used)
