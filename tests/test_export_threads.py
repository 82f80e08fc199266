"""Calls at the same time, as a server makes them, give the answers of single ones."""

import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.eager import context

from tests.exports_for_tests import CLASSES, ResizeLike, product
from tfssl.export import export
from tfssl.export.structured import structured_images
from tfssl.networks.layers import Sum

THREADS, CALLS = 4, 100  # each


def residual_network(add):
    """Convolutions with biases whose maps are summed by the layer `add`, with what goes around them."""
    keras.utils.set_random_seed(1)
    image = keras.Input([None, None, 3], name="image")
    x = keras.layers.Rescaling(1 / 127.5, offset=-1.0)(image)
    x = keras.layers.Conv2D(16, 3, strides=2, padding="same", activation="relu")(x)
    for _ in range(3):
        branch = keras.layers.Conv2D(16, 3, padding="same", activation="relu")(x)
        x = add()([x, keras.layers.Conv2D(16, 3, padding="same")(branch)])
    logits = keras.layers.Conv2D(len(CLASSES), 1, kernel_initializer=keras.initializers.RandomNormal(0, 3))(x)
    return keras.Model(image, {"logits": ResizeLike(dtype="float32")([logits, image]), "features": x})


def fused(network, least=8):
    """What the optimizer of graphs has fused convolutions with: the lists of all of them."""
    traced = tf.function(lambda image: network(image, training=False)["logits"],
                         input_signature=[tf.TensorSpec([None, None, None, 3])])  # fmt: skip
    image = tf.constant(structured_images(1, 24, 32).astype("float32"))
    context.context().enable_run_metadata()
    try:
        traced(image)
        graphs = context.context().export_run_metadata().partition_graphs
    finally:
        context.context().disable_run_metadata()
    functions = [function for graph in graphs for function in graph.library.function]
    nodes = [node for graph in graphs for node in graph.node]
    nodes += [node for function in functions for node in function.node_def]
    convolutions = [node for node in nodes if "Conv2D" in node.op]
    assert len(convolutions) >= least, "the graph that ran is not in the metadata"
    return [[each.decode() for each in node.attr["fused_ops"].list.s] for node in convolutions]


def test_no_convolution_is_fused_with_a_sum():
    """A kernel of oneDNN that is would keep what it adds in itself, and two calls at once would mix it."""
    assert not any("Add" in each for each in fused(residual_network(Sum)))


def test_with_a_plain_sum_it_would_be():
    found = fused(residual_network(keras.layers.Add))
    if not any(found):
        pytest.skip("TensorFlow fuses no convolution here: oneDNN is off")
    assert sum("Add" in each for each in found) == 3


def test_calls_at_once_give_what_single_calls_give(tmp_path):
    made = product(residual_network(Sum))
    place = export(made, tmp_path, onnx=False, sizes=[(24, 32)])["saved_model"]
    loaded = tf.saved_model.load(str(place))
    images = [tf.constant(structured_images(1, 24 + 8 * (n % 3), 32, seed=n)) for n in range(8)]
    call = loaded.signatures["logits"]
    right = [call(image=image)["logits"].numpy() for image in images]
    assert len({values.tobytes() for values in right}) == len(right)
    wrong, done = [], []

    def work(first):
        for number in range(first, first + CALLS):
            n = number % len(images)
            if not np.array_equal(call(image=images[n])["logits"], right[n]):
                wrong.append(n)
            done.append(n)

    threads = [threading.Thread(target=work, args=[3 * number]) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(done) == THREADS * CALLS and not wrong
