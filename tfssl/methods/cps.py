"""Cross pseudo supervision: two networks that label the same image for each other."""

from typing import Literal

import tensorflow as tf

from tfssl import losses
from tfssl.ema import twin, warmed_up
from tfssl.kinds import Share, Weight
from tfssl.methods.base import SemiSupervised, chain, refuse_equal, unchain
from tfssl.randomness import fold, noise

MIX, NOISE = 1, 2  # what the random keys of a step are for


class CrossPseudo(SemiSupervised):
    """image --> network_1 --hard labels--> network_2,  image --> network_2 --hard labels--> network_1

    Chen et al., "Semi-supervised semantic segmentation with cross pseudo supervision", CVPR 2021, arXiv:2106.01226.

    Options, the paper's way first. cross_weight: lambda, 1.5 for VOC (6 for Cityscapes). cross_mean: labeled and
    unlabeled images each have a mean of their own and these are added, as L_cps = L_cps^l + L_cps^u is printed
    ("each"), or one mean is taken over both, as in the authors' code, which is half as much ("joint"). mix: "none",
    or "cutmix" of the unlabeled images and of the labels that the networks gave to them before mixing. ema_decay:
    None, as in the paper, and network_1 ships, or the decay of its average, which ships then.
    With "cutmix" the cross terms stay on labeled images too; the authors' variant has them on mixed ones alone.
    Readings: where the label of a labeled image is void, the cross terms are too, because padding looks like that.
    The paper does not say in which mode the networks label what is to be mixed: here without noise.
    """

    learners = 2
    terms = ("supervised_1", "supervised_2", "cross_1", "cross_2")
    watched = ("used_pixels", "total_variation")

    def __init__(self, networks, task, *, cross_weight: Weight = 1.5,
                 cross_mean: Literal["each", "joint"] = "each", mix: Literal["none", "cutmix", "paste"] = "none",
                 ema_decay: Share | None = None, **shared):  # fmt: skip
        super().__init__(task, **shared)
        self.networks = self.guides = list(networks)
        refuse_equal(self.networks)
        self.average = twin(self.networks[0]) if ema_decay else None
        self.roles = {"average": self.average} if ema_decay else {}
        self.roles |= {"network_1": self.networks[0], "network_2": self.networks[1]}
        self.cross_weight, self.cross_mean, self.ema_decay = cross_weight, cross_mean, ema_decay
        self.mix = mix
        self.built = True

    def learn(self, batch):
        (image, label), (weak, valid, *_) = batch["labeled"], batch["unlabeled"]
        step, key = self.optimizer.iterations + 0, self.key()
        known = label != self.task.ignore_index

        def terms():
            labelers = self.networks if self.mix != "none" else []
            told = [self.labels(network(weak, training=False)["logits"], valid) for network in labelers]
            seen, inside, *mixed = self.mixed(fold(key, MIX), weak, valid, *told, labeled=batch["labeled"])
            logits = [self.predict_in_training(k, chain(image, seen), key) for k in range(2)]
            labeled, unlabeled = zip(*(unchain(each, image, seen) for each in logits), strict=True)
            of_labeled = [self.labels(out, known) for out in labeled]
            of_unlabeled = mixed or [self.labels(out, valid) for out in unlabeled]
            found = {}
            for k in range(2):
                found[f"supervised_{k + 1}"] = self.task.loss(label, labeled[k])  # L_s
                cross = self.cross(of_labeled[1 - k], labeled[k], of_unlabeled[1 - k], unlabeled[k])
                found[f"cross_{k + 1}"] = self.cross_weight * cross  # L = L_s + lambda L_cps
            used = losses.labeled_share(of_unlabeled[0], inside, self.task.ignore_index)
            return found, (used, losses.total_variation(*map(self.task.activation, unlabeled), inside))

        minimised, (used, variation) = self.minimize(terms, self.networks, self.optimizer)
        if self.ema_decay:
            self.follow(self.average, self.networks[0], warmed_up(self.ema_decay, step))
        return self.track(minimised, used_pixels=used, total_variation=variation)

    # The parts of a step.

    def predict_in_training(self, k, image, key):
        """Network k's logits in training; each draws noise of its own."""
        with noise(fold(fold(key, NOISE), k)):
            return self.networks[k](image, training=True)["logits"]

    def labels(self, logits, inside):
        """The one-hot label map Y_k as class indices, without a gradient by its argmax."""
        return losses.pseudo_label(tf.stop_gradient(logits), inside, self.task.ignore_index)

    def cross(self, label, labeled, unlabeled_label, unlabeled):
        """Network k's part of L_cps^l + L_cps^u: cross-entropy with the other's labels."""
        ignore = {"ignore_index": self.task.ignore_index}
        if self.cross_mean == "joint":
            return losses.cross_entropy(chain(label, unlabeled_label), chain(labeled, unlabeled), **ignore)
        first = losses.cross_entropy(label, labeled, **ignore)
        return first + losses.cross_entropy(unlabeled_label, unlabeled, **ignore)
