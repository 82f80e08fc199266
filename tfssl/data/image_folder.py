"""A folder of images and one with masks for some of them: what has a mask is labeled, the rest is not."""

import os
from typing import Annotated

import numpy as np
import pydantic

from tfssl.data import manifest
from tfssl.data.examples import Source
from tfssl.data.faults import Faults
from tfssl.data.palettes import colours_of
from tfssl.data.split_lists import Byte, Layout, OnBadFile, Size, folder_of, from_lists, meaning_of
from tfssl.errors import UserError

ENDINGS = (".png", ".jpg", ".jpeg")

Amount = Annotated[float, pydantic.Field(ge=0, allow_inf_nan=False)]


def image_folder(
    *,
    root: str,
    images: str = "images",
    masks: str = "masks",
    validation: Amount = 0.25,
    test: Amount = 0,
    held_out: Amount = 0,
    split_seed: int = 0,
    values: dict[Byte, Byte] | None = None,
    size: Size = None,
    flips: bool = True,
    on_bad_file: OnBadFile = "fail",
    bad_files_limit: pydantic.NonNegativeInt = 10,
    classes: tuple[str, ...],
    palette: tuple[tuple[int, int, int], ...] | None = None,
    ignore_index: int = 255,
) -> Source:
    """The Source of two folders below root, those below them included.

    images: JPEG and PNG files. masks: index PNGs of the same names but for the ending, for any part of the images.
    validation, test, held_out: how many of the images with masks each set has, as a share of them below 1, else a
    number; they are dealt out by split_seed. The other images with masks are labeled, those without are unlabeled.
    values, size, flips, on_bad_file, bad_files_limit: see split_lists.
    """
    palette, meaning = colours_of(palette, len(classes)), meaning_of(values, len(classes), ignore_index)
    folder_of(root)
    if os.path.normpath(images) == os.path.normpath(masks):
        raise UserError(f"data.images and data.masks are both {images}: masks need a folder of their own")
    found, drawn = (_files(root, folder, key) for folder, key in ((images, "images"), (masks, "masks")))
    without = sorted(drawn.keys() - found.keys())
    if without:
        raise UserError(f"data.masks: {len(without)} mask(s) named above have no image in {os.path.join(root, images)} "
                        "of the same name but for the ending", [drawn[name] for name in without])  # fmt: skip
    pairs = [f"{found[name]}\t{drawn[name]}" for name in sorted(drawn)]
    sets = _dealt(pairs, {"validation": validation, "test": test, "held_out": held_out}, split_seed)
    sets["unlabeled"] = [found[name] + "\t" for name in sorted(found.keys() - drawn.keys())] or None
    layout = Layout(label=lambda path: (path, meaning), split=lambda _, name: sets[name])
    lists = {name: name for name, lines in sets.items() if lines}
    return from_lists(root, lists, layout=layout, size=size, flips=flips, faults=Faults(on_bad_file, bad_files_limit),
                      classes=classes, palette=palette, ignore_index=ignore_index)  # fmt: skip


def _files(root, folder, key):
    """{name without the ending: path below root} of the pictures below a folder."""
    base = os.path.join(root, folder)
    if not os.path.isdir(base):
        raise UserError(f"data.{key}: {base} is not a directory; it is relative to data.root")
    found, twice = {}, []
    names = {os.path.relpath(os.path.join(place, name), base) for place, _, names in os.walk(base) for name in names}
    gone = (os.path.relpath(name, folder) for name in manifest.kept_files())  # else all would be dealt out anew
    for name in sorted(names | {name for name in gone if not name.startswith("..")}):
        stem, ending = os.path.splitext(name)
        if ending.lower() in ENDINGS:
            if stem in found:
                twice.append(f"{os.path.join(base, stem)}: {os.path.splitext(found[stem])[1]} and {ending}")
            found[stem] = os.path.relpath(os.path.join(base, name), root)
    if twice:
        raise UserError(f"data.{key}: the files named above differ by their ending alone; rename one", twice)
    if not found:
        raise UserError(f"data.{key}: {base} has no file that ends in {', '.join(ENDINGS)}")
    return found


def _dealt(pairs, amounts, seed):
    """{set: lines} with "labeled" for what is left."""
    counts = {name: round(amount * len(pairs)) if amount < 1 else int(amount) for name, amount in amounts.items()}
    counts["validation"] = max(1, counts["validation"])
    left = len(pairs) - sum(counts.values())
    if left < 1:
        wanted = ", ".join(f"{name} {count}" for name, count in counts.items() if count)
        raise UserError(f"data: there are {len(pairs)} images with masks, and {wanted} leave none to learn from; "
                        "make the sets smaller, or draw more masks")  # fmt: skip
    order = np.random.default_rng([seed, len(pairs)]).permutation(len(pairs))
    parts = np.split(order, np.cumsum(list(counts.values())))
    return {name: [pairs[number] for number in sorted(part)]
            for name, part in zip([*counts, "labeled"], parts, strict=True)}  # fmt: skip
