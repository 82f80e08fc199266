"""Cross Teacher Training on tiny networks, and the paper in NumPy."""

import itertools

import numpy as np

from tests.mutual_for_tests import cross_entropy, softmax
from tests.networks_for_tests import CLASSES, QUIET, VOID, make_method
from tests.test_losses_cross_teacher import TAU, slow_high, slow_low

ROOM = 12


def make(**options):
    return make_method(
        "cross_teacher",
        **{"start_by": 0, "rate": 0.02, "memory_size": ROOM, "temperature": TAU, "anchors": 512, **options},
    )


def apart(method, seed=5):
    """The method in the middle of training: teachers differ from the students, banks are filled, but not all alike."""
    method.optimizer.iterations.assign(3)
    generator = np.random.default_rng(seed)
    for teacher in method.teachers:
        teacher.set_weights([weight * generator.uniform(0.6, 1.5, weight.shape) for weight in teacher.get_weights()])
    for bank, filled in zip(method.banks, ([ROOM, 5, 0], [3, ROOM, 2], [4, 4, 4]), strict=False):
        bank.value.assign(generator.normal(size=bank.value.shape))
        bank.filled.assign(filled)
        bank.next.assign([count % ROOM for count in filled])
    return method


def quiet(**options):
    return apart(make(**{**QUIET, **options}))


def coarse(label):
    """[B,32,32] at the 8 x 8 of the features, the pixel at each centre."""
    return np.array(label)[:, 2::4, 2::4]


def classified(network, features):
    last = network.get_layer("classifier").get_layer("logits_convolution")
    return softmax(np.array(features, "float64") @ last.kernel.numpy()[0, 0] + last.bias.numpy())


def expected_step(method, batch, *, pairs=2, labels_from="others", student_view="weak", threshold=0.75,
                  label_threshold=0.0, directional=True, weights=(1, 1, 0.1, 0.1)):  # fmt: skip
    """Equations 1 to 10: what a step logs."""
    image, label = (np.array(tensor) for tensor in batch["labeled"])
    weak, valid, strong = (np.array(tensor) for tensor in batch["unlabeled"][:3])
    guides = method.students if labels_from == "students" else method.teachers
    told = [softmax(guide(weak, training=False)["logits"]) for guide in guides]
    pseudo = [np.where(valid, p.argmax(-1), VOID) for p in told]
    told_surely = [p.max(-1) > label_threshold for p in told]
    both = np.concatenate([image, strong if student_view == "strong" else weak])
    outputs = [student(both, training=True) for student in method.students]
    features = [np.array(output["features"]).reshape(-1, 8) for output in outputs]
    sure = [classified(s, o["features"]).max(-1).ravel() for s, o in zip(method.students, outputs, strict=True)]
    banks = [(bank.keys.numpy(), np.arange(ROOM) < bank.filled.numpy()[:, None]) for bank in method.banks]
    every_key, every_held = (np.concatenate(part, axis=1) for part in zip(*banks, strict=True))
    found, high_share, low_share = {}, [], []
    for k in range(pairs):
        others = [j % pairs for j in range(k + 1, k + pairs)]
        learned = {"own": [k], "all": [*others, k]}.get(labels_from, others or [k])
        logits = np.array(outputs[k]["logits"])
        found[f"supervised_{k + 1}"] = weights[0] * cross_entropy(label, logits[:4])
        crossed = [cross_entropy(pseudo[j], logits[4:], told_surely[j]) for j in learned]
        found[f"cross_{k + 1}"] = weights[1] * np.mean(crossed)
        classes = np.concatenate([coarse(label), coarse(pseudo[learned[0]])]).ravel()
        known, high = classes != VOID, sure[k] > threshold
        found[f"high_{k + 1}"] = weights[2] * slow_high(features[k], classes, high & known, *banks[k])
        high_share.append(high[known].mean())
        if others:
            best = np.argmax([sure[j] for j in others], axis=0)
            better = np.stack([features[j] for j in others])[best, np.arange(len(best))]
            low = ~high & (np.max([sure[j] for j in others], axis=0) > sure[k]) if directional else ~high
            found[f"low_{k + 1}"] = weights[3] * slow_low(
                features[k], classes, low & known, better, every_key, every_held
            )
            low_share.append(low[known].mean())
    found["high_pixels"], found["bank_fill"] = np.mean(high_share), np.mean([held.mean() for _, held in banks])
    if pairs > 1:
        found["low_pixels"] = np.mean(low_share)
        found["total_variation"] = min(0.5 * np.abs(one - other).sum(-1)[valid].mean()
                                       for one, other in itertools.combinations(told, 2))  # fmt: skip
    return found | {"used_pixels": told_surely[0][valid].mean()}


def expected_keys(teacher, image, label, quota):
    """The feature selection criteria: {class: keys in their order}, and the classes that the labels show."""
    features = np.array(teacher(image, training=False)["features"])
    probability, label = classified(teacher, features), coarse(label)
    found = {k: [] for k in range(len(CLASSES))}
    for n in range(len(features)):
        for k in found:
            right = (probability[n].argmax(-1) == k) & (label[n] == k)
            order = np.argsort(-probability[n].max(-1)[right], kind="stable")
            found[k] += list(features[n][right][order[:quota]])
    return found, {k for k in found if (label == k).any()}


def spoil(network):
    """Turn the network's opinion round."""
    last = network.get_layer("classifier").get_layer("logits_convolution")
    last.kernel.assign(-last.kernel)
