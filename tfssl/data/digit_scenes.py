"""Embedded data that need no download: scenes of handwritten digits over photographs, made by seed.

A scene is a patch of one of the two photographs that scikit-learn ships, with clutter strokes and several of
its 1,797 real handwritten digits, of varied size, angle, ink and contrast, partly over one another. The task is
to label every pixel with its digit or with background: 11 classes.

The digits come in the order they were collected, some thirteen writers one after another. The first 60 % are for
training, the next 20 % for validation, the last 20 % for the test, so no glyph, and hardly a writer, is in two
parts. Scene n of a set is a pure function of (scene seed, set, n).
"""

import functools

import numpy as np
import tensorflow as tf
from PIL import Image, ImageDraw, ImageFilter
from sklearn.datasets import load_digits, load_sample_images

from tfssl.data.examples import Examples, Source
from tfssl.errors import UserError

CLASSES = ("background", *(f"digit {digit}" for digit in range(10)))
PALETTE = (
    (40, 40, 40), (230, 25, 75), (60, 180, 75), (255, 225, 25), (0, 130, 200), (245, 130, 48),
    (145, 30, 180), (70, 240, 240), (240, 50, 230), (210, 245, 60), (250, 190, 212),
)  # fmt: skip
GLYPHS = {"training": (0.0, 0.6), "validation": (0.6, 0.8), "test": (0.8, 1.0)}  # shares of the 1,797 digits
SETS = ("labeled", "unlabeled", "held_out", "validation", "test")  # the position is the set's random stream


def digit_scenes(
    *,
    labeled_scenes: int = 40,
    unlabeled_scenes: int = 1000,
    held_out_scenes: int = 60,
    validation_scenes: int = 100,
    test_scenes: int = 200,
    size: tuple[int, int] = (96, 96),
    scene_seed: int = 0,
) -> Source:
    """The five sets. Labeled, unlabeled and held-out scenes are different scenes of the training digits.

    size: (height, width) in pixels; a digit is a quarter to two fifths of the height.
    """
    if min(size) < 32 or size[1] * 2 < size[0]:
        raise UserError(f"data.size is {list(size)}: digit scenes need 32 pixels a side or more, and half the height")

    def examples(name, count, glyphs, with_labels=True):
        read = functools.lru_cache(maxsize=None)(
            lambda index: scene(glyphs, (scene_seed, SETS.index(name), index), tuple(size))
        )
        return Examples(
            names=tuple(f"{name}/{index:05d}" for index in range(count)),
            image=_reader(lambda index: read(int(index))[0], tf.uint8, (*size, 3), tf.float32),
            label=_reader(lambda index: read(int(index))[1], tf.int32, tuple(size)) if with_labels else None,
        )

    return Source(
        labeled=examples("labeled", labeled_scenes, "training"),
        unlabeled=examples("unlabeled", unlabeled_scenes, "training", with_labels=False),
        held_out=examples("held_out", held_out_scenes, "training"),
        validation=examples("validation", validation_scenes, "validation"),
        test=examples("test", test_scenes, "test"),
        classes=CLASSES,
        palette=PALETTE,
        origin="digit_scenes, of the digits and photographs of scikit-learn",
        flips=False,  # a mirrored 2 is not a 2
    )


def scene(glyphs, seed, size):
    """One scene: (uint8 image [H, W, 3], int32 label [H, W]) with digits of the part `glyphs`."""
    random = np.random.default_rng(seed)
    image = _background(random, size)
    label = np.zeros(size, np.int32)
    for _ in range(random.integers(1, 4)):
        image, label = _paint(image, label, _stroke(random, size), 0, random)
    pictures, digits = _glyphs(glyphs)
    for _ in range(random.integers(4, 8)):
        chosen = random.integers(len(digits))
        places = [_glyph(random, pictures[chosen], size) for _ in range(4)]
        freest = min(places, key=lambda coverage: (coverage * (label > 0)).sum() / coverage.sum())
        image, label = _paint(image, label, freest, digits[chosen] + 1, random)
    for _ in range(random.integers(0, 2)):  # now and then a stroke over the digits too
        image, label = _paint(image, label, _stroke(random, size), 0, random)
    image = image + random.normal(0, random.uniform(2, 12), image.shape)
    return np.clip(np.round(image), 0, 255).astype(np.uint8), label


@functools.cache
def _photographs():
    return [Image.fromarray(image) for image in load_sample_images().images]


@functools.cache
def _glyphs(part):
    digits = load_digits()
    low, high = (round(share * len(digits.target)) for share in GLYPHS[part])
    return digits.images[low:high] / 16.0, digits.target[low:high]


def _background(random, size):
    """A patch of a photograph, 1 to 3 scene sizes wide, shrunk to the scene: float [H, W, 3]."""
    photograph = _photographs()[random.integers(2)]
    height, width = (round(random.uniform(1, 3) * side) for side in size)
    height, width = min(height, photograph.height), min(width, photograph.width)
    top = random.integers(photograph.height - height + 1)
    left = random.integers(photograph.width - width + 1)
    patch = photograph.crop((left, top, left + width, top + height))
    shade = random.uniform(0.15, 0.45)  # the photograph in dim light, the ink bright
    return shade * np.asarray(patch.resize(size[::-1], Image.Resampling.BILINEAR), np.float64)


def _paint(image, label, coverage, value, random):
    """Ink with the opacity `coverage` [H, W]; where it covers at least half, the pixel becomes `value`."""
    ink = random.uniform(170, 255, 3)
    opacity = random.uniform(0.7, 1.0) * coverage[..., None]
    return image * (1 - opacity) + ink * opacity, np.where(coverage >= 0.5, value, label).astype(np.int32)


def _glyph(random, picture, size):
    """A handwritten digit, 8 x 8, enlarged, sheared, turned and laid somewhere: coverage [H, W]."""
    side = int(random.integers(size[0] // 4, size[0] * 2 // 5))
    big = Image.fromarray(np.uint8(picture * 255)).resize((side, side), Image.Resampling.BICUBIC)
    shear = random.uniform(-0.15, 0.15)
    big = big.transform(big.size, Image.Transform.AFFINE, (1, shear, -shear * side / 2, 0, 1, 0),
                        Image.Resampling.BILINEAR)  # fmt: skip
    big = big.rotate(random.uniform(-12, 12), Image.Resampling.BILINEAR, expand=True)
    canvas = Image.new("L", size[::-1])
    top = int(random.integers(-side // 16, size[0] - side + side // 16 + 1))
    left = int(random.integers(-side // 16, size[1] - side + side // 16 + 1))
    canvas.paste(big, (left, top))
    coverage = np.asarray(canvas, np.float64) / 255
    return np.clip((coverage - 0.3) / 0.3, 0, 1)  # the bicubic slope becomes a pen's edge


def _stroke(random, size):
    """A pen stroke that is no digit: a smooth random curve as wide as a digit's line, coverage [H, W]."""
    start = random.uniform(0, size, 2)
    turns = start + np.cumsum(random.normal(0, size[0] / 6, (3, 2)), axis=0)
    t = np.linspace(0, 1, 24)[:, None]
    control = np.concatenate([start[None], turns])
    curve = ((1 - t) ** 3 * control[0] + 3 * (1 - t) ** 2 * t * control[1]
             + 3 * (1 - t) * t**2 * control[2] + t**3 * control[3])  # fmt: skip
    canvas = Image.new("L", size[::-1])
    ImageDraw.Draw(canvas).line([tuple(point[::-1]) for point in curve], fill=255,
                                width=int(random.integers(2, 6)), joint="curve")  # fmt: skip
    return np.asarray(canvas.filter(ImageFilter.BoxBlur(0.7)), np.float64) / 255


def _reader(function, dtype, shape, cast=None):
    """`function` of an index as a TensorFlow function, for use inside tf.data."""

    def read(index):
        value = tf.numpy_function(lambda i: function(i), [index], dtype, stateful=False)
        value = tf.ensure_shape(value, shape)
        return tf.cast(value, cast) if cast else value

    return read
