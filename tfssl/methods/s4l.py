"""Self-supervised semi-supervised learning: the network also learns to tell how an image was turned."""

from typing import Literal

import keras
import tensorflow as tf

from tfssl import losses
from tfssl.ema import twin, warmed_up
from tfssl.kinds import Share, Weight
from tfssl.methods.base import SemiSupervised, chain
from tfssl.randomness import fold, noise
from tfssl.resizing import resize_like

LABELED, UNLABELED, NOISE = 1, 2, 3  # what the random keys of a step are for
TURNS = 4  # by 0, 90, 180 and 270 degrees
NEITHER = -1  # the turn of an image that has no pixel


class S4L(SemiSupervised):
    """labels --> network <-- which turn? -- rotation head <-- features of labeled and unlabeled images, turned

    Zhai et al., "S4L: self-supervised semi-supervised learning", ICCV 2019, arXiv:1905.03670, its S4L-Rotation.

    Options, the paper's way first. rotations: each image in "all" four, or in one that is "drawn", for a quarter of
    the cost. rotated_labels: labels are learned from the turned labeled images too, as the paper suggests, or from
    the upright ones alone: for what means something else upside down, as digits do. rotation_weight: w. ema_decay:
    None, as in the paper, and the network ships, or the decay of its average, which ships then.
    Ours: the paper classifies images; here the head is one dense layer on the mean feature of an image, taken where
    the encoder ends. What lies outside of an image, or is void in its label, has no part in that mean: the shape of
    the padding would tell the turn.
    """

    turns = True
    terms = ("supervised", "rotation")

    def __init__(self, networks, task, *, rotations: Literal["all", "drawn"] = "all", rotated_labels: bool = True,
                 rotation_weight: Weight = 1.0, ema_decay: Share | None = None, **shared):  # fmt: skip
        super().__init__(task, **shared)
        (self.network,) = networks
        self.head = rotation_head(self.network.output["features"].shape[-1])  # first: a twin draws numbers too
        self.average = twin(self.network) if ema_decay else None
        self.roles = {"average": self.average} if ema_decay else {}
        self.roles["network"] = self.network
        self.heads = {"rotation": self.head}
        self.rotations, self.rotated_labels = rotations, rotated_labels
        self.rotation_weight, self.ema_decay = rotation_weight, ema_decay
        self.built = True

    def learn(self, batch):
        (image, label), (weak, valid, *_) = batch["labeled"], batch["unlabeled"]
        step, key = self.optimizer.iterations + 0, self.key()

        def terms():
            turns, turned, turned_label = self.turned(fold(key, LABELED), image, label)
            more_turns, more_turned, inside = self.turned(fold(key, UNLABELED), weak, valid)
            upright = () if self.rotated_labels else (image,)
            features = self.encode(key, *upright, turned, more_turned)
            taught = turned_label if self.rotated_labels else label
            logits = self.classify(key, features[: taught.shape[0]], taught)
            inside = chain(turned_label != self.task.ignore_index, inside)
            pooled, present = losses.masked_pool(features[-inside.shape[0] :], inside)
            told = tf.where(present, chain(turns, more_turns), NEITHER)
            rotation = losses.cross_entropy(told, self.head(pooled), ignore_index=NEITHER)  # L_rot
            return {
                "supervised": self.task.loss(taught, logits),  # L_l
                "rotation": self.rotation_weight * rotation,  # L = L_l + w L_u
            }, ()

        minimised, _ = self.minimize(terms, [self.network, self.head], self.optimizer)
        if self.ema_decay:
            self.follow(self.average, self.network, warmed_up(self.ema_decay, step))
        return self.track(minimised)

    # The parts of a step.

    def turned(self, key, *tensors):
        """(turns, *tensors turned): square tensors [B, S, S, ...] in all four rotations, or each in one of its own."""
        batch = tensors[0].shape[0]
        if self.rotations == "all":
            turns = tf.repeat(tf.range(TURNS), batch)
            return turns, *(chain(*(turn(tensor, k) for k in range(TURNS))) for tensor in tensors)
        turns = tf.random.stateless_uniform([batch], key, maxval=TURNS, dtype=tf.int32)
        return turns, *(turn_each(tensor, turns) for tensor in tensors)

    def encode(self, key, *images):
        """The features of all images in one pass in training."""
        with noise(fold(key, NOISE)):
            return self.network.get_layer("encoder")(chain(*images), training=True)

    def classify(self, key, features, like):
        """Logits at the size of `like` [B, H, W], from some of the features."""
        with noise(fold(key, NOISE)):
            logits = self.network.get_layer("classifier")(features, training=True)
        return resize_like(tf.cast(logits, tf.float32), like)


def rotation_head(channels):
    """A mean feature [B, D] -> logits of the turns [B, 4]."""
    feature = keras.Input((channels,), name="mean_feature", dtype="float32")
    return keras.Model(feature, keras.layers.Dense(TURNS, dtype="float32")(feature), name="rotation")


def turn(tensor, quarters):
    """[B, S, S, ...] by so many quarter turns anticlockwise (a Python number below 4)."""
    if quarters % 2:
        tensor = tf.reverse(tf.transpose(tensor, [0, 2, 1, *range(3, tensor.shape.rank)]), [1])
    return tf.reverse(tensor, [1, 2]) if quarters >= 2 else tensor


def turn_each(tensor, quarters):
    """Each image of [B, S, S, ...] by quarter turns of its own, int [B]: all four are made, and one is taken."""
    return tf.gather(tf.stack([turn(tensor, k) for k in range(TURNS)], axis=1), quarters, batch_dims=1)
