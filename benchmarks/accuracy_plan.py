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
SHARES = [0.1722, 0.2117, 0.0112, 0.3543, 0.0541, 0.1231, 0.0057, 0.0015, 0.0581, 0.0062, 0.0018]
ROOTS = [share**0.5 for share in SHARES]
BALANCE = [
    probe("supervised, prior", "supervised", task__prior=SHARES),
    probe("supervised, root of prior", "supervised", task__prior=ROOTS),
]
MIXED = [
    probe("paste", "classmix", method__mix="paste", method__confidence="selects"),
    probe("paste, prior", "classmix", method__mix="paste", method__confidence="selects", task__prior=ROOTS),
    probe("classmix", "classmix", method__confidence="selects"),
]
SYSTEMS = [probe(name, name) for name in ("robust_mutual", "gta", "u2pl", "cross_teacher", "gct")]
PASTED = [
    probe(f"{name}, paste", name, method__mix="paste") for name in ("robust_mutual", "gta", "u2pl", "cross_teacher")
]
PARTS = {"pasted": PASTED, "systems": SYSTEMS, "probe": SUPERVISED, "balance": BALANCE[1:], "mixed": MIXED}
