"""The U-Net: the contract of the networks at full resolution, and how it begins."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfssl import networks
from tfssl.networks.layers import ResizeLike


def images(*shape, seed=0):
    return np.random.default_rng(seed).uniform(0, 255, shape).astype("float32")


@pytest.mark.parametrize(("classes", "levels"), [(3, 2), (5, 3)])
def test_contract(classes, levels):
    network = networks.build("unet", classes=classes, seed=1, width=4, levels=levels)
    for height, width in [(33, 47), (32, 64), (7, 3)]:
        image = images(2, height, width, 3)
        output = network(image, training=False)
        assert output["logits"].shape == (2, height, width, classes)
        assert output["features"].shape == (2, height, width, 4 + 3)
        features = network.get_layer("encoder")(image, training=False)
        np.testing.assert_array_equal(features, output["features"])
        logits = ResizeLike()([network.get_layer("classifier")(features, training=False), image])
        np.testing.assert_array_equal(logits, output["logits"])
    backbone = {id(v) for v in network.get_layer("encoder").get_layer("backbone").trainable_variables}
    head = {id(v) for v in networks.head_variables(network)}
    assert not backbone & head and backbone | head == {id(v) for v in network.trainable_variables}


@pytest.mark.parametrize("batch_norm", [True, False])
def test_it_begins_near_the_identity_and_learns_from_the_first_step(batch_norm):
    network, image = networks.build("unet", classes=3, seed=1, batch_norm=batch_norm), images(2, 32, 48, 3)
    with tf.GradientTape() as tape:
        logits = network(image, training=True)["logits"]
        loss = tf.reduce_mean(logits**2)
    assert 0 < np.abs(logits - image / 255).mean() < 0.15
    gradients = tape.gradient(loss, [variable.value for variable in network.trainable_variables])
    assert all(np.abs(gradient).max() > 0 for gradient in gradients)


@pytest.mark.parametrize("batch_norm", [True, False])
def test_without_batch_norm_images_know_nothing_of_each_other(batch_norm):
    network = networks.build("unet", classes=3, seed=1, width=4, batch_norm=batch_norm)
    together, alone = images(2, 16, 16, 3), images(2, 16, 16, 3)[:1]
    first, only = (network(image, training=True)["logits"].numpy()[0] for image in (together, alone))
    assert np.allclose(first, only, atol=1e-5) == (not batch_norm)


def test_seeds_clones_and_saved_files(tmp_path):
    network, image = networks.build("unet", classes=3, seed=1, dropout=0.5), images(1, 33, 47, 3)
    expected = network(image, training=False)["logits"]
    other = networks.build("unet", classes=3, seed=2)
    assert any((a != b).any() for a, b in zip(network.get_weights(), other.get_weights(), strict=True))
    np.testing.assert_array_equal(networks.build("unet", classes=3, seed=1)(image, training=False)["logits"], expected)
    clone = keras.models.clone_model(network)
    clone.set_weights(network.get_weights())
    np.testing.assert_array_equal(clone(image, training=False)["logits"], expected)
    network.save(tmp_path / "network.keras")
    loaded = keras.models.load_model(tmp_path / "network.keras")
    np.testing.assert_array_equal(loaded(image, training=False)["logits"], expected)


def test_mixed_precision_keeps_logits_in_float32():
    keras.mixed_precision.set_dtype_policy("mixed_bfloat16")
    try:
        assert networks.build("unet", classes=3, seed=1)(images(1, 16, 16, 3))["logits"].dtype == tf.float32
    finally:
        keras.mixed_precision.set_dtype_policy("float32")
