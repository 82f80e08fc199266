"""One page per method, and the table of all: the name in the configuration, and the class."""

from tfssl.methods.mean_teacher import ClassMix, CutMix, MeanTeacher
from tfssl.methods.robust_mutual import RobustMutual
from tfssl.methods.supervised import Supervised

METHODS = {
    "supervised": Supervised,
    "mean_teacher": MeanTeacher,
    "cutmix": CutMix,
    "classmix": ClassMix,
    "robust_mutual": RobustMutual,
}
