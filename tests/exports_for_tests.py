"""A tiny network and exports of it, for all tests of what an export is and of those that serve it."""

import keras
import pytest
import tensorflow as tf

from tfssl.export import Product, export
from tfssl.tasks import Segmentation

CLASSES = ["ground", "tree", "sky"]
PALETTE = [[90, 60, 20], [0, 120, 0], [80, 160, 255]]
SIZES = (33, 47), (64, 96)  # of the comparison with Keras, where a test is of something else


@keras.saving.register_keras_serializable("tests")
class ResizeLike(keras.layers.Layer):
    """Bilinear resizing of the first input to the height and width of the second."""

    def call(self, inputs):
        small, like = inputs
        return tf.image.resize(small, tf.shape(like)[1:3])

    def compute_output_shape(self, shapes):
        small, like = shapes
        return (*like[:3], small[-1])


def tiny_network(classes=3, seed=0):
    """The network contract in three layers, with batch norm and an output stride of 4."""
    keras.utils.set_random_seed(seed)
    image = keras.Input([None, None, 3], name="image")
    x = keras.layers.Rescaling(1 / 127.5, offset=-1.0)(image)
    x = keras.layers.Conv2D(8, 3, strides=2, padding="same", activation="relu")(x)
    x = keras.layers.BatchNormalization()(x)
    features = keras.layers.Conv2D(8, 3, strides=2, padding="same", activation="relu")(x)
    varied = keras.initializers.RandomNormal(0, 3)
    logits = keras.layers.Conv2D(classes, 1, kernel_initializer=varied)(features)
    outputs = {"logits": ResizeLike(dtype="float32")([logits, image]), "features": features}
    return keras.Model(image, outputs, name="tiny")


def product(network=None, seed=0, facts=(), **options):
    """What is exported: the tiny network of a seed, or another of as many classes."""
    known = {"name": "segmentation", "task": "segmentation", "classes": CLASSES, "palette": PALETTE,
             "ignore_index": 255, "producer": "tfssl", "method": "supervised", "miou": 0.5,
             "preprocessing": {"input": "RGB 0..255", "views": "the whole image"}, **dict(facts)}  # fmt: skip
    network = network or tiny_network(seed=seed)
    return Product(network, Segmentation(CLASSES), tuple(map(tuple, PALETTE)), facts=known, **options)


def tiny_export(folder, seed=0, sizes=SIZES, **options):
    """{"saved_model": path, "onnx": path of model.onnx, "version": number, ...}; another seed gives other masks."""
    return export(product(seed=seed), folder, sizes=sizes, **options)


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """One export with both files, which no test changes."""
    return tiny_export(tmp_path_factory.mktemp("exported") / "export")


@pytest.fixture(scope="session")
def loaded(exported):
    """Its SavedModel as Python's loader reads it."""
    return tf.saved_model.load(str(exported["saved_model"]))
