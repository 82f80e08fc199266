"""U2PL: what a teacher is unsure of still tells which classes a pixel does not belong to."""

from functools import partial
from typing import Annotated, Literal

import keras
import tensorflow as tf
from pydantic import Field

from tfssl import losses, mixing
from tfssl.ema import follow, twin, warmed_up
from tfssl.errors import UserError
from tfssl.kinds import Amount, Count, Share, Weight
from tfssl.memory import ClassQueues
from tfssl.methods.base import SemiSupervised, chain
from tfssl.randomness import fold, noise
from tfssl.resizing import pick_like
from tfssl.schedules import steps_of

MIX, NOISE, CHOICE, OLD, NEW = 1, 2, 3, 4, 5  # what the random keys of a step are for
Temperature = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class U2PL(SemiSupervised):
    """weak --> teacher --low entropy---> pseudo-labels ------------------------> student <-- weak, cutmix
                        --high entropy--> negatives --> queue of each class --> its representations
    student --EMA--> teacher

    Wang et al., "Semi-supervised semantic segmentation using unreliable pseudo-labels", CVPR 2022, arXiv:2203.03884.

    Options, the paper's way first. unreliable: alpha_0 (table 7). dynamic_partition: eq. 7, else alpha_0 throughout.
    adaptive_weight: eq. 8, else eta, `unsupervised_weight`. contrast: eq. 4, or eq. A1 ("binary"). anchors, negatives,
    temperature, anchor_threshold: M, N, tau, delta_p. rank_low, rank_high: r_l, r_h (table 5); rank_thresholds off:
    negatives of any rank (table 6). negatives_from: "unreliable" pixels, those of "lowest" entropy (table 4's
    "Reliable"), or "all". queues off: negatives of this step alone (table 6). background_capacity is that of class 0.
    pushed: keys that a class may get in a step; the paper's gets all. A weight of 0 takes a term away.
    mix "none" is table 6's way. ohem: as on Cityscapes. warm_up: on labels alone, 1 of 80 epochs.
    Where the authors' code differs: labeled_negatives off (it finds none); anchors_from "lowest": unlabeled anchors are
    the pixels of lowest entropy, a share of alpha_t; positive_threshold off: the positive is the mean of these pixels
    whatever their p(c); class_average "present": over the classes that have anchors. teacher_statistics of batch norm.
    Readings: the CE of eq. 3 is a mean over kept pixels; the representation head ends in a 1x1 convolution; the teacher
    sees weak views only, so that positives and negatives are never of mixed images; a pixel's label, p and entropy,
    taken at the middle of each feature, are those of the feature. ema_decay is the authors'.
    """

    terms = ("supervised", "unsupervised", "contrast")
    watched = ("used_pixels", "anchors", "contrasted_classes", "queue_fill")

    def __init__(self, networks, task, *, ema_decay: Share = 0.99,
                 teacher_statistics: Literal["copy", "average"] = "copy", warm_up: Amount = 0.0125, unsupervised_weight: Weight = 1.0, contrast_weight: Weight = 0.1,
                 unreliable: Share = 0.2, dynamic_partition: bool = True, adaptive_weight: bool = True,
                 contrast: Literal["info_nce", "binary"] = "info_nce", anchors: Count = 50, negatives: Count = 256,
                 temperature: Temperature = 0.5, anchor_threshold: Share = 0.3, rank_low: Count = 3,
                 rank_high: Count = 20, rank_thresholds: bool = True,
                 negatives_from: Literal["unreliable", "lowest", "all"] = "unreliable", labeled_negatives: bool = True,
                 anchors_from: Literal["reliable", "lowest"] = "reliable", positive_threshold: bool = True,
                 class_average: Literal["all", "present"] = "all", queues: bool = True,
                 background_capacity: Count = 50_000, queue_capacity: Count = 30_000, pushed: Count = 1024,
                 channels: Count = 256, mix: Literal["cutmix", "none"] = "cutmix",
                 student_view: Literal["weak", "strong"] = "weak", ohem: bool = False, ohem_threshold: Share = 0.7,
                 ohem_least: Share = 0.0625, **shared):  # fmt: skip
        super().__init__(task, **shared)
        (self.student,) = networks
        self.teacher = twin(self.student)
        self.projection = representation_head(self.student.output["features"].shape[-1], channels, self.seed)
        self.projection_teacher = twin(self.projection, "projection_teacher")
        self.roles = {"teacher": self.teacher, "student": self.student}
        self.heads = {"projection": self.projection, "projection_teacher": self.projection_teacher}
        self.ema_decay, self.teacher_statistics = ema_decay, teacher_statistics
        self.unsupervised_weight, self.contrast_weight = unsupervised_weight, contrast_weight
        self.unreliable, self.dynamic_partition, self.adaptive_weight = unreliable, dynamic_partition, adaptive_weight
        compare = losses.info_nce if contrast == "info_nce" else losses.binary_contrast
        self.compare = partial(compare, temperature=temperature, classes=class_average)  # eq. 4, eq. A1
        self.anchors, self.negatives, self.pushed = anchors, negatives, pushed
        self.anchor_threshold, self.positive_threshold = anchor_threshold, anchor_threshold if positive_threshold else -1.0
        self.rank_low, self.rank_high = (rank_low, rank_high) if rank_thresholds else (None, None)
        self.negatives_from, self.anchors_from, self.labeled_negatives = negatives_from, anchors_from, labeled_negatives
        self.mix, self.mixes, self.strong_views = mix, mix == "cutmix", 1 if student_view == "strong" else 0
        hard = partial(losses.hard_cross_entropy, threshold=ohem_threshold, least=ohem_least,
                       ignore_index=task.ignore_index)  # fmt: skip
        self.supervised = hard if ohem else task.loss
        self.warm_up = steps_of(warm_up, self.steps)
        capacity = [background_capacity] + [queue_capacity] * (task.channels - 1)
        refuse(self.warm_up, self.steps, rank_low, rank_high, pushed, min(capacity) if queues else None)
        self.pushes = queues
        self.queues = ClassQueues(task.channels, capacity if queues else 1, channels)
        self.memories = [self.queues]
        self.built = True

    def phases(self):
        contrast = (self.warm_up, self.learn, None)
        return [(0, self.learn_labeled, None), contrast] if self.warm_up else [contrast]

    # The steps.

    def learn_labeled(self, batch):
        image, label = batch["labeled"]
        step, key = self.optimizer.iterations + 0, self.key()

        def terms():
            with noise(fold(key, NOISE)):
                return {"supervised": self.supervised(label, self.student(image, training=True)["logits"])}, ()  # eq. 2

        minimised, _ = self.minimize(terms, [self.student], self.optimizer)
        self.follow_student(step)
        return self.track(minimised)

    def learn(self, batch):
        (image, label), (weak, valid, *strong) = batch["labeled"], batch["unlabeled"]
        step, key, count = self.optimizer.iterations + 0, self.key(), image.shape[0]
        share = self.unreliable_share(step)
        scores, draws = self.luck(key, chain(image, weak))
        filled = self.queues.filled + 0
        old = self.queues.sample(fold(key, OLD), self.negatives)  # one draw for all anchors of a class, to save cost

        def terms():
            p, z = self.tell(chain(image, weak))
            parts = losses.entropy_parts(losses.entropy(p[count:]), valid, share)  # eq. 5
            pseudo = losses.pseudo_label(p[count:], parts["reliable"], self.task.ignore_index)  # eq. 6
            candidates, central = self.anchor_labels(label, p, parts)
            fresh = self.find_negatives(label, p, z, parts, scores)
            negatives, there = losses.with_fresh(old, filled, *fresh, draws)  # alg. 1; the oldest leave a step later
            seen, target, mixed = self.mixed(key, strong[0] if strong else weak, pseudo, candidates[count:])
            logits, own = self.study(chain(image, seen), key)
            positives = losses.class_centers(flat(z), flat(pick_like(central, z)), self.task.channels)  # eq. 12
            anchors, counts = self.draw_anchors(own, chain(candidates[:count], mixed), scores)
            weight = losses.adaptive_weight(parts["reliable"], valid) if self.adaptive_weight else 1.0  # eq. 8
            unsupervised = losses.cross_entropy(target, logits[count:], ignore_index=self.task.ignore_index)  # eq. 3
            counts &= there[:, None]
            found = {
                "supervised": self.supervised(label, logits[:count]),  # eq. 2
                "unsupervised": self.unsupervised_weight * weight * unsupervised,
                "contrast": self.contrast_weight * self.compare(anchors, counts, positives, negatives),
            }  # eq. 1
            used = losses.masked_mean(tf.cast(parts["reliable"], tf.float32), valid)
            return found, (fresh, used, tf.reduce_sum(tf.cast(counts, tf.float32), axis=1))

        minimised, (fresh, used, anchors) = self.minimize(terms, self.minimised, self.optimizer)
        if self.pushes:
            self.queues.push(*fresh)
        self.follow_student(step)
        return self.track(
            minimised, used_pixels=used, anchors=tf.reduce_mean(anchors),
            contrasted_classes=tf.reduce_mean(tf.cast(anchors > 0, tf.float32)),
            queue_fill=tf.reduce_mean(tf.cast(filled, tf.float32) / self.queues.capacity),
        )  # fmt: skip

    # The parts of a step.

    def unreliable_share(self, step):
        """alpha_t of eq. 7, moved at each step; the paper moves it once an epoch."""
        falling = 1 - tf.cast(step, tf.float32) / self.steps
        return self.unreliable * (falling if self.dynamic_partition else tf.ones_like(falling))

    def luck(self, key, image):
        """A random number for each pixel, and two for each negative; drawn here XLA does not draw others."""
        return (tf.random.stateless_uniform(image.shape[:3], fold(key, CHOICE)),
                tf.random.stateless_uniform([2, self.negatives], fold(key, NEW)))  # fmt: skip

    def tell(self, image):
        """The teacher's p = f(h(x)) [B,H,W,C] and representations z = g(h(x)) [B,h,w,D]."""
        output = self.teacher(image, training=False)
        z = self.projection_teacher(output["features"], training=False)
        return tf.stop_gradient(self.task.activation(output["logits"])), tf.stop_gradient(z)

    def anchor_labels(self, label, p, parts):
        """Of each pixel the class whose anchor it may be (eq. 9 to 11), and the one whose centre it is counted in."""
        ignore = self.task.ignore_index
        told = chain(label, losses.pseudo_label(p[label.shape[0] :], parts[self.anchors_from], ignore))
        return [
            losses.sure_label(told, p, threshold, ignore)
            for threshold in (self.anchor_threshold, self.positive_threshold)
        ]

    def find_negatives(self, label, p, z, parts, scores):
        """Up to `pushed` keys of each class out of N_c (eq. 13 to 16): [C, K, D], and which there are [C, K]."""
        count = label.shape[0]
        label, p, candidate = (pick_like(values, z) for values in (label, p, parts[self.negatives_from]))
        labeled = losses.labeled_negatives(label, p[:count], self.rank_low, self.task.ignore_index)
        unlabeled = losses.unlabeled_negatives(candidate, p[count:], self.rank_low, self.rank_high)
        mask = chain(labeled & self.labeled_negatives, unlabeled)
        index, there = losses.choose(flat(mask), flat(pick_like(scores, z)), self.pushed)
        return tf.gather(flat(z), index), there

    def mixed(self, key, *tensors):
        return mixing.cutmix(fold(key, MIX), *tensors) if self.mix == "cutmix" else tensors

    def study(self, image, key):
        """The student's logits, and its representations [B,h,w,D]."""
        with noise(fold(key, NOISE)):
            output = self.student(image, training=True)
            return output["logits"], self.projection(output["features"], training=True)

    def draw_anchors(self, own, candidates, scores):
        """M anchors of each class: the student's representations [C, M, D], and which there are [C, M]."""
        classes = tf.range(self.task.channels)
        mask = flat(pick_like(candidates, own))[:, None] == classes
        index, there = losses.choose(mask, flat(pick_like(scores, own)), self.anchors)
        return tf.gather(flat(own), index), there

    def follow_student(self, step):
        decay = warmed_up(self.ema_decay, step)
        follow(self.teacher, self.student, decay, self.teacher_statistics)
        follow(self.projection_teacher, self.projection, decay, self.teacher_statistics)

    # What is watched, and what the user should know before.

    def pseudo_labels(self, image):
        return self.task.decode(self.teacher(image, training=False)["logits"])

    def cautions(self):
        classes = self.task.channels
        if self.rank_low is None or self.rank_low < classes:
            return []
        return [f"method.rank_low is {self.rank_low}, but there are only {classes} classes: no unreliable pixel is a "
                f"negative of any class, so the contrast learns from labeled pixels at most; set it to {classes - 1}"]  # fmt: skip


def flat(values):
    """[B,h,w,...] as [P,...]: the pixels of all images one after another."""
    return tf.reshape(values, [-1, *values.shape[3:]])


def representation_head(features, channels, seed):
    """g: two blocks of convolution, batch norm and ReLU, the first halving the channels; then the representation."""
    maps = x = keras.Input((None, None, features), name="features")
    start = keras.initializers.GlorotUniform
    for block in range(2):
        x = keras.layers.Conv2D(max(1, features // 2), 3, padding="same", use_bias=False,
                                kernel_initializer=start(seed + block))(x)  # fmt: skip
        x = keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x))
    x = keras.layers.Conv2D(channels, 1, kernel_initializer=start(seed + 2))(x)
    return keras.Model(maps, x, name="projection")


def refuse(warm_up, steps, low, high, pushed, room):
    """A setting that cannot be; room: of the smallest queue, None where there are none."""
    if warm_up >= steps:
        raise UserError(f"method.warm_up is {warm_up} steps, but training.steps is {steps}: make it shorter")
    if low >= high:
        raise UserError(f"method.rank_high is {high}: it must be greater than method.rank_low, {low}")
    pushed *= tf.distribute.get_strategy().num_replicas_in_sync
    if room is not None and room < pushed:
        raise UserError(f"method.queue_capacity and method.background_capacity: the smaller is {room}, but a step may "
                        f"push {pushed} keys, method.pushed on each device; lower that, or give more room")  # fmt: skip
