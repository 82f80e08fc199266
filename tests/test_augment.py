"""Geometry is checked on images that hold their own coordinates, photometry by what is drawn how often."""

import numpy as np
import pytest
import tensorflow as tf

from tfssl.data import augment, photometry
from tfssl.randomness import fold

SIZE = (40, 56)
SIZES = [(8, 8), (9, 13), (33, 47), (64, 31)]
IGNORE = 255


def key(number):
    return fold(tf.constant([0, 3], tf.int32), number)


def coordinates(height, width):
    """An image whose values are x, y and 0, and the label y * width + x: each tells where a pixel is from."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x, y, 0 * x], -1).astype("float32"), (y * width + x).astype("int32")


def photograph(height=37, width=53, seed=0):
    """Whole-numbered colours with a structure and some noise, of which no channel spans 0..255."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    smooth = np.stack([110 + 70 * np.sin(x / 9), 120 + 60 * np.cos(y / 7), 90 + x + y / 2], -1)
    return np.clip(np.round(smooth + generator.normal(0, 12, smooth.shape)), 5, 250).astype("float32")


def weak_views(count, size=SIZE, label=True, **arguments):
    """`count` views of the coordinates image as NumPy arrays, label -1 in the padding."""
    image, numbers = coordinates(*size)
    arguments = {"crop": (24, 32), "ignore_index": -1, **arguments}

    @tf.function
    def view(number):
        return augment.weak(tf.constant(image), numbers if label else None, key(number), **arguments)

    views = [view(tf.constant(number)) for number in range(count)]
    return [[None if part is None else part.numpy() for part in parts] for parts in views]


GEOMETRIES = {
    "default": {},
    "smaller": {"scale": (0.3, 0.5)},
    "larger": {"scale": (1.7, 3.0), "flip": False},
    "turned": {"rotation": 25.0, "translation": 0.2},
}


@pytest.mark.parametrize("arguments", GEOMETRIES.values(), ids=GEOMETRIES)
@pytest.mark.parametrize("size", SIZES)
def test_label_and_image_come_from_the_same_place(size, arguments):
    for image, label, valid in weak_views(12, size=size, **arguments):
        assert image.shape == (24, 32, 3) and label.shape == valid.shape == (24, 32)
        assert image.dtype == np.float32 and label.dtype == np.int32 and valid.dtype == bool
        place = np.stack([label % size[1], label // size[1]], -1)
        assert np.abs(image[..., :2] - place)[valid].max(initial=0) <= 0.5 + 1e-3
        assert (image[~valid] == augment.PADDING).all() and (label[~valid] == -1).all()
        assert (label[valid] >= 0).all()


def test_the_two_axes_have_one_scale_in_its_range():
    scales = []
    for image, _, valid in weak_views(150, size=(120, 160), flip=False):
        assert valid.all()
        x_step, y_step = np.diff(image[12, :, 0]).max(), np.diff(image[:, 16, 1]).max()
        assert x_step == pytest.approx(y_step, abs=0.5 / 32 + 0.5 / 24)  # the window has whole pixels
        scales.append(1 / x_step)
    assert 0.49 < min(scales) < 0.56 and 1.44 < max(scales) < 1.52
    assert np.mean(scales) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("factor", [0.5, 0.8, 1.0, 1.37])
def test_equals_cropping_and_resizing(factor):
    source, crop = photograph(*SIZE), (16, 24)
    window = tuple(round(part * side / round(side * factor)) for part, side in zip(crop, SIZE, strict=True))
    windows = np.lib.stride_tricks.sliding_window_view(source, window, (0, 1)).transpose(0, 1, 3, 4, 2)
    resized = tf.image.resize(windows.reshape(-1, *window, 3), crop).numpy().reshape(*windows.shape[:2], *crop, 3)
    corners = set()
    for number in range(20):
        view, _, valid = augment.weak(source, None, key(number), crop=crop, scale=(factor, factor), flip=False)
        assert valid.numpy().all()
        error = np.abs(resized - view).max((2, 3, 4))
        assert error.min() < (1e-9 if factor == 1.0 else 1e-3)
        corners.add(np.unravel_index(error.argmin(), error.shape))
    assert len(corners) > 10


@pytest.mark.parametrize("arguments", [{}, {"scale": (1.7, 3.0)}, {"scale": (0.3, 0.5)}])
@pytest.mark.parametrize("size", SIZES)
def test_what_is_not_turned_is_as_if_turned_by_nothing(size, arguments):
    image, label = photograph(*size), coordinates(*size)[1]
    for number in range(10):
        arguments = {"crop": (24, 32), **arguments}
        cut, turned = (augment.weak(image, label, key(number), rotation=angle, **arguments) for angle in (0, 1e-9))
        np.testing.assert_array_equal(cut[2], turned[2])
        # At the crop's border alone the turned view knows what lies beyond it.
        np.testing.assert_allclose(cut[0][2:-2, 2:-2], turned[0][2:-2, 2:-2], atol=0.05)
        assert np.mean(cut[1].numpy() == turned[1].numpy()) > 0.9  # ties of the nearest neighbour


def test_a_small_image_is_padded_around():
    corners = set()
    for _, _, valid in weak_views(40, size=(20, 30), scale=(0.5, 0.5)):
        rows, columns = np.flatnonzero(valid.any(1)), np.flatnonzero(valid.any(0))
        assert valid.sum() == 10 * 15 and len(rows) == 10 and len(columns) == 15  # one whole rectangle
        corners.add((rows[0], columns[0]))
    assert len(corners) > 25


def test_padding_is_ignore_by_default():
    image, label = coordinates(10, 12)
    _, label, valid = augment.weak(image, label * 0, key(0), crop=(30, 30), scale=(1.0, 1.0))
    assert set(np.unique(label)) == {0, IGNORE}
    np.testing.assert_array_equal(label == IGNORE, ~valid.numpy())
    assert valid.numpy().sum() == 120


def test_flips_half_of_the_images():
    for flip, low, high in [(True, 0.38, 0.62), (False, 0.0, 0.0)]:
        views = weak_views(200, scale=(1.0, 1.0), flip=flip)
        flipped = np.mean([image[12, -1, 0] < image[12, 0, 0] for image, _, _ in views])
        assert low <= flipped <= high


def test_rotation_is_in_degrees_and_within_its_limit():
    angles = []
    for image, _, valid in weak_views(60, size=(90, 90), scale=(1.0, 1.0), flip=False, rotation=10.0):
        assert valid[10:14, 10:22].all()
        (x_x, x_y), (y_x, y_y) = image[12, 17, :2] - image[12, 16, :2], image[13, 16, :2] - image[12, 16, :2]
        assert [y_y, y_x] == pytest.approx([x_x, -x_y], abs=1e-3)  # a rotation, neither sheared nor scaled
        assert np.hypot(x_x, x_y) == pytest.approx(1.0, abs=1e-3)
        angles.append(np.degrees(np.arctan2(x_y, x_x)))
    assert -10.1 < min(angles) < -8 and 8 < max(angles) < 10.1


def test_translation_is_a_fraction_of_the_crop():
    shifts = []
    for _, label, valid in weak_views(80, size=(24, 32), scale=(1.0, 1.0), flip=False, translation=0.25):
        row, column = np.argwhere(valid)[0]
        y, x = divmod(label[row, column], 32)
        shifts.append((row - y, column - x))
        assert valid.sum() == (24 - abs(row - y)) * (32 - abs(column - x))
    lowest, highest = np.min(shifts, 0), np.max(shifts, 0)
    assert tuple(lowest) == (-6, -8) and tuple(highest) == (6, 8)


@pytest.mark.parametrize("arguments", GEOMETRIES.values(), ids=GEOMETRIES)
def test_geometry_is_the_same_without_a_label(arguments):
    with_label, without = weak_views(8, **arguments), weak_views(8, label=False, **arguments)
    for (image, _, valid), (bare_image, no_label, bare_valid) in zip(with_label, without, strict=True):
        assert no_label is None
        np.testing.assert_array_equal(image, bare_image)
        np.testing.assert_array_equal(valid, bare_valid)


def test_equal_keys_give_equal_views_and_others_differ():
    image, label = photograph(), np.ones((37, 53), "int32")
    first, again, other = (augment.weak(image, label, key(n), crop=(24, 24)) for n in (1, 1, 2))
    for part, same in zip(first, again, strict=True):
        np.testing.assert_array_equal(part, same)
    assert np.abs(first[0] - other[0]).max() > 1
    first, again, other = (augment.strong(tf.constant(image), key(n)) for n in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1


def test_in_a_pipeline_with_images_of_unknown_size():
    sizes, crop = tf.constant(SIZES, tf.int64), (17, 23)

    def example(index):
        height, width = tf.unstack(sizes[index % len(SIZES)])
        image = 255.0 * tf.random.stateless_uniform([height, width, 3], [5, index])
        image, label, valid = augment.weak(image, tf.cast(image[..., 0], tf.int32), key(index), crop=crop)
        return image, augment.strong(image, fold(key(index), 1), operations=1), label, valid

    dataset = tf.data.Dataset.range(12).map(example, num_parallel_calls=2, deterministic=True)
    assert [tuple(part.shape) for part in dataset.element_spec] == [(*crop, 3), (*crop, 3), crop, crop]
    once, twice = list(dataset.as_numpy_iterator()), list(dataset.as_numpy_iterator())
    for index, (first, second) in enumerate(zip(once, twice, strict=True)):
        eager = example(tf.constant(index, tf.int64))
        for part, same in zip(first, second, strict=True):
            np.testing.assert_array_equal(part, same)
        for part, eager_part in zip(first[2:], eager[2:], strict=True):
            np.testing.assert_array_equal(part, eager_part)
        np.testing.assert_allclose(first[0], eager[0], atol=0.05)


@pytest.mark.parametrize("size", SIZES)
def test_strong_keeps_shape_and_range(size):
    view = tf.function(augment.strong)
    image = np.random.default_rng(0).uniform(0, 255, (*size, 3)).astype("float32")
    for number in range(40):
        for source in (image, np.full_like(image, 255.0)):
            result = view(tf.constant(source), key(number)).numpy()
            assert result.shape == source.shape and result.dtype == np.float32
            assert np.isfinite(result).all() and result.min() >= 0.0 and result.max() <= 255.0


def test_strong_at_magnitude_zero_is_the_image():
    view = tf.function(lambda image, key: augment.strong(image, key, magnitude=0.0, blur=0.0, grayscale=0.0))
    image = photograph() + 0.25
    for number in range(30):
        np.testing.assert_allclose(view(tf.constant(image), key(number)), image, atol=1e-2)


def test_strong_draws_every_operation_alike_and_applies_as_many_as_asked(monkeypatch):
    image = tf.zeros([8, 8, 3])
    marks = tuple(lambda image, strength, mark=mark: image + 4.0**mark for mark in range(4))
    monkeypatch.setattr(photometry, "OPERATIONS", marks)
    view = tf.function(lambda key: augment.strong(image, key, operations=3, blur=0.0, grayscale=0.0))
    sums = [int(view(key(number)).numpy().max()) for number in range(200)]
    counts = np.array([[total // 4**mark % 4 for mark in range(4)] for total in sums])
    assert (counts.sum(1) == 3).all()
    assert np.mean(counts.max(1) == 3) == pytest.approx(1 / 16, abs=0.05)  # independently, with replacement
    assert counts.mean(0) == pytest.approx([0.75] * 4, abs=0.2)


def test_strong_strengths_are_uniform_up_to_the_magnitude(monkeypatch):
    monkeypatch.setattr(photometry, "OPERATIONS", (lambda image, strength: image + 100.0 + strength,))
    only_operation = {"operations": 1, "blur": 0.0, "grayscale": 0.0}
    view = tf.function(lambda key: augment.strong(tf.zeros([8, 8, 3]), key, magnitude=0.5, **only_operation))
    strengths = np.array([view(key(number)).numpy()[0, 0, 0] for number in range(200)]) - 100.0
    assert -0.5 <= strengths.min() < -0.47 and 0.47 < strengths.max() <= 0.5
    assert np.abs(strengths).mean() == pytest.approx(0.25, abs=0.03)


def test_strong_blurs_and_grays_as_often_as_asked():
    image = tf.constant(photograph())
    view = tf.function(lambda key: augment.strong(image, key, operations=0, blur=0.3, grayscale=0.6))
    views = [view(key(number)).numpy() for number in range(200)]
    gray = [np.ptp(result, axis=-1).max() < 1e-3 for result in views]
    unblurred = [photometry.grayscale(image) if is_gray else image for is_gray in gray]
    sharp = [np.abs(result - same).max() < 0.01 for result, same in zip(views, unblurred, strict=True)]
    assert np.mean(gray) == pytest.approx(0.6, abs=0.1)
    assert np.mean(sharp) == pytest.approx(0.72, abs=0.1)  # 0.7 and the blurs of the smallest sigmas


def test_strong_keeps_the_edges_of_blocks():
    colours = np.random.default_rng(3).integers(0, 256, (4, 5, 3)).astype("float32")
    image = np.kron(colours, np.ones((8, 8, 1), "float32"))
    view = tf.function(lambda key: augment.strong(tf.constant(image), key, blur=0.0))
    for number in range(30):
        blocks = view(key(number)).numpy().reshape(4, 8, 5, 8, 3)
        inside = blocks[:, 2:-2, :, 2:-2]  # each of two sharpenings reaches one pixel over the edge
        assert np.ptp(inside, axis=(1, 3)).max() < 1e-3
