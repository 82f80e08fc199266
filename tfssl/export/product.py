"""What is exported: a network, the way it looks at an image, and what is to be known of it."""

from dataclasses import dataclass, field
from typing import Any

import keras
import tensorflow as tf

from tfssl import config, protocols
from tfssl.resizing import read_at
from tfssl.tasks import Regression, Segmentation

MOST_PIXELS = 25_000_000


@dataclass(frozen=True)
class Product:
    """network: the Functional model that ships, float32. size: (height, width) at which it reads every image, or None.
    looking: an Evaluation section of the configuration, of which windows (`crop`, `overlap`) and `flip` are used.
    facts: JSON values that travel with the files."""

    network: keras.Model
    task: Segmentation | Regression
    palette: tuple = ()
    size: tuple[int, int] | None = None
    looking: config.Evaluation = field(default_factory=config.Evaluation)
    most_pixels: int = MOST_PIXELS
    facts: dict[str, Any] = field(default_factory=dict)

    def logits(self, image):
        """Images float32 [B,H,W,3], RGB 0..255 -> logits [B,H,W,C] at their own size.

        Of several views the logarithm of their mean probabilities.
        """
        read = image if self.size is None else read_at(image, self.size)
        predict, activated = protocols.predictor(self._network, self.task, self.looking)
        if self.looking.protocol == "sliding":  # its windows are those of one image
            kind = tf.TensorSpec([None, None, self.task.channels], tf.float32)
            found = tf.map_fn(lambda one: predict(one[None])[0], read, parallel_iterations=1, fn_output_signature=kind)
        else:
            found = predict(read)
        if self.size is not None:
            found = tf.image.resize(found, tf.shape(image)[1:3])
        return self.task.logits(found) if activated else found

    def outputs(self, image):
        """Images [B,H,W,3], uint8 or float -> the task's outputs by their names."""
        return self.task.outputs(self.logits(tf.cast(image, tf.float32)))

    def _network(self, image):
        return self.network(image, training=False)["logits"]
