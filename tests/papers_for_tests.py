"""What the papers say of the runs behind their tables, transcribed: tests/test_paper_recipes.py compares the recipes.

A table is {place in the resolved settings: (the paper's value, where the paper has it)}; bare numbers are its sections.
Beside the places there are, for what the settings have otherwise: "epochs of ...", "steps of a stage" and "channels of
features". What a paper leaves open, or what its extracted text, which was read here, has lost, is `left_open`.
"""

from typing import Any, NamedTuple

SOME = "the paper has it, but no number"
OPEN = "the paper leaves it open"


class Confessed(NamedTuple):
    """A paper's value that our recipe does not have; its `about` says so in these words."""

    value: Any
    words: str


def left_open(section, *keys):
    return {f"{section}.{key}": (OPEN, "") for key in keys}


# Xiao et al., cross teacher training (CTT). Its text has lost the numbers of 4.1 but for batches and iterations.

CTT = {
    "networks.0.backbone": ("resnet101", "4.1"),
    "training.optimizer": ("sgd", "4.1"),
    "training.steps": (80_000, "4.1"),
    "training.epochs": (None, "4.1: by iterations"),
    "data.weak.rotation": (SOME, "4.1: rotations, flips and translations"),
    "data.weak.translation": (SOME, "4.1"),
    "data.weak.flip": (True, "4.1"),
    "method.name": ("cross_teacher", ""),
    "method.pairs": (2, "3: two pairs in what follows"),
    "method.labels_from": ("others", "3.2, figure 1"),
    "method.memory_size": (128, "4.3, table 7: the default"),
    "method.threshold": (0.75, "4.3, table 8: the best one is used throughout"),
    "method.directional": (True, "eq. 9, table 9"),
    "method.chosen": ("confident", "3.3, criterion 3; 4.1. The end of that paragraph of 3.3 has them drawn"),
    "method.cross_from": (0, "3.4: from the beginning"),
    "method.start_by": (80_000, "3.4: not before the banks are full, so by no step of the 80k; those may be none"),
    "method.anchors": (Confessed("all", "256 pixels a step, where the paper takes all"), "eq. 6, 4.1"),
    "method.label_threshold": (0, "eq. 5: all pixels"),
    "method.mix": ("none", "4.1 names no mixing"),
    "method.student_view": ("weak", "4.1 names no change of colours"),
    **left_open("data", "crop", "size", "weak.scale"),
    **left_open("networks.0", "weights", "output_stride"),
    **left_open("training", "learning_rate", "head_factor", "weight_decay"),
    **left_open("method", "ema_decay", "supervised_weight", "cross_weight", "high_weight", "low_weight"),
    **left_open("method", "temperature", "quota"),
    **left_open("evaluation", "protocol"),
}
CTT_VOC = {  # with so many in each stream 80k iterations are the 150 epochs of 4.1, as 2 are the 100 of Cityscapes
    **CTT,
    "data.source": ("voc", "4.1"),
    "data.candidates": ("train_aug", "4.1: 10,582 images; 4.2"),
    "training.labeled_batch": (10, "4.1"),
    "training.unlabeled_batch": (10, "4.1"),
}

# Ke et al., GCT, with the methods it compares.

GCT_SETUP = {
    "data.source": ("voc", "4.1"),
    "data.candidates": ("train_aug", "4.1: 10,582 images, the rest of which is unlabeled"),
    "data.crop": ((321, 321), "4.1"),
    "data.weak.flip": (True, "4.1"),
    "networks.0.name": ("deeplab_v2", "4.1"),
    "networks.0.backbone": ("resnet101", "4.1"),
    "networks.0.feature_channels": (None, "4.1: as DeepLabV2 was published"),
    "networks.0.weights": ("coco", "4.1: with pre-training on COCO"),
    "networks.0.output_stride": (Confessed(8, "output stride 16, where DeepLabV2 has 8"), "4.1: DeepLabV2's"),
    "training.optimizer": ("sgd", "4.1: DeepLabV2's, as are the next three; its paper has the numbers, not this one"),
    "training.learning_rate": (0.001, "4.1"),
    "training.head_factor": (10, "4.1"),
    "training.weight_decay": (0.0005, "4.1"),
    **left_open("data", "weak.scale"),
    **left_open("training", "labeled_batch", "epochs"),  # 4: as many samples in all as the full supervision, unprinted
    **left_open("evaluation", "protocol"),
}
GCT_SSL = {**GCT_SETUP, **left_open("training", "unlabeled_batch")}
GCT = {
    "method.name": ("gct", ""),
    "method.consistency_weight": (100, "appendix C"),
    "method.correction_weight": (1, "appendix C"),
    "method.flaw_threshold": (0.6, "appendix C; table 4's caption has 0.4"),
    "epochs of method.ramp_up": (3, "appendix C"),
    "method.ramp": ("cosine", "3.3"),
    "method.warm_up": (0, "3.1 knows none"),
    "method.flaw_map": ("min_max", "3.3: normalised to [0, 1]"),
    "method.truth_repeats": (1, "appendix A"),
    "method.detector_rate": (0.0001, "appendix B"),
    "method.detector_width": (64, "appendix B"),
    "method.detector_stride": (32, "appendix B: five strides of 2"),
    "method.ema_decay": (None, "3.1 knows none"),
    "method.mix": ("none", "3.1 knows none"),
}
GCT_MEAN_TEACHER = {
    "method.name": ("mean_teacher", ""),
    "method.consistency_weight": (1, "appendix C"),
    "method.consistency": ("squared_error", "4, implementation details"),
    "epochs of method.ramp_up": (3, "appendix C"),
    "method.ramp": ("cosine", "3.3: that of the standard consistency constraint"),
    "method.ema_decay": (0.99, "appendix C"),
    "method.student_view": ("weak", "4, implementation details: no noise is added"),
    "method.mix": ("none", "4, implementation details"),
    "method.threshold": (0, "4, implementation details"),
    **left_open("method", "confidence"),
}
GCT_S4L = {
    "method.name": ("s4l", ""),
    "method.rotation_weight": (0.1, "appendix C"),
    "method.ema_decay": (None, "4 knows none"),
    **left_open("method", "rotations", "rotated_labels"),
}
GCT_ADVERSARIAL = {
    "method.name": ("adversarial", ""),
    "method.labeled_adversarial_weight": (0.01, "appendix C"),
    "method.unlabeled_adversarial_weight": (0.001, "appendix C"),
    "method.semi_weight": (0, "4, implementation details: the constraint that needs probabilities is removed"),
    "method.ema_decay": (None, "4 knows none"),
    **left_open("method", "threshold", "warm_up", "discriminator_rate", "discriminator_width"),
}
SUPERVISED = {"method.name": ("supervised", ""), "method.ema_decay": (None, "labels alone")}

# Jin et al., GTA-Seg.

GTA = {
    "networks.0.name": ("deeplab_v3_plus", "4.2"),
    "networks.0.backbone": ("resnet101", "4.2"),
    "networks.0.weights": ("imagenet", "4.2"),
    "channels of features": (512, "4.2"),
    "training.optimizer": ("sgd", "4.2"),
    "training.head_factor": (10, "4.2"),
    "method.name": ("gta", ""),
    "method.ema_decay": (0.99, "4.2"),
    "method.transmission_decay": (None, "eq. 9, 4.2: the same alpha"),
    "method.transmission": ("encoder", "eq. 9, table 5"),
    "method.assistant_learns": ("pseudo_labels", "eq. 8, table 7"),
    "method.student_learns": ("labels", "eq. 11, table 7"),
    "method.dropped": (0.2, "4.2"),
    "method.reweighting": (True, "eq. 6"),
    "method.smoothing": (1, "4.2"),
    "method.unlabeled_weight": (1, "4.2"),
    "epochs of method.warm_up": (1, "4.2, table 8"),
    **left_open("data", "crop", "weak.scale", "weak.flip"),
    **left_open("networks.0", "output_stride"),
    **left_open("training", "labeled_batch", "unlabeled_batch", "epochs"),
    **left_open("method", "assistant_view", "mix"),
}

# Zhang et al., robust mutual learning (RML).

RML = {
    "networks.0.name": ("deeplab_v2", "5.2"),
    "networks.0.backbone": ("resnet101", "5.2"),
    "networks.0.weights": ("imagenet", "5.2, tables 1 and 2"),
    "networks.0.dropout": (0.5, "5.2"),
    "networks.0.stochastic_depth": (0.2, "5.2: 0.8 survive"),
    "networks.0.stochastic_depth_mode": ("constant", "5.2: layer-wise 0.8"),
    "training.optimizer": ("sgd", "5.2"),
    "training.learning_rate": (0.0001, "5.2"),
    "training.epochs": (None, "5.2: by iterations"),
    "method.name": ("robust_mutual", ""),
    "method.labels_from": ("teachers", "eq. 4"),
    "method.self_supervision": (True, "eq. 5"),
    "method.rectification": (True, "eq. 6"),
    "method.input_noise": (True, "4.1, 5.2"),
    "method.model_noise": (True, "4.1, 5.2"),
    "method.stages": (2, "5.2"),
    "method.prototype_momentum": (0.9999, "4.2"),
    "method.threshold": (0, "eq. 5: all pixels"),
    "method.mix": ("cutmix", "4.1, 5.2"),
    **left_open("data", "weak.flip"),
    **left_open("networks.0", "output_stride", "feature_channels"),
    **left_open("training", "head_factor", "weight_decay"),
    **left_open("method", "warm_up", "unlabeled_weight", "ema_decay", "teacher_statistics", "p0", "prototype_start"),
    **left_open("method", "cutmix"),
    **left_open("evaluation", "protocol"),
}

# Wang et al., U2PL, with the methods it compares.

U2PL_SETUP = {
    "data.weak.scale": ((0.5, 2.0), "appendix A"),
    "data.weak.flip": (True, "appendix A"),
    "networks.0.name": ("deeplab_v3_plus", "4.1"),
    "networks.0.backbone": ("resnet101", "4.1"),
    "networks.0.weights": ("imagenet", "4.1"),
    "networks.0.separable": (False, "4.1: Conv-BN-ReLU"),
    "networks.0.feature_channels": (256, "4.1: the head's first block halves 512"),
    "channels of features": (512, "4.1"),
    "training.optimizer": ("sgd", "4.1"),
    "training.head_factor": (10, "4.1"),
    "training.labeled_batch": (16, "4.1; 3.1: as many of both"),
    **left_open("networks.0", "output_stride"),
}
U2PL_VOC = {
    **U2PL_SETUP,
    "data.source": ("voc", "4.1"),
    "data.crop": ((513, 513), "4.1"),
    "training.learning_rate": (0.001, "4.1, appendix A, table A5"),
    "training.weight_decay": (0.0001, "4.1, appendix A"),
    "training.epochs": (80, "4.1"),
    "evaluation.protocol": ("center_crop", "4.1"),
}
U2PL_CITYSCAPES = {
    **U2PL_SETUP,
    "data.source": ("cityscapes", "4.1"),
    "data.size": (None, "4.1 knows none"),
    "data.crop": ((769, 769), "4.1"),
    "training.learning_rate": (0.01, "4.1, appendix A"),
    "training.weight_decay": (0.0005, "4.1, appendix A"),
    "training.epochs": (200, "4.1"),
    "evaluation.protocol": ("sliding", "4.1"),
}
U2PL_SSL = {"training.unlabeled_batch": (16, "4.1; 3.1: as many of both")}
U2PL = {
    **U2PL_SSL,
    "method.name": ("u2pl", ""),
    "method.mix": ("cutmix", "tables 1 to 3: with CutMix"),
    "method.student_view": ("weak", "appendix A names no change of colours"),
    "method.unsupervised_weight": (1, "eq. 8, table A1"),
    "method.adaptive_weight": (True, "eq. 8"),
    "method.unreliable": (0.2, "eq. 7, tables 7, A1, A8"),
    "method.dynamic_partition": (True, "eq. 7"),
    "method.contrast_weight": (0.1, "table A1"),
    "method.contrast": ("info_nce", "eq. 4"),
    "method.temperature": (0.5, "3.1, tables A1, A6"),
    "method.class_average": ("all", "eq. 4: by C"),
    "method.channels": (256, "4.1"),
    "method.anchors": (50, "3.1, table A1: M"),
    "method.negatives": (256, "3.1, table A1: N"),
    "method.anchor_threshold": (0.3, "eq. 9 and 10, table A1"),
    "method.positive_threshold": (0.3, "eq. 12: the centre of the anchors"),
    "method.anchors_from": ("reliable", "eq. 10"),
    "method.negatives_from": ("unreliable", "eq. 15, table 4"),
    "method.labeled_negatives": (True, "eq. 14"),
    "method.rank_low": (3, "eq. 14, tables 5, A1, A7"),
    "method.rank_high": (20, "eq. 15, tables 5, A1, A7"),
    "method.queues": (True, "3.3"),
    "method.queue_capacity": (30_000, "appendix A"),
    "method.background_capacity": (50_000, "appendix A"),
    "method.pushed": (Confessed("all", "1,024 of them a class and step"), "algorithm 1: all N_c are pushed"),
    **left_open("method", "ema_decay", "teacher_statistics"),
}
U2PL_MEAN_TEACHER = {
    **U2PL_SSL,
    "method.name": ("mean_teacher", ""),
    "method.consistency": ("cross_entropy", "4.3: U2PL without its contrast is MT in table 2; eq. 3"),
    "method.consistency_weight": (1, "table A1: eta"),
    "method.mix": ("none", "appendix A"),
    "method.student_view": ("weak", "appendix A names no change of colours"),
    "method.ramp_up": (0, "eq. 1, 8: no weight rises"),
    **left_open("method", "ema_decay", "threshold", "confidence", "ramp"),
}
U2PL_CUTMIX = {
    place: row for place, row in U2PL_MEAN_TEACHER.items() if place != "method.ramp"
} | {"method.name": ("cutmix", ""), "method.mix": ("cutmix", "appendix A")}  # fmt: skip
HARD_PIXELS = {"task.ohem": (SOME, "appendix A: OHEM")}

RECIPES = {
    "ctt_cityscapes": {
        **CTT,
        "data.source": ("cityscapes", "4.1"),
        "data.candidates": ("train", "4.1: 2,975 images; 4.2"),
        "networks.0.name": ("deeplab_v2", "4.2, table 1"),
        "training.labeled_batch": (2, "4.1"),
        "training.unlabeled_batch": (2, "4.1"),
    },
    "ctt_voc": {**CTT_VOC, "networks.0.name": ("deeplab_v2", "4.2, table 2")},
    "ctt_voc_classic": {**CTT_VOC, "networks.0.name": ("deeplab_v3_plus", "4.2")},
    "gct_voc": {**GCT_SSL, **GCT},
    "gct_voc_adversarial": {**GCT_SSL, **GCT_ADVERSARIAL},
    "gct_voc_mean_teacher": {**GCT_SSL, **GCT_MEAN_TEACHER},
    "gct_voc_s4l": {**GCT_SSL, **GCT_S4L},
    "gct_voc_supervised": {**GCT_SETUP, **SUPERVISED},
    "gta_cityscapes": {
        **GTA,
        "data.source": ("cityscapes", "4.1"),
        "training.learning_rate": (0.01, "4.2"),
        "training.weight_decay": (0.0005, "4.2"),
        "evaluation.protocol": ("sliding", "4.2"),
    },
    "gta_voc": {
        **GTA,
        "data.source": ("voc", "4.1"),
        "training.learning_rate": (0.001, "4.2"),
        "training.weight_decay": (0.0001, "4.2"),
        "evaluation.protocol": ("center_crop", "4.2"),
    },
    "rml_cityscapes": {
        **RML,
        "data.source": ("cityscapes", "5.1"),
        "data.candidates": ("train", "5.1"),
        "data.size": ((512, 1024), "5.1: 1024 x 512, of 2048 x 1024"),
        "data.crop": ((256, 512), "5.1: 512 x 256"),
        "data.weak.scale": ((1, 1), "5.1: resized and cropped; scaled at random is VOC alone"),
        "training.labeled_batch": (4, "5.2"),
        "training.unlabeled_batch": (4, "5.2"),
        "steps of a stage": (90_000, "5.2"),
    },
    "rml_voc": {
        **RML,
        "data.source": ("voc", "5.1"),
        "data.candidates": ("train_aug", "5.1: with the 9,118 of SBD"),
        "data.crop": ((321, 321), "5.1"),
        "data.weak.scale": ((0.5, 1.5), "5.1"),
        "training.labeled_batch": (10, "5.2"),
        "training.unlabeled_batch": (10, "5.2"),
        "steps of a stage": (60_000, "5.2"),
    },
    "u2pl_cityscapes": {
        **U2PL_CITYSCAPES,
        **U2PL,
        "epochs of method.warm_up": (20, "appendix A"),
        "task.ohem": (SOME, "appendix A"),
    },
    "u2pl_cityscapes_cutmix": {**U2PL_CITYSCAPES, **U2PL_CUTMIX, **HARD_PIXELS},
    "u2pl_cityscapes_mean_teacher": {**U2PL_CITYSCAPES, **U2PL_MEAN_TEACHER, **HARD_PIXELS},
    "u2pl_cityscapes_supervised": {**U2PL_CITYSCAPES, **SUPERVISED, **HARD_PIXELS},
    "u2pl_voc": {
        **U2PL_VOC,
        **U2PL,
        "epochs of method.warm_up": (1, "appendix A"),
        "task.ohem": (None, "appendix A: for Cityscapes"),
    },
    "u2pl_voc_cutmix": {**U2PL_VOC, **U2PL_CUTMIX},
    "u2pl_voc_mean_teacher": {**U2PL_VOC, **U2PL_MEAN_TEACHER},
    "u2pl_voc_supervised": {**U2PL_VOC, **SUPERVISED},
}
