"""Photographs and the same with noise: the input is the noisy one, the label the clean one.

The photographs are those of a folder, or tiles of the two that scikit-learn ships: each tile is a part of a photograph
that no other tile overlaps. They are dealt out to the sets by seed, whole, so no set shows a pixel of another.
The noise is Gaussian (Zhang et al., arXiv:1608.03981), a pure function of (photo seed, number of the photograph): like
that of real photographs it stays the same whenever an image is seen. Noisy values are rounded and cut to 0..255.
"""

import functools
import os
from typing import Annotated

import numpy as np
import pydantic
import tensorflow as tf
from sklearn.datasets import load_sample_images

from tfssl.data.check import Pair, check
from tfssl.data.examples import Examples, Source
from tfssl.data.files import decode_image
from tfssl.errors import UserError

SETS = ("labeled", "held_out", "validation", "test")  # in the order they are dealt; what is left is unlabeled
ENDINGS = (".png", ".jpg", ".jpeg")

Count = Annotated[int, pydantic.Field(ge=0)]
Sigma = Annotated[float, pydantic.Field(gt=0, allow_inf_nan=False)]


def denoising(
    *,
    folder: str | None = None,
    sigma: Sigma = 25.0,
    labeled: Count = 8,
    held_out: Count = 8,
    validation: Count = 16,
    test: Count = 16,
    tile: tuple[int, int] = (80, 80),
    photo_seed: int = 0,
    flips: bool = True,
) -> Source:
    """The Source of noisy photographs, for task.name "regression".

    folder: JPEG and PNG files, each of which is an example, those in folders below too; null: the embedded tiles.
    sigma: standard deviation of the noise in gray levels of 255. labeled, held_out, validation, test: how many
    photographs each set has; all others are unlabeled. tile: (height, width) of an embedded tile in pixels.
    """
    counts = dict(zip(SETS, (labeled, held_out, validation, test), strict=True))
    names, read = _files(folder) if folder else _tiles(tuple(tile))
    if not labeled or not validation or sum(counts.values()) >= len(names):
        wanted = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise UserError(f"data: {wanted}, but there are {len(names)} photographs; labeled and validation need some, "
                        "and one at least must be left to be unlabeled")  # fmt: skip
    dealt = np.random.default_rng([photo_seed, len(names)]).permutation(len(names))
    parts = dict(zip(SETS, np.split(dealt, np.cumsum(list(counts.values()))), strict=False))
    parts["unlabeled"] = dealt[sum(counts.values()) :]

    def examples(chosen, with_labels=True):
        def noisy(index):
            number = tf.gather(chosen, index)
            return add_noise(read(number), sigma, [photo_seed, number])

        return Examples(tuple(names[number] for number in chosen), noisy,
                        (lambda index: read(tf.gather(chosen, index))) if with_labels else None)  # fmt: skip

    sets = {name: examples(chosen, name != "unlabeled") for name, chosen in parts.items() if len(chosen)}
    return Source(**sets, classes=(), palette=(), flips=flips, task="regression", resamples=False)


def add_noise(image, sigma, key):
    """image float32 [H, W, 3], 0..255, with Gaussian noise by the key, as an 8-bit file would hold it."""
    noise = tf.random.stateless_normal(tf.shape(image), tf.cast(tf.stack(key), tf.int32), stddev=sigma)
    return tf.ensure_shape(tf.clip_by_value(tf.round(image + noise), 0.0, 255.0), image.shape)


@functools.cache
def _photographs():
    return load_sample_images().images


def _tiles(size):
    """The embedded photographs cut into a grid: (names, function from a number to a tile, float32 [h, w, 3])."""
    height, width = size
    places = [
        (which, top, left)
        for which, photograph in enumerate(_photographs())
        for top in range(0, photograph.shape[0] - height + 1, height)
        for left in range(0, photograph.shape[1] - width + 1, width)
    ] if min(size) > 0 else []  # fmt: skip
    if not places:
        raise UserError(f"data.tile is {list(size)}: it must fit into photographs of 427 x 640 pixels")
    tiles = np.stack([_photographs()[n][top : top + height, left : left + width] for n, top, left in places])
    names = [f"photograph {n}, row {top}, column {left}" for n, top, left in places]
    return names, lambda number: tf.cast(tf.gather(tiles, number), tf.float32)


def _files(folder):
    """All pictures below a folder, each decoded once to see that it can be: (names, function from a number)."""
    if not os.path.isdir(folder):
        raise UserError(f"data.folder {folder} is not a directory; it is relative to where the command runs")
    root = os.path.realpath(folder)
    paths = sorted(os.path.join(place, name) for place, _, found in os.walk(root) for name in found
                   if name.lower().endswith(ENDINGS))  # fmt: skip
    pairs = [Pair(os.path.relpath(path, root), path) for path in paths]
    if not pairs:
        raise UserError(f"data.folder {folder} has no file that ends in {', '.join(ENDINGS)}")
    try:
        check({"folder": pairs}, root=root, classes=(), ignore_index=255, on_bad_file="fail")
    except UserError as error:
        raise UserError(f"data.folder {folder}: {len(error.details)} file(s) cannot be used, named above; mend them "
                        "or take them out", error.details) from None  # fmt: skip

    def read(number):
        pixels = decode_image(tf.io.read_file(tf.gather(paths, number)))
        return tf.ensure_shape(tf.cast(pixels, tf.float32), [None, None, 3])

    return [pair.name for pair in pairs], read
