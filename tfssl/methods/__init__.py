"""One page per method, and the table of all: the name in the configuration, and the class."""

from tfssl.methods.adversarial import Adversarial
from tfssl.methods.cps import CrossPseudo
from tfssl.methods.cross_teacher import CrossTeacher
from tfssl.methods.gct import GCT
from tfssl.methods.gta import GTA
from tfssl.methods.guided_mean_teacher import GuidedMeanTeacher
from tfssl.methods.mean_teacher import ClassMix, CutMix, MeanTeacher
from tfssl.methods.mutual import Mutual
from tfssl.methods.robust_mutual import RobustMutual
from tfssl.methods.s4l import S4L
from tfssl.methods.supervised import Supervised
from tfssl.methods.u2pl import U2PL
from tfssl.methods.unimatch import FixMatch, UniMatch

METHODS = {
    "supervised": Supervised,
    "mean_teacher": MeanTeacher,
    "cutmix": CutMix,
    "classmix": ClassMix,
    "s4l": S4L,
    "fixmatch": FixMatch,
    "unimatch": UniMatch,
    "cps": CrossPseudo,
    "mutual": Mutual,
    "robust_mutual": RobustMutual,
    "gta": GTA,
    "u2pl": U2PL,
    "cross_teacher": CrossTeacher,
    "gct": GCT,
    "guided_mean_teacher": GuidedMeanTeacher,
    "adversarial": Adversarial,
}
