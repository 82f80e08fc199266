"""Robust Mutual Learning: two students taught by each other's and their own mean teacher, with rectified labels."""

from typing import Literal

import tensorflow as tf

from tfssl import losses
from tfssl.ema import twin, warmed_up
from tfssl.errors import UserError
from tfssl.kinds import Amount, Share, Weight
from tfssl.memory import Prototypes
from tfssl.methods.base import SemiSupervised, chain, refuse_equal, unchain
from tfssl.randomness import fold, noise
from tfssl.schedules import steps_of

MIX, NOISE = 1, 2  # what the random keys of a step are for


class RobustMutual(SemiSupervised):
    """weak --> teacher k --p_0--> x omega(prototypes k) --hard labels k--> both students <-- strong, cutmix, noise
                                                        student k --EMA--> teacher k

    Zhang et al., "Robust mutual learning for semi-supervised semantic segmentation", 2021, arXiv:2106.00609.

    Options, the paper's way first (methods the paper compares with, table 4 and figure 4, are settings of these):
    labels_from "teachers", or "students": direct mutual learning, eq. 3. self_supervision: eq. 5's own terms.
    rectification: eq. 6; off is indirect mutual learning (IML). input_noise: strong views and CutMix. model_noise:
    dropout and stochastic depth. stages: after `warm_up` on labels alone, so many equal stages.
    Where the paper is silent or garbled: p0 "online", the present teacher's output, or "stage", that of the teachers
    frozen at the start of the stage. prototype_start "bias_corrected" or "full_pass" over the data before a stage.
    cutmix: a mask of its own for each student ("independent"), one for both ("shared"), or "none"; mix: what is under
    the mask, another unlabeled image or, with "paste", half of the classes of a labeled one (not the paper's).
    teacher_statistics: whether batch-norm statistics are averaged like weights, or copied. ema_decay. threshold: 0, or
    pixels have a part in eq. 5 only where the greatest p_0, before it is rectified, is above it (not the paper's, which
    learns from all; docs/study.md).
    """

    learners = 2
    strong_views = 2
    terms = ("supervised_1", "supervised_2", "peer_1", "peer_2", "self_1", "self_2")
    watched = ("used_pixels", "total_variation", "rectified")

    def __init__(self, networks, task, *, labels_from: Literal["teachers", "students"] = "teachers",
                 self_supervision: bool = True, rectification: bool = True, input_noise: bool = True,
                 model_noise: bool = True, warm_up: Amount = 0.2, stages: int = 1, unlabeled_weight: Weight = 1.0,
                 threshold: Share = 0.0, ema_decay: Share = 0.999,
                 teacher_statistics: Literal["average", "copy"] = "average",
                 p0: Literal["online", "stage"] = "online", prototype_momentum: Share = 0.9999,
                 prototype_start: Literal["bias_corrected", "full_pass"] = "bias_corrected",
                 cutmix: Literal["independent", "shared", "none"] = "independent",
                 mix: Literal["cutmix", "paste"] = "cutmix", **shared):  # fmt: skip
        super().__init__(task, **shared)
        if mix == "paste" and cutmix == "none":
            raise UserError('method.mix is "paste", but by method.cutmix "none" nothing is mixed: leave cutmix out')
        self.students = list(networks)
        refuse_equal(self.students)
        self.teachers = [twin(student) for student in self.students]
        self.guides = self.teachers if labels_from == "teachers" else self.students
        channels = [student.output["features"].shape[-1] for student in self.students]
        corrected = prototype_start == "bias_corrected"
        self.prototypes = [Prototypes(task.channels, size, prototype_momentum, corrected) for size in channels]
        self.memories = self.prototypes
        self.frozen = [twin(student) for student in self.students] if p0 == "stage" else None
        self.roles = {"teacher_1": self.teachers[0], "teacher_2": self.teachers[1],
                      "student_1": self.students[0], "student_2": self.students[1]}  # fmt: skip
        self.self_supervision, self.rectification = self_supervision, rectification
        self.unlabeled_weight, self.threshold = unlabeled_weight, threshold
        self.strong_views = 2 if input_noise else 0
        self.mix = mix if input_noise and cutmix != "none" else "none"
        self.own_masks = cutmix == "independent"
        self.model_noise, self.ema_decay, self.teacher_statistics = model_noise, ema_decay, teacher_statistics
        self.prototype_start, self.stages, self.warm_up = prototype_start, stages, steps_of(warm_up, self.steps)
        if stages < 1 or (self.steps - self.warm_up) < stages:
            raise UserError(f"method.stages is {stages} and method.warm_up {self.warm_up} steps: training.steps, "
                            f"{self.steps}, leaves no step for each stage")  # fmt: skip
        self.built = True

    # Phases: stage 0 learns from labels alone; at each later stage's start prototypes and p_0 are made anew.

    def phases(self):
        starts = [(start, self.learn_mutually, self.begin_stage) for start in self.stage_starts()]
        return [(0, self.learn_labeled, None), *starts] if self.warm_up else starts

    def stage_starts(self):
        return [self.warm_up + stage * (self.steps - self.warm_up) // self.stages for stage in range(self.stages)]

    def restarts(self):
        return [0, *self.stage_starts()[1:]]

    def begin_stage(self, batches):
        for k, memory in enumerate(self.prototypes):
            if self.frozen:
                self.frozen[k].set_weights(self.teachers[k].get_weights())
            memory.reset()
        if self.prototype_start == "full_pass":
            strategy = self.distribute_strategy
            gather = tf.function(lambda batch: strategy.run(self.gather_prototypes, args=(batch,)))
            for batch in batches():
                gather(batch)

    # The steps.

    def learn_labeled(self, batch):
        image, label = batch["labeled"]
        step, key = self.optimizer.iterations + 0, self.key()

        def terms():
            return {
                f"supervised_{k + 1}": self.task.loss(label, self.study(k, image, key)) for k in range(2)
            }, ()  # eq. 1

        minimised, _ = self.minimize(terms, self.students, self.optimizer)
        self.follow_students(step)
        return self.track(minimised)

    def learn_mutually(self, batch):
        (image, label), (weak, valid, *strong) = batch["labeled"], batch["unlabeled"]
        step, key = self.optimizer.iterations + 0, self.key()
        known = label != self.task.ignore_index

        def terms():
            told = [self.tell(k, image, weak) for k in range(2)]
            pseudo = [losses.pseudo_label(labels, valid, self.task.ignore_index) for *_, labels in told]  # eq. 6
            sure = [losses.confident(p0, self.threshold) for _, _, p0, _ in told]
            unlabeled = [p[-weak.shape[0] :] for _, p, *_ in told]
            variation = losses.total_variation(*unlabeled, valid)
            changed = [losses.pseudo_label(p, valid) != y for p, y in zip(unlabeled, pseudo, strict=True)]
            rectified = losses.masked_mean(tf.cast(changed[0], tf.float32), valid)
            found = {}
            for k in range(2):
                mask = fold(fold(key, MIX), k if self.own_masks else 0)
                seen, *mixed = self.mixed(mask, strong[k] if strong else weak, *pseudo, *sure, labeled=(image, label))
                labeled, studied = unchain(self.study(k, chain(image, seen), key), image, seen)
                found[f"supervised_{k + 1}"] = self.task.loss(label, labeled)  # eq. 1
                found |= self.unlabeled_terms(k, mixed[:2], mixed[2:], studied)  # eq. 5
            means = [
                losses.prototype_means(out["features"], p, chain(known, valid), least=10)  # eq. 10
                for _, (out, p, *_) in zip(self.prototypes, told, strict=False)
            ]
            used = losses.masked_mean(sure[0], valid)
            return found, (means, {"used_pixels": used, "total_variation": variation, "rectified": rectified})

        minimised, (means, watched) = self.minimize(terms, self.students, self.optimizer)
        for memory, (mean, present) in zip(self.prototypes, means, strict=True):
            memory.update(mean, present)  # eq. 11
        self.follow_students(step)
        return self.track(minimised, **{name: watched[name] for name in self.watched})

    # The parts of a step.

    def tell(self, k, image, weak):
        """Guide k on labeled and unlabeled weak views: (output, p of both, p_0 and rectified p_t of the unlabeled)."""
        output = self.guides[k](chain(image, weak), training=False)
        probability = self.task.activation(output["logits"])
        unlabeled = slice(image.shape[0], None)
        p0 = probability[unlabeled]
        if self.frozen:
            p0 = self.task.activation(self.frozen[k](weak, training=False)["logits"])
        return output, probability, p0, self.rectified(k, p0, output["features"][unlabeled])

    def rectified(self, k, p0, features):
        """p_t of eq. 6: p_0 by the confidence of eq. 9, with guide k's prototypes; p_0 itself without rectification."""
        if not self.rectification:
            return p0
        memory = self.prototypes[k]
        return losses.rectify(p0, losses.class_confidence(features, memory.value, memory.known))

    def study(self, k, image, key):
        """Student k's logits in training; each draws noise of its own."""
        with noise(fold(fold(key, NOISE), k) if self.model_noise else None):
            return self.students[k](image, training=True)["logits"]

    def unlabeled_terms(self, k, pseudo, sure, logits):
        """Student k's part of eq. 5, H(y_peer, h_k) and H(y_self, h_k); of eq. 3, the first alone."""
        peer, own = (
            self.unlabeled_weight * losses.cross_entropy(pseudo[j], logits, sure[j], self.task.ignore_index)
            for j in (1 - k, k)
        )
        return {f"peer_{k + 1}": peer} | ({f"self_{k + 1}": own} if self.self_supervision else {})

    def follow_students(self, step):
        for teacher, student in zip(self.teachers, self.students, strict=True):
            self.follow(teacher, student, warmed_up(self.ema_decay, step), self.teacher_statistics)

    def gather_prototypes(self, batch):
        """Add a batch to the plain mean of the prototypes, for a full pass before a stage."""
        (image, label), (weak, valid, *_) = batch["labeled"], batch["unlabeled"]
        inside = chain(label != self.task.ignore_index, valid)
        for guide, memory in zip(self.guides, self.prototypes, strict=True):
            output = guide(chain(image, weak), training=False)
            p = self.task.activation(output["logits"])
            memory.update(*losses.prototype_means(output["features"], p, inside), cumulative=True)

    # What is watched (figures 2 and 4).

    def pseudo_labels(self, image):
        output = self.guides[0](image, training=False)
        teller = self.frozen[0](image, training=False) if self.frozen else output
        p0 = self.task.activation(teller["logits"])
        return self.task.decode(self.rectified(0, p0, output["features"]))
