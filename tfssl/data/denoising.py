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

from tfssl.data import manifest
from tfssl.data.check import Pair, check
from tfssl.data.examples import Examples, Source
from tfssl.data.faults import Faults
from tfssl.data.files import decode_image
from tfssl.data.reading import Files, of_files
from tfssl.data.split_lists import OnBadFile
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
    on_bad_file: OnBadFile = "fail",
    bad_files_limit: pydantic.NonNegativeInt = 10,
) -> Source:
    """The Source of noisy photographs, for task.name "regression".

    folder: JPEG and PNG files, each of which is an example, those in folders below too; null: the embedded tiles.
    sigma: standard deviation of the noise in gray levels of 255. labeled, held_out, validation, test: how many
    photographs each set has; all others are unlabeled. tile: (height, width) of an embedded tile in pixels.
    on_bad_file, bad_files_limit: of the folder's files, see split_lists.
    """
    counts = dict(zip(SETS, (labeled, held_out, validation, test), strict=True))
    faults = Faults(on_bad_file, bad_files_limit)
    files, left_out = _files(folder, faults) if folder else (None, ())
    names, read = ([file.name for file in files], None) if folder else _tiles(tuple(tile))
    if not labeled or not validation or sum(counts.values()) >= len(names):
        wanted = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise UserError(f"data: {wanted}, but there are {len(names)} photographs; labeled and validation need some, "
                        "and one at least must be left to be unlabeled")  # fmt: skip
    dealt = np.random.default_rng([photo_seed, len(names)]).permutation(len(names))
    parts = dict(zip(SETS, np.split(dealt, np.cumsum(list(counts.values()))), strict=False))
    parts["unlabeled"] = dealt[sum(counts.values()) :]

    def examples(chosen, with_labels=True):
        called = tuple(names[number] for number in chosen)

        def noisy(clean, index):
            return add_noise(clean, sigma, [photo_seed, tf.gather(chosen, index)])

        if folder:
            rows = [(files[number],) for number in chosen]
            image = lambda content, index: noisy(_decoded(content), index)  # noqa: E731
            label = (lambda content, index: _decoded(content)) if with_labels else None
            return of_files(called, Files(rows, faults, image, label), called)
        return Examples(called, lambda index: noisy(read(tf.gather(chosen, index)), index),
                        (lambda index: read(tf.gather(chosen, index))) if with_labels else None)  # fmt: skip

    sets = {name: examples(chosen, name != "unlabeled") for name, chosen in parts.items() if len(chosen)}
    return Source(**sets, classes=(), palette=(), flips=flips, task="regression", resamples=False, faults=faults,
                  left_out=left_out, origin="" if folder else "photographs of scikit-learn")  # fmt: skip


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


def _files(folder, faults):
    """All pictures below a folder, each decoded once to see that it can be: (list of File, names of those left out)."""
    if not os.path.isdir(folder):
        raise UserError(f"data.folder {folder} is not a directory; it is relative to where the command runs")
    root = os.path.realpath(folder)
    names = {os.path.relpath(os.path.join(place, name), root) for place, _, found in os.walk(root) for name in found
             if name.lower().endswith(ENDINGS)} | manifest.kept_files()  # fmt: skip
    if not names:
        raise UserError(f"data.folder {folder} has no file that ends in {', '.join(ENDINGS)}")
    pairs = [Pair(name, os.path.join(root, name)) for name in sorted(names)]
    try:
        usable, findings = check({"folder": pairs}, root=root, classes=(), ignore_index=255,
                                 on_bad_file="skip" if faults.skips else "fail",
                                 kept=manifest.kept_files() if faults.skips else ())  # fmt: skip
    except UserError as error:
        raise UserError(f"data.folder {folder}: {len(error.details)} file(s) cannot be used, named above; mend them, "
                        'take them out, or set data.on_bad_file to "skip"', error.details) from None  # fmt: skip
    used = [manifest.file_of(pair.name, pair.image, "image", findings["image", pair.image])
            for pair in usable["folder"]]  # fmt: skip
    return used, tuple(sorted(names - {file.name for file in used}))


def _decoded(content):
    return tf.ensure_shape(tf.cast(decode_image(content), tf.float32), [None, None, 3])
