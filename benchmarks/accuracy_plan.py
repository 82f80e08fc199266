"""Which runs benchmarks/accuracy.py makes, part by part."""

import re
from dataclasses import dataclass, field

KEY = ("part", "row", "partition", "seed")


@dataclass(frozen=True)
class Trial:
    """One run: a row of a part's table, with one seed on one partition; settings on top of its configuration."""

    part: str
    row: str
    partition: str = "1_32"
    seed: int = 0
    method: str = "supervised"
    settings: dict = field(default_factory=dict)

    @property
    def key(self):
        return {"part": self.part, "row": self.row, "partition": self.partition, "seed": str(self.seed)}

    @property
    def config(self):
        return f"configs/camvid/{self.method}.json"

    @property
    def folder(self):
        return re.sub(r"[^\w.-]+", "_", "_".join(self.key.values()))


def probe(row, method, partition="1_32", seed=0, **settings):
    settings = {key.replace("__", "."): value for key, value in settings.items()}
    return Trial("probe", row, partition, seed, method, settings)


SUPERVISED = [
    probe("supervised", "supervised"),
    probe("all labels", "supervised", "all", training__steps=4500),
]
# Under "paste, prior" the loss was of logits + log of the roots of the shares of the classes in 1_32/seed0: what
# task.balance 0.5 does, before it counted them itself.
MIXED = [
    probe("paste", "classmix", method__mix="paste", method__confidence="selects"),
    probe("paste, prior", "classmix", method__mix="paste", method__confidence="selects", task__balance=0.5),
    probe("classmix", "classmix", method__confidence="selects"),
]
BALANCED = [
    probe("robust_mutual, paste, balanced", "robust_mutual", task__balance=0.5, method__mix="paste",
          method__warm_up=0.1),
    probe("supervised, balanced", "supervised", task__balance=0.5),
    probe("gta, paste, balanced", "gta", task__balance=0.5, method__mix="paste", method__warm_up=0.1),
    probe("u2pl, paste, balanced", "u2pl", task__balance=0.5, method__mix="paste", method__warm_up=0.1),
    probe("cross_teacher, paste, balanced", "cross_teacher", task__balance=0.5, method__mix="paste",
          method__cross_from=0.1),
    probe("gct, balanced", "gct", task__balance=0.5),
]  # fmt: skip
PARTS = {"probe": SUPERVISED, "mixed": MIXED, "balanced": BALANCED}
