"""The one shape every data source has for the rest of the library."""

import re
from collections.abc import Callable
from dataclasses import dataclass

import tensorflow as tf

from tfssl.errors import UserError


@dataclass(frozen=True)
class Examples:
    """A finite set of examples, each read by its index inside a tf.data map.

    image(index): float32 [H, W, 3], RGB 0..255, already at the configured size.
    label(index): int32 [h, w], classes, or float32 [h, w, 3], an image 0..255, at the label's own size; or None
        where there are no labels: an unlabeled set has no way to its labels at all.
    lines: the examples as a list of split_lists names them; None where they are no files.
    """

    names: tuple[str, ...]
    image: Callable
    label: Callable | None = None
    lines: tuple[str, ...] | None = None

    @property
    def count(self):
        return len(self.names)


@dataclass(frozen=True)
class Source:
    """All sets of one data source.

    flips: whether a mirrored image still means the same. task: the name of the one its labels are for; where they are
    images, classes and palette are empty. resamples: whether images may be scaled and turned; single pixels' noise may
    not, it would be another one then. ignore_index: the value in its labels that is none of the classes, where that is
    not for the user to say.
    """

    labeled: Examples
    unlabeled: Examples
    validation: Examples
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    test: Examples | None = None
    held_out: Examples | None = None
    flips: bool = True
    task: str = "segmentation"
    resamples: bool = True
    ignore_index: int | None = None


def look(examples, number, classes, ignore_index):
    """(image, label or None) of one example; a UserError that names it where it cannot be trained on."""
    try:
        image = examples.image(number)
        label = examples.label(number) if examples.label else None
    except (tf.errors.OpError, UnicodeDecodeError) as error:  # the second where what TensorFlow says holds garbage
        told = getattr(error, "message", "").partition("\n")[0]
        told = re.sub(r"{{.*?}}|\[Op:.*", "", told).strip() or "it cannot be decoded"
        raise UserError(f"{examples.names[number]}: {told}") from error
    if classes and label is not None:
        strange = tf.unique(tf.reshape(label, [-1])).y.numpy()
        strange = sorted(value for value in strange.tolist() if value >= classes and value != ignore_index)
        if strange:
            raise UserError(f"{examples.names[number]}: the label has values {', '.join(map(str, strange))}; allowed: "
                            f"0 to {classes - 1} for task.classes and task.ignore_index {ignore_index}")  # fmt: skip
    return image, label
