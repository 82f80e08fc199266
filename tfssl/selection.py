"""The network as it was when it scored best on the held-out images, kept beside the checkpoints."""

import os

import numpy as np

from tfssl.errors import UserError


class Best:
    """The best weights so far of one network, in a file that is always whole."""

    def __init__(self, folder):
        self.path = folder / "best.npz"
        self.step, self.score = None, -np.inf
        if self.path.is_file():
            with np.load(self.path) as file:
                self.step, self.score = int(file["step"]), float(file["score"])

    def offer(self, network, step, score):
        """Keep the network if it scores higher than all before."""
        if score <= self.score:
            return
        self.step, self.score = step, score
        self.path.parent.mkdir(exist_ok=True)
        partial = self.path.with_name(f".partial-{self.path.name}")
        weights = {f"weight_{number}": value for number, value in enumerate(network.get_weights())}
        np.savez(partial, step=step, score=score, **weights)
        os.replace(partial, self.path)

    def restore(self, network):
        """Give the network the best weights, if any have been kept."""
        if self.step is None:
            return
        with np.load(self.path) as file:
            network.set_weights([file[f"weight_{number}"] for number in range(len(network.weights))])


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
