"""What every method promises, as a table: the contract tests run over all of METHODS and read here what to expect."""

from dataclasses import dataclass, field

import pytest

from tests.networks_for_tests import make_batch, make_method, step
from tfssl.methods import METHODS

every_method = pytest.mark.parametrize("name", METHODS)


@dataclass
class Contract:
    """taught: {term: the networks it teaches}. follows: {network: the one whose average it is}. shown: options under
    which a step shows all its parts (no warm-up, no ramp-up from zero, a threshold some pixels pass). unmixed: options
    without mixing of images or other draws outside of the networks. alone: options that turn every unlabeled term and
    every transfer off; the network `learner` is then trained as the supervised method trains its own. fixed: networks
    that no step changes. nameless: options without draws that go by a class's number, under which renaming the
    classes renames the step. noisy: what is watched of the students, whose noise it shows. sees_all: whether a head
    sees so far that no pixel of an image is out of reach of those that count.
    """

    taught: dict
    follows: dict
    learner: str
    alone: dict
    shown: dict = field(default_factory=dict)
    unmixed: dict = field(default_factory=dict)
    fixed: tuple = ()
    noisy: tuple = ()
    sees_all: bool = False
    nameless: dict = field(default_factory=dict)

    def __post_init__(self):
        self.taught = {term: {roles} if isinstance(roles, str) else set(roles) for term, roles in self.taught.items()}

    @property
    def taught_networks(self):
        return set().union(*self.taught.values())

    @property
    def networks(self):
        return {*self.taught_networks, *self.follows, *self.fixed}


STUDENT = {"supervised": "student", "consistency": "student"}
TEACHER = {"teacher": "student"}
SMALL = {"detector_width": 4, "detector_stride": 8, "ramp_up": 0}
PAIRS = {"teacher_1": "student_1", "teacher_2": "student_2"}
DETECTED = {"frozen_norm": True}  # the detector's batch norm makes 1e-3 of a rounding

CONTRACTS = {
    "supervised": Contract(
        taught={"supervised": "network"}, follows={"average": "network"}, learner="network", alone={},
    ),
    "mean_teacher": Contract(
        taught=STUDENT, follows=TEACHER, learner="student", alone={"consistency_weight": 0.0},
        shown={"ramp_up": 1, "threshold": 0.5}, unmixed={"mix": "none"},
    ),
    "cutmix": Contract(
        taught=STUDENT, follows=TEACHER, learner="student", alone={"consistency_weight": 0.0},
        shown={"threshold": 0.5}, unmixed={"mix": "none"},
    ),
    "classmix": Contract(
        taught=STUDENT, follows=TEACHER, learner="student", alone={"consistency_weight": 0.0},
        shown={"threshold": 0.5}, unmixed={"mix": "none"}, nameless={"mix": "none"},
    ),
    "cps": Contract(
        taught={f"{term}_{k}": f"network_{k}" for term in ("supervised", "cross") for k in (1, 2)},
        follows={"average": "network_1"}, learner="network_1", alone={"cross_weight": 0.0},
        shown={"ema_decay": 0.9, "mix": "cutmix"}, unmixed={"mix": "none"}, noisy=("total_variation",),
    ),
    "mutual": Contract(
        taught={f"{term}_{k}": f"student_{k}" for term in ("supervised", "peer") for k in (1, 2)},
        follows={"average_1": "student_1", "average_2": "student_2"}, learner="student_1",
        alone={"unlabeled_weight": 0.0}, shown={"warm_up": 0}, unmixed={"cutmix": "none"},
    ),
    "unimatch": Contract(
        taught=dict.fromkeys(("supervised", "strong_1", "strong_2", "feature"), "network"),
        follows={"average": "network"}, learner="network",
        alone={"strong_weight": 0.0, "feature_weight": 0.0, "loss_scale": 1.0},
        shown={"threshold": 0.5, "ema_decay": 0.9}, unmixed={"mix": "none", "channel_dropout": 0.0},
    ),
    "fixmatch": Contract(
        taught={"supervised": "network", "strong": "network"}, follows={"average": "network"}, learner="network",
        alone={"strong_weight": 0.0, "loss_scale": 1.0}, shown={"threshold": 0.5, "ema_decay": 0.9},
        unmixed={"mix": "none"},
    ),
    "s4l": Contract(
        taught={"supervised": "network", "rotation": {"network", "rotation"}}, follows={"average": "network"},
        learner="network", alone={"rotation_weight": 0.0, "rotated_labels": False}, shown={"ema_decay": 0.9},
    ),
    "robust_mutual": Contract(
        taught={f"{term}_{k}": f"student_{k}" for term in ("supervised", "peer", "self") for k in (1, 2)},
        follows=PAIRS, learner="student_1", alone={"unlabeled_weight": 0.0},
        shown={"warm_up": 0}, unmixed={"cutmix": "none"},
    ),
    "gta": Contract(
        taught={"assistant_unlabeled": "assistant", "supervised": "student"}, follows=TEACHER, learner="student",
        alone={"ema_decay": 1.0}, shown={"warm_up": 0}, unmixed={"mix": "none"},
    ),
    "u2pl": Contract(
        taught={"supervised": "student", "unsupervised": "student", "contrast": ("student", "projection")},
        follows=TEACHER | {"projection_teacher": "projection"}, learner="student",
        alone={"unsupervised_weight": 0.0, "contrast_weight": 0.0},
        shown={"warm_up": 0, "rank_low": 1, "anchors": 9, "negatives": 20, "pushed": 30, "channels": 12,
               "background_capacity": 100, "queue_capacity": 100, "temperature": 0.1, "contrast_weight": 1.0},
        unmixed={"mix": "none"},
    ),
    "cross_teacher": Contract(
        taught={f"{term}_{k}": f"student_{k}" for term in ("supervised", "cross", "high", "low") for k in (1, 2)},
        follows=PAIRS, learner="student_1", alone={"cross_weight": 0.0, "high_weight": 0.0, "low_weight": 0.0},
        shown={"start_by": 0, "anchors": 40}, noisy=("high_pixels", "low_pixels"),
    ),
    "gct": Contract(
        taught={f"{term}_{k}": f"network_{k}" for term in ("supervised", "consistency", "correction") for k in (1, 2)}
        | {"detector": "flaw_detector"},
        follows={"average": "network_1"}, learner="network_1",
        alone={"consistency_weight": 0.0, "correction_weight": 0.0},
        shown={**SMALL, "consistency_weight": 1.0, "ema_decay": 0.9}, sees_all=True,
        noisy=("total_variation", "used_pixels", "corrected_pixels"), nameless=DETECTED,
    ),
    "adversarial": Contract(
        taught={**dict.fromkeys(("supervised", "adversarial_labeled", "adversarial_unlabeled", "semi"), "network"),
                "discriminator": "discriminator"},
        follows={"average": "network"}, learner="network",
        alone={"labeled_adversarial_weight": 0.0, "unlabeled_adversarial_weight": 0.0, "semi_weight": 0.0},
        shown={"warm_up": 0, "discriminator_width": 4, "ema_decay": 0.9, "labeled_adversarial_weight": 0.1,
               "unlabeled_adversarial_weight": 0.1}, sees_all=True,
    ),
    "guided_mean_teacher": Contract(
        taught={**STUDENT, "detector": "flaw_detector"}, follows=TEACHER, learner="student",
        alone={"consistency_weight": 0.0}, shown=SMALL, sees_all=True, noisy=("used_pixels",), nameless=DETECTED,
    ),
}  # fmt: skip


def shown(name, **options):
    return make_method(name, **{**CONTRACTS[name].shown, **options})


def started(name, **options):
    """A method some steps on, so that teachers, prototypes and ramps are no longer what they begin as."""
    method = shown(name, **{"rate": 0.02, **options})
    for seed in range(3):
        step(method, make_batch(seed))
    return method
