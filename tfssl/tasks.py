"""What is predicted at every pixel: the supervised loss, the meaning of the output, and the score.

A task says what a label is (`known`, `target`), what logits mean (`activation`, `decode`), how far two predictions are
apart (`difference`), how examples are counted together (`tally`) into `scores`, which of these `measures` are followed
and what a served network gives: `outputs`, of which `picture` names the 8-bit one, and the signature `numbers`, for
those who post-process.
"""

import numpy as np
import tensorflow as tf

from tfssl import losses, measures, pictures

WHITE = 255.0
LEAST_PROBABILITY = 1e-30  # whose logarithm is still a number
LEAST_ERROR = 1e-10  # mean squared error, of 0..1: no PSNR is above 100 dB

ONE_CLASS = 0.99  # of all pixels: what makes a prediction one of a single class


class Segmentation:
    """One class per pixel. `classes` are names; `ignore_index` marks pixels that are neither learned nor scored.

    ohem: null, or the probability from which on a labeled pixel is easy and not learned from (U2PL: 0.7 on Cityscapes).
    balance: tau of logit adjustment (Menon et al., ICLR 2021, arXiv:2007.07314, eq. 10): the supervised loss is of
    logits + tau log share, the share of each class in the pixels of the labeled images, so that the logits themselves
    are freed of how frequent classes are; 0 is the plain loss, 1 makes up for it all. shares: those shares, counted
    where they are not given; a class that no label shows is taken for one of the mean adjustment. Of labels that are
    pasted on unlabeled images (mixing.paste) the loss is the one of pseudo-labels, without it.
    """

    name, has_classes = "segmentation", True
    picture, numbers = "mask", "logits"
    measures = ("miou", "pixel_accuracy")
    pseudo_measures = {"pseudo_label_miou": "miou", "pseudo_label_accuracy": "pixel_accuracy"}

    def __init__(self, classes, ignore_index=255, ohem=None, balance=0.0, shares=None):
        self.classes, self.ignore_index, self.ohem = tuple(classes), ignore_index, ohem
        self.adjustment = adjustment(balance, shares) if balance and shares else None

    @property
    def channels(self):
        return len(self.classes)

    def loss(self, label, logits):
        """Mean pixel-wise cross-entropy (RML eq. 1), of hard pixels alone with `ohem` (U2PL appendix A), of adjusted
        logits with `balance`.

        label: int [B, H, W]; logits: [B, H, W, C].
        """
        if self.adjustment is not None:
            logits = tf.cast(logits, tf.float32) + self.adjustment
        if self.ohem is not None:
            return losses.hard_cross_entropy(label, logits, self.ohem, ignore_index=self.ignore_index)
        return losses.cross_entropy(label, logits, ignore_index=self.ignore_index)

    def activation(self, logits):
        """Class probabilities in float32, whatever the precision of the network."""
        return tf.nn.softmax(tf.cast(logits, tf.float32))

    def known(self, label):
        """Which pixels have a label, bool [B, H, W]."""
        return label != self.ignore_index

    def target(self, label):
        """The label as the prediction that would be perfect, [B, H, W, C]; anything where it is not known."""
        return tf.one_hot(label, self.channels)

    def difference(self, first, second):
        """How far two predictions are apart at each pixel, 0 to 1: the total variation distance, [B, H, W]."""
        return 0.5 * tf.reduce_sum(tf.abs(first - second), axis=-1)

    def decode(self, logits):
        """The predicted class of each pixel, int32 [B, H, W]."""
        return tf.argmax(logits, axis=-1, output_type=tf.int32)

    def confusion(self, label, prediction):
        """Counts [C, C]: true class by predicted class, over pixels that are not ignored.

        label, prediction: int, equal shapes. int64, so that counts of any number of images stay exact.
        """
        counts = label != self.ignore_index
        index = tf.cast(label, tf.int64) * self.channels + tf.cast(prediction, tf.int64)
        index = tf.boolean_mask(index, counts)
        total = tf.math.bincount(tf.cast(index, tf.int32), minlength=self.channels**2, maxlength=self.channels**2)
        return tf.reshape(tf.cast(total, tf.int64), [self.channels, self.channels])

    tally = confusion

    def scores(self, confusion):
        """Scores of an accumulated confusion matrix (NumPy [C, C]) as plain numbers.

        IoU of class k = TP / (TP + FP + FN), None where the class is neither there nor predicted; mIoU is the mean
        over the others. A class's accuracy = TP / (TP + FN), None where it is not there.
        """
        hit = confusion.diagonal().astype(float)
        union = confusion.sum(0) + confusion.sum(1) - confusion.diagonal()
        iou = {name: hit[k] / union[k] if union[k] else None for k, name in enumerate(self.classes)}
        known = [value for value in iou.values() if value is not None]
        truth = confusion.sum(1)
        return {
            "miou": sum(known) / len(known) if known else 0.0,
            "per_class_iou": iou,
            "per_class_accuracy": {
                name: hit[k] / truth[k] if truth[k] else None for k, name in enumerate(self.classes)
            },
            "per_class_pixels": {name: int(truth[k]) for k, name in enumerate(self.classes)},
            "mean_class_accuracy": float(np.mean(hit[truth > 0] / truth[truth > 0])) if truth.any() else 0.0,
            "pixel_accuracy": float(hit.sum() / max(confusion.sum(), 1)),
            "one_class": self._one_class(confusion),
        }

    def details(self, label, activation, prediction):
        """What one example adds to boundary IoU and calibration. Arrays [H, W], [H, W, C], [H, W]."""
        known = label != self.ignore_index
        correct = (label == prediction)[known]
        return (measures.boundary_counts(label, prediction, self.channels, self.ignore_index),
                measures.calibration_counts(correct, activation.max(-1)[known]))  # fmt: skip

    def detailed_scores(self, tallies, details):
        """Boundary IoU, calibration, and the 95 % interval of the mIoU over images; tallies [N, C, C]."""
        boundary, calibration = (sum(parts) for parts in zip(*details, strict=True))
        iou = {name: meet / either if either else None
               for name, (meet, either) in zip(self.classes, boundary.tolist(), strict=True)}  # fmt: skip
        known = [value for value in iou.values() if value is not None]
        # of each image the hits, true and predicted pixels of each class: all that IoU is made of
        parts = np.stack([np.diagonal(tallies, axis1=1, axis2=2), tallies.sum(2), tallies.sum(1)], axis=-1)
        low, high = measures.bootstrap(len(parts), lambda weights: _miou(np.tensordot(weights, parts, 1)))
        return {
            "miou_interval": [low, high],
            "boundary_iou": sum(known) / len(known) if known else 0.0,
            "per_class_boundary_iou": iou,
            "calibration_error": measures.calibration_error(calibration),
        }

    def _one_class(self, confusion):
        """The name of the class that nearly all pixels are predicted as, though they are not; else None."""
        truth, predicted = confusion.sum(1), confusion.sum(0)
        most = int(predicted.argmax())
        collapsed = predicted[most] > ONE_CLASS * confusion.sum() and truth[most] < ONE_CLASS * confusion.sum()
        return self.classes[most] if collapsed else None

    def summary(self, score):
        interval = ""
        if "miou_interval" in score:
            low, high = score["miou_interval"]
            interval = f" ({100 * low:.2f} to {100 * high:.2f})"
        return f"mIoU {100 * score['miou']:6.2f} %{interval}   pixel accuracy {100 * score['pixel_accuracy']:6.2f} %"

    def logits(self, activation):
        """What the softmax of is `activation`."""
        return tf.math.log(tf.maximum(activation, LEAST_PROBABILITY))

    def outputs(self, logits):
        """{"mask": uint8 [B, H, W]; "confidence": float32 [B, H, W], the probability of that class}.

        The greatest probability is 1 / sum(exp(logits - greatest logit)): without the others it takes half the time.
        """
        apart = logits - tf.reduce_max(logits, axis=-1, keepdims=True)
        confidence = 1.0 / tf.reduce_sum(tf.exp(apart), axis=-1)
        return {"mask": tf.cast(self.decode(logits), tf.uint8), "confidence": confidence}

    def values(self, logits):
        """What the signature `numbers` gives."""
        return logits

    def panels(self, label, logits, palette):
        """{title: uint8 [H, W, 3]} of one example: its label [H, W], its logits [H, W, C] and what they say."""
        truth = pictures.colorize(label, palette, self.ignore_index)
        return {"truth": truth, **self.predicted_panels(logits, palette)}

    def predicted_panels(self, logits, palette):
        """Those of them that need no label."""
        probability = self.activation(logits).numpy()
        return {
            "prediction": pictures.colorize(probability.argmax(-1), palette, self.ignore_index),
            "confidence": pictures.confidence_map(probability.max(-1)),
        }


def adjustment(balance, shares):
    """tau log share of each class [C]; of one that no label shows the mean over pixels, so that it is let be."""
    shares = np.asarray(shares, np.float64)
    found = balance * np.log(np.where(shares > 0, shares, 1.0))
    return np.float32(np.where(shares > 0, found, np.sum(shares * found)))


def shares(labels, classes, ignore_index):
    """The share of each class in the pixels of int labels [h, w] that are not ignored: a list of so many numbers."""
    counts = sum(np.bincount(label[label != ignore_index].ravel(), minlength=classes) for label in labels)
    return (counts / max(np.sum(counts), 1)).tolist()


def _miou(parts):
    """Mean IoU of [C, 3]: hits, true and predicted pixels of each class."""
    hits, truth, predicted = parts.T
    union = truth + predicted - hits
    return float(np.mean(hits[union > 0] / union[union > 0])) if union.any() else 0.0


class Regression:
    """An image per image: three numbers at each pixel, for denoising and the like.

    A label is float RGB 0..255, [B, H, W, 3], and NaN where it is not known. Predictions are in 0..1: the logits
    themselves, so that losses and their weights do not depend on how gray levels are counted.
    """

    name, has_classes = "regression", False
    picture, numbers = "output_image", "values"
    measures = ("psnr",)
    pseudo_measures = {"pseudo_label_psnr": "psnr"}
    classes, channels, ignore_index = (), 3, float("nan")

    def loss(self, label, logits):
        """Mean squared error, of 0..1, over channels and the pixels whose label is known (0 of none)."""
        error = tf.reduce_mean(tf.square(self.activation(logits) - self.target(label)), axis=-1)
        return losses.masked_mean(error, self.known(label))

    def activation(self, logits):
        return tf.cast(logits, tf.float32)

    def known(self, label):
        return ~tf.math.is_nan(label[..., 0])

    def target(self, label):
        return tf.where(tf.math.is_nan(label), 0.0, label) / WHITE

    def difference(self, first, second):
        """Mean over the channels of the distance of two predictions at each pixel, [B, H, W]."""
        return tf.reduce_mean(tf.abs(first - second), axis=-1)

    def decode(self, logits):
        """The predicted image, float32 [B, H, W, 3] in 0..255."""
        return WHITE * tf.clip_by_value(self.activation(logits), 0.0, 1.0)

    def tally(self, label, prediction):
        """[PSNR of one image in dB, 1], float64, to be added up: 10 log10(255^2 / mean squared error).

        label, prediction: [H, W, 3] in 0..255; over all channels of the pixels whose label is known.
        """
        known = self.known(label)
        error = tf.reduce_mean(tf.square(self.target(label) - prediction / WHITE), axis=-1)
        error = tf.cast(losses.masked_mean(error, known), tf.float64)
        psnr = -10.0 * tf.math.log(tf.maximum(error, LEAST_ERROR)) / np.log(10.0)
        return tf.stack([psnr, tf.ones_like(psnr)])

    def scores(self, tally):
        """The mean over images of their PSNR, as denoising benchmarks report it."""
        return {"psnr": float(tally[0] / max(tally[1], 1))}

    def details(self, label, activation, prediction):
        """Nothing beside the tally."""

    def detailed_scores(self, tallies, details):
        """The 95 % interval of the mean PSNR over images."""
        low, high = measures.bootstrap(len(tallies), lambda weights: self.scores(weights @ tallies)["psnr"])
        return {"psnr_interval": [low, high]}

    def summary(self, score):
        return f"PSNR {score['psnr']:6.2f} dB"

    def logits(self, activation):
        return activation

    def values(self, logits):
        """What the signature `numbers` gives."""
        return self.decode(logits)

    def outputs(self, logits):
        """{"output_image": uint8 [B, H, W, 3]; "values": the same before rounding, float32 in 0..255}."""
        values = self.decode(logits)
        return {"output_image": tf.cast(tf.round(values), tf.uint8), "values": values}

    def panels(self, label, logits, palette):
        """{title: uint8 [H, W, 3]} of one example; the error is bright from a tenth of the range on."""
        label, predicted = np.nan_to_num(label), self.decode(logits).numpy()
        error = np.abs(label - predicted).mean(-1) / WHITE
        shown = {"truth": np.uint8(np.round(label)), **self.predicted_panels(logits, palette)}
        return {**shown, "error": pictures.confidence_map(10 * error)}

    def predicted_panels(self, logits, palette):
        """Those of them that need no label."""
        return {"prediction": np.uint8(np.round(self.decode(logits)))}
