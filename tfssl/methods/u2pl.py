"""U2PL: what a teacher is unsure of still tells which classes a pixel does not belong to."""

from functools import partial
from typing import Annotated, Literal

import tensorflow as tf
from pydantic import Field

from tfssl import losses
from tfssl.ema import twin, warmed_up
from tfssl.errors import UserError
from tfssl.heads import representation_head
from tfssl.kinds import Amount, Count, Share, Weight
from tfssl.memory import ClassQueues
from tfssl.methods.base import SemiSupervised, chain, unchain
from tfssl.randomness import fold, noise
from tfssl.resizing import pick_like
from tfssl.schedules import warm_up_of

MIX, NOISE, CHOICE, OLD, NEW = 1, 2, 3, 4, 5  # what the random keys of a step are for
Temperature = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class U2PL(SemiSupervised):
    """weak --> teacher --low entropy---> pseudo-labels ------------------------> student <-- weak, cutmix
                        --high entropy--> negatives --> queue of each class --> its representations
    student --EMA--> teacher

    Wang et al., "Semi-supervised semantic segmentation using unreliable pseudo-labels", CVPR 2022, arXiv:2203.03884.

    Options, the paper's way first. unreliable: alpha_0 (table 7). dynamic_partition: eq. 7, or alpha_0 throughout.
    adaptive_weight: eq. 8, or eta alone, which is `unsupervised_weight`. contrast: eq. 4, or "binary", eq. A1.
    anchors, negatives, temperature, anchor_threshold: M, N, tau, delta_p. rank_low, rank_high: r_l, r_h (table 5);
    with rank_low null negatives are of any rank, unlabeled ones but the first (table 6's "without" has 1).
    negatives_from: "unreliable" pixels, those of "lowest" entropy (table 4's "Reliable"), or "all". queues: off,
    negatives are of this step alone (table 6). background_capacity: that of class 0. pushed: how many keys a class may
    get in a step, drawn at random; the paper's gets all. Its loss of hard pixels, on Cityscapes, is `task.ohem`.
    warm_up: on labels alone, 1 epoch of 80. mix ("paste" is not the paper's: then eq. 8 still counts the teacher's own
    pixels, and all pasted ones may be anchors), teacher_statistics of batch norm and student_view ("strong" is not
    the paper's): of these it says no more. A weight of 0 takes its term away.
    Where the authors' code differs. labeled_negatives: off, it never finds one. anchors_from: "lowest", unlabeled
    anchors are the share alpha_t of lowest entropy. positive_threshold: 0, the positive is a mean over pixels whatever
    their p(c). class_average: "present", over classes that have anchors. Left out: its thresholds from the mixed
    image, its draw between CutMix, ClassMix and CutOut, unlabeled negatives of c from pixels told to be c alone, a
    teacher that is copied anew at each step of an epoch, and the classes of the batch as divisor.
    There M and N are swapped too (anchors 256, negatives 50), and contrast_weight is 1 by the number of devices.
    Readings. Eq. 3 is a mean over the pixels that are kept, as in their code; over all pixels eq. 8 would cancel
    and leave what adaptive_weight off is. The representation head ends in a 1x1 convolution. The
    teacher sees weak views unmixed, so negatives and positives are of those. The label, p and entropy of a feature are
    those of the pixel at its middle. ema_decay is the authors'.
    """

    terms = ("supervised", "unsupervised", "contrast")
    watched = ("used_pixels", "anchors", "contrasted_classes", "queue_fill")

    def __init__(self, networks, task, *, warm_up: Amount = 0.0125, ema_decay: Share = 0.99,
                 teacher_statistics: Literal["average", "copy"] = "average",
                 mix: Literal["cutmix", "paste", "none"] = "cutmix", student_view: Literal["weak", "strong"] = "weak",
                 unsupervised_weight: Weight = 1.0, adaptive_weight: bool = True, unreliable: Share = 0.2,
                 dynamic_partition: bool = True, contrast_weight: Weight = 0.1,
                 contrast: Literal["info_nce", "binary"] = "info_nce", temperature: Temperature = 0.5,
                 class_average: Literal["all", "present"] = "all", channels: Count = 256, anchors: Count = 50,
                 anchor_threshold: Share = 0.3, positive_threshold: Share = 0.3,
                 anchors_from: Literal["reliable", "lowest"] = "reliable", negatives: Count = 256,
                 negatives_from: Literal["unreliable", "lowest", "all"] = "unreliable", labeled_negatives: bool = True,
                 rank_low: Count | None = 3, rank_high: Count = 20, queues: bool = True, pushed: Count = 1024,
                 queue_capacity: Count = 30_000, background_capacity: Count = 50_000, **shared):  # fmt: skip
        super().__init__(task, **shared)
        (self.student,) = networks
        self.teacher = twin(self.student)
        self.projection = representation_head(self.student.output["features"].shape[-1], channels, self.seed)
        self.projection_teacher = twin(self.projection, "projection_teacher")
        self.roles, self.guides = {"teacher": self.teacher, "student": self.student}, [self.teacher]
        self.apart = [self.teacher, self.student]
        self.heads = {"projection": self.projection, "projection_teacher": self.projection_teacher}
        self.warm_up, self.ema_decay, self.statistics = warm_up_of(warm_up, self.steps), ema_decay, teacher_statistics
        self.mix, self.strong_views = mix, 1 if student_view == "strong" else 0
        self.unsupervised_weight, self.adaptive_weight = unsupervised_weight, adaptive_weight
        self.unreliable, self.falling = unreliable, 1.0 if dynamic_partition else 0.0
        loss = {"info_nce": losses.info_nce, "binary": losses.binary_contrast}[contrast]
        self.compare = partial(loss, temperature=temperature, classes=class_average)  # eq. 4, eq. A1
        self.contrast_weight, self.anchors, self.negatives, self.pushed = contrast_weight, anchors, negatives, pushed
        self.thresholds = anchor_threshold, positive_threshold
        self.anchors_from, self.negatives_from, self.labeled_negatives = anchors_from, negatives_from, labeled_negatives
        self.ranks = rank_low, rank_high
        self.remembers, capacity = queues, [background_capacity] + [queue_capacity] * (task.channels - 1)
        refuse(rank_low, rank_high, pushed, min(capacity) if queues else None)
        self.queues = ClassQueues(task.channels, capacity if queues else 1, channels)
        self.memories = [self.queues]
        self.built = True

    # The steps.

    def learn_labeled(self, batch):
        image, label = batch["labeled"]
        step, key = self.optimizer.iterations + 0, self.key()

        def terms():
            with noise(fold(key, NOISE)):
                return {"supervised": self.task.loss(label, self.student(image, training=True)["logits"])}, ()  # eq. 2

        minimised, _ = self.minimize(terms, [self.student], self.optimizer)
        self.follow_student(step)
        return self.track(minimised)

    def learn(self, batch):
        (image, label), (weak, valid, *strong) = batch["labeled"], batch["unlabeled"]
        step, key, count = self.optimizer.iterations + 0, self.key(), image.shape[0]
        # eq. 7, moved at each step; the paper moves it once an epoch
        share = self.unreliable * (1 - self.falling * tf.cast(step, tf.float32) / self.steps)
        # Drawn out here, where XLA does not draw other numbers. The N negatives of a class serve all its anchors: cost.
        scores = tf.random.stateless_uniform([count + weak.shape[0], *weak.shape[1:3]], fold(key, CHOICE))
        draws = tf.random.stateless_uniform([2, self.negatives], fold(key, NEW))
        old, filled = self.queues.sample(fold(key, OLD), self.negatives), self.queues.filled + 0

        def terms():
            p, z = self.tell(chain(image, weak))
            parts = losses.entropy_parts(losses.entropy(p[count:]), valid, share)  # eq. 5
            pseudo = losses.pseudo_label(p[count:], parts["reliable"], self.task.ignore_index)  # eq. 6
            candidates, central = self.anchor_labels(label, p, parts)
            fresh = self.find_negatives(label, p, z, parts, scores)
            negatives, there = losses.with_fresh(old, filled, *fresh, draws)  # alg. 1; the oldest leave a step later
            view = strong[0] if strong else weak
            told = pseudo, candidates[count:]
            seen, target, mixed = self.mixed(fold(key, MIX), view, *told, labeled=batch["labeled"])
            logits, own = self.study(chain(image, seen), key)
            labeled, unlabeled = unchain(logits, image, seen)
            positives = losses.class_centers(pixels(z), pixels(central, z), self.task.channels)  # eq. 12
            mask = pixels(chain(candidates[:count], mixed), own)[:, None] == tf.range(self.task.channels)
            anchors, counts = losses.choose(pixels(own), mask, pixels(scores, own), self.anchors)
            counts &= (there & tf.reduce_any(positives != 0, axis=1))[:, None]  # both sides of the contrast are needed
            weight = losses.adaptive_weight(parts["reliable"], valid) if self.adaptive_weight else 1.0  # eq. 8
            unsupervised = losses.cross_entropy(target, unlabeled, ignore_index=self.task.ignore_index)
            found = {
                "supervised": self.task.loss(label, labeled),  # eq. 2
                "unsupervised": self.unsupervised_weight * weight * unsupervised,  # eq. 3
                "contrast": self.contrast_weight * self.compare(anchors, counts, positives, negatives),
            }  # eq. 1
            used = losses.masked_mean(tf.cast(parts["reliable"], tf.float32), valid)
            return found, (fresh, used, tf.reduce_sum(tf.cast(counts, tf.float32), axis=1))

        minimised, (fresh, used, anchors) = self.minimize(terms, self.minimised, self.optimizer)
        if self.remembers:
            self.queues.push(*fresh)
        self.follow_student(step)
        contrasted = tf.reduce_mean(tf.cast(anchors > 0, tf.float32))
        fill = tf.reduce_mean(tf.cast(filled, tf.float32) / self.queues.capacity)
        return self.track(minimised, used_pixels=used, anchors=tf.reduce_mean(anchors), contrasted_classes=contrasted,
                          queue_fill=fill)  # fmt: skip

    # The parts of a step.

    def tell(self, image):
        """The teacher's p = f(h(x)) [B,H,W,C] and representations z = g(h(x)) [B,h,w,D]."""
        output = self.teacher(image, training=False)
        z = tf.cast(self.projection_teacher(output["features"], training=False), tf.float32)
        return tf.stop_gradient(self.task.activation(output["logits"])), tf.stop_gradient(z)

    def anchor_labels(self, label, p, parts):
        """Of each pixel the class whose anchor it may be (eq. 9 to 11), and the one whose centre it is counted in."""
        ignore = self.task.ignore_index
        told = chain(label, losses.pseudo_label(p[label.shape[0] :], parts[self.anchors_from], ignore))
        return [losses.sure_label(told, p, threshold, ignore) for threshold in self.thresholds]

    def find_negatives(self, label, p, z, parts, scores):
        """Up to `pushed` keys of each class out of N_c (eq. 13 to 16): [C, K, D], and which there are [C, K]."""
        label, told, candidate = (pixels(values, z) for values in (label, p, parts[self.negatives_from]))
        labeled, unlabeled = told[: label.shape[0]], told[label.shape[0] :]
        mask = chain(
            losses.labeled_negatives(label, labeled, self.ranks[0], self.task.ignore_index) & self.labeled_negatives,
            losses.unlabeled_negatives(candidate, unlabeled, *self.ranks),
        )
        return losses.choose(pixels(z), mask, pixels(scores, z), self.pushed)

    def study(self, image, key):
        """The student's logits, and its representations [B,h,w,D]."""
        with noise(fold(key, NOISE)):
            output = self.student(image, training=True)
            return output["logits"], self.projection(output["features"], training=True)

    def follow_student(self, step):
        self.follow(self.teacher, self.student, warmed_up(self.ema_decay, step), self.statistics)
        since = tf.maximum(step - self.warm_up, 0)  # it first learns, and gathers statistics, after the warm-up
        self.follow(self.projection_teacher, self.projection, warmed_up(self.ema_decay, since), self.statistics)

    # What the user should know before.

    def cautions(self):
        low, classes = self.ranks[0], self.task.channels
        rest = "only labeled ones can" if self.labeled_negatives else "and no labeled one may: there is no contrast"
        if low is not None and low >= classes:
            return [f"method.rank_low is {low}, but there are {classes} classes: no unreliable pixel can be a "
                    f"negative, {rest}; set method.rank_low to {classes - 1}"]  # fmt: skip
        if self.unreliable == 0 and self.negatives_from != "all":
            return [f"method.unreliable is 0: no unlabeled pixel can be a negative, {rest}"]
        if self.thresholds[0] == 1:
            return ["method.anchor_threshold is 1: no pixel is surer, so none is an anchor: there is no contrast"]
        return []


def pixels(values, like=None):
    """values [B,H,W,...] as [P,...], one image after another; at the features of like [B,h,w,D] if it is given."""
    values = values if like is None else pick_like(values, like)
    return tf.reshape(values, [-1, *values.shape[3:]])


def refuse(low, high, pushed, room):
    """A setting that cannot be; room: of the smallest queue, None where there are none."""
    if low is not None and low >= high:
        raise UserError(f"method.rank_high is {high}: it must be greater than method.rank_low, {low}")
    pushed *= tf.distribute.get_strategy().num_replicas_in_sync
    if room is not None and room < pushed:
        raise UserError(f"method.queue_capacity and method.background_capacity: the smaller is {room}, but a step may "
                        f"push {pushed} keys, method.pushed on each device; lower that, or give more room")  # fmt: skip
