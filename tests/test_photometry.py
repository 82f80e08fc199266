"""Every colour operation against Pillow or a slow computation in NumPy."""

import colorsys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageOps

from tfssl.data import photometry


def photograph(height=37, width=53, seed=0):
    """Whole-numbered colours with a structure and some noise, of which no channel spans 0..255."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    smooth = np.stack([110 + 70 * np.sin(x / 9), 120 + 60 * np.cos(y / 7), 90 + x + y / 2], -1)
    return np.clip(np.round(smooth + generator.normal(0, 12, smooth.shape)), 5, 250).astype("float32")


def pillow(image, change):
    return np.asarray(change(Image.fromarray(image.astype("uint8"))), "float32")


def enhanced(enhancer):
    return lambda picture, strength: enhancer(picture).enhance(1.0 + 0.9 * strength)


PILLOW = {  # the operation, its strengths, Pillow's way, and how far its rounding takes it from ours
    "autocontrast": ([1.0], lambda picture, strength: ImageOps.autocontrast(picture), 1.0),
    "equalize": ([1.0, -1.0], lambda picture, strength: ImageOps.equalize(picture), 0.0),
    "brightness": ([-1.0, -0.4, 0.3, 1.0], enhanced(ImageEnhance.Brightness), 1.0),
    "contrast": ([-1.0, -0.4, 0.3, 1.0], enhanced(ImageEnhance.Contrast), 2.0),
    "color": ([-1.0, -0.4, 0.3, 1.0], enhanced(ImageEnhance.Color), 1.6),
    "sharpness": ([-1.0, -0.4, 0.3, 1.0], enhanced(ImageEnhance.Sharpness), 1.6),
    "posterize": (
        [0.0, 0.25, -0.5, 0.75, 1.0],
        lambda picture, strength: ImageOps.posterize(picture, 8 - round(4 * abs(strength))),
        0.0,
    ),
    "solarize": (
        [0.0, 0.25, -0.5, 0.75, 1.0],
        lambda picture, strength: ImageOps.solarize(picture, round(256 * (1 - abs(strength)))),
        0.0,
    ),
}
IMAGES = {
    "photograph": photograph(),
    "noise": np.random.default_rng(1).integers(0, 256, (21, 34, 3)).astype("float32"),
    "two levels": np.where(photograph() > 100, 200.0, 20.0).astype("float32"),
    "flat": np.full((9, 8, 3), 77.0, "float32"),
}


@pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES)
@pytest.mark.parametrize("name", PILLOW)
def test_operation_equals_pillows(name, image):
    strengths, change, tolerance = PILLOW[name]
    for strength in strengths:
        ours = getattr(photometry, name)(tf.constant(image), tf.constant(strength)).numpy()
        theirs = pillow(image, lambda picture, strength=strength: change(picture, strength))
        assert np.abs(ours - theirs).max() <= tolerance, strength


def test_blended_operations_go_halfway_at_half_strength():
    image = tf.constant(photograph())
    for operation in (photometry.autocontrast, photometry.equalize):
        halfway = (image + operation(image, 1.0)) / 2
        np.testing.assert_allclose(operation(image, 0.5), halfway, atol=1e-3)


@pytest.mark.parametrize("strength", [-1.0, 0.5, 1.0])
def test_hue_turns_each_pixels_hue(strength):
    image = photograph(9, 11)
    expected = np.empty_like(image)
    for place in np.ndindex(image.shape[:2]):
        hue, saturation, value = colorsys.rgb_to_hsv(*image[place] / 255)
        expected[place] = np.multiply(colorsys.hsv_to_rgb((hue + 0.1 * strength) % 1, saturation, value), 255)
    np.testing.assert_allclose(photometry.hue(tf.constant(image), tf.constant(strength)), expected, atol=0.01)


@pytest.mark.parametrize("operation", photometry.OPERATIONS, ids=lambda operation: operation.__name__)
def test_operation_has_an_identity_a_range_and_an_effect(operation):
    image = photograph() + np.float32(0.3)
    np.testing.assert_allclose(operation(tf.constant(image), tf.constant(0.0)), image, atol=1e-3)
    changed = operation(tf.constant(image), tf.constant(1.0)).numpy()
    assert changed.shape == image.shape and changed.min() >= 0 and changed.max() <= 255
    assert (np.abs(changed - image).mean() > 1) == (operation is not photometry.identity)


@pytest.mark.parametrize("operation", photometry.OPERATIONS, ids=lambda operation: operation.__name__)
@pytest.mark.parametrize("strength", [-0.8, 0.6])
def test_operation_moves_no_pixel(operation, strength):
    """Pointwise ones commute with any shuffling of pixels; sharpness, which looks around, with mirroring."""
    image = photograph()
    order = np.random.default_rng(2).permutation(image.shape[0] * image.shape[1])

    def shuffled(picture):
        return np.reshape(picture, (-1, 3))[order].reshape(image.shape)

    def mirrored(picture):
        return np.asarray(picture)[::-1, ::-1].copy()

    for move in [mirrored] if operation is photometry.sharpness else [mirrored, shuffled]:
        moved_after = move(operation(tf.constant(image), tf.constant(strength)))
        moved_before = operation(tf.constant(move(image)), tf.constant(strength))
        np.testing.assert_allclose(moved_before, moved_after, atol=1e-2)


@pytest.mark.parametrize("sigma", [0.1, 0.7, 2.0])
@pytest.mark.parametrize("size", [(7, 8), (20, 31)])
def test_blur_is_a_mirrored_gaussian(sigma, size):
    image = photograph(*size)
    weight = np.exp(-0.5 * (np.arange(-6, 7) / sigma) ** 2)
    expected = np.pad(image, [(6, 6), (6, 6), (0, 0)], mode="reflect").astype("float64")
    for axis in (0, 1):
        expected = np.apply_along_axis(np.convolve, axis, expected, weight / weight.sum(), "valid")
    np.testing.assert_allclose(photometry.gaussian_blur(tf.constant(image), sigma), expected, atol=0.01)


def test_grayscale_equals_pillows():
    image = photograph()
    gray = pillow(image, lambda picture: picture.convert("L"))
    np.testing.assert_allclose(photometry.grayscale(tf.constant(image)), np.stack([gray] * 3, -1), atol=0.51)
