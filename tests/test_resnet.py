"""The residual networks, against those of Keras and the counts of torchvision."""

import keras
import numpy as np
import pytest

from tfssl import networks
from tfssl.networks.backbones import BACKBONES
from tfssl.networks.resnet import VARIANTS, resnet

# Parameters of torchvision's models (docs.pytorch.org/vision/main/models) without the last layer, 2048 x 1000 + 1000.
TORCHVISION = {"resnet50": 25_557_032 - 2_049_000, "resnet101": 44_549_160 - 2_049_000}


def images(*shape, seed=0):
    return np.random.default_rng(seed).uniform(0, 255, shape).astype("float32")


def trainable(model):
    return sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)


@pytest.mark.parametrize("height, width", [(96, 64), (97, 131)])
def test_equals_that_of_keras_at_output_stride_32(height, width):
    keras.utils.set_random_seed(3)
    theirs = keras.applications.ResNet50(weights=None, include_top=False)
    ours = resnet("resnet50", variant="keras", output_stride=32)
    for layer in ours.layers:
        if layer.weights:
            layer.set_weights(theirs.get_layer(layer.name).get_weights())
    image = images(2, height, width, 3)
    expected = theirs(keras.applications.resnet.preprocess_input(image.copy()), training=False)
    _, features = ours(image, training=False)
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(features, expected, atol=1e-5 * np.abs(expected).max())
    assert ours.count_params() == theirs.count_params()


@pytest.mark.parametrize("variant", VARIANTS)
def test_dilation_keeps_what_the_strided_network_computes(variant):
    """At output strides 16 and 8 the map holds that of 32, and what striding left out, with weights of one shape."""
    keras.utils.set_random_seed(1)
    networks = {stride: resnet("resnet50", variant=variant, output_stride=stride) for stride in (32, 16, 8)}
    image = images(1, 96, 64, 3)
    low, coarse = networks[32](image, training=False)
    assert low.shape == (1, 24, 16, 256) and coarse.shape == (1, 3, 2, 2048)
    for stride in (16, 8):
        networks[stride].set_weights(networks[32].get_weights())
        same, fine = networks[stride](image, training=False)
        assert fine.shape == (1, 96 // stride, 64 // stride, 2048)
        np.testing.assert_array_equal(low, same)
        step = 32 // stride
        np.testing.assert_allclose(fine[:, ::step, ::step], coarse, atol=1e-5 * np.abs(coarse).max())


@pytest.mark.parametrize("depth", TORCHVISION)
def test_parameters_of_torchvision(depth):
    assert trainable(BACKBONES[f"{depth}_torchvision"]()) == TORCHVISION[depth]
    assert trainable(BACKBONES[f"{depth}_caffe"]()) == TORCHVISION[depth]


def test_parameters_of_deeplab_v2():
    """torchvision's, and four convolutions of 3 x 3 from 2048 channels to the classes, with a bias."""
    network = networks.build("deeplab_v2", classes=21, seed=0, weights=None, backbone="resnet101_caffe")
    assert trainable(network) == TORCHVISION["resnet101"] + 4 * (9 * 2048 * 21 + 21)


def test_batch_norm_as_wanted():
    for batch_norm, learns, synchronized in [("local", True, False), ("synchronized", True, True),
                                             ("frozen", False, False)]:  # fmt: skip
        norm = resnet("resnet50", batch_norm=batch_norm).get_layer("conv1_bn")
        assert (bool(norm.trainable_variables), norm.synchronized) == (learns, synchronized)
