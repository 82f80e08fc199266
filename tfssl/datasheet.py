"""What is in the data of a configuration: counts, sizes, classes and pictures; and lists of a part of it."""

from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from itertools import zip_longest

import numpy as np
import tensorflow as tf

from tfssl import pictures
from tfssl.data.examples import look
from tfssl.errors import UserError, attempt

SETS = ("labeled", "unlabeled", "validation", "test", "held_out")


@dataclass
class Sheet:
    """Of one set: how many images it has of each size, and of each class how many pixels and images."""

    count: int
    sizes: Counter
    pixels: np.ndarray | None = None  # [classes + 1], the ignored ones last
    images: np.ndarray | None = None  # [classes]


def sheets(source, ignore_index):
    """{set: Sheet} of a Source; every image and label is read once."""
    sets = {name: getattr(source, name) for name in SETS if getattr(source, name) is not None}
    problems = []
    found = {name: sheet(examples, len(source.classes), ignore_index, problems) for name, examples in sets.items()}
    if problems:
        raise UserError(f"{len(problems)} example(s) named above cannot be used", map(str, problems))
    return found


def sheet(examples, classes, ignore_index, problems):
    """The Sheet of Examples; labels that are images have no classes to count. `problems` grows by what is wrong."""
    counted = classes and examples.label is not None
    found = Sheet(examples.count, Counter())
    rows = [np.zeros(classes + 1, int)]
    for number in range(examples.count):
        image, label = attempt(problems, look, examples, number, classes, ignore_index) or (None, None)
        if image is not None:
            found.sizes[tuple(image.shape[:2])] += 1
            if counted:
                rows.append(class_pixels(label.numpy(), classes, ignore_index))
    if counted:
        found.pixels, found.images = np.sum(rows, axis=0), np.sum(np.array(rows)[:, :-1] > 0, axis=0)
    return found


def class_pixels(label, classes, ignore_index):
    """How many pixels of each class a label has, [classes + 1], the ignored ones last."""
    counts = np.bincount(label[label != ignore_index], minlength=classes)
    return np.append(counts[:classes], np.sum(label == ignore_index))


def table(found, names):
    """The sheets as lines of text."""
    lines = [f"{'set':12s} {'images':>7s}  sizes (height x width: how many)"]
    for name, one in found.items():
        common = ", ".join(f"{height} x {width}: {count}" for (height, width), count in one.sizes.most_common(3))
        more = f", and {len(one.sizes) - 3} more sizes" if len(one.sizes) > 3 else ""
        lines.append(f"{name:12s} {one.count:7d}  {common}{more}")
    counted = {name: one for name, one in found.items() if one.pixels is not None}
    if not counted:
        return lines
    wide = max(map(len, [*names, "ignored"]))
    heads = "".join(f"  {name:>20s}" for name in counted)
    lines += ["", f"{'class':{wide}s}{heads}   (share of pixels, images that show it)"]
    for number, name in enumerate([*names, "ignored"]):
        cells = []
        for one in counted.values():
            share = one.pixels[number] / max(1, one.pixels.sum())
            shown = f"{one.images[number]:6d}" if number < len(names) else ""
            cells.append(f"  {share:13.2%} {shown:>6s}")
        lines.append(f"{name:{wide}s}{''.join(cells)}")
    return lines


def contact_sheet(source, ignore_index, most=6):
    """A picture of examples of each set, one below the other, uint8 [H, W, 3]: images, and labels laid over them."""
    columns = {}
    for name in SETS:
        examples = getattr(source, name)
        if examples is None:
            continue
        numbers = np.unique(np.linspace(0, examples.count - 1, most).round().astype(int))
        columns[name] = [as_bytes(examples.image(number)) for number in numbers]
        if examples.label is not None:
            labels = [examples.label(number) for number in numbers]
            columns[f"{name}, labels"] = [over(image, label, source.palette, ignore_index)
                                          for image, label in zip(columns[name], labels, strict=True)]  # fmt: skip
    return pictures.contact_sheet(list(zip_longest(*columns.values())), list(columns))


def as_bytes(image):
    return tf.cast(tf.clip_by_value(tf.round(image), 0, 255), tf.uint8).numpy()


def over(image, label, palette, ignore_index):
    """A label to look at: classes as colours over their image, an image as it is."""
    if label.shape.rank == 3:
        return as_bytes(label)
    resized = tf.image.resize(label[..., None], image.shape[:2], method="nearest")[..., 0].numpy()
    return pictures.overlay(image, resized, palette, ignore_index=ignore_index)


# Lists of a part.


def amount_of(text, total):
    """ "1/8", "0.125" or "12.5%" of the images, or a number of them."""
    try:
        share = Fraction(text[:-1]) / 100 if text.endswith("%") else Fraction(text)
    except (ValueError, ZeroDivisionError):
        share = Fraction(3, 2)  # neither
    if share >= 1 and (share.denominator > 1 or "." in text) and not text.endswith("%"):
        raise UserError(f"--labeled {text}: write a share as 1/8, or a number of images")
    count = round(share * total) if 0 < share < 1 or text.endswith("%") else int(share)
    if not 1 <= count < total:
        raise UserError(f"--labeled {text}: of {total} labeled images that is {count}; give 1 to {total - 1}")
    return count


def chosen(shows, count, seed):
    """The numbers of `count` images, drawn by seed so that as many classes as possible are shown. shows: bool [N, C].

    The class that the fewest images show comes first: of its images the one is taken that shows the most classes still
    lacking, the first in random order among equals. When no class is lacking any more the order alone decides.
    """
    order = np.random.default_rng([seed, len(shows)]).permutation(len(shows))
    taken, lacking = [], shows.any(0)
    while lacking.any() and len(taken) < count:
        rarest = np.where(lacking, shows.sum(0), len(shows) + 1).argmin()
        showing = [number for number in order if shows[number, rarest]]
        best = max(showing, key=lambda number: (shows[number] & lacking).sum())
        taken.append(best)
        lacking &= ~shows[best]
    left = [number for number in order if number not in set(taken)]
    return sorted(int(number) for number in [*taken, *left[: count - len(taken)]])


def split(source, ignore_index, text, seed):
    """(labeled, unlabeled): the lines of two lists, one with some of a Source's labeled images, the other with the rest
    of them and all that had no label before."""
    examples, classes = source.labeled, len(source.classes)
    if examples.lines is None:
        raise UserError("only data in files can be parted into lists; its source has none to name")
    count = amount_of(text, examples.count)
    if seed < 0:
        raise UserError(f"--seed {seed}: give 0 or more")
    labels = (examples.label(number).numpy() for number in range(examples.count))
    shows = np.array([class_pixels(label, classes, ignore_index)[:-1] > 0 for label in labels])
    taken = set(chosen(shows, count, seed))
    labeled = [line for number, line in enumerate(examples.lines) if number in taken]
    rest = [line for number, line in enumerate(examples.lines) if number not in taken]
    known, others = set(examples.names), source.unlabeled
    return labeled, rest + [line for name, line in zip(others.names, others.lines, strict=True) if name not in known]
