"""Robust mutual learning on tiny networks, and the paper in NumPy."""

import numpy as np
import tensorflow as tf

from tests.networks_for_tests import CLASSES, QUIET, VOID, make_method

SILENT = {**QUIET, "cutmix": "none"}


def make(**options):
    return make_method("robust_mutual", **{"warm_up": 0, "rate": 0.02, **options})


def apart(method, seed=5):
    """The method in the middle of a stage: teachers differ from the students, and prototypes matter."""
    method.optimizer.iterations.assign(2)
    generator = np.random.default_rng(seed)
    for teacher in method.teachers:
        teacher.set_weights([weight * generator.uniform(0.9, 1.2) for weight in teacher.get_weights()])
    for memory in method.prototypes:
        memory.value.assign(3 * generator.normal(size=memory.value.shape))
        memory.seen.assign(generator.integers(2, 9, memory.seen.shape))
    return method


def softmax(logits):
    shifted = np.exp(np.array(logits, "float64") - np.max(logits, -1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def cross_entropy(label, logits, weight=1.0):
    """Equation 1, and one H of equation 5, over the pixels that are not void, each times its weight."""
    counts = label != VOID
    chosen = np.take_along_axis(np.log(softmax(logits)), np.where(counts, label, 0)[..., None], -1)[..., 0]
    return -(weight * chosen)[counts].mean()


def resized(values, like):
    return tf.image.resize(tf.cast(values, tf.float32), like.shape[1:3]).numpy()


def expected_labels(output, prototypes, valid, p0=None):
    """Equations 6 and 9."""
    probability = softmax(output["logits"]) if p0 is None else p0
    distance = np.linalg.norm(np.array(output["features"])[..., None, :] - prototypes, axis=-1)
    rectified = resized(softmax(-distance), probability) * probability
    return np.where(valid, rectified.argmax(-1), VOID)


def expected_prototypes(output, inside, value, seen, momentum=0.9999):
    """Equations 10 and 11, image by image, starting as a plain mean."""
    features = np.array(output["features"])
    classes = resized(softmax(output["logits"]), features).argmax(-1)
    whole = resized(inside[..., None], features)[..., 0] > 0.999
    value, seen = value.copy(), seen.copy()
    for image, class_map, known in zip(features, classes, whole, strict=True):
        for k in range(len(CLASSES)):
            member = (class_map == k) & known
            if member.sum() >= 10:
                keep = min(1 - 1 / (seen[k] + 1), momentum)
                value[k] = keep * value[k] + (1 - keep) * image[member].mean(0)
                seen[k] += 1
    return value, seen
