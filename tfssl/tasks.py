"""What is predicted at every pixel: the supervised loss, the meaning of the output, and the score."""

import tensorflow as tf

from tfssl import losses


class Segmentation:
    """One class per pixel. `classes` are names; `ignore_index` marks pixels that are neither learned nor scored."""

    def __init__(self, classes, ignore_index=255):
        self.classes, self.ignore_index = tuple(classes), ignore_index

    @property
    def channels(self):
        return len(self.classes)

    def loss(self, label, logits):
        """Mean pixel-wise cross-entropy (RML eq. 1). label: int [B, H, W]; logits: [B, H, W, C]."""
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

    def scores(self, confusion):
        """Scores of an accumulated confusion matrix (NumPy [C, C]) as plain numbers.

        IoU of class k = TP / (TP + FP + FN), None where the class is neither there nor predicted; mIoU is the mean
        over the others.
        """
        hit = confusion.diagonal().astype(float)
        union = confusion.sum(0) + confusion.sum(1) - confusion.diagonal()
        iou = {name: hit[k] / union[k] if union[k] else None for k, name in enumerate(self.classes)}
        known = [value for value in iou.values() if value is not None]
        return {
            "miou": sum(known) / len(known) if known else 0.0,
            "per_class_iou": iou,
            "pixel_accuracy": float(hit.sum() / max(confusion.sum(), 1)),
        }
