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
    def is_control(self):
        """Whether its pseudo-labels come from the truth (benchmarks/oracle.py)."""
        return self.settings.get("method.name") in ("oracle", "corrected", "selected")

    @property
    def folder(self):
        return re.sub(r"[^\w.-]+", "_", "_".join(self.key.values()))


def on_chosen(part, row, method, partition="1_32", **settings):
    """A run by which settings are chosen: with the labeled images of seed 0, and its draws too where none is given."""
    return Trial(part, row, partition, 0, method, {key.replace("__", "."): value for key, value in settings.items()})


# Where the distance lies, and what pasting and balance do about it, on larger crops than configs/camvid has now
# (docs/study.md). Under "paste, prior" the loss was of logits + log of the roots of the shares of the classes in
# 1_32/seed0: what task.balance 0.5 does, before it counted them itself.
WIDE = {"data__crop": [160, 160], "training__steps": 1500}
PLAIN, BALANCED = {"task__balance": 0.0, **WIDE}, {"task__balance": 0.5, **WIDE}
PROBES = [
    on_chosen("probe", "supervised", "supervised", **PLAIN),
    on_chosen("probe", "all labels", "supervised", "all", **PLAIN | {"training__steps": 4500}),
    on_chosen("probe", "paste", "classmix", **PLAIN),
    on_chosen("probe", "paste, prior", "classmix", **BALANCED),
    on_chosen("probe", "supervised, balanced", "supervised", **BALANCED),
    on_chosen("probe", "gta, paste, balanced", "gta", **BALANCED),
    on_chosen("probe", "robust_mutual, paste, balanced", "robust_mutual", method__threshold=0.0, **BALANCED),
]

# What helps, one change at a time, from the mean teacher with labeled classes pasted, whose threshold is 0.9; what
# limits it: controls that know the unlabeled images' labels; and the options of the five systems.
FROZEN = [{"name": "deeplab_v3_plus", "batch_norm": "frozen"}]
CHANGES = {
    "mean teacher": {},
    "threshold 0": {"method__threshold": 0.0},
    "threshold 0.7": {"method__threshold": 0.7},
    "threshold 0.97": {"method__threshold": 0.97},
    "2 labeled, 6 unlabeled": {"training__labeled_batch": 2, "training__unlabeled_batch": 6},
    "8 unlabeled": {"training__unlabeled_batch": 8},
    "rate 0.0005": {"training__learning_rate": 0.0005},
    "rate 0.002": {"training__learning_rate": 0.002},
    "average of 0.999": {"method__ema_decay": 0.999},
    "frozen batch norm": {"networks": FROZEN},
    "weak view": {"method__student_view": "weak"},
    "strong labeled view": {"data__labeled_view": "strong"},
    "four changes of colour": {"data__strong": {"operations": 4}},
    "consistency 0.3": {"method__consistency_weight": 0.3},
    "consistency 3": {"method__consistency_weight": 3.0},
    "balance 0": {"task__balance": 0.0},
    "balance 1": {"task__balance": 1.0},
    "no pasting": {"method__mix": "classmix"},
    **{name: {"method__name": name} for name in ("oracle", "corrected", "selected")},
}
SYSTEMS_CHANGED = {
    "robust_mutual": [{"threshold": 0.9}, {"threshold": 0.9, "rectification": False},
                      {"threshold": 0.9, "unlabeled_weight": 0.5}],
    "u2pl": [{"student_view": "strong"}, {"student_view": "strong", "unreliable": 0.5}],
    "cross_teacher": [{"label_threshold": 0.9, "student_view": "strong"}],
    "gct": [{}, {"mix": "paste", "consistency_weight": 2.0}],
    "gta": [{}],
    "unimatch": [{}],
}  # fmt: skip
STUDY = [
    on_chosen("study", "supervised", "supervised"),
    *(on_chosen("study", f"supervised, other draws {seed}", "supervised", seed=seed) for seed in (10, 11)),
    on_chosen("study", "supervised, strong labeled view", "supervised", data__labeled_view="strong"),
    *(on_chosen("study", row, "classmix", **changes) for row, changes in CHANGES.items()),
    *(on_chosen("study", f"mean teacher, other draws {seed}", "classmix", seed=seed) for seed in (10, 11)),
    on_chosen("study", "3,000 steps", "classmix", training__steps=3000),
    *(on_chosen("study", f"{row}, 4,000 steps", method, training__steps=4000)
      for row, method in (("supervised", "supervised"), ("mean teacher", "classmix"))),
    *(on_chosen("study", ", ".join([method, *(f"{key} {value}" for key, value in options.items())]), method,
                **{f"method__{key}": value for key, value in options.items()})
      for method, changes in SYSTEMS_CHANGED.items() for options in changes),
]  # fmt: skip

# The table. `longer`: the twin at the time that the dearest of the systems takes, and the best method as many steps.
SYSTEMS = ("robust_mutual", "gta", "u2pl", "cross_teacher", "gct")
BEST = "classmix"  # with labeled classes pasted: what gained most in the study
OTHERS = ("unimatch", "fixmatch", "cps", "mutual", "mean_teacher", "cutmix", "adversarial", "s4l",
          "guided_mean_teacher")  # fmt: skip
SPLITS = [(partition, seed) for seed in range(3) for partition in ("1_32", "1_16")]
TABLE = [
    *(Trial("table", method, *split, method) for method in ("supervised", BEST) for split in SPLITS),
    *(Trial("table", "all labels", "all", seed, settings={"training.steps": 4500}) for seed in range(3)),
    *(Trial("table", method, *split, method) for split in SPLITS for method in SYSTEMS),
    *(Trial("table", f"{method}, longer", *split, method, {"training.steps": 4500})
      for method in ("supervised", BEST) for split in SPLITS),
    *(Trial("table", method, "1_32", 0, method) for method in OTHERS),
    *(Trial("table", method, "1_8", 0, method) for method in ("supervised", BEST, *SYSTEMS)),
]  # fmt: skip

# The papers' own ablations, by docs/papers.md, of the configurations here; their whole methods are rows of the table.
# At the weights and mixing of these configurations: without noise in the images nothing is pasted either.
CONTRASTS = {"cross_weight": 0.0}
ABLATED = {
    "robust_mutual": {
        "IML": {"rectification": False, "input_noise": False, "model_noise": False},
        "IML, model noises": {"rectification": False, "input_noise": False},
        "IML, input noises": {"rectification": False, "model_noise": False},
        "IML, full noises": {"rectification": False},
        "two stages": {"stages": 2, "p0": "stage"},
    },
    "gta": {
        "assistant, not reweighted": {"reweighting": False},
        "all parameters handed on": {"reweighting": False, "transmission": "all"},
        "assistant on pseudo-labels alone": {"assistant_learns": "pseudo_labels"},
        "student on both": {"student_learns": "both"},
    },
    "u2pl": {
        "reliable": {"negatives_from": "lowest"},
        "all": {"negatives_from": "all"},
        "no contrast": {"contrast_weight": 0.0},
    },
    "cross_teacher": {
        "cross teacher alone": {"memory_size": 0},
        "high-level contrast alone": {**CONTRASTS, "threshold": 0.0},
        "low-level contrast alone": {**CONTRASTS, "threshold": 1.0},
        "both contrasts": CONTRASTS,
    },
    "gct": {"consistency alone": {"correction_weight": 0.0}, "correction alone": {"consistency_weight": 0.0}},
}
ABLATIONS = [
    Trial("ablation", f"{method}: {row}", "1_32", 0, method, {f"method.{key}": value for key, value in options.items()})
    for method, rows in ABLATED.items() for row, options in rows.items()
]  # fmt: skip

PARTS = {"probe": PROBES, "study": STUDY, "table": TABLE, "ablation": ABLATIONS}
