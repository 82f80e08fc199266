"""Files read in the middle of a run: each is compared with what it was when it was checked, then decoded.

What is unchanged can be decoded, since the check did so; so a file that is cut short, of too many pixels or gone is
found before a decoder sees it. The checksum costs some 1 % of decoding.
"""

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

# What stands in for a file where a run is about to stop: one black pixel, which is class 0.
STAND_IN = tf.io.encode_png(np.zeros([1, 1, 1], np.uint8)).numpy()


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
                contents = file.read(MOST_BYTES + 1)
        except FileNotFoundError:
            return None, "is not there any more"
        except IsADirectoryError:
            return None, "is not a file any more"
        except OSError as error:
            return None, f"cannot be read any more ({error.strerror})"
        if len(contents) == self.size and zlib.crc32(contents) == self.crc32:
            return contents, None
        return None, inspect(contents, self.role).problem or "is not what it was when the run began"


class Files:
    """The files of a set of examples: `rows`, of each its image and, where there are labels, its label.

    image(contents, index), label(contents, index): functions of the graph that decode the bytes of one example,
    contents being string [1] or [2].
    """

    def __init__(self, rows, faults, image, label=None):
        self.rows, self.faults, self.image, self.label = rows, faults, image, label

    def read(self, index, step):
        """(contents, whether all of them are good) of an example, for the batch of a step; index and step int64."""
        contents, good = tf.numpy_function(self._read, [index, step], [tf.string, tf.bool], stateful=False)
        return tf.ensure_shape(contents, [len(self.rows[0])]), tf.ensure_shape(good, [])

    def first_good(self, place, step):
        """(index, contents) of the example place(0) or, where that is bad, of the first of place(1), place(2) ..."""
        index = place(0)
        contents, good = self.read(index, step)

        def next_one(turn, index, contents, good):
            index = place(turn)
            return turn + 1, index, *self.read(index, step)

        def others():
            state = (tf.constant(1, tf.int64), index, contents, good)
            _, found, its_contents, _ = tf.while_loop(lambda *state: ~state[-1], next_one, state)
            return found, its_contents

        return tf.cond(good, lambda: (index, contents), others)

    def one(self, index):
        """The contents of an example beside the stream. Where it is bad: outside of a graph a UserError, inside of one
        a stand-in, and `good` tells."""
        if tf.executing_eagerly():
            contents, good = self._read(int(index), self.faults.step)
            if not (good and self.good(int(index))):
                names = " with ".join(file.name for file in self.rows[int(index)])
                raise UserError(f"{names}: cannot be used any more, see above; bring it back as it was")
            return tf.constant(contents)
        index = tf.cast(index, tf.int64)
        contents, _ = tf.numpy_function(self._read_now, [index], [tf.string, tf.bool], stateful=False)
        return tf.ensure_shape(contents, [len(self.rows[0])])

    def good(self, index):
        """Whether an example that was read could be used; a UserError where the run must stop."""
        self.faults.refuse()
        return not self._is_bad(index, self.faults.step)

    def _is_bad(self, index, step):
        return any(self.faults.is_bad(file.name, step) for file in self.rows[index])

    def _read_now(self, index):
        return self._read(index, self.faults.step)

    def _read(self, index, step):
        index, step = int(index), int(step)
        row, contents = self.rows[index], []
        nothing = np.array([STAND_IN] * len(row), object)
        if self.faults.stopped:
            return nothing, np.bool_(True)
        bad = self._is_bad(index, step)
        for file in row if not bad else ():
            content, problem = file.read()
            if problem:
                self.faults.found(file.name, problem, step)
                bad = True
                break
            contents.append(content)
        if not bad:
            return np.array(contents, object), np.bool_(True)
        if len(self.rows) <= len(self.faults.since) and all(map(self._is_listed, self.rows)):
            self.faults.stop(f"step {step}: no example is left in the set of {row[0].name}: all are in {TABLE}; bring "
                             "the files back and begin anew in another --output-dir")  # fmt: skip
        return nothing, np.bool_(self.faults.stopped is not None)

    def _is_listed(self, row):
        return any(file.name in self.faults.since for file in row)


def examples_of(pairs, files, faults, size):
    """Examples of checked pairs, whose rows of File are `files`; without a label where the pairs have none."""
    meanings = list(dict.fromkeys(pair.values or CLASSES for pair in pairs))  # two where labels are of two kinds
    which = [meanings.index(pair.values or CLASSES) for pair in pairs]

    def image(contents, index):
        pixels = decode_image(contents[0])
        if size is None:
            return tf.ensure_shape(tf.cast(pixels, tf.float32), [None, None, 3])
        return tf.ensure_shape(tf.image.resize(pixels, size, "bilinear", antialias=True), [*size, 3])

    def label(contents, index):
        indices = tf.numpy_function(decode_label, [contents[1]], tf.int32, stateful=False)
        indices = tf.ensure_shape(indices, [None, None])
        return indices if meanings == [CLASSES] else tf.gather(tf.gather(meanings, tf.gather(which, index)), indices)

    labeled = pairs[0].label is not None
    lines = tuple("\t".join(filter(None, [pair.name, pair.label_name])) for pair in pairs)
    return of_files(tuple(pair.name for pair in pairs), Files(files, faults, image, label if labeled else None), lines)


def of_files(names, files, lines=None):
    """The Examples of Files."""

    def image(index):
        return files.image(files.one(index), index)

    def label(index):
        return files.label(files.one(index), index)

    return Examples(names, image, label if files.label else None, lines, files)
