"""The network as it was when it scored best on the held-out images, kept beside the checkpoints."""

import hashlib
import os
import zipfile
import zlib

import numpy as np

from tfssl import disk
from tfssl.errors import UserError

BEST = "best.npz"


class Best:
    """The best weights so far of one network, in a file that is always whole."""

    def __init__(self, folder):
        self.path = folder / BEST
        self.step, self.score = None, -np.inf
        if self.path.is_file():
            held = self.read()
            self.step, self.score = int(held["step"]), float(held["score"])

    def offer(self, network, step, score):
        """Keep the network if it scores higher than all before."""
        if score <= self.score:
            return
        self.step, self.score = step, score
        self.path.parent.mkdir(exist_ok=True)
        partial = self.path.with_name(f".partial-{self.path.name}")
        weights = {f"weight_{number}": value for number, value in enumerate(network.get_weights())}
        held = {"step": np.asarray(step), "score": np.asarray(score), **weights}
        with open(partial, "wb") as file:
            np.savez(file, sha256=digest(held), **held)
        disk.flush(partial)
        os.replace(partial, self.path)

    def restore(self, network):
        """Give the network the best weights, if any have been kept."""
        if self.step is None:
            return
        held = self.read()
        network.set_weights([held[f"weight_{number}"] for number in range(len(network.weights))])

    def read(self):
        """All that the file holds, if it is what was written."""
        try:
            with np.load(self.path) as file:
                held = {name: file[name] for name in file.files}
            whole = str(held.pop("sha256")) == digest(held)
        except (OSError, ValueError, KeyError, EOFError, NotImplementedError, RuntimeError, zipfile.BadZipFile,
                zlib.error):  # fmt: skip
            whole = False
        if not whole:
            raise UserError(f"{self.path}: is not what was written, and the best network is lost with it; delete that "
                            "file to ship the best of what comes, or where nothing comes the last")  # fmt: skip
        return held


def forget(folder):
    """Remove what an earlier run has kept there."""
    (folder / BEST).unlink(missing_ok=True)


def digest(arrays):
    """SHA-256 over names, types, shapes and values."""
    found = hashlib.sha256()
    for name in sorted(arrays):
        value = np.ascontiguousarray(arrays[name])
        found.update(f"{name} {value.dtype.str} {value.shape}\n".encode())
        found.update(value.tobytes())
    return found.hexdigest()


def refuse_reported(source):
    """The images a network is chosen by must be none of those on which its score is reported."""
    if source.held_out is None:
        raise UserError("evaluation.select is held_out, but the data has no such set; name one in data.held_out")
    for name in ("validation", "test"):
        examples = getattr(source, name)
        both = set(source.held_out.names) & set(examples.names if examples else ())
        if both:
            raise UserError(f"evaluation.select: {len(both)} image(s) of data.held_out, as {min(both)}, are in "
                            f"data.{name} too, on which scores are reported; hold others out")  # fmt: skip
