"""Mean teacher, and CutMix and ClassMix on top of it: the classic consistency baselines."""

from typing import Literal

import tensorflow as tf

from tfssl import losses, schedules
from tfssl.ema import twin, warmed_up
from tfssl.errors import UserError
from tfssl.kinds import Amount, Share, Weight
from tfssl.methods.base import SemiSupervised, chain, unchain
from tfssl.randomness import fold, noise

MIX, NOISE = 1, 2  # what the random keys of a step are for
RAMPS = {"sigmoid": schedules.sigmoid_ramp, "cosine": schedules.cosine_ramp, "linear": schedules.linear_ramp}


class MeanTeacher(SemiSupervised):
    """weak --> teacher --predictions--> student <-- strong;  student --EMA--> teacher

    Tarvainen and Valpola, "Mean teachers are better role models", NeurIPS 2017, arXiv:1703.01780.

    consistency: "squared_error" between the two softmax outputs (the paper), or "cross_entropy" with the teacher's
    hard pseudo-labels, as Zhang et al. (arXiv:2106.00609, eq. 2) use it. threshold: of the teacher's confidence;
    confidence: what that does, it "selects" pixels, or the share of confident pixels weighs each image's loss
    ("weighs_images") or the whole loss ("weighs_batch"). mix: "cutmix" or "classmix" mixes unlabeled images, and what
    the teacher said of them, by one mask; "paste" puts half of the classes of labeled ones on them (mixing.paste).
    ramp: how consistency_weight rises over `ramp_up`. student_view: the image the student sees, "strong" or "weak".
    Readings: the squared error is a sum over classes, of which the paper takes the mean, so its weight of 100 for CIFAR
    is 100 / C here. It is taken over unlabeled images, the paper's over labeled ones too. The teacher draws no noise of
    its own, as is usual for segmentation.
    """

    needs_classes = False
    terms = ("supervised", "consistency")
    watched = ("used_pixels",)

    def __init__(self, networks, task, *, ema_decay: Share = 0.999, consistency_weight: Weight = 1.0,
                 consistency: Literal["squared_error", "cross_entropy"] = "squared_error", threshold: Share = 0.0,
                 confidence: Literal["selects", "weighs_images", "weighs_batch"] = "selects",
                 mix: Literal["none", "cutmix", "classmix", "paste"] = "none",
                 student_view: Literal["strong", "weak"] = "strong", ramp_up: Amount = 0.1,
                 ramp: Literal["sigmoid", "cosine", "linear"] = "sigmoid", **shared):  # fmt: skip
        super().__init__(task, **shared)
        if not task.has_classes and (threshold or consistency == "cross_entropy" or mix in ("classmix", "paste")):
            raise UserError(f"method: task {task.name} has neither confidence nor hard labels; set threshold to 0, "
                            'consistency to "squared_error" and mix to "none" or "cutmix"')  # fmt: skip
        (self.student,) = networks
        self.teacher = twin(self.student)
        self.roles, self.guides = {"teacher": self.teacher, "student": self.student}, [self.teacher]
        self.apart = [self.teacher, self.student]
        self.ema_decay, self.consistency_weight, self.threshold = ema_decay, consistency_weight, threshold
        self.consistency, self.confidence, self.mix = consistency, confidence, mix
        self.strong_views = 1 if student_view == "strong" else 0
        self.ramp, self.ramp_up = RAMPS[ramp], schedules.steps_of(ramp_up, self.steps)
        self.built = True

    def learn(self, batch):
        (image, label), (weak, valid, *strong) = batch["labeled"], batch["unlabeled"]
        step = self.optimizer.iterations + 0
        key = self.key()
        weight = self.consistency_weight * self.ramp(step, self.ramp_up)

        def terms():
            target = tf.stop_gradient(self.taught(weak))
            sure, hard, told = tf.cast(valid, tf.float32), self.consistency == "cross_entropy", None
            if self.threshold:
                sure *= losses.confident(target, self.threshold)
            if hard or self.mix == "classmix":
                told = losses.pseudo_label(target, valid, self.task.ignore_index)
            seen, target, sure, inside = self.mixed(
                fold(key, MIX), strong[0] if strong else weak, told if hard else target, sure, valid, label=told,
                labeled=batch["labeled"],
            )  # fmt: skip
            with noise(fold(key, NOISE)):
                logits = self.student(chain(image, seen), training=True)["logits"]
            supervised, consistent = unchain(logits, image, seen)
            return {
                "supervised": self.task.loss(label, supervised),
                "consistency": weight * self.disagreement(target, consistent, self.weight(sure, inside), inside),
            }, losses.masked_mean(sure, inside)

        minimised, used = self.minimize(terms, [self.student], self.optimizer)
        self.follow(self.teacher, self.student, warmed_up(self.ema_decay, step))
        return self.track(minimised, used_pixels=used)

    def taught(self, weak):
        """What the student is to predict for weak views, before it is mixed: the teacher's predictions [B, H, W, C]."""
        return self.task.activation(self.teacher(weak, training=False)["logits"])

    def weight(self, sure, inside):
        """What the distance is multiplied with: of each pixel [B, H, W], of each image [B, 1, 1], or one number."""
        if self.confidence == "selects":
            return sure
        return (losses.image_means if self.confidence == "weighs_images" else losses.masked_mean)(sure, inside)

    def disagreement(self, target, logits, weight, inside):
        """Mean over the pixels inside the image of the chosen distance, each times its weight.

        target: probabilities [B, H, W, C], or the labels [B, H, W] of which cross-entropy is taken.
        """
        if self.consistency == "cross_entropy":
            return losses.cross_entropy(target, logits, weight, self.task.ignore_index)
        return losses.squared_error(target, self.task.activation(logits), weight, inside)


class CutMix(MeanTeacher):
    """Mean teacher whose student sees CutMix images: French et al., BMVC 2020, arXiv:1906.01916.

    Their values: mixing by one random box of half the area, squared error, the whole loss scaled by the share of pixels
    above 0.97.
    """

    def __init__(self, networks, task, *, ema_decay: Share = 0.99, consistency_weight: Weight = 1.0,
                 consistency: Literal["squared_error", "cross_entropy"] = "squared_error", threshold: Share = 0.97,
                 confidence: Literal["selects", "weighs_images", "weighs_batch"] = "weighs_batch",
                 mix: Literal["none", "cutmix", "classmix", "paste"] = "cutmix",
                 student_view: Literal["strong", "weak"] = "weak", ramp_up: Amount = 0.0, **shared):  # fmt: skip
        super().__init__(
            networks, task, ema_decay=ema_decay, consistency_weight=consistency_weight, consistency=consistency,
            threshold=threshold, confidence=confidence, mix=mix, student_view=student_view, ramp_up=ramp_up, **shared,
        )  # fmt: skip


class ClassMix(MeanTeacher):
    """Mean teacher whose student sees ClassMix images: Olsson et al., WACV 2021, arXiv:2007.07936.

    Their values: half of the classes that the teacher sees in an image are pasted onto another, cross-entropy with
    the teacher's labels of what was mixed, each image's loss weighted by the share of its pixels above 0.968.
    Readings: "weighs_images", a lambda "for an augmented image"; the authors' code has one of the batch
    ("weighs_batch"). Half of an odd number is rounded down, as there. The colours of a strong view are changed before
    mixing, one change for each source image; theirs is one for each mix.
    """

    needs_classes = True

    def __init__(self, networks, task, *, ema_decay: Share = 0.99, consistency_weight: Weight = 1.0,
                 consistency: Literal["squared_error", "cross_entropy"] = "cross_entropy", threshold: Share = 0.968,
                 confidence: Literal["selects", "weighs_images", "weighs_batch"] = "weighs_images",
                 mix: Literal["none", "cutmix", "classmix", "paste"] = "classmix",
                 student_view: Literal["strong", "weak"] = "strong", ramp_up: Amount = 0.0, **shared):  # fmt: skip
        super().__init__(
            networks, task, ema_decay=ema_decay, consistency_weight=consistency_weight, consistency=consistency,
            threshold=threshold, confidence=confidence, mix=mix, student_view=student_view, ramp_up=ramp_up, **shared,
        )  # fmt: skip
