"""Cross Teacher Training: students taught by the mean teachers of the other pairs, with two contrasts of features."""

import itertools
from typing import Annotated, Literal

import tensorflow as tf
from pydantic import Field

from tfssl import losses
from tfssl.ema import twin, warmed_up
from tfssl.errors import UserError
from tfssl.kinds import Amount, Share, Weight
from tfssl.memory import LabeledQueues
from tfssl.methods.base import chain, refuse_equal, unchain
from tfssl.methods.cross_contrasts import FeatureContrasts
from tfssl.randomness import fold, noise
from tfssl.schedules import steps_of

MIX, NOISE, CHOICE = 1, 2, 3  # what the random keys of a step are for
KINDS = ("supervised", "cross", "high", "low")

Count = Annotated[int, Field(gt=0)]


class CrossTeacher(FeatureContrasts):
    """weak --> teacher j --hard labels--> student k <-- weak;  student k --EMA--> teacher k,  k != j
    labeled --> teacher k --its sure and right features--> bank k <--contrast-- features of student k

    Xiao et al., "Semi-supervised semantic segmentation with cross teacher training", 2022, arXiv:2209.01327.

    Options, the paper's way first. pairs: 2, or 1 (a mean teacher) or 3 (table 6). labels_from (table 5): "others",
    the other pairs' teachers; "own", separate mean teachers, whose mean is scored as "ensemble"; "all", dual teachers;
    "students", direct mutual teaching. Weights of 0 take terms away. memory_size: V, keys of a class (table 7); 0 is no
    contrast. threshold: phi (table 8); 0 is high-level contrast alone, 1 low-level (table 4). directional: off is
    M_lc = 1 - M_hc (table 9). mix: nothing is said of it, hence "none"; or "cutmix", "classmix" or "paste" (mixing.py),
    one mask for all students. label_threshold: 0, or a pixel has a part in eq. 5 only where the teacher gives its class
    more than this (not the paper's; docs/study.md). student_view: "weak" or "strong". Rotations, flips and
    translations: `data.weak`.
    Its numbers are lost, so ours are the weights of the contrasts, temperature (tau) and ema_decay (alpha). quota: n,
    keys of a class and image; V / N_l rounds to the least, 1, from 86 labeled images on. chosen: the most "confident"
    n or "random" ones; the text says both. cross_from: the step at which eq. 5 joins; of a beginning on labels alone
    the paper says nothing, so 0. start_by: the contrasts begin when the banks are full, but then at the latest; the
    paper waits for all classes, here for those seen in labels, and one may never fill. anchors: so many pixels a step,
    student and contrast, drawn from all that the paper takes: the cost of a step is bounded. Eq. 6 and 8 are means
    over these pixels, whatever their class.
    """

    learners = 2
    terms = tuple(f"{kind}_{k}" for kind in KINDS for k in (1, 2))
    watched = ("used_pixels", "total_variation", "bank_fill", "high_pixels", "low_pixels")

    def __init__(self, networks, task, *, pairs: Literal[1, 2, 3] = 2,
                 labels_from: Literal["others", "own", "all", "students"] = "others", ema_decay: Share = 0.99,
                 supervised_weight: Weight = 1.0, cross_weight: Weight = 1.0, high_weight: Weight = 0.1,
                 low_weight: Weight = 0.1, memory_size: Annotated[int, Field(ge=0)] = 128, quota: Count = 1,
                 chosen: Literal["confident", "random"] = "confident", cross_from: Amount = 0.0, start_by: Amount = 0.1,
                 temperature: Annotated[float, Field(gt=0)] = 0.1, threshold: Share = 0.75, directional: bool = True,
                 label_threshold: Share = 0.0, anchors: Count = 256,
                 mix: Literal["none", "cutmix", "classmix", "paste"] = "none",
                 student_view: Literal["weak", "strong"] = "weak", **shared):  # fmt: skip
        kinds = KINDS if pairs > 1 else KINDS[:-1]  # eq. 8 needs a peer
        super().__init__(task, terms=tuple(f"{kind}_{k + 1}" for kind in kinds for k in range(pairs)), **shared)
        self.students = list(networks)
        refuse_equal(self.students)
        self.teachers = [twin(student) for student in self.students]
        self.tellers = tellers(pairs, labels_from)
        self.guides = self.students if labels_from == "students" else self.teachers
        self.apart = self.guides if pairs > 1 else [*self.teachers, *self.students]
        channels = [student.output["features"].shape[-1] for student in self.students]
        if memory_size and len(set(channels)) > 1:
            raise UserError(f"networks: their features have {channels} channels, but low-level contrast compares them; "
                            "give all networks equal ones, or method.memory_size 0")  # fmt: skip
        self.banks = [LabeledQueues(task.channels, memory_size, size) for size in channels if memory_size]
        self.memories = self.banks
        for role, members in (("teacher", self.teachers), ("student", self.students)):
            self.roles |= {f"{role}_{k + 1}": network for k, network in enumerate(members)}
        self.weights_of = dict(zip(KINDS, (supervised_weight, cross_weight, high_weight, low_weight), strict=True))
        self.ema_decay, self.quota, self.chosen = ema_decay, quota, chosen
        self.cross_from, self.start_by = steps_of(cross_from, self.steps), steps_of(start_by, self.steps)
        self.temperature, self.threshold, self.directional = temperature, threshold, directional
        self.label_threshold = label_threshold
        self.anchors, self.mix = anchors, mix
        self.strong_views = 1 if student_view == "strong" else 0
        self.built = True

    @classmethod
    def learners_of(cls, options):
        return options.get("pairs", cls.learners)

    def learn(self, batch):
        (image, label), (weak, valid, *strong) = batch["labeled"], batch["unlabeled"]
        step, key = self.optimizer.iterations + 0, self.key()
        crosses = tf.cast(step >= self.cross_from, tf.float32)
        started, held, fill = self.look_into_banks(step)  # out here: XLA on a GPU cannot read integer variables
        shape = [3, len(self.banks), image.shape[0] + weak.shape[0], *weak.shape[1:3]]
        scores = tf.random.stateless_uniform(shape, fold(key, CHOICE))  # nor does XLA draw the same numbers

        def terms():
            looked = [teacher(chain(image, weak), training=False) for teacher in self.teachers]
            said = looked if self.guides is self.teachers else [each(weak, training=False) for each in self.guides]
            told = [self.task.activation(output["logits"][-weak.shape[0] :]) for output in said]
            first, *_ = pseudo = [losses.pseudo_label(p, valid, self.task.ignore_index) for p in told]  # eq. 3
            # one mask for all: eq. 8 compares what two students make of the same pixel
            sure = [losses.confident(p, self.label_threshold) for p in told]
            used = losses.masked_mean(sure[0], valid)
            seen, *mixed = self.mixed(fold(key, MIX), strong[0] if strong else weak, *pseudo, *sure, label=first,
                                      labeled=batch["labeled"])  # fmt: skip
            pseudo, sure = mixed[: len(told)], mixed[len(told) :]
            studied = [self.study(k, chain(image, seen), key) for k in range(len(self.students))]
            # eq. 4, before the softmax
            labeled, unlabeled = zip(*(unchain(output["logits"], image, seen) for output in studied), strict=True)
            found = {
                "supervised": [self.task.loss(label, each) for each in labeled],  # eq. 1, 2
                "cross": [crosses * self.crossed(k, pseudo, sure, each) for k, each in enumerate(unlabeled)],
            }
            contrasts, watched = self.contrasts(studied, label, pseudo, held, scores)  # eq. 6 to 9
            found |= {kind: [started * loss for loss in values] for kind, values in contrasts.items()}
            if told[1:]:
                apart = [losses.total_variation(*pair, valid) for pair in itertools.combinations(told, 2)]
                watched["total_variation"] = tf.reduce_min(apart)
            watched["used_pixels"] = crosses * used
            fresh = [self.select(k, looked[k]["features"], label, scores[2, k]) for k in range(len(self.banks))]
            weighted = {f"{kind}_{k}": self.weights_of[kind] * value
                        for kind, values in found.items() for k, value in enumerate(values, 1)}  # fmt: skip
            return weighted, (watched, fresh)  # eq. 10 is their sum

        minimised, (watched, fresh) = self.minimize(terms, self.students, self.optimizer)
        for bank, keys in zip(self.banks, fresh, strict=True):
            bank.push(*keys)
        for teacher, student in zip(self.teachers, self.students, strict=True):
            self.follow(teacher, student, warmed_up(self.ema_decay, step))
        return self.track(minimised, **watched, **fill)

    # The parts of a step.

    def study(self, k, image, key):
        """Student k in training; each draws noise of its own."""
        with noise(fold(fold(key, NOISE), k)):
            return self.students[k](image, training=True)

    def crossed(self, k, pseudo, sure, logits):
        """Student k's part of eq. 5; of several tellers the mean, so that the weight means the same for any number."""
        return tf.reduce_mean([losses.cross_entropy(pseudo[j], logits, sure[j], self.task.ignore_index)
                               for j in self.tellers[k]])  # fmt: skip

    def begins(self, term):
        """Before it the contrasts may be 0, as long as the banks fill."""
        return {"supervised": 0, "cross": self.cross_from}.get(term.split("_")[0], self.start_by)

    # What is watched and scored.

    def pseudo_labels(self, image):
        """What the first student is told."""
        return self.task.decode(self.guides[self.tellers[0][0]](image, training=False)["logits"])

    @property
    def scored(self):
        return self.roles | ({"ensemble": self.ensemble} if len(self.teachers) > 1 else {})

    def ensemble(self, image, training=False):
        """All teachers together (table 5), the mean of their probabilities as logits: scored, but one network ships."""
        said = [self.task.activation(teacher(image, training=False)["logits"]) for teacher in self.teachers]
        return {"logits": tf.math.log(tf.maximum(tf.add_n(said) / len(said), 1e-30))}


def tellers(pairs, labels_from):
    """Whose labels each student learns from, the first one's those by which its features are contrasted."""
    if pairs == 1 and labels_from == "students":
        raise UserError('method.labels_from is "students", which needs a peer; give method.pairs 2 or 3')
    rings = [[(k + 1 + j) % pairs for j in range(pairs)] for k in range(pairs)]  # a student's own comes last
    kept = {"own": slice(-1, None), "all": slice(None)}.get(labels_from, slice(max(pairs - 1, 1)))
    return [ring[kept] for ring in rings]
