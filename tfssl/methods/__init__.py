"""One page per method, and the table of all: the name in the configuration, and the class."""

from tfssl.methods.cps import CrossPseudo
from tfssl.methods.mean_teacher import ClassMix, CutMix, MeanTeacher
from tfssl.methods.robust_mutual import Mutual, RobustMutual
from tfssl.methods.s4l import S4L
from tfssl.methods.supervised import Supervised
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
}
