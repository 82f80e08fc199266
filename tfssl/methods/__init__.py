"""One page per method, and the table of all: the name in the configuration, and the class."""

from tfssl.methods.adversarial import Adversarial
from tfssl.methods.cross_teacher import CrossTeacher
from tfssl.methods.gct import GCT
from tfssl.methods.gta import GTA
from tfssl.methods.guided_mean_teacher import GuidedMeanTeacher
from tfssl.methods.mean_teacher import CutMix, MeanTeacher
from tfssl.methods.robust_mutual import RobustMutual
from tfssl.methods.supervised import Supervised
from tfssl.methods.u2pl import U2PL

METHODS = {
    "supervised": Supervised,
    "mean_teacher": MeanTeacher,
    "cutmix": CutMix,
    "robust_mutual": RobustMutual,
    "gta": GTA,
    "u2pl": U2PL,
    "cross_teacher": CrossTeacher,
    "gct": GCT,
    "guided_mean_teacher": GuidedMeanTeacher,
    "adversarial": Adversarial,
}
