"""Gentle Teaching Assistant: its three moves against the paper, and the invariants that follow from it."""

import numpy as np
import pytest

from tests.networks_for_tests import (
    QUIET,
    VOID,
    assert_close,
    gradients_by_network,
    make_batch,
    make_method,
    reached,
    remember,
    same,
    snapshot,
    step,
    weights,
)
from tfssl import losses
from tfssl.errors import UserError
from tfssl.methods import gta

SILENT = {**QUIET, "mix": "none"}


def make(**options):
    return make_method("gta", **{"warm_up": 0, "rate": 0.05, **options})


def test_the_teacher_speaks_without_noise():
    method = apart(make(dropout=0.5, mix="none"))
    weak, valid, strong = make_batch()["unlabeled"][:3]
    probability = method.task.activation(method.teacher(weak, training=False)["logits"])
    expected = losses.reweighted_pseudo_labels(probability, valid, 0.2, 1.0, VOID)
    (_, *told), _ = method.tell(weak, valid, strong, key=method.key())
    for one, other in zip(told, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


def apart(method, seed=5):
    """The method in the middle of training: teacher, assistant and student differ."""
    method.optimizer.iterations.assign(3)
    generator = np.random.default_rng(seed)
    for network in (method.teacher, method.assistant):
        network.set_weights([weight * generator.uniform(0.9, 1.2) for weight in network.get_weights()])
    return method


def softmax(logits):
    shifted = np.exp(np.array(logits, "float64") - np.max(logits, -1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def cross_entropies(label, logits):
    chosen = np.take_along_axis(np.log(softmax(logits)), np.where(label != VOID, label, 0)[..., None], -1)[..., 0]
    return np.where(label != VOID, -chosen, 0)


def encoder(network):
    return weights(network.get_layer("encoder"))


def classifier(network):
    return weights(network.get_layer("classifier"))


@pytest.mark.parametrize(
    "options",
    [{}, {"smoothing": 0.0}, {"reweighting": False}, {"dropped": 0.5}, {"unlabeled_weight": 2.0},
     {"assistant_view": "weak"}, {"assistant_learns": "both"}, {"student_learns": "both"},
     {"student_learns": "pseudo_labels"}],
)  # fmt: skip
def test_the_step_is_what_the_paper_says(options):
    method, batch = apart(make(**SILENT, **options)), make_batch()
    (image, label), (weak, valid, strong, _) = batch["labeled"], batch["unlabeled"]
    label, valid = np.array(label), np.array(valid)
    probability = softmax(method.teacher(weak)["logits"])
    confidence = probability.max(-1)
    kept = valid & (confidence > np.percentile(confidence[valid], 100 * options.get("dropped", 0.2)))  # eq. 2
    raised = (confidence + options.get("smoothing", 1.0)) * kept
    weight = raised / raised.sum() * kept.sum() if options.get("reweighting", True) else kept  # eq. 6
    seen = strong if options.get("assistant_view", "strong") == "strong" else weak
    pseudo = np.where(kept, probability.argmax(-1), VOID)

    def lesson(network, terms, learns):
        from_pseudo = (weight * cross_entropies(pseudo, network(seen)["logits"])).sum() / kept.sum()  # eq. 7
        from_labels = cross_entropies(label, network(image)["logits"]).sum() / (label != VOID).sum()  # eq. 10
        parts = {"labels": from_labels, "pseudo_labels": options.get("unlabeled_weight", 1.0) * from_pseudo}
        return {terms[name]: value for name, value in parts.items() if learns in (name, "both")}

    expected = lesson(method.assistant, gta.ASSISTANT, options.get("assistant_learns", "pseudo_labels"))
    restore = remember(method)
    logged = step(method, batch)
    np.testing.assert_allclose(logged.pop("used_pixels"), kept.sum() / valid.sum(), rtol=1e-4)
    moved = method.assistant.get_weights()
    restore()
    method.assistant.set_weights(moved)
    method.transmit()
    expected |= lesson(method.student, gta.STUDENT, options.get("student_learns", "labels"))  # after the transmission
    assert_close(logged, expected, 1e-4)


@pytest.mark.parametrize("name", ["gta", "adversarial", "u2pl"])
def test_a_warm_up_that_leaves_nothing_is_refused(name):
    with pytest.raises(UserError, match="method.warm_up is 8 steps, but training.steps is 8: make it shorter"):
        make_method(name, warm_up=8, steps=8)


@pytest.mark.parametrize("frozen_norm", [True, False])
@pytest.mark.parametrize(
    ("transmission", "decays"),
    [("encoder", {"ema_decay": 0.7}), ("all", {"ema_decay": 0.7}),
     ("encoder", {"ema_decay": 0.5, "transmission_decay": 0.7})],
)  # fmt: skip
def test_the_student_follows_the_encoder_of_the_assistant_exactly(transmission, decays, frozen_norm):
    """Equation 9 with a student that does not learn: f_S = a f_S + (1 - a) f_G; its classifier stays to the bit."""
    method = apart(make(**SILENT | {"frozen_norm": frozen_norm}, transmission=transmission, **decays))
    before = encoder(method.student), classifier(method.student)
    method.optimizer.learning_rate = 0.0
    step(method, make_batch())
    trained = {f"{n} {v.name}" for n, v in enumerate(method.student.get_layer("encoder").weights) if v.trainable}
    for name, value in encoder(method.student).items():
        other = encoder(method.assistant)[name]
        expected = 0.7 * before[0][name] + (1 - 0.7) * other if name in trained else before[0][name]
        if name in trained or frozen_norm:  # statistics that are not frozen are the student's own
            np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-7, err_msg=name)
    assert same(classifier(method.student), before[1]) == (transmission == "encoder")


def test_no_pseudo_label_ever_moves_the_student_s_classifier():
    """With a student that does not learn from labels, its classifier is constant whatever is unlabeled."""
    method = make(ema_decay=0.5)
    before = classifier(method.student), encoder(method.student)
    method.optimizer.learning_rate = 0.0
    for seed in range(4):
        step(method, make_batch(seed))
    assert same(classifier(method.student), before[0]) and not same(encoder(method.student), before[1])


def test_the_assistant_does_not_see_labels_and_the_student_no_pseudo_label():
    batch = make_batch()
    (image, label), unlabeled = batch["labeled"], batch["unlabeled"]
    results = []
    for labels in (label, (label + 1) % 3):
        method = apart(make(**SILENT))
        step(method, {"labeled": (image, labels), "unlabeled": unlabeled})
        results.append(snapshot(method))
    assert same(results[0]["assistant"], results[1]["assistant"])
    assert not same(results[0]["student"], results[1]["student"])
    assert {term: reached(found) for term, found in gradients_by_network(apart(make()), batch).items()} == {
        "assistant_unlabeled": {"assistant"}, "supervised": {"student"}
    }  # fmt: skip


def test_the_teacher_follows_extractor_and_predictor():
    method = apart(make(ema_decay=0.5, **SILENT))
    before = weights(method.teacher)
    step(method, make_batch())
    trained = {f"{n} {v.name}" for n, v in enumerate(method.student.weights) if v.trainable}
    assert any("logits_convolution" in v.path for v in method.student.trainable_variables)
    for name in trained:
        expected = (before[name] + weights(method.student)[name]) / 2
        np.testing.assert_allclose(weights(method.teacher)[name], expected, rtol=1e-5, atol=1e-6)


def test_the_warm_up_teaches_all_from_labels_alone():
    method = make(warm_up=2, steps=8, ema_decay=0.5)
    batch = make_batch()
    (image, label), (weak, valid, *strong) = batch["labeled"], batch["unlabeled"]
    other = {"labeled": (image, label), "unlabeled": (255 - weak, valid, *strong)}
    restore, before = remember(method), snapshot(method)
    logged = step(method, batch)
    after = snapshot(method)
    restore()
    assert step(method, other) == logged and same(after, snapshot(method))
    assert set(logged) == {"assistant_labeled", "supervised"}
    assert all(not same(after[role], before[role]) for role in method.roles)
    step(method, batch)
    assert set(step(method, batch)) == {"assistant_unlabeled", "supervised", "used_pixels"}


def test_the_assistant_begins_as_the_student():
    method = make()
    assert same(method.assistant.get_weights(), method.student.get_weights())
