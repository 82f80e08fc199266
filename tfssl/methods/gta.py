"""Gentle Teaching Assistant: pseudo-labels teach an assistant, who passes on what it sees but not what it says."""

from typing import Literal

import tensorflow as tf

from tfssl import losses
from tfssl.ema import trainable_twin, twin, warmed_up
from tfssl.kinds import Amount, Share, Weight
from tfssl.methods.base import SemiSupervised, chain, unchain
from tfssl.randomness import fold, noise
from tfssl.schedules import warm_up_of

MIX, FIRST, SECOND = 1, 2, 3  # what the random keys of a step are for
KINDS = ("labels", "pseudo_labels")
Lessons = Literal["labels", "pseudo_labels", "both"]
ASSISTANT = {"labels": "assistant_labeled", "pseudo_labels": "assistant_unlabeled"}  # the terms of its lessons
STUDENT = {"labels": "supervised", "pseudo_labels": "student_unlabeled"}


class GTA(SemiSupervised):
    """teacher --pseudo-labels--> assistant --encoder EMA--> student <-- labels;  student --EMA--> teacher

    Jin et al., "Semi-supervised semantic segmentation via gentle teaching assistant", NeurIPS 2022, arXiv:2301.07340.
    The student's classifier never learns from a pseudo-label. (In the published code assistant and student share it.)

    Options, the paper's way first. transmission: what of the assistant the student follows, the "encoder" or "all" of
    it (table 5). assistant_learns, student_learns: from what (table 7). ema_decay: alpha of eq. 9 and eq. 12, the
    teacher's rising to it over its first steps, so that the start is soon forgotten; transmission_decay: that of eq. 9
    where it is another (in the published code 0.999). warm_up on labels alone: 1 epoch
    of 80 (table 8; the paper says "all three": here assistant and student learn, the teacher follows). reweighting off,
    or smoothing 0 (tau; table 9). dropped: the share of pixels, the least confident, that are ignored.
    Readings: g, the predictor that no pseudo-label teaches, is what lies behind a network's encoder: its last
    convolution, or with `cut: "decoder"` all convolutions of the decoder, as in the authors' code. With
    `training.accumulate` the student's gradients of all parts but the last are taken before eq. 9 has moved it. Where
    the paper is silent: the assistant sees strong views ("weak" by assistant_view) mixed by CutMix (`mix`; or "paste",
    mixing.py), and begins as a copy of the student, since averaging the encoders of unlike networks means nothing. Left
    out of the published code: the first step's replacing of the student, a constant rate of the assistant, weights that
    count dropped pixels, and a threshold from a second pass of the teacher over the mixed images.
    """

    terms = (*ASSISTANT.values(), *STUDENT.values())  # those of them that the options ask for
    watched = ("used_pixels",)

    def __init__(self, networks, task, *, ema_decay: Share = 0.99, transmission_decay: Share | None = None,
                 transmission: Literal["encoder", "all"] = "encoder",
                 assistant_learns: Lessons = "pseudo_labels", student_learns: Lessons = "labels",
                 dropped: Share = 0.2, reweighting: bool = True, smoothing: Weight = 1.0,
                 unlabeled_weight: Weight = 1.0, warm_up: Amount = 0.0125,
                 assistant_view: Literal["strong", "weak"] = "strong",
                 mix: Literal["none", "cutmix", "paste"] = "cutmix", **shared):  # fmt: skip
        terms = [ASSISTANT[kind] for kind in KINDS if kind in lessons(assistant_learns) or kind == "labels" and warm_up]
        super().__init__(task, terms=(*terms, *(STUDENT[kind] for kind in lessons(student_learns))), **shared)
        (self.student,) = networks
        self.assistant, self.teacher = trainable_twin(self.student), twin(self.student)
        self.roles = {"teacher": self.teacher, "assistant": self.assistant, "student": self.student}
        self.guides, self.apart = [self.teacher], [*self.roles.values()]
        self.ema_decay, self.transmission, self.dropped = ema_decay, transmission, dropped
        self.transmission_decay = ema_decay if transmission_decay is None else transmission_decay
        self.assistant_learns, self.student_learns = assistant_learns, student_learns
        self.smoothing = smoothing if reweighting else None
        self.unlabeled_weight, self.mix = unlabeled_weight, mix
        self.strong_views = 1 if assistant_view == "strong" else 0
        self.warm_up = warm_up_of(warm_up, self.steps)
        self.built = True

    @property
    def minimised(self):
        return [self.student]

    @property
    def also_minimised(self):
        return {"assistant": [self.assistant]}

    # The steps.

    def learn_labeled(self, batch):
        step, key = self.optimizer.iterations + 0, self.key()
        first, _ = self.minimize(
            lambda: (self.teach(self.assistant, ASSISTANT, "labels", batch, None, fold(key, FIRST)), ()),
            [self.assistant], self.further_optimizers["assistant"],
        )  # fmt: skip
        second, _ = self.minimize(
            lambda: (self.teach(self.student, STUDENT, "labels", batch, None, fold(key, SECOND)), ()),
            [self.student], self.optimizer,
        )  # fmt: skip
        self.follow(self.teacher, self.student, warmed_up(self.ema_decay, step))
        return self.track(first | second)

    def learn(self, batch):
        step, key = self.optimizer.iterations + 0, self.key()

        def on_pseudo_labels():
            told, used = self.tell(*batch["unlabeled"], key=fold(key, MIX), labeled=batch["labeled"])
            found = self.teach(self.assistant, ASSISTANT, self.assistant_learns, batch, told, fold(key, FIRST))
            return found, (told, used)

        def on_labels():
            return self.teach(self.student, STUDENT, self.student_learns, batch, told, fold(key, SECOND)), ()

        first, (told, used) = self.minimize(
            on_pseudo_labels, [self.assistant], self.further_optimizers["assistant"]
        )  # eq. 8
        self.transmit()  # eq. 9
        second, _ = self.minimize(on_labels, [self.student], self.optimizer)  # eq. 11
        self.follow(self.teacher, self.student, warmed_up(self.ema_decay, step))  # eq. 12
        return self.track(first | second, used_pixels=used)

    # The parts of a step.

    def tell(self, weak, valid, *strong, key, labeled=None):
        """What the teacher says: ((unlabeled images to learn from, pseudo-labels, weights), share of pixels used)."""
        probability = self.task.activation(self.teacher(weak, training=False)["logits"])
        pseudo, weight = losses.reweighted_pseudo_labels(
            tf.stop_gradient(probability), valid, self.dropped, self.smoothing, self.task.ignore_index
        )  # eq. 1, 2 and 6
        used = losses.labeled_share(pseudo, valid, self.task.ignore_index)
        told = (strong[0] if strong else weak, pseudo, weight)
        return self.mixed(key, *told, labeled=labeled), used

    def teach(self, network, terms, learns, batch, told, key):
        """The losses of a network on all it learns from, by their names in `terms`: eq. 7, eq. 10, or both (eq. 3)."""
        material = {"labels": (*batch["labeled"], None, None)}
        if told is not None:
            material["pseudo_labels"] = (*told, self.unlabeled_weight)
        chosen = {terms[kind]: material[kind] for kind in lessons(learns)}
        with noise(key):
            images = [image for image, *_ in chosen.values()]
            parts = unchain(network(chain(*images), training=True)["logits"], *images)
        # The paper's sums over pixels are means over those that count, as its code has them.
        return {
            term: self.task.loss(label, part) if weight is None else
            factor * losses.cross_entropy(label, part, weight, self.task.ignore_index)
            for (term, (_, label, weight, factor)), part in zip(chosen.items(), parts, strict=True)
        }  # fmt: skip

    def transmit(self):
        """Eq. 9: the student follows the assistant; batch-norm statistics stay those that each has seen itself."""
        student, assistant = self.student, self.assistant
        if self.transmission == "encoder":
            student, assistant = (network.get_layer("encoder") for network in (student, assistant))
        self.follow(student, assistant, self.transmission_decay, "keep")


def lessons(learns):
    return KINDS if learns == "both" else (learns,)
