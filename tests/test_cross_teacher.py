"""Cross Teacher Training: its terms against a NumPy reading of the paper, and the invariants that follow from it."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.cross_for_tests import (
    ROOM,
    apart,
    expected_keys,
    expected_step,
    make,
    quiet,
    spoil,
)
from tests.mutual_for_tests import softmax
from tests.networks_for_tests import (
    QUIET,
    SIZE,
    assert_close,
    gradients_by_network,
    make_batch,
    make_method,
    reached,
    remember,
    snapshot,
    step,
    tiny_network,
)
from tests.runs_for_tests import configuration, surroundings
from tfssl import config, mixing, networks, runs
from tfssl.errors import UserError
from tfssl.networks.layers import image_input, point_classifier, with_classifier


@pytest.mark.parametrize(
    "options",
    [{}, {"pairs": 1}, {"pairs": 3}, {"labels_from": "own"}, {"labels_from": "all"}, {"labels_from": "students"},
     {"directional": False, "threshold": 0.5}, {"label_threshold": 0.6}, {"student_view": "strong"},
     {"pairs": 3, "labels_from": "all", "weights": (2, 3, 0.4, 0.5)}],
    ids=str,
)  # fmt: skip
def test_the_step_is_what_the_paper_says(options):
    given = {key: value for key, value in options.items() if key != "weights"}
    if "weights" in options:
        names = ("supervised_weight", "cross_weight", "high_weight", "low_weight")
        given |= dict(zip(names, options["weights"], strict=True))
    method, batch = quiet(**given), make_batch()
    assert method.strong_views == (options.get("student_view") == "strong")
    expected = expected_step(method, batch, **options)
    assert all(expected[name] > 0 for name in method.terms)
    assert_close(step(method, batch), expected, 1e-4)


@pytest.mark.parametrize(("quota", "chosen"), [(1, "confident"), (3, "confident"), (3, "random")])
def test_what_goes_into_the_banks(quota, chosen):
    """Of teacher k, of labeled pixels it gets right, the n surest of each class and image; after the loss, in order."""
    method, batch = quiet(quota=quota, chosen=chosen), make_batch(1)
    expected = [expected_keys(teacher, *batch["labeled"], quota) for teacher in method.teachers]
    everything = [expected_keys(teacher, *batch["labeled"], 64)[0] for teacher in method.teachers]
    before = [bank.get_weights() for bank in method.banks]
    logged = step(method, batch)
    assert logged["bank_fill"] == pytest.approx(np.mean([held[1].mean() / ROOM for held in before]))
    for bank, (keys, shown), right, (value, filled, following, *_) in zip(
        method.banks, expected, everything, before, strict=True
    ):
        assert any(keys.values()) and max(map(len, right.values())) > quota
        for k, wanted in keys.items():
            places = (following[k] + np.arange(len(wanted))) % ROOM
            found = bank.keys.numpy()[k][places]
            if chosen == "confident":
                np.testing.assert_allclose(found, np.reshape(wanted, [-1, 8]), rtol=1e-4, atol=1e-5)
            else:
                distance = np.abs(found[:, None] - np.reshape(right[k], [1, -1, 8])).max(-1)
                assert (distance.min(1) < 1e-4).all() and len(set(distance.argmin(1))) == len(wanted)
                assert not wanted or not np.allclose(found, wanted, atol=1e-4) or len(wanted) == len(right[k])
            rest = np.setdiff1d(np.arange(ROOM), places)
            np.testing.assert_array_equal(bank.keys.numpy()[k][rest], value[k * ROOM + rest])
            assert bank.filled.numpy()[k] == min(filled[k] + len(wanted), ROOM)
            assert bool(bank.seen.numpy()[k]) == (k in shown)


# Who teaches whom.


def test_labels_and_features_come_from_whom_they_should():
    """L_ct of a student does not know its own teacher nor its peer; only low-level contrast looks at the peer."""
    method, batch, changed = quiet(), make_batch(), {}
    restore, plain = remember(method), step(method, batch)
    for spoiled in method.roles:
        restore()
        spoil(method.roles[spoiled])
        logged = step(method, batch)
        changed[spoiled] = {term for term in method.terms if logged[term] != plain[term]}
    told = {"cross_1", "high_1", "low_1"}
    assert changed["teacher_2"] == told and changed["teacher_1"] == {"cross_2", "high_2", "low_2"}
    assert changed["student_1"] == {"supervised_1", *told, "low_2"}
    for k, bank in enumerate(method.banks):  # of its own bank a student learns, low-level contrast of both
        restore()
        bank.value.assign(-bank.value)
        logged = step(method, batch)
        assert {term for term in method.terms if logged[term] != plain[term]} == {f"high_{k + 1}", "low_1", "low_2"}


@pytest.mark.parametrize("options", [{"pairs": 3}, {"labels_from": "students"}, {"mix": "cutmix"}], ids=str)
def test_each_term_reaches_its_student_alone(options):
    method = apart(make(**options))
    found = gradients_by_network(method, make_batch())
    assert {term: reached(gradients) for term, gradients in found.items()} == {
        term: {f"student_{term[-1]}"} for term in method.terms
    }


def test_swapping_the_networks_swaps_the_terms():
    method, other = (
        quiet(learners=[tiny_network(seed, frozen_norm=True) for seed in pair]) for pair in ((1, 2), (2, 1))
    )
    for k in range(2):
        other.teachers[1 - k].set_weights(method.teachers[k].get_weights())
        other.banks[1 - k].set_weights(method.banks[k].get_weights())
    logged, mirrored = step(method, make_batch()), step(other, make_batch())
    swap = str.maketrans("12", "21")
    assert_close(logged, {name.translate(swap): value for name, value in mirrored.items()})
    assert_close(snapshot(method), {name.translate(swap): found for name, found in snapshot(other).items()})


def test_one_pair_without_a_bank_is_a_mean_teacher():
    """With cross-entropy and no threshold; so are two pairs that learn from their own teachers, each by itself."""
    alone, pairs = (make(pairs=n, memory_size=0, labels_from="own", ema_decay=0.9, **QUIET) for n in (1, 2))
    plain = make_method("mean_teacher", ema_decay=0.9, consistency="cross_entropy", threshold=0.0, ramp_up=0,
                        student_view="weak", rate=0.02, **QUIET)  # fmt: skip
    assert alone.terms == ("supervised_1", "cross_1", "high_1")
    for seed in range(3):
        expected = step(plain, make_batch(seed))
        logged, of_pairs = step(alone, make_batch(seed)), step(pairs, make_batch(seed))
        assert set(logged) == {"supervised_1", "cross_1", "used_pixels"} and logged["used_pixels"] == 1
        assert logged["supervised_1"] == pytest.approx(expected["supervised"], rel=1e-5)
        assert logged["cross_1"] == pytest.approx(expected["consistency"], rel=1e-5)
        assert of_pairs["cross_1"] == pytest.approx(logged["cross_1"], rel=1e-5)
    for mine, theirs in zip(alone.teachers[0].weights, plain.teacher.weights, strict=True):
        np.testing.assert_allclose(mine.numpy(), theirs.numpy(), atol=1e-6)
    others = make(pairs=1)
    assert others.tellers == [[0]] and len(others.banks) == 1


# The contrasts.


def test_thresholds_at_the_ends():
    """phi = 0: all pixels are of high quality, phi = 1: none is (table 8); a bank of nothing is no contrast."""
    batch = make_batch()
    every, none, plain = (step(quiet(**option), batch) for option in
                          ({"threshold": 0.0}, {"threshold": 1.0}, {"memory_size": 0}))  # fmt: skip
    assert every["low_1"] == every["low_2"] == every["low_pixels"] == 0 < every["high_1"] and every["high_pixels"] == 1
    assert none["high_1"] == none["high_2"] == none["high_pixels"] == 0 < none["low_1"]
    assert set(plain) == {"supervised_1", "supervised_2", "cross_1", "cross_2", "used_pixels", "total_variation"}


def test_the_cross_loss_joins_at_its_step():
    """Until then it is no fault that it is 0; from then on it is what it always was."""
    joined, batch = quiet(cross_from=0), make_batch()
    method = quiet(cross_from=5, steps=1000)
    before = step(method, batch)
    assert before["cross_1"] == before["cross_2"] == before["used_pixels"] == 0 < before["supervised_1"]
    method = quiet(cross_from=5, steps=1000)
    method.optimizer.iterations.assign(5)
    joined.optimizer.iterations.assign(5)
    after, always = step(method, batch), step(joined, batch)
    assert after["cross_1"] > 0 and after["used_pixels"] == 1 and after == always
    assert [method.begins(term) for term in ("supervised_1", "cross_2", "high_1", "low_2")] == [0, 5, 0, 0]


def test_contrast_begins_when_the_banks_of_all_classes_seen_are_full_or_at_a_step():
    method, batch = quiet(start_by=100, steps=1000), make_batch()
    restore = remember(method)

    def starts(filled, seen, number):
        restore()
        method.optimizer.iterations.assign(number)
        for bank in method.banks:
            bank.filled.assign(filled)
            bank.seen.assign(seen)
        logged = step(method, batch)
        terms = [term for term in method.terms if "high" in term or "low" in term]
        assert len({logged[term] > 0 for term in terms}) == 1 and logged["cross_1"] > 0
        return logged["high_1"] > 0

    assert not starts([ROOM, ROOM, ROOM - 1], [1, 1, 1], 3) and starts([ROOM] * 3, [1, 1, 1], 3)
    assert starts([ROOM, ROOM, 0], [1, 1, 0], 3) and not starts([ROOM, ROOM, 0], [1, 1, 1], 3)
    assert not starts([0] * 3, [0] * 3, 3)
    assert not starts([ROOM, 3, 0], [1, 1, 1], 99) and starts([ROOM, 3, 0], [1, 1, 1], 100)
    restore()
    method.banks[1].filled.assign([ROOM] * 3)  # that of one pair is not enough
    method.banks[1].seen.assign([1, 1, 1])
    assert step(method, batch)["high_2"] == 0
    assert starts([ROOM, ROOM, 0], [1, 1, 0], 3)
    for bank in method.banks:  # a class that is first seen now must not end what has begun
        bank.filled.assign([ROOM, ROOM, 0])
        bank.seen.assign([1, 1, 1])
    assert step(method, batch)["high_2"] > 0


@pytest.mark.slow
def test_few_anchors_stand_for_all():
    """A different draw for each step; its mean is that of all pixels."""
    full, batch = step(quiet(), make_batch()), make_batch()
    method = quiet(anchors=40, rate=0.0, ema_decay=1.0)
    restore, found = remember(method), []
    for number in range(30):
        restore()
        method.optimizer.iterations.assign(number)
        found.append(step(method, batch))
    for term in ("high_1", "low_2"):
        drawn = [logged[term] for logged in found]
        assert len(set(drawn)) == 30 and np.mean(drawn) == pytest.approx(full[term], rel=0.05)
        assert drawn[0] != pytest.approx(full[term], rel=1e-4)
    assert {logged["high_pixels"] for logged in found} == {found[0]["high_pixels"]}


def test_cutmix_has_one_mask_for_both_students(monkeypatch):
    """So both see the same image, each pixel has what its teachers said of it, and the contrast the mixed labels."""
    seen, original = [], mixing.cutmix
    monkeypatch.setattr(mixing, "cutmix", lambda *given: seen.append((given, original(*given))) or seen[-1][1])
    method, batch = quiet(mix="cutmix"), make_batch()
    assert method.mixes
    shown, study = [], method.study
    method.study = lambda k, image, key: shown.append(image) or study(k, image, key)
    mixed = step(method, batch)
    (((_, image, *told), (result, *mixed_labels)),) = seen
    labels = told[:2]  # behind them, where they are sure
    np.testing.assert_array_equal(image, batch["unlabeled"][0])
    for images in shown:
        np.testing.assert_array_equal(images[4:], result)
    for label, teacher in zip(labels, quiet().teachers, strict=True):
        told = np.array(teacher(image, training=False)["logits"]).argmax(-1)
        np.testing.assert_array_equal(label, np.where(batch["unlabeled"][1], told, 255))
    plain, valid = quiet(), np.array(mixed_labels[0]) != 255
    batch = {**batch, "unlabeled": (result, tf.constant(valid), result)}
    for term, value in step(plain, batch).items():
        assert (mixed[term] == pytest.approx(value, rel=1e-5)) == (
            "supervised" in term or "pixels" in term or "fill" in term
        )
    assert not quiet().mixes


def test_classmix_cuts_all_by_what_the_first_teacher_says(monkeypatch):
    seen, original = [], mixing.classmix
    record = lambda *given, **known: seen.append((given, original(*given, **known))) or seen[-1][1]  # noqa: E731
    monkeypatch.setattr(mixing, "classmix", record)
    method, batch = quiet(mix="classmix"), make_batch()
    logged = step(method, batch)
    (((_, by, image, *labels), (result, *mixed)),) = seen
    assert len(labels) == len(mixed) == 4 and logged["cross_1"] > 0  # behind the labels, where they are sure
    np.testing.assert_array_equal(by, labels[0])
    changed = np.any(result != image, axis=-1)
    for label, after in zip(labels, mixed, strict=True):
        np.testing.assert_array_equal(np.where(changed, -1, after), np.where(changed, -1, label))
    assert 0.05 < changed.mean() < 0.95 and tf.reduce_any(mixed[1] != labels[1])


def test_networks_of_two_resolutions_are_compared_on_one_grid():
    """The second network's maps are twice as large, and its features those of the first grid's places."""
    keras.utils.set_random_seed(5)
    image = image_input()
    x = keras.layers.Conv2D(8, 3, strides=2, padding="same", name="backbone")(keras.layers.Rescaling(1 / 127.5)(image))
    finer = with_classifier(keras.Model(image, x, name="encoder"), point_classifier(8, 3, 0.0))
    method = quiet(learners=[tiny_network(1, frozen_norm=True), finer])
    assert method.students[1](tf.zeros([1, SIZE, SIZE, 3]))["features"].shape[1:3] == (16, 16)
    logged = step(method, make_batch())
    assert all(logged[term] > 0 for term in method.terms)


# Watched, scored, and what is refused.


@pytest.mark.parametrize("labels_from", ["others", "own", "students"])
def test_pseudo_labels_and_coupling_are_those_of_the_guides(labels_from):
    method, image = quiet(labels_from=labels_from), make_batch()["unlabeled"][0]
    guides = method.students if labels_from == "students" else method.teachers
    said = [softmax(guide(image, training=False)["logits"]) for guide in guides]
    teller = 0 if labels_from == "own" else 1
    np.testing.assert_array_equal(method.pseudo_labels(image), said[teller].argmax(-1))
    assert (said[0].argmax(-1) != said[1].argmax(-1)).any()
    np.testing.assert_allclose(method.coupling(image), 0.5 * np.abs(said[0] - said[1]).sum(-1).mean(), rtol=1e-4)


def test_the_ensemble_of_the_teachers_is_scored_beside_them():
    method, image = quiet(pairs=3), make_batch()["unlabeled"][0]
    assert list(method.scored) == [*method.roles, "ensemble"] and method.deployed is method.teachers[0]
    expected = np.mean([softmax(teacher(image, training=False)["logits"]) for teacher in method.teachers], axis=0)
    np.testing.assert_allclose(softmax(method.scored["ensemble"](image, training=False)["logits"]), expected, rtol=1e-4)
    assert list(make(pairs=1).scored) == ["teacher_1", "student_1"]


def test_mistakes_are_told(monkeypatch):
    with pytest.raises(UserError, match='method.labels_from is "students"'):
        make(pairs=1, labels_from="students")
    with pytest.raises(UserError, match="networks: learners 1 and 3 have equal weights"):
        make(pairs=3, learners=[tiny_network(seed) for seed in (3, 4, 3)])
    with pytest.raises(UserError, match="method.memory_size: a step may bring 12 keys of a class"):
        make(memory_size=11, quota=3).refuse_batch((32, 32), 4, 4)
    learners = [tiny_network(1)]
    monkeypatch.setattr("tests.networks_for_tests.FEATURES", 6)
    learners.append(tiny_network(2))
    with pytest.raises(UserError, match=r"networks: their features have \[8, 6\] channels"):
        make(learners=learners)
    assert make(learners=learners, memory_size=0).banks == []
    make(memory_size=12, quota=3).refuse_batch((32, 32), 4, 4)


def test_as_many_networks_as_pairs_are_built(tmp_path):
    with surroundings(tmp_path):
        for pairs in (1, 3):
            content = configuration(tmp_path, method={"name": "cross_teacher", "pairs": pairs})
            settings = runs.resolve(config.parse(content, "file"), "file")
            roles = runs.build(settings, tmp_path).method.roles
            assert list(roles) == [f"{kind}_{k + 1}" for kind in ("teacher", "student") for k in range(pairs)]
        content["networks"] = [{"name": "tiny"}] * 2
        with pytest.raises(UserError, match="networks: cross_teacher trains 3, but the list has 2; give 1 or 3"):
            runs.build(runs.resolve(config.parse(content, "file"), "file"), tmp_path)
        for wrong in ({"pairs": 4}, {"memory_size": -1}, {"quota": 0}, {"temperature": 0.0}, {"anchors": 0}):
            content["method"] = {"name": "cross_teacher", **wrong}
            with pytest.raises(UserError, match=f"method.{next(iter(wrong))}"):
                runs.resolve(config.parse(content, "file"), "file")
    assert "tiny" not in networks.NETWORKS
