"""The transformers against those of KerasHub, whose presets they take."""

import importlib
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfssl import networks
from tfssl.errors import UserError
from tfssl.networks import keras_hub_presets, vit
from tfssl.networks.layers import IMAGENET
from tfssl.resizing import stretch_grid

keras_hub = pytest.importorskip("keras_hub", reason="the optional package keras-hub is not installed")
segformer = importlib.import_module("tfssl.networks.segformer")  # the function of this name stands in front of it


def images(*shape, seed=0):
    return np.random.default_rng(seed).uniform(0, 255, shape).astype("float32")


def standardised(image):
    return ((image - np.float32(IMAGENET[0])) / np.float32(IMAGENET[1])).astype("float32")


def randomise(model):
    random = np.random.default_rng(1)
    for variable in model.variables:
        variable.assign(np.asarray(variable) + 0.05 * random.normal(size=variable.shape))


def test_vit_equals_that_of_keras_hub():
    theirs = keras_hub.models.ViTBackbone(image_shape=(64, 64, 3), patch_size=16, num_layers=3, num_heads=4,
                                          hidden_dim=48, mlp_dim=192)  # fmt: skip
    randomise(theirs)
    ours = vit.vision_transformer(vit.Sizes(48, 3, 4, 16, 4))
    keras_hub_presets.copy(theirs, ours, "keras_hub:test", "vit_base")
    image = images(2, 64, 64, 3)
    expected = theirs(image / 127.5 - 1)[:, 1:]
    np.testing.assert_allclose(tf.reshape(ours(image), expected.shape), expected, atol=1e-5)
    assert ours.count_params() == theirs.count_params()


def test_dinov2_equals_that_of_keras_hub():
    sizes = {"image_shape": (70, 70, 3), "position_embedding_shape": (70, 70, 3)}
    theirs = keras_hub.models.DINOV2Backbone(14, 4, 48, 4, 192, apply_layernorm=True, **sizes)
    randomise(theirs)
    theirs.embeddings.interpolated_position_embeddings.assign(theirs.embeddings.position_embeddings)
    ours = vit.vision_transformer(vit.Sizes(48, 4, 4, 14, 5, True, (2, 4)))
    keras_hub_presets.copy(theirs, ours, "keras_hub:test", "dinov2_small")
    image = images(2, 70, 70, 3)
    outputs = keras.Model(theirs.inputs, theirs.pyramid_outputs)({"images": standardised(image)})
    for stage, found in zip(("stage2", "stage4"), ours(image), strict=True):
        expected = outputs[stage][:, 1:]
        np.testing.assert_allclose(tf.reshape(found, expected.shape), expected, atol=1e-5)
    unused = 48 + 26 * 48  # a token for masks, and the positions once more as they are stretched
    assert ours.count_params() == theirs.count_params() - unused


def test_mit_equals_that_of_keras_hub():
    theirs = keras_hub.models.MiTBackbone(
        layerwise_depths=[2] * 4, num_layers=4, layerwise_num_heads=[1, 2, 5, 8], layerwise_sr_ratios=[8, 4, 2, 1],
        max_drop_path_rate=0.1, layerwise_patch_sizes=[7, 3, 3, 3], layerwise_strides=[4, 2, 2, 2],
        image_shape=(64, 64, 3), hidden_dims=[32, 64, 160, 256],
    )  # fmt: skip
    randomise(theirs)
    ours = networks.build("segformer", classes=2, seed=0).get_layer("encoder").get_layer("backbone")
    keras_hub_presets.copy(theirs, ours, "keras_hub:test", "mit_b0")
    image = images(2, 64, 64, 3)
    outputs = keras.Model(theirs.inputs, theirs.pyramid_outputs)(standardised(image))
    for level, found in enumerate(ours(image, training=False), start=1):
        np.testing.assert_allclose(found, outputs[f"P{level}"], atol=1e-4)
    assert ours.count_params() == theirs.count_params()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit_base", "vit_large"])
def test_parameters_of_vit(name):
    sizes = vit.ENCODERS[name]
    theirs = keras_hub.models.ViTBackbone(
        image_shape=(384, 384, 3), patch_size=16, num_layers=sizes.blocks, num_heads=sizes.heads,
        hidden_dim=sizes.channels, mlp_dim=4 * sizes.channels,
    )  # fmt: skip
    assert vit.vision_transformer(sizes).count_params() == theirs.count_params()


def test_positions_are_stretched_as_tensorflow_does():
    """Its kernel is a table of 1,024 values, ours the polynomial."""
    grid = np.random.default_rng(0).normal(size=(1, 9, 9, 5)).astype("float32")
    for height, width in [(9, 9), (5, 13), (20, 7)]:
        expected = tf.image.resize(grid, (height, width), "bicubic")
        np.testing.assert_allclose(stretch_grid(tf.constant(grid), height, width), expected, atol=4e-3)


def test_what_fills_an_image_up_is_cut_off():
    """Whether the fill is there before or comes by the network, the logits are the same."""
    network = networks.build("setr", classes=3, seed=0, encoder="vit_tiny", feature_channels=16)
    image = images(1, 33, 47, 3)
    filled = np.full((1, 48, 48, 3), 127.5, "float32")
    filled[:, :33, :47] = image
    expected = network(filled)["logits"][:, :33, :47]
    np.testing.assert_allclose(network(image)["logits"], expected, atol=1e-5)


def test_presets_for_what_they_are_not(monkeypatch):
    backbone = vit.vision_transformer(vit.Sizes(48, 3, 4, 16, 4))
    theirs = keras_hub.models.ViTBackbone(image_shape=(64, 64, 3), patch_size=16, num_layers=3, num_heads=4,
                                          hidden_dim=24, mlp_dim=192)  # fmt: skip
    with pytest.raises(UserError, match="keras_hub:small.*not of a vit_base"):
        keras_hub_presets.copy(theirs, backbone, "keras_hub:small", "vit_base")
    with pytest.raises(UserError, match="not of a dinov2_small"):
        keras_hub_presets.copy(theirs, backbone, "keras_hub:small", "dinov2_small")
    with pytest.raises(UserError, match="not for resnet50"):
        keras_hub_presets.copy(theirs, backbone, "keras_hub:small", "resnet50")
    with pytest.raises(UserError, match="preset cannot be had"):
        keras_hub_presets.load(backbone, "keras_hub:/no/such/folder", "vit_base")
    monkeypatch.setitem(sys.modules, "keras_hub", None)
    with pytest.raises(UserError, match="pip install keras-hub"):
        keras_hub_presets.load(backbone, "keras_hub:vit_base_patch16_384_imagenet", "vit_base")
