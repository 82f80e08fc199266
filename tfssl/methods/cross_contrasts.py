"""The two contrasts of Cross Teacher Training (eq. 6 to 9), between students' features and banks of labeled keys."""

import functools

import tensorflow as tf

from tfssl import losses
from tfssl.errors import UserError
from tfssl.methods.base import SemiSupervised, chain
from tfssl.resizing import pick_like, resize_like


class FeatureContrasts(SemiSupervised):
    """The part of a `CrossTeacher` that compares features: what goes into the banks, what comes out of them, and how.

    It has from there `students`, `teachers`, `tellers`, `banks` (of each pair, or none) and the options.
    """

    # The banks.

    def select(self, k, features, label, scores):
        """What bank k is given: (keys [C,K,D], present [C,K], classes shown [C]), of teacher k on labeled images."""
        features = features[: label.shape[0]]
        probability, label = self.probability(self.teachers[k], features), pick_like(label, features)
        score = pick_like(scores[: label.shape[0]], features) if self.chosen == "random" else None
        keys = losses.best_keys(features, label, probability, self.quota, score)
        return *keys, tf.reduce_max(tf.one_hot(label, self.task.channels), axis=[0, 1, 2])

    def look_into_banks(self, step):
        """(1 once the contrasts have begun and 0 before, which places hold a key in each bank, what is logged)."""
        if not self.banks:
            return 0.0, [], {}
        full, fill = tf.reduce_all([bank.ready for bank in self.banks]), [bank.fill for bank in self.banks]
        started = tf.cast(full | (step >= self.start_by), tf.float32)
        return started, [bank.held for bank in self.banks], {"bank_fill": tf.reduce_mean(fill)}

    def refuse_batch(self, crop, labeled, unlabeled):
        super().refuse_batch(crop, labeled, unlabeled)
        most = labeled * self.quota * tf.distribute.get_strategy().num_replicas_in_sync
        if self.banks and most > self.banks[0].capacity.min():  # a bank must have room for all keys of a step
            raise UserError(f"method.memory_size: a step may bring {most} keys of a class (training.labeled_batch "
                            "times method.quota); let it be as large, or 0")  # fmt: skip

    # The contrasts, at the features' resolution, of labeled and unlabeled pixels alike.

    def contrasts(self, studied, label, pseudo, held, scores):
        """({"high": [loss of each student], "low": ...}, what is watched of it); held: of each bank."""
        if not self.banks:
            return {}, {}
        grid = studied[0]["features"]
        views = [self.view(k, resize_like(output["features"], grid)) for k, output in enumerate(studied)]
        found, shares = {}, {}
        for k in range(len(views)):
            classes = tf.reshape(pick_like(chain(label, pseudo[self.tellers[k][0]]), grid), [-1])
            contrasts = {"high": self.high, "low": self.low} if len(views) > 1 else {"high": self.high}
            for number, (kind, contrast) in enumerate(contrasts.items()):
                loss, share = contrast(k, views, classes, held, tf.reshape(pick_like(scores[number, k], grid), [-1]))
                found.setdefault(kind, []).append(loss)
                shares.setdefault(f"{kind}_pixels", []).append(share)
        return found, {name: tf.reduce_mean(values) for name, values in shares.items()}

    def view(self, k, features):
        """(features [P,D], confidence [P]) of student k: ||C(f)||_inf is that of all of f, without dropout."""
        sure = tf.reduce_max(self.probability(self.students[k], features), axis=-1)
        return tf.reshape(features, [-1, features.shape[-1]]), tf.reshape(sure, [-1])

    def high(self, k, views, classes, held, scores):
        """(student k's eq. 6, the share of pixels in M_hc)."""
        features, sure = views[k]
        mask = losses.high_quality(sure, self.threshold)  # eq. 7
        pixels, share, _ = self.draw(features, classes, mask, scores)
        return losses.high_contrast(*pixels, self.banks[k].keys, held[k], self.temperature), share  # eq. 6

    def low(self, k, views, classes, held, scores):
        """(student k's eq. 8, the share of pixels in M_lc); of several peers the surest at each pixel."""
        features, sure = views[k]
        better, surer = functools.reduce(losses.surest, views[:k] + views[k + 1 :])
        mask = losses.low_quality(sure, surer, self.threshold, self.directional)  # eq. 9
        pixels, share, index = self.draw(features, classes, mask, scores)
        keys, held = tf.concat([bank.keys for bank in self.banks], 1), tf.concat(held, 1)
        return losses.low_contrast(*pixels, tf.gather(better, index), keys, held, self.temperature), share  # eq. 8

    def draw(self, features, classes, mask, scores):
        """((features, classes, present) of the pixels drawn, the share of known pixels in the mask, their places)."""
        known = classes != self.task.ignore_index
        index, present = losses.draw_pixels(scores, mask & known, self.anchors)
        share = losses.masked_mean(tf.cast(mask, tf.float32), known)
        return (tf.gather(features, index), tf.gather(classes, index), present), share, index

    def probability(self, network, features):
        """C(f): class probabilities of features [B,h,w,D], where they are and not enlarged."""
        return self.task.activation(network.get_layer("classifier")(features, training=False))
