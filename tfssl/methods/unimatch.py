"""UniMatch, and FixMatch as its special case: a weak view labels strong views, and its own perturbed features."""

from typing import Annotated, Literal

import tensorflow as tf
from pydantic import Field

from tfssl import losses
from tfssl.ema import twin, warmed_up
from tfssl.kinds import Share, Weight
from tfssl.methods.base import SemiSupervised, chain, unchain
from tfssl.randomness import fold, noise
from tfssl.resizing import resize_like

MIX, NOISE, PERTURB = 1, 2, 3  # what the random keys of a step are for
DropRate = Annotated[float, Field(ge=0, lt=1)]


class UniMatch(SemiSupervised):
    """weak --> network --labels where confident--> network <-- strong_1, strong_2 (colours, cutmix)
                                                            <-- features of weak, channels dropped

    Yang et al., "Revisiting weak-to-strong consistency in semi-supervised semantic segmentation", CVPR 2023,
    arXiv:2208.09910.

    Options, the paper's way first. threshold: tau, 0.95 (0 for Cityscapes). strong_weight: mu, shared evenly by the
    strong views; feature_weight: lambda, of the perturbed features; loss_scale: the half before all terms.
    channel_dropout: the share of the channels that is dropped. mix: "cutmix", "none", or "paste" (mixing.py).
    ema_decay: None, as in the paper, and the network ships, or the decay of its average, which ships then; the network
    itself tells the labels.
    Departures: the paper drops channels of the backbone's first and last maps, before the decoder; here of the
    features before the last convolution, the one cut that every network has. The labels come from a pass without
    noise; in the authors' code that is so for mixing partners alone. The partner is another image; in their code it
    is the image itself in another crop. The box has half of the area, as in French et al.; theirs 2 to 40 %, in half
    of the images.
    Readings: a mean is over all pixels inside of the image, confident or not, as in their code; all images share one
    pass of the network in training and so their batch statistics (two passes in their code).
    """

    strong_views = 2
    perturbs_features = True
    terms = ("supervised", "strong_1", "strong_2", "feature")
    watched = ("used_pixels",)

    def __init__(self, networks, task, *, threshold: Share = 0.95, strong_weight: Weight = 0.5,
                 feature_weight: Weight = 0.5, loss_scale: Weight = 0.5, channel_dropout: DropRate = 0.5,
                 mix: Literal["cutmix", "none", "paste"] = "cutmix", ema_decay: Share | None = None,
                 **shared):  # fmt: skip
        super().__init__(task, **shared)
        (self.network,) = self.guides = networks
        self.average = twin(self.network) if ema_decay else None
        self.roles = {"average": self.average} if ema_decay else {}
        self.roles["network"] = self.network
        self.threshold, self.channel_dropout, self.ema_decay = threshold, channel_dropout, ema_decay
        self.mix, self.loss_scale = mix, loss_scale
        self.stream_weights = [strong_weight / self.strong_views] * self.strong_views
        self.stream_weights += [feature_weight] * self.perturbs_features
        self.built = True

    def learn(self, batch):
        (image, label), (weak, valid, *strong) = batch["labeled"], batch["unlabeled"]
        step, key = self.optimizer.iterations + 0, self.key()

        def terms():
            told, sure = self.tell(weak, valid)
            streams = [self.mixed(fold(fold(key, MIX), n), view, told, sure, labeled=(image, label))
                       for n, view in enumerate(strong)]  # fmt: skip
            streams += [(weak, told, sure)] * self.perturbs_features
            supervised, *logits = self.predict_in_training(key, image, *(seen for seen, _, _ in streams))
            found = [self.task.loss(label, supervised)]  # L_s
            for weight, (_, pseudo, where), out in zip(self.stream_weights, streams, logits, strict=True):
                found.append(weight * losses.cross_entropy(pseudo, out, where, self.task.ignore_index))  # in L_u
            named = {term: self.loss_scale * loss for term, loss in zip(self.terms, found, strict=True)}
            return named, losses.masked_mean(sure, valid)  # L = (L_s + L_u) / 2

        minimised, used = self.minimize(terms, [self.network], self.optimizer)
        if self.ema_decay:
            self.follow(self.average, self.network, warmed_up(self.ema_decay, step))
        return self.track(minimised, used_pixels=used)

    # The parts of a step.

    def tell(self, weak, valid):
        """argmax p_w and 1(max p_w >= tau) of the weak view, in a pass without noise: int and float [B, H, W]."""
        probability = tf.stop_gradient(self.task.activation(self.network(weak, training=False)["logits"]))
        sure = losses.confident(probability, self.threshold, inclusive=True)
        return losses.pseudo_label(probability, valid, self.task.ignore_index), sure

    def predict_in_training(self, key, *images):
        """Logits of all streams in one pass of the network; of the last from perturbed features, if it perturbs any."""
        encoder, classifier = (self.network.get_layer(name) for name in ("encoder", "classifier"))
        with noise(fold(key, NOISE)):
            features = encoder(chain(*images), training=True)
            if self.perturbs_features:
                *clean, last = unchain(features, *images)
                features = chain(*clean, drop_channels(fold(key, PERTURB), last, self.channel_dropout))
            logits = classifier(features, training=True)
        return unchain(resize_like(tf.cast(logits, tf.float32), images[0]), *images)


class FixMatch(UniMatch):
    """weak --> network --labels where confident--> network <-- strong (colours, cutmix)

    Sohn et al., NeurIPS 2020, arXiv:2001.07685, for segmentation as Yang et al. (above) have it: one strong view of
    weight 1 and no perturbed features. Options and departures are those above.
    """

    strong_views = 1
    perturbs_features = False
    terms = ("supervised", "strong")

    def __init__(self, networks, task, *, threshold: Share = 0.95, strong_weight: Weight = 1.0,
                 loss_scale: Weight = 0.5, mix: Literal["cutmix", "none", "paste"] = "cutmix",
                 ema_decay: Share | None = None, **shared):  # fmt: skip
        super().__init__(networks, task, threshold=threshold, strong_weight=strong_weight, loss_scale=loss_scale,
                         mix=mix, ema_decay=ema_decay, **shared)  # fmt: skip


def drop_channels(key, features, rate):
    """Features [B, h, w, D] without a random share `rate` of each image's channels, the others scaled up for it."""
    keep = tf.random.stateless_uniform([features.shape[0], 1, 1, features.shape[-1]], key) >= rate
    return features * tf.cast(tf.where(keep, 1 / (1 - rate), 0.0), features.dtype)
