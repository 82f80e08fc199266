"""Files read in the middle of a run: each is compared with what it was when it was checked, then decoded.

What is unchanged can be decoded, since the check did so; so a file that is cut short, of too many pixels or gone is
found before a decoder sees it. The checksum costs some 1 % of decoding a photograph; see docs/design.md for the whole.
"""

import functools
import os
import stat
import zlib
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from tfssl.data.check import CLASSES
from tfssl.data.examples import Examples
from tfssl.data.faults import TABLE
from tfssl.data.files import MOST_BYTES, decode_image, decode_label, inspect
from tfssl.errors import UserError

IMAGE, LABEL = slice(0, 1), slice(-1, None)  # of a row; the same file where a label is made of its image
TYPES = {"image": (tf.string, []), "label": (tf.int32, [None, None])}


@dataclass(frozen=True)
class File:
    """name: below the root. size, sha256: what it was when the run began; crc32: the same, or None where it is already
    known to be another; problem: then why it cannot be used."""

    name: str
    path: str
    role: str
    size: int
    sha256: str
    crc32: int | None
    problem: str | None = None

    def read(self):
        """(bytes, None), or (None, what has become of it)."""
        try:
            with open(self.path, "rb") as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode):
                    return None, "is not a file any more"
                if status.st_size > MOST_BYTES:
                    return None, f"has become {status.st_size} bytes long"
                contents = file.read(status.st_size)
        except FileNotFoundError:
            return None, "is not there any more"
        except IsADirectoryError:
            return None, "is not a file any more"
        except OSError as error:
            return None, f"cannot be read any more ({error.strerror})"
        if len(contents) == self.size and zlib.crc32(contents) == self.crc32:
            return contents, None
        return None, inspect(contents, self.role).problem or "is not what it was when it was checked"


class Files:
    """The files of a set of examples: `rows`, of each its image and, where there are labels, its label.

    image(content, index), label(content, index): functions of the graph, of what is read of the first file and of the
    last: of an image its bytes, string [], of a label its values, int32 [h, w].
    """

    def __init__(self, rows, faults, image, label=None):
        self.rows, self.faults, self.image, self.label = rows, faults, image, label

    def first_good(self, place, position, step):
        """(index, what is read of each file) of the example place(position, 0) or, where that is bad, of the first that
        is good of place(position, 1), place(position, 2) ..., for the batch of a step; all int64.

        The others are looked for outside of the graph, which would pay for a loop in it with every good file too.
        """

        def search(index, position, step):
            contents, good, turn = *self._read(index, step), 0
            while not good:
                turn += 1
                index = place(tf.constant(position, tf.int64), tf.constant(turn, tf.int64)).numpy()
                contents, good = self._read(index, step)
            return index, *contents

        types, shapes = zip((tf.int64, []), *(TYPES[file.role] for file in self.rows[0]), strict=True)
        read = tf.numpy_function(search, [place(position, 0), position, step], types, stateful=False)
        index, *contents = map(tf.ensure_shape, read, shapes)
        return index, contents

    def one(self, index, which):
        """What is read of the IMAGE or the LABEL of an example, beside the stream. Where it is bad: outside of a graph
        a UserError, inside of one a stand-in, and `good` tells."""
        if tf.executing_eagerly():
            (file,) = self.rows[int(index)][which]
            content, problem = file.read()
            if problem:
                raise UserError(f"{file.name}: {problem}; bring it back as it was")
            return tf.constant(_values(content, file))
        kind, shape = TYPES[self.rows[0][which][0].role]
        read = tf.numpy_function(lambda index: self._read(index, self.faults.step, which)[0][0],
                                 [tf.cast(index, tf.int64)], kind, stateful=False)  # fmt: skip
        return tf.ensure_shape(read, shape)

    def good(self, index):
        """Whether an example that was read could be used; a UserError where the run must stop."""
        self.faults.refuse()
        return not self._is_bad(index, self.faults.step)

    def _is_bad(self, index, step):
        return any(self.faults.is_bad(file.name, step) for file in self.rows[index])

    def _read(self, index, step, which=slice(None)):
        """(what is read of each file, whether all of them are good) of an example, for the batch of a step."""
        index, step = int(index), int(step)
        row, contents = self.rows[index][which], []
        nothing = [stand_in(file.role) for file in row]
        if self.faults.stopped:
            return nothing, True
        bad = self._is_bad(index, step)
        for file in row if not bad else ():
            content, problem = file.read()
            if problem:
                self.faults.found(file.name, problem, step)
                bad = True
                break
            contents.append(_values(content, file))
        if not bad:
            return contents, True
        if len(self.rows) <= len(self.faults.since) and all(map(self._is_listed, self.rows)):
            self.faults.stop(f"step {step}: no example is left in the set of {row[0].name}: all are in {TABLE}; bring "
                             "the files back and begin anew in another --output-dir")  # fmt: skip
        return nothing, self.faults.stopped is not None

    def _is_listed(self, row):
        return any(file.name in self.faults.since for file in row)


@functools.cache  # and not at import: TensorFlow must be told of other workers before its first operation
def stand_in(role):
    """What stands in for a file where a run is about to stop: one black pixel, which is class 0."""
    image = tf.zeros([1, 1, 1], tf.uint8)
    return tf.io.encode_png(image).numpy() if role == "image" else np.zeros([1, 1], np.int32)


def _values(content, file):
    return decode_label(content) if file.role == "label" else content


def examples_of(pairs, files, faults, size):
    """Examples of checked pairs, whose rows of File are `files`; without a label where the pairs have none."""
    meanings = list(dict.fromkeys(pair.values or CLASSES for pair in pairs))  # two where labels are of two kinds
    which = [meanings.index(pair.values or CLASSES) for pair in pairs]

    def image(content, index):
        pixels = decode_image(content)
        if size is None:
            return tf.ensure_shape(tf.cast(pixels, tf.float32), [None, None, 3])
        return tf.ensure_shape(tf.image.resize(pixels, size, "bilinear", antialias=True), [*size, 3])

    def label(indices, index):
        return indices if meanings == [CLASSES] else tf.gather(tf.gather(meanings, tf.gather(which, index)), indices)

    labeled = pairs[0].label is not None
    lines = tuple("\t".join(filter(None, [pair.name, pair.label_name])) for pair in pairs)
    return of_files(tuple(pair.name for pair in pairs), Files(files, faults, image, label if labeled else None), lines)


def of_files(names, files, lines=None):
    """The Examples of Files."""

    def image(index):
        return files.image(files.one(index, IMAGE), index)

    def label(index):
        return files.label(files.one(index, LABEL), index)

    return Examples(names, image, label if files.label else None, lines, files)
