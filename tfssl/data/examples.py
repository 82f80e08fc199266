"""The one shape every data source has for the rest of the library."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import tensorflow as tf

from tfssl.data.faults import Faults
from tfssl.errors import UserError


@dataclass(frozen=True)
class Examples:
    """A finite set of examples, each read by its index inside a tf.data map.

    image(index): float32 [H, W, 3], RGB 0..255, already at the configured size.
    label(index): int32 [h, w], classes, or float32 [h, w, 3], an image 0..255, at the label's own size; or None
        where there are no labels: an unlabeled set has no way to its labels at all.
    lines: the examples as a list of split_lists names them; None where they are no files.
    files: the reading.Files of them, which may become bad in the middle of a run; None where they are no files.
    """

    names: tuple[str, ...]
    image: Callable
    label: Callable | None = None
    lines: tuple[str, ...] | None = None
    files: object | None = None

    @property
    def count(self):
        return len(self.names)

    def each(self, function, most=None):
        """Yield function(index) of every example, or of the first `most`, but for those whose files have become bad."""
        for index in range(self.count if most is None else min(self.count, most)):
            found = function(index)
            if self.files is None or self.files.good(index):
                yield found

    def usable(self):
        """The indices of those that are not known to have become bad."""
        return [index for index in range(self.count) if self.files is None or self.files.good(index)]

    def sound(self):
        """Those examples alone that are not known to have become bad."""
        kept = self.usable()
        if len(kept) == self.count:
            return self

        def of_kept(function):
            return function and (lambda index: function(tf.gather(tf.constant(kept, tf.int64), index)))

        lines = self.lines and tuple(self.lines[index] for index in kept)
        names = tuple(self.names[index] for index in kept)
        return Examples(names, of_kept(self.image), of_kept(self.label), lines)


@dataclass(frozen=True)
class Source:
    """All sets of one data source.

    flips: whether a mirrored image still means the same. task: the name of the one its labels are for; where they are
    images, classes and palette are empty. resamples: whether images may be scaled and turned; single pixels' noise may
    not, it would be another one then. ignore_index: the value in its labels that is none of the classes, where that is
    not for the user to say. origin: what the examples are of, where they are no files. left_out: files of examples that
    the check before training left out. faults: of the files, see faults.Faults.
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
    origin: str = ""
    left_out: tuple[str, ...] = ()
    faults: Faults = field(default_factory=Faults)

    @property
    def sets(self):
        """{name: Examples} of those there are."""
        names = ("labeled", "unlabeled", "validation", "held_out", "test")
        return {name: examples for name in names if (examples := getattr(self, name)) is not None}

    def sound(self):
        """The source of those examples alone that are not known to have become bad."""
        return replace(self, **{name: examples.sound() for name, examples in self.sets.items()})


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
