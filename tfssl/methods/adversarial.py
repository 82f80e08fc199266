"""AdvSSL: a discriminator tells labels from predictions, and says which predictions may serve as labels."""

from typing import Annotated

import tensorflow as tf
from pydantic import Field

from tfssl import losses
from tfssl.ema import twin, warmed_up
from tfssl.heads import discriminator
from tfssl.kinds import Amount, Share, Weight
from tfssl.methods.base import SemiSupervised, chain, unchain
from tfssl.randomness import fold, noise
from tfssl.resizing import resize_like
from tfssl.schedules import warm_up_of

NOISE = 1  # what the random keys of a step are for
Width = Annotated[int, Field(gt=0)]


class Adversarial(SemiSupervised):
    """labels, weak --> network --predictions--> discriminator --which look like labels--> network
    labels, predictions on labeled --> discriminator

    Hung et al., "Adversarial learning for semi-supervised semantic segmentation", BMVC 2018, arXiv:1802.07934.

    The paper's numbers are the defaults: labeled_adversarial_weight and unlabeled_adversarial_weight (lambda_adv),
    semi_weight (lambda_semi), threshold (T_semi), warm_up (5,000 of its 20,000 steps without unlabeled images), and the
    discriminator's Adam. discriminator_width: a narrower one. ema_decay: null, or the decay of an average of the
    network, which then ships, as in `supervised`; the paper has none.
    Readings: sums over pixels are means over those that are labeled or inside the image; so a pixel that the
    discriminator does not believe counts as 0 in eq. 5. The discriminator sees the predictions of the first move.
    """

    terms = ("supervised", "adversarial_labeled", "adversarial_unlabeled", "semi", "discriminator")
    watched = ("used_pixels",)

    def __init__(self, networks, task, *, labeled_adversarial_weight: Weight = 0.01,
                 unlabeled_adversarial_weight: Weight = 0.001, semi_weight: Weight = 0.1, threshold: Share = 0.2,
                 warm_up: Amount = 0.25, discriminator_rate: Weight = 1e-4, discriminator_width: Width = 64,
                 ema_decay: Share | None = None, **shared):  # fmt: skip
        super().__init__(task, **shared)
        (self.network,) = networks
        self.ema_decay = ema_decay
        self.average = twin(self.network) if ema_decay else None
        self.roles = {"average": self.average} if ema_decay else {}
        self.roles["network"] = self.network
        self.guides = [self.network]
        self.discriminator = discriminator(task.channels, width=discriminator_width)
        self.heads = {"discriminator": self.discriminator}
        self.further_optimizers["discriminator"] = self.own_adam(self.discriminator, discriminator_rate)
        self.labeled_weight, self.unlabeled_weight = labeled_adversarial_weight, unlabeled_adversarial_weight
        self.semi_weight, self.threshold = semi_weight, threshold
        self.warm_up = warm_up_of(warm_up, self.steps)
        self.built = True

    @property
    def minimised(self):
        return [self.network]  # the discriminator has its own optimizer

    # The steps.

    def learn_labeled(self, batch):
        image, label = batch["labeled"]
        key = self.key()

        def terms():
            logits = self.study(image, key)
            prediction = self.task.activation(logits)
            return self.labeled_terms(label, logits, self.judge(prediction)), (prediction, {})

        return self.move(label, terms)

    def learn(self, batch):
        (image, label), (weak, valid) = batch["labeled"], batch["unlabeled"]
        key = self.key()

        def terms():
            logits = self.study(chain(image, weak), key)
            prediction = self.task.activation(logits)
            # the gradient goes through the discriminator
            judged_labeled, judged_unlabeled = unchain(self.judge(prediction), image, weak)
            labeled, unlabeled = unchain(logits, image, weak)
            believed = tf.cast(tf.sigmoid(judged_unlabeled) > self.threshold, tf.float32)
            told = losses.pseudo_label(unlabeled, valid, self.task.ignore_index)
            semi = losses.cross_entropy(told, unlabeled, believed, self.task.ignore_index)  # eq. 5
            found = self.labeled_terms(label, labeled, judged_labeled)
            fooled = losses.adversarial(judged_unlabeled, valid)  # eq. 4
            found["adversarial_unlabeled"] = self.unlabeled_weight * fooled
            found["semi"] = self.semi_weight * semi  # eq. 2 is their sum
            return found, (prediction[: image.shape[0]], {"used_pixels": losses.masked_mean(believed, valid)})

        return self.move(label, terms)

    def move(self, label, terms):
        """Both moves: the network by these terms, then the discriminator on labels and what the network predicted."""
        step = self.optimizer.iterations + 0
        minimised, (prediction, watched) = self.minimize(terms, [self.network], self.optimizer)

        def discriminate():
            real, fake = self.judge(self.task.target(label)), self.judge(prediction)
            return {"discriminator": losses.discrimination(real, fake, self.task.known(label))}, ()  # eq. 1

        optimizer = self.further_optimizers["discriminator"]
        minimised |= self.minimize(discriminate, [self.discriminator], optimizer)[0]
        if self.ema_decay:
            self.follow(self.average, self.network, warmed_up(self.ema_decay, step))
        return self.track(minimised, **watched)

    # The parts of a step.

    def study(self, image, key):
        with noise(fold(key, NOISE)):
            return self.network(image, training=True)["logits"]

    def judge(self, prediction):
        """The discriminator's logits, float [B, H, W]: greater where it takes a prediction for a label."""
        return resize_like(self.discriminator(prediction), prediction)[..., 0]

    def labeled_terms(self, label, logits, judged):
        return {
            "supervised": self.task.loss(label, logits),  # eq. 3
            "adversarial_labeled": self.labeled_weight * losses.adversarial(judged, self.task.known(label)),  # eq. 4
        }
