"""One page per method, and the table of all: the name in the configuration, and the class."""

from tfssl.methods.adversarial import Adversarial
from tfssl.methods.gct import GCT
from tfssl.methods.guided_mean_teacher import GuidedMeanTeacher
from tfssl.methods.mean_teacher import CutMix, MeanTeacher
from tfssl.methods.robust_mutual import RobustMutual
from tfssl.methods.supervised import Supervised

METHODS = {
    "supervised": Supervised,
    "mean_teacher": MeanTeacher,
    "cutmix": CutMix,
    "robust_mutual": RobustMutual,
    "gct": GCT,
    "guided_mean_teacher": GuidedMeanTeacher,
    "adversarial": Adversarial,
}
