"""Robust mutual learning: its terms against a NumPy reading of the paper, and the invariants that follow from it."""

import numpy as np
import pytest
import tensorflow as tf

from tests.mutual_for_tests import SILENT, apart, cross_entropy, expected_labels, expected_prototypes, make, softmax
from tests.networks_for_tests import (
    VOID,
    all_networks,
    assert_close,
    gradients_by_network,
    make_batch,
    reached,
    remember,
    same,
    snapshot,
    step,
    steps_done,
    tiny_network,
)
from tfssl import mixing
from tfssl.errors import UserError
from tfssl.schedules import Polynomial


@pytest.mark.parametrize(
    "options",
    [{}, {"labels_from": "students"}, {"rectification": False}, {"p0": "stage"}, {"input_noise": False},
     {"self_supervision": False, "unlabeled_weight": 2.5}, {"threshold": 0.7},
     {"threshold": 0.7, "p0": "stage"}],
    ids=str,
)  # fmt: skip
def test_the_step_is_what_the_paper_says(options):
    method = apart(make(**SILENT, **options))
    if method.frozen:
        for k in range(2):
            method.frozen[k].set_weights(method.teachers[1 - k].get_weights())
    batch = make_batch()
    image, label = (np.array(tensor) for tensor in batch["labeled"])
    weak, valid, *strong = (np.array(tensor) for tensor in batch["unlabeled"])
    guides = method.students if options.get("labels_from") == "students" else method.teachers
    told = [guide(weak, training=False) for guide in guides]
    p0 = [softmax(network(weak, training=False)["logits"]) for network in method.frozen or guides]
    memories = [[np.array(weight) for weight in memory.weights] for memory in method.prototypes]
    if options.get("rectification") is False:
        labels = [np.where(valid, p.argmax(-1), VOID) for p in p0]
    else:
        labels = [expected_labels(told[k], memories[k][0], valid, p0[k]) for k in range(2)]
    present = [softmax(output["logits"]) for output in told]
    sure = [p.max(-1) > options.get("threshold", 0) for p in p0]
    expected = {"used_pixels": sure[0][valid].mean()}
    assert expected["used_pixels"] == 1 if "threshold" not in options else 0.05 < expected["used_pixels"] < 0.95
    for k, student in enumerate(method.students):
        logits = student(weak if options.get("input_noise") is False else strong[k], training=True)["logits"]
        expected[f"supervised_{k + 1}"] = cross_entropy(label, student(image, training=True)["logits"])
        weight = options.get("unlabeled_weight", 1.0)
        expected[f"peer_{k + 1}"] = weight * cross_entropy(labels[1 - k], logits, sure[1 - k])
        if options.get("self_supervision", True):
            expected[f"self_{k + 1}"] = weight * cross_entropy(labels[k], logits, sure[k])
    expected["total_variation"] = 0.5 * np.abs(present[0] - present[1]).sum(-1)[valid].mean()
    expected["rectified"] = (labels[0] != present[0].argmax(-1))[valid].mean()
    inside = np.concatenate([label != VOID, valid])
    updated = [
        expected_prototypes(guides[k](np.concatenate([image, weak]), training=False), inside, *memories[k])
        for k in range(2)
    ]
    assert_close(step(method, batch), expected, 1e-4)
    assert (expected["rectified"] > 0.02) == (options.get("rectification", True)) or method.frozen
    for memory, (value, seen) in zip(method.prototypes, updated, strict=True):
        np.testing.assert_allclose(memory.value.numpy(), value, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(memory.seen.numpy(), seen)


def test_swapping_the_networks_swaps_the_terms():
    method, other = (make(learners=[tiny_network(seed, frozen_norm=True) for seed in pair], **SILENT)
                     for pair in ((1, 2), (2, 1)))  # fmt: skip
    apart(method)
    apart(other)
    for k in range(2):
        other.teachers[1 - k].set_weights(method.teachers[k].get_weights())
        other.prototypes[1 - k].set_weights(method.prototypes[k].get_weights())
    batch = make_batch()
    weak, valid, first, second = batch["unlabeled"]
    logged = step(method, batch)
    mirrored = step(other, {**batch, "unlabeled": (weak, valid, second, first)})
    for term in ("supervised", "peer", "self"):
        for k in (1, 2):
            np.testing.assert_allclose(logged[f"{term}_{k}"], mirrored[f"{term}_{3 - k}"], rtol=1e-5)
    np.testing.assert_allclose(logged["total_variation"], mirrored["total_variation"], rtol=1e-5)
    swapped = {name.translate(str.maketrans("12", "21")): found for name, found in snapshot(other).items()}
    assert_close(snapshot(method), swapped)


# Who teaches whom.


@pytest.mark.parametrize("labels_from", ["teachers", "students"])
def test_labels_are_told_without_noise_and_move_no_statistics(labels_from):
    method = make(labels_from=labels_from)
    (image, _), (weak, *_) = make_batch()["labeled"], make_batch()["unlabeled"]
    before = snapshot(method)
    output, probability, *_ = method.tell(0, image, weak)
    expected = method.guides[0](tf.concat([image, weak], 0), training=False)["logits"].numpy()
    np.testing.assert_allclose(output["logits"], expected, rtol=1e-5)
    np.testing.assert_allclose(probability, softmax(expected), rtol=1e-4)
    assert same(before, snapshot(method))


def test_a_student_sees_labeled_and_unlabeled_images_in_one_pass():
    """Batch statistics are those of both streams together."""
    method, sizes = make(), []
    study = method.study
    method.study = lambda k, image, key: sizes.append((k, image.shape[0])) or study(k, image, key)
    step(method, make_batch())
    assert sizes == [(0, 8), (1, 8)]


@pytest.mark.parametrize("labels_from", ["teachers", "students"])
@pytest.mark.parametrize("self_supervision", [True, False])
def test_a_student_learns_from_peer_and_self_and_reaches_no_other_network(labels_from, self_supervision):
    method = apart(make(labels_from=labels_from, self_supervision=self_supervision))
    found = gradients_by_network(method, make_batch())
    kinds = ("supervised", "peer", "self") if self_supervision else ("supervised", "peer")
    assert {term: reached(gradients) for term, gradients in found.items()} == {
        f"{kind}_{k}": {f"student_{k}"} for kind in kinds for k in (1, 2)
    }


def spoil(network):
    """Turn the network's opinion round."""
    last = network.get_layer("classifier").get_layer("logits_convolution")
    last.kernel.assign(-last.kernel)


@pytest.mark.parametrize("labels_from", ["teachers", "students"])
def test_labels_come_from_the_networks_that_are_named(labels_from):
    """The opinion of guide 2 moves what is its word, peer 1 and self 2; who is no guide moves but its own terms."""
    method = apart(make(labels_from=labels_from, **SILENT))
    restore, batch, changed = remember(method), make_batch(), {}
    plain = step(method, batch)
    for spoiled in ("teacher_2", "student_2"):
        restore()
        spoil(method.roles[spoiled])
        logged = step(method, batch)
        changed[spoiled] = {term for term in method.terms if logged[term] != plain[term]}
    if labels_from == "teachers":
        assert changed == {"teacher_2": {"peer_1", "self_2"}, "student_2": {"supervised_2", "peer_2", "self_2"}}
    else:
        everything_of_2 = {"peer_1", "supervised_2", "peer_2", "self_2"}
        assert changed["teacher_2"] == set() and changed["student_2"] == everything_of_2


def test_equal_networks_are_refused():
    with pytest.raises(UserError, match="networks: the two learners have equal weights"):
        make(learners=[tiny_network(3), tiny_network(3)])


def test_total_variation_is_watched():
    method = make()
    logged = step(method, make_batch())
    image = make_batch()["unlabeled"][0]
    assert 0 < logged["total_variation"] < 1
    first, second = (softmax(teacher(image, training=False)["logits"]) for teacher in method.teachers)
    np.testing.assert_allclose(method.coupling(image), 0.5 * np.abs(first - second).sum(-1).mean(), rtol=1e-4)


# Noise.


def test_input_noise_and_model_noise_can_be_turned_off():
    assert make().strong_views == 2
    silent = make(input_noise=False, model_noise=False, dropout=0.5, stochastic_depth=0.5)
    assert silent.strong_views == 0 and silent.mix == "none"
    first = step(silent, make_batch())
    second = step(make(input_noise=False, model_noise=False, dropout=0.5, stochastic_depth=0.5, seed=1), make_batch())
    assert first == second
    noisy = step(make(input_noise=False, dropout=0.5, seed=1), make_batch())
    assert all(noisy[term] != first[term] for term in silent.terms)


def test_students_draw_noise_of_their_own():
    """Two students made equal, with equal images, differ in all they lose."""
    method = make(cutmix="none", dropout=0.5, rate=0.0)
    method.students[1].set_weights(method.students[0].get_weights())
    batch = make_batch()
    weak, valid, first, _ = batch["unlabeled"]
    logged = step(method, {**batch, "unlabeled": (weak, valid, first, first)})
    assert logged["supervised_1"] != logged["supervised_2"] and logged["peer_1"] != logged["self_2"]


@pytest.mark.parametrize("kind", ["independent", "shared", "none"])
def test_cutmix_masks(kind, monkeypatch):
    """Image, both pseudo-labels of a student and where they are sure by one mask; each student's own, or one for both;
    none in eval."""
    seen, original = [], mixing.cutmix

    def record(key, *tensors):
        mixed = original(key, *tensors)
        seen.append((tensors, mixed))
        return mixed

    monkeypatch.setattr(mixing, "cutmix", record)
    method = apart(make(cutmix=kind))
    batch = make_batch()
    gradients_by_network(method, batch)
    assert len(seen) == (0 if kind == "none" else 2)
    masks = []
    for k, ((image, *told), (mixed, *mixed_told)) in enumerate(seen):
        np.testing.assert_array_equal(image, batch["unlabeled"][2 + k])
        origin = (np.array(mixed)[:, None] == np.array(image)[None]).all(-1)  # [mixed, image, H, W]
        chosen = origin.argmax(1)
        assert origin.any(1).all() and len(told) == 4  # labels, and whether they are sure
        rows, columns = np.indices(chosen.shape[1:])
        for before, after in zip(told, mixed_told, strict=True):
            np.testing.assert_array_equal(np.array(before)[chosen, rows, columns], after)
        masks.append(chosen)
    if seen:
        assert np.array_equal(*masks) == (kind == "shared")


def test_mixing_leaves_the_supervised_terms_alone():
    quiet = {**SILENT, "cutmix": "independent"}
    mixed, plain = step(apart(make(**quiet)), make_batch()), step(apart(make(**SILENT)), make_batch())
    differing = {term for term in mixed if mixed[term] != plain[term]}
    assert differing == {"peer_1", "peer_2", "self_1", "self_2"}


# Phases.


def test_stages_share_what_the_warm_up_leaves():
    method = make(steps=100, warm_up=0.2, stages=2)
    assert [(first, function) for first, function, _ in method.phases()] == [
        (0, method.learn_labeled), (20, method.learn_mutually), (60, method.learn_mutually)
    ]  # fmt: skip
    assert method.restarts() == [0, 60]
    rate = Polynomial(0.5, [*method.restarts(), 100])
    assert float(rate(0)) == float(rate(60)) == 0.5 > float(rate(20)) > float(rate(59)) < 0.03
    with pytest.raises(UserError, match="method.stages"):
        make(steps=3, stages=9)
    one = make(steps=10, warm_up=0)
    assert one.stage_starts() == [0] and one.restarts() == [0] and len(one.phases()) == 1


def test_the_warm_up_learns_from_labels_alone():
    method, other = (make(warm_up=4, steps=8) for _ in range(2))
    batch = make_batch()
    garbage = [tf.fill(view.shape, np.nan) for view in batch["unlabeled"] if view.dtype == tf.float32]
    logged = step(method, batch)
    assert logged == step(other, {**batch, "unlabeled": (garbage[0], batch["unlabeled"][1], *garbage[1:])})
    assert set(logged) == {"supervised_1", "supervised_2"}
    assert same(snapshot(method), snapshot(other))
    assert not any(memory.seen.numpy().any() for memory in method.prototypes)
    assert set(gradients_by_network(method, batch)) == {"supervised_1", "supervised_2"}


def frozen_weights(method):
    return [network.get_weights() for network in method.frozen]


def teacher_weights(method):
    return [network.get_weights() for network in method.teachers]


@pytest.mark.parametrize("start", ["bias_corrected", "full_pass"])
def test_p0_and_prototypes_begin_anew_with_each_stage_and_p0_stays_to_the_bit(start):
    method = make(p0="stage", prototype_start=start, warm_up=2, stages=2, steps=6)
    everything = [make_batch(seed) for seed in range(2)]
    for number in range(6):
        present, before = teacher_weights(method), frozen_weights(method)
        step(method, make_batch(number), everything)
        seen = max(memory.seen.numpy().max() for memory in method.prototypes)
        if number in (2, 4):  # a stage begins; a batch has 8 images
            assert same(frozen_weights(method), present) and not same(before, present)
            assert (8 < seen <= 24) if start == "full_pass" else (0 < seen <= 8)
        else:
            assert same(frozen_weights(method), before)
        if number == 3:
            assert seen > (24 if start == "full_pass" else 8)
    assert steps_done(method) == 6


def test_pseudo_labels_that_are_watched_are_those_of_the_step():
    method = apart(make(p0="stage", **SILENT))
    spoil(method.frozen[0])
    weak, _, *_ = make_batch()["unlabeled"]
    told = method.teachers[0](weak, training=False)
    p0 = softmax(method.frozen[0](weak, training=False)["logits"])
    value = method.prototypes[0].value.numpy()
    np.testing.assert_array_equal(
        method.pseudo_labels(weak), expected_labels(told, value, np.ones(weak.shape[:3], bool), p0)
    )
    assert (expected_labels(told, value, np.ones(weak.shape[:3], bool)) != np.array(method.pseudo_labels(weak))).any()


@pytest.mark.parametrize("statistics", ["copy", "average"])
def test_batch_statistics_of_teachers(statistics):
    method = make(teacher_statistics=statistics, ema_decay=0.5)
    for number in range(3):
        held = [weight.numpy() for weight in method.teachers[0].weights]
        step(method, make_batch(number))
    trained = {id(weight) for weight in method.students[0].trainable_variables}
    pairs = zip(held, method.teachers[0].weights, method.students[0].weights, strict=True)
    for before, mine, theirs in pairs:
        averaged = statistics == "average" or id(theirs) in trained
        expected = 0.5 * before + 0.5 * theirs.numpy() if averaged else theirs.numpy()
        np.testing.assert_allclose(mine.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_hidden_networks_are_those_frozen_for_a_stage():
    assert len(all_networks(make())) == 4 and len(all_networks(make(p0="stage"))) == 6
