"""U2PL on tiny networks, and its paper in NumPy, pixel by pixel."""

import numpy as np
import tensorflow as tf

from tests.contracts import CONTRACTS
from tests.mutual_for_tests import cross_entropy, softmax
from tests.networks_for_tests import CLASSES, QUIET, VOID, make_method, streamed
from tests.test_losses_contrast import slow_contrast
from tfssl import mixing
from tfssl.methods import u2pl
from tfssl.randomness import fold

C = len(CLASSES)
SILENT = {**QUIET, "mix": "none"}
PAPER = {"unreliable": 0.2, "dynamic_partition": True, "adaptive_weight": True, "contrast": "info_nce",
         "class_average": "all", "anchor_threshold": 0.3, "positive_threshold": 0.3, "anchors_from": "reliable",
         "negatives_from": "unreliable", "labeled_negatives": True, "rank_high": 20, "queues": True, "ohem": None,
         "unsupervised_weight": 1.0}  # fmt: skip


def make(**options):
    return make_method("u2pl", **{**CONTRACTS["u2pl"].shown, "rate": 0.02, **options})


def apart(method, seed=5):
    """The method in the middle: the teacher differs from the student, and the queues hold something."""
    method.optimizer.iterations.assign(2)
    generator = np.random.default_rng(seed)
    for layer in (
        method.projection.layers[-1],
        method.projection_teacher.layers[-1],
    ):  # where all before it is cut off, it gives a direction
        layer.bias.assign(generator.normal(0, 0.1, layer.bias.shape))
    for network in (method.teacher, method.projection_teacher):
        network.set_weights([weight * generator.uniform(0.9, 1.2) for weight in network.get_weights()])
    if method.remembers:
        method.queues.value.assign(generator.normal(size=method.queues.value.shape))
        method.queues.filled.assign([40, 100, 23])
        method.queues.next.assign([40, 95, 23])
    return method


def eager_step(method, batch):
    """One step without a trace: {logged name: number}."""
    method.enter(int(method.optimizer.iterations.numpy()), list)
    method.reset_trackers()
    return {name: float(value) for name, value in method.train_step(streamed(method, batch)).items()}


def held(method, c):
    """The keys in the queue of class c, the oldest first."""
    filled, following = int(method.queues.filled[c]), int(method.queues.next[c])
    places = (following - filled + np.arange(filled)) % method.queues.capacity[c]
    return method.queues.value.numpy()[method.queues.first[c] + places]


def ranks(p):
    return np.argsort(np.argsort(-p))


def reading(method, batch, **options):
    """What the step that comes next should log and push, by the paper: ({name: number}, [keys of each class])."""
    own = {**PAPER, **CONTRACTS["u2pl"].shown, **options}
    (image, label), (weak, valid, *strong) = ([np.array(t) for t in batch[part]] for part in ("labeled", "unlabeled"))
    step, key, count = int(method.optimizer.iterations.numpy()), method.key(), len(image)
    told = method.teacher(np.concatenate([image, weak]), training=False)
    p, z = softmax(told["logits"]), np.array(method.projection_teacher(told["features"], training=False))
    scores = tf.random.stateless_uniform([*p.shape[:3]], fold(key, u2pl.CHOICE)).numpy()

    # Equations 5 to 8
    entropy = -(p[count:] * np.log(p[count:])).sum(-1)
    alpha = own["unreliable"] * ((1 - step / method.steps) if own["dynamic_partition"] else 1)
    gamma = np.percentile(entropy[valid], 100 * (1 - alpha)) + 1e-6
    reliable, unreliable = valid & (entropy <= gamma), valid & (entropy > gamma)
    lowest = valid & (entropy < np.percentile(entropy[valid], 100 * alpha) - 1e-6)
    pseudo = np.where(reliable, p[count:].argmax(-1), VOID)
    given = {"reliable": reliable, "lowest": lowest}[own["anchors_from"]]
    truth = np.concatenate([label, np.where(given, p[count:].argmax(-1), VOID)])
    sure = np.take_along_axis(p, np.where(truth == VOID, 0, truth)[..., None], -1)[..., 0] > own["anchor_threshold"]
    anchor = np.where(sure, truth, VOID)  # equations 9 to 11
    seen = strong[0] if own.get("student_view") == "strong" else weak
    if method.mix == "cutmix":  # one mask for all three; `mixing` has tests of its own
        mixed = mixing.cutmix(fold(key, u2pl.MIX), *map(tf.constant, (seen, pseudo, anchor[count:])))
        seen, pseudo, anchor[count:] = map(np.array, mixed)
    studied = method.student(np.concatenate([image, seen]), training=True)
    logits, represented = np.array(studied["logits"]), np.array(method.projection(studied["features"], training=True))
    weight = valid.sum() / reliable.sum() if own["adaptive_weight"] else 1
    terms = {"supervised": supervised(label, logits[:count], own["ohem"]),
             "unsupervised": own["unsupervised_weight"] * weight * cross_entropy(pseudo, logits[count:]),
             "used_pixels": reliable.sum() / valid.sum()}  # fmt: skip

    # Equations 9 to 16, each feature by the pixel at its middle
    anchors, central, negatives = ([[] for _ in range(C)] for _ in range(3))
    candidate = {"unreliable": unreliable, "lowest": lowest, "all": valid}[own["negatives_from"]]
    for n, row, column in np.ndindex(z.shape[:3]):
        y, x = 4 * row + 2, 4 * column + 2
        order, labeled, m = ranks(p[n, y, x]), n < count, n - count
        for c in range(C):
            if anchor[n, y, x] == c:
                anchors[c].append((scores[n, y, x], represented[n, row, column]))
            if truth[n, y, x] == c and p[n, y, x, c] > own["positive_threshold"]:
                central[c].append(z[n, row, column])
            if labeled:
                near = own["rank_low"] is None or order[c] < own["rank_low"]
                negative = own["labeled_negatives"] and truth[n, y, x] not in (c, VOID) and near
            else:
                low, high = (1, C) if own["rank_low"] is None else (own["rank_low"], own["rank_high"])
                negative = candidate[m, y, x] and low <= order[c] < high
            if negative:
                negatives[c].append((scores[n, y, x], z[n, row, column]))
    pushed = [drawn(found, own["pushed"]) for found in negatives]
    chosen = [drawn(found, own["anchors"]) for found in anchors]
    far = [draw_negatives(method, key, c, pushed[c], own["negatives"]) for c in range(C)]
    counts = np.array([[k < len(chosen[c]) and far[c] is not None for k in range(own["anchors"])] for c in range(C)])
    terms["contrast"] = own["contrast_weight"] * slow_contrast(
        own["contrast"], np.array([padded(found, own["anchors"]) for found in chosen]), counts,
        [np.mean(found, 0) if found else 0 for found in central], far,
        own["temperature"], own["class_average"] == "present",
    )  # fmt: skip
    terms["anchors"], terms["contrasted_classes"] = counts.sum() / C, counts.any(1).mean()
    terms["queue_fill"] = (method.queues.filled.numpy() / method.queues.capacity).mean()
    return terms, pushed if own["queues"] else [[]] * C


def supervised(label, logits, ohem):
    """Equation 2, or its mean over the pixels that are not easy."""
    counts = label != VOID
    own = np.take_along_axis(softmax(logits), np.where(counts, label, 0)[..., None], -1)[..., 0]
    return cross_entropy(np.where(counts & (own <= ohem), label, VOID) if ohem else label, logits)


def drawn(found, count):
    """At most `count` of [(score, vector)], those of the highest scores."""
    return [vector for _, vector in sorted(found, key=lambda pair: -pair[0])[:count]]


def padded(vectors, count):
    return np.array([*vectors, *[np.ones(12)] * (count - len(vectors))])


def draw_negatives(method, key, c, fresh, count):
    """N keys out of what the queue holds (drawn by `sample`, which has tests of its own) and of the fresh ones."""
    filled = int(method.queues.filled[c])
    if not filled + len(fresh):
        return None
    old = method.queues.sample(fold(key, u2pl.OLD), count)[c].numpy()
    which, place = tf.random.stateless_uniform([2, count], fold(key, u2pl.NEW)).numpy()
    share = len(fresh) / (filled + len(fresh))
    return np.array([fresh[int(place[j] * len(fresh))] if which[j] < share else old[j] for j in range(count)])
