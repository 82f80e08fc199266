"""Guided Collaborative Training: two networks that learn from each other where a detector sees fewer flaws."""

from typing import Annotated, Literal

import tensorflow as tf
from pydantic import Field

from tfssl import losses, schedules
from tfssl.ema import twin, warmed_up
from tfssl.errors import UserError
from tfssl.heads import flaw_detector
from tfssl.kinds import Amount, Share, Weight
from tfssl.methods.base import SemiSupervised, chain, refuse_equal
from tfssl.randomness import fold, noise
from tfssl.resizing import stretch_like

NOISE, MIX = 1, 2  # what the random keys of a step are for
RAMPS = {"cosine": schedules.cosine_ramp, "sigmoid": schedules.sigmoid_ramp}
Count = Annotated[int, Field(ge=0)]
Width = Annotated[int, Field(gt=0)]


class FlawGuided(SemiSupervised):
    """What methods with a flaw detector share: the detector F, its optimizer, what it sees and how it learns."""

    needs_classes = False

    def __init__(self, task, *, detector_rate, detector_width, detector_stride, truth_repeats, **shared):
        super().__init__(task, **shared)
        self.detector = flaw_detector(3 + task.channels, width=detector_width, stride=detector_stride)
        self.heads = {"flaw_detector": self.detector}
        self.further_optimizers["detector"] = self.own_adam(self.detector, detector_rate)
        self.truth_repeats, self.detector_stride = truth_repeats, detector_stride

    def refuse_batch(self, crop, labeled, unlabeled):
        super().refuse_batch(crop, labeled, unlabeled)
        if max(crop) <= self.detector_stride:
            raise UserError(f"data.crop is {list(crop)}, but method.detector_stride {self.detector_stride}: the flaw "
                            "map would be one point; give a larger crop or a smaller stride")  # fmt: skip

    @property
    def minimised(self):
        return [network for network in self.roles.values() if network.trainable]  # the detector has its own optimizer

    def detect(self, image, prediction, training=False):
        """F(x, T(x)), float [B, H, W], enlarged to the image with aligned corners (appendix B)."""
        seen = tf.concat([image / 127.5 - 1.0, prediction], axis=-1)
        return stretch_like(self.detector(seen, training=training), image)[..., 0]

    def learn_flaws(self, image, label, predictions):
        """The second move: F learns on labeled images what is wrong with each of the predictions of the first."""

        def terms():
            known, target = self.task.known(label), self.task.target(label)
            flaws = self.detect(chain(*[image] * len(predictions)), chain(*predictions), training=True)
            error = 0.0
            for found, prediction in zip(tf.split(flaws, len(predictions)), predictions, strict=True):
                truth = losses.flaw_truth(self.task.difference(prediction, target), known, self.truth_repeats)
                error += losses.flaw_error(found, truth, known)  # eq. 3
            return {"detector": error}, ()

        return self.minimize(terms, [self.detector], self.further_optimizers["detector"])[0]


class GCT(FlawGuided):
    """labels, weak --> networks 1, 2 --predictions--> flaw detector --flaw maps--> who learns from whom, pixel by pixel
    labels --C(prediction)--> flaw detector

    Ke et al., "Guided collaborative training for pixel-wise semi-supervised learning", ECCV 2020, arXiv:2008.05258.

    The paper's numbers for segmentation are the defaults: consistency_weight 100 (lambda_dc), correction_weight 1
    (lambda_fc), flaw_threshold 0.6 (xi), ramp_up (eta: 3 epochs, of 20 in the authors' code), truth_repeats 1 (nu; 10
    for denoising), detector_rate. Options, the paper's way first. warm_up: 0, or so long all three learn from labels
    alone before the consistency begins to rise. ramp: of the consistency, "cosine" or, as in the
    authors' code, "sigmoid". flaw_map: "min_max" alone, or "smoothed" before it, as in their code. detector_width and
    detector_stride: a narrower detector with a finer map, for small crops. ema_decay: None, as in the paper, and
    network_1 ships, or the decay of its average, which ships then. mix: "none", or not the paper's "paste": half of the
    classes of a labeled image lie on each unlabeled one (mixing.paste), and are learned from with their labels.
    Readings: sums over pixels are means over those that are inside the image or labeled, for which the weights are
    made. The first move sees the detector as it is used, with its moving statistics; only its own move, on labeled
    images, changes those. That move takes the predictions of the first, not those of the moved networks. (In the
    authors' code losses are means over classes too and without 1/2, so their consistency_weight is 200 / C and their
    correction_weight 2 here. Their tenfold detector loss changes nothing under Adam, their instance norm is left out.
    Pixels without a label count there as half a flaw and in the divisor of the supervised loss, here nowhere.)
    """

    learners = 2
    terms = (
        "supervised_1",
        "supervised_2",
        "consistency_1",
        "consistency_2",
        "correction_1",
        "correction_2",
        "detector",
    )
    watched = ("total_variation", "used_pixels", "corrected_pixels")

    def __init__(self, networks, task, *, consistency_weight: Weight = 100.0, correction_weight: Weight = 1.0,
                 flaw_threshold: Share = 0.6, warm_up: Amount = 0.0, ramp_up: Amount = 0.15,
                 ramp: Literal["cosine", "sigmoid"] = "cosine",
                 flaw_map: Literal["min_max", "smoothed"] = "min_max", truth_repeats: Count = 1,
                 detector_rate: Weight = 1e-4, detector_width: Width = 64,
                 detector_stride: Literal[8, 16, 32] = 32, ema_decay: Share | None = None,
                 mix: Literal["none", "paste"] = "none", **shared):  # fmt: skip
        super().__init__(task, detector_rate=detector_rate, detector_width=detector_width,
                         detector_stride=detector_stride, truth_repeats=truth_repeats, **shared)  # fmt: skip
        if mix == "paste" and not task.has_classes:
            raise UserError(f'method.mix is "paste", but task {task.name} has no classes to paste: leave it out')
        refuse_equal(networks)
        self.mix = mix
        self.networks = self.guides = list(networks)
        self.ema_decay = ema_decay
        self.average = twin(networks[0]) if ema_decay else None
        self.roles = {"average": self.average} if ema_decay else {}
        self.roles |= {"network_1": networks[0], "network_2": networks[1]}
        self.consistency_weight, self.correction_weight = consistency_weight, correction_weight
        self.flaw_threshold, self.smoothed = flaw_threshold, flaw_map == "smoothed"
        self.warm_up = schedules.warm_up_of(warm_up, self.steps)
        self.ramp, self.ramp_up = RAMPS[ramp], schedules.steps_of(ramp_up, self.steps)
        self.built = True

    def learn_labeled(self, batch):
        image, label = batch["labeled"]
        step, key = self.optimizer.iterations + 0, self.key()

        def terms():
            logits = [self.study(k, image, key) for k in range(2)]
            found = {f"supervised_{k + 1}": self.task.loss(label, logits[k]) for k in range(2)}  # eq. 1
            return found, [self.task.activation(each) for each in logits]

        minimised, predictions = self.minimize(terms, self.networks, self.optimizer)
        self.follow_network(step)
        return self.track({**minimised, **self.learn_flaws(image, label, predictions)})

    def learn(self, batch):
        (image, label), (weak, valid) = batch["labeled"], batch["unlabeled"]
        step, key = self.optimizer.iterations + 0, self.key()
        weight = self.consistency_weight * self.ramp(step - self.warm_up, self.ramp_up)
        told = label
        if self.mix == "paste":
            nothing = tf.fill(valid.shape, self.task.ignore_index)
            weak, pasted, valid = self.mixed(fold(key, MIX), weak, nothing, valid, labeled=batch["labeled"])
            told = chain(label, pasted)
        seen, labeled, unlabeled = chain(image, weak), slice(image.shape[0]), slice(image.shape[0], None)

        def terms():
            inside = chain(self.task.known(label), valid)
            logits = [self.study(k, seen, key) for k in range(2)]
            predictions = [self.task.activation(each) for each in logits]
            flaws = [self.detect(seen, prediction) for prediction in predictions]  # the gradient goes through F
            maps = self.maps(flaws, inside)
            *learns, flawed = losses.guidance(*maps, self.flaw_threshold)  # m_dc of eq. 5, m_fc of eq. 7
            found = {}
            for k in range(2):
                consistency = losses.dynamic_consistency(predictions[k], predictions[1 - k], learns[k], inside)  # eq. 5
                correction = losses.flaw_correction(flaws[k], flawed, inside)  # eq. 6
                found[f"supervised_{k + 1}"] = self.task.loss(told, logits[k][: told.shape[0]])  # eq. 1
                found[f"consistency_{k + 1}"] = weight * consistency  # these three sum to eq. 2
                found[f"correction_{k + 1}"] = self.correction_weight * correction
            unlike, used = self.task.difference(*predictions), learns[0] + learns[1]
            seen_there = {"total_variation": unlike, "used_pixels": used, "corrected_pixels": flawed}
            watched = {name: losses.masked_mean(each[unlabeled], valid) for name, each in seen_there.items()}
            return found, ([prediction[labeled] for prediction in predictions], watched)

        minimised, (predictions, watched) = self.minimize(terms, self.networks, self.optimizer)
        self.follow_network(step)
        return self.track({**minimised, **self.learn_flaws(image, label, predictions)}, **watched)

    def follow_network(self, step):
        if self.average is not None:
            self.follow(self.average, self.networks[0], warmed_up(self.ema_decay, step))

    def study(self, k, image, key):
        """Network k's logits in training; both see the same images, each draws noise of its own."""
        with noise(fold(fold(key, NOISE), k)):
            return self.networks[k](image, training=True)["logits"]

    def maps(self, flaws, inside):
        return [losses.flaw_map(each, inside, self.flaw_threshold, self.smoothed) for each in flaws]  # eq. 4

    def pseudo_labels(self, image):
        """At each pixel the word of the network with the lower flaw map, which the other one would learn."""
        told = [self.task.activation(network(image, training=False)["logits"]) for network in self.networks]
        everywhere = tf.ones(tf.shape(image)[:3], tf.bool)
        one, other = self.maps([self.detect(image, each) for each in told], everywhere)
        return self.task.decode(tf.where((one <= other)[..., None], *told))
