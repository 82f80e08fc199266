"""Direct mutual learning: two students that label for each other, with nothing between them."""

from typing import Literal

from tfssl.kinds import Amount, Share, Weight
from tfssl.methods.robust_mutual import RobustMutual


class Mutual(RobustMutual):
    """weak --> student 1 --hard labels--> student 2,  weak --> student 2 --hard labels--> student 1;  <-- strong

    Direct mutual learning, eq. 3 of Zhang et al., "Robust mutual learning" (arXiv:2106.00609), after Zhang et al.,
    "Deep mutual learning", CVPR 2018, arXiv:1706.00384: what RML compares with. The students label in a pass without
    noise. Nothing is rectified and there are no prototypes. Eq. 3 has no average either; here the average of student 1
    ships, as with the others.
    """

    terms = ("supervised_1", "supervised_2", "peer_1", "peer_2")
    watched = ("used_pixels", "total_variation")

    def __init__(self, networks, task, *, input_noise: bool = True, model_noise: bool = True, warm_up: Amount = 0.2,
                 unlabeled_weight: Weight = 1.0, ema_decay: Share = 0.999,
                 teacher_statistics: Literal["average", "copy"] = "average",
                 cutmix: Literal["independent", "shared", "none"] = "independent",
                 mix: Literal["cutmix", "paste"] = "cutmix", **shared):  # fmt: skip
        super().__init__(
            networks, task, labels_from="students", self_supervision=False, rectification=False,
            input_noise=input_noise, model_noise=model_noise, warm_up=warm_up, unlabeled_weight=unlabeled_weight,
            ema_decay=ema_decay, teacher_statistics=teacher_statistics, cutmix=cutmix, mix=mix, **shared,
        )  # fmt: skip
        self.prototypes = self.memories = []
        self.roles = {"average_1": self.teachers[0], "average_2": self.teachers[1],
                      "student_1": self.students[0], "student_2": self.students[1]}  # fmt: skip

    def tell(self, k, image, weak):
        return super().tell(k, image[:0], weak)  # labeled images would only be told for the prototypes
