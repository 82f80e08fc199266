"""U2PL: its step against a NumPy reading of the paper, and the invariants that follow from it."""

import numpy as np
import pytest
import tensorflow as tf

from tests.networks_for_tests import VOID, gradients_by_network, make_batch, reached, same, snapshot, step
from tests.runs_for_tests import (
    assert_same_bits,
    configuration,
    fit_and_cut,
    fit_and_hold,
    surroundings,
    write_configuration,
    write_data,
)
from tests.u2pl_for_tests import SILENT, C, apart, eager_step, held, make, reading
from tfssl import fit, mixing
from tfssl.errors import UserError
from tfssl.methods import u2pl

OPTIONS = [
    {},
    {"anchors": 600, "negatives": 7, "pushed": 90, "rank_low": 2, "rank_high": 3},
    {"contrast": "binary", "class_average": "present", "anchor_threshold": 0.8},
    {"negatives_from": "lowest", "anchors_from": "lowest", "positive_threshold": 0.0, "unreliable": 0.4},
    {"negatives_from": "all", "labeled_negatives": False, "rank_low": 2, "temperature": 0.5},
    {"rank_low": 1, "rank_high": 2, "negatives_from": "all"},
    {"rank_low": None, "dynamic_partition": False, "adaptive_weight": False, "unsupervised_weight": 2.5},
    {"queues": False, "ohem": 0.7, "student_view": "strong", "contrast_weight": 0.1},
    {"mix": "cutmix"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_step_is_what_the_paper_says(options):
    method, batch = apart(make(**SILENT | options)), make_batch()
    expected, pushed = reading(method, batch, **options)
    before = [held(method, c) for c in range(C)]
    logged = eager_step(method, batch)
    assert logged.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(logged[name], value, rtol=2e-4, err_msg=name)
    assert expected["contrast"] > 0 and expected["unsupervised"] > 0
    for c in range(C):
        keys = [*before[c], *pushed[c]][-method.queues.capacity[c] :]
        np.testing.assert_allclose(held(method, c), np.reshape(keys, [-1, 12]), rtol=1e-4, atol=1e-5)


def test_no_two_options_read_the_same():
    """What the tests of the step compare with is another number for each option."""
    method, batch = apart(make(**SILENT)), make_batch()
    plain = [options for options in OPTIONS if "mix" not in options]
    single = {f"{name} {value}": {name: value} for options in plain for name, value in options.items()}
    for same_here in ("rank_low 1", "rank_high 3", "class_average present", "queues False"):  # as is already
        del single[same_here]
    terms = [reading(method, batch, **options)[0] for options in [{}, *single.values()]]
    assert len({tuple(round(float(value), 6) for value in found.values()) for found in terms}) == len(terms)


def absent(batch, c):
    """The batch without class c among the labels."""
    (image, label), unlabeled = batch["labeled"], batch["unlabeled"]
    return {"labeled": (image, tf.where(label == c, (c + 1) % C, label)), "unlabeled": unlabeled}


@pytest.mark.parametrize("gone", [0, 1])
def test_a_class_is_contrasted_with_its_own_queue_whichever_classes_are_absent(gone):
    """The published code numbers the classes of a batch anew and meets other classes' queues."""
    method = apart(make(**SILENT))
    bias = np.zeros(C)
    bias[gone] = -1000
    last = method.teacher.get_layer("classifier").get_layer("logits_convolution")
    last.bias.assign(last.bias + bias)
    batch = absent(make_batch(), gone)
    p = method.task.activation(method.teacher(batch["unlabeled"][0])["logits"])
    assert not (np.array(p)[..., gone] > 0).any()
    counted = []
    method.compare = lambda anchors, counts, positives, negatives: (
        counted.append([np.array(part) for part in (counts, positives, negatives)]) or tf.reduce_sum(anchors * 0)
    )
    queue = [held(method, c) for c in range(C)]
    eager_step(method, batch)
    ((counts, positives, negatives),) = counted
    np.testing.assert_array_equal(counts.any(1), np.arange(C) != gone)
    np.testing.assert_array_equal(np.abs(positives).any(1), np.arange(C) != gone)
    for c in range(C):
        old = (negatives[c][:, None] == queue[c][None]).all(-1).any(1)  # each class meets keys of its own queue
        others = [(negatives[c][:, None] == queue[k][None]).all(-1).any() for k in range(C) if k != c]
        assert old.any() and not any(others)


# The partition and its weight.


def test_the_share_of_unreliable_pixels_falls_to_nothing():
    """Equation 7, and with it the weight of equation 8."""
    valid, fixed = int(make_batch()["unlabeled"][1].numpy().sum()), make(**SILENT, dynamic_partition=False)
    method = make(**SILENT, steps=8)
    for number in (0, 3, 7):
        for each, share in ((method, 0.2 * (1 - number / 8)), (fixed, 0.2)):
            each.optimizer.iterations.assign(number)
            logged = eager_step(each, make_batch())
            assert abs(1 - logged["used_pixels"] - share) <= 1.01 / valid
    nobody = eager_step(make(**SILENT, unreliable=0.0), make_batch())
    assert nobody["used_pixels"] == 1


def test_a_weight_of_zero_takes_its_term_away():
    batch = make_batch()
    none = eager_step(apart(make(**SILENT, unsupervised_weight=0.0, contrast_weight=0.0)), batch)
    assert none["unsupervised"] == none["contrast"] == 0 < none["supervised"]


# Negatives and queues.


def test_few_classes_leave_no_unreliable_negatives_and_the_user_is_told(capsys):
    method = make(**SILENT, rank_low=3, labeled_negatives=False)
    logged = eager_step(method, make_batch())
    assert logged["contrast"] == logged["anchors"] == logged["contrasted_classes"] == 0
    assert not method.queues.filled.numpy().any()
    fit.tell(method)
    told = capsys.readouterr()
    assert told.out == "" and told.err == (
        "warning: method.rank_low is 3, but there are 3 classes: no unreliable pixel can be a negative, "
        "and no labeled one may: there is no contrast; set method.rank_low to 2\n"
    )
    assert "only labeled ones can" in make(rank_low=3).cautions()[0]
    assert "method.unreliable is 0" in make(unreliable=0.0).cautions()[0]
    assert not make(rank_low=2).cautions() and not make(unreliable=0.0, negatives_from="all").cautions()
    mended = make(**SILENT, rank_low=2, labeled_negatives=False)
    assert eager_step(mended, make_batch())["contrast"] > 0
    assert mended.cautions() == make(rank_low=None).cautions() == []
    assert eager_step(make(**SILENT, rank_low=3), make_batch())["contrast"] > 0  # labeled pixels have no such window


def test_a_class_without_a_positive_has_no_part():
    """Nothing is as sure as 1: there is no centre, and pushing anchors from negatives alone is no contrast."""
    logged = eager_step(apart(make(**SILENT, positive_threshold=1.0)), make_batch())
    assert logged["contrast"] == logged["contrasted_classes"] == 0 < logged["queue_fill"]
    assert "method.anchor_threshold is 1" in make(anchor_threshold=1.0).cautions()[0]


def test_a_class_without_negatives_has_no_part():
    """All the teacher says is class 0: it alone has anchors, and it alone has no negatives."""
    method = make(**SILENT, negatives_from="all", labeled_negatives=False)
    last = method.teacher.get_layer("classifier").get_layer("logits_convolution")
    last.bias.assign([200.0, 0.0, 0.0])
    first = eager_step(method, make_batch())
    assert first["contrast"] == first["anchors"] == 0
    np.testing.assert_array_equal(method.queues.filled, [0, 30, 30])


def test_the_size_of_the_queues_is_told_up_front(capsys):
    fit.tell(make(channels=100, queue_capacity=900, background_capacity=5699))
    assert capsys.readouterr().out == "memories of the method: 3 MB on each device\n"  # 7500 x 100 floats


def test_without_queues_nothing_is_remembered():
    method = make(**SILENT, queues=False)
    before = snapshot(method)["memory_1"]
    logged = [eager_step(method, make_batch(seed)) for seed in range(2)]
    assert same(before, snapshot(method)["memory_1"]) and method.megabytes < 0.001
    assert all(terms["contrast"] > 0 == terms["queue_fill"] for terms in logged)


def test_keys_are_the_teachers_and_class_0_may_keep_more():
    method = make(**SILENT, background_capacity=60, queue_capacity=35)
    np.testing.assert_array_equal(method.queues.capacity, [60, 35, 35])
    for seed in range(4):
        eager_step(method, make_batch(seed))
    np.testing.assert_array_equal(method.queues.filled, [60, 35, 35])
    batch = make_batch(9)
    image = tf.concat([batch["labeled"][0], batch["unlabeled"][0]], 0)
    features = method.teacher(image, training=False)["features"]
    known = method.projection_teacher(features, training=False).numpy().reshape(-1, 12)
    eager_step(method, batch)
    for c in range(C):
        newest = held(method, c)[-1]
        assert np.abs(known - newest).max(-1).min() < 1e-5


# Who learns from whom.


def test_the_contrast_teaches_the_student_through_its_head_alone():
    found = gradients_by_network(apart(make()), make_batch())
    assert {term: reached(gradients) for term, gradients in found.items()} == {
        "supervised": {"student"}, "unsupervised": {"student"}, "contrast": {"student", "projection"}
    }  # fmt: skip


def test_the_warm_up_learns_from_labels_alone_and_leaves_the_queues_empty():
    method, other = (make(warm_up=3, steps=8) for _ in range(2))
    assert [first for first, *_ in method.phases()] == [0, 3]
    batch = make_batch()
    garbage = tuple(tf.fill(view.shape, np.nan) if view.dtype == tf.float32 else view for view in batch["unlabeled"])
    logged = step(method, batch)
    assert logged == step(other, {**batch, "unlabeled": garbage}) and set(logged) == {"supervised"}
    assert same(snapshot(method), snapshot(other)) and not method.queues.filled.numpy().any()
    untouched = make().projection.get_weights()
    assert same(method.projection.get_weights(), untouched)
    for seed in range(3):
        assert not method.queues.filled.numpy().any()
        logged = step(method, make_batch(seed))
    assert set(logged) == {*method.terms, *method.watched} and method.queues.filled.numpy().all()
    assert same(method.projection_teacher.get_weights(), method.projection.get_weights())  # its first update


def test_cutmix_mixes_image_pseudo_label_and_anchors_by_one_mask(monkeypatch):
    seen, original = [], mixing.cutmix

    def record(key, *tensors):
        mixed = original(key, *tensors)
        seen.append(([np.array(tensor) for tensor in tensors], [np.array(tensor) for tensor in mixed]))
        return mixed

    monkeypatch.setattr(mixing, "cutmix", record)
    method, batch = apart(make(unreliable=0.4)), make_batch()
    studied = []
    study = method.study
    method.study = lambda image, key: studied.append(np.array(image)) or study(image, key)
    eager_step(method, batch)
    (((image, *labels), (mixed, *mixed_labels)),) = seen
    np.testing.assert_array_equal(image, batch["unlabeled"][0])
    np.testing.assert_array_equal(studied[0], np.concatenate([batch["labeled"][0], mixed]))
    assert len(labels) == 2 and all((label == VOID).any() for label in labels)
    origin = (mixed[:, None] == image[None]).all(-1)  # [mixed, image, H, W]
    assert origin.any(1).all() and 0.3 < 1 - origin[np.arange(4), np.arange(4)].mean() < 0.7
    rows, columns = np.indices(mixed.shape[1:3])
    for before, after in zip(labels, mixed_labels, strict=True):
        np.testing.assert_array_equal(before[origin.argmax(1), rows, columns], after)


def test_mixing_leaves_labels_and_keys_alone():
    results = []
    for mix in ("cutmix", "none"):
        method = apart(make(**{**SILENT, "mix": mix}))
        results.append((eager_step(method, make_batch()), snapshot(method)["memory_1"]))
    (mixed, keys), (plain, plain_keys) = results
    assert same(keys, plain_keys)
    assert {term for term in method.terms if mixed[term] != plain[term]} == {"unsupervised", "contrast"}


@pytest.mark.parametrize("statistics", ["copy", "average"])
def test_batch_statistics_of_teachers(statistics):
    method = apart(make(teacher_statistics=statistics, ema_decay=0.5))
    pairs = [(method.teacher, method.student), (method.projection_teacher, method.projection)]
    before = [teacher.get_weights() for teacher, _ in pairs]
    eager_step(method, make_batch())
    for values, (teacher, student) in zip(before, pairs, strict=True):
        trained = {id(weight) for weight in student.trainable_variables}
        for value, mine, theirs in zip(values, teacher.weights, student.weights, strict=True):
            averaged = statistics == "average" or id(theirs) in trained
            expected = 0.5 * value + 0.5 * theirs.numpy() if averaged else theirs.numpy()
            np.testing.assert_allclose(mine.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_the_representation_head():
    head = u2pl.representation_head(20, 256, seed=3)
    assert head(tf.zeros([2, 5, 7, 20])).shape == (2, 5, 7, 256)
    assert [layer.filters for layer in head.layers if hasattr(layer, "filters")] == [10, 10, 256]
    assert same(head.get_weights(), u2pl.representation_head(20, 256, seed=3).get_weights())
    assert not same(head.get_weights(), u2pl.representation_head(20, 256, seed=4).get_weights())


# A run.


@pytest.mark.parametrize(("options", "says"), [
    ({"warm_up": 8}, "method.warm_up is 8 steps, but training.steps is 8"),
    ({"rank_low": 4, "rank_high": 4}, "method.rank_high is 4"),
    ({"pushed": 101}, "method.queue_capacity .* is 100, but a step may push 101 keys, method.pushed"),
])  # fmt: skip
def test_settings_that_cannot_be(options, says):
    with pytest.raises(UserError, match=says):
        make(**options)


@pytest.mark.slow
def test_a_run_that_was_cut_goes_on_to_the_same_bits(tmp_path, capsys):
    with surroundings(tmp_path):
        content = configuration(
            write_data(tmp_path / "data"), training={"steps": 5},
            method={"name": "u2pl", "warm_up": 1, "pushed": 50, "queue_capacity": 500, "background_capacity": 600},
        )  # fmt: skip
        path = write_configuration(tmp_path / "run.json", content)
        expected = fit_and_hold(path, tmp_path / "whole")
        told = capsys.readouterr()
        assert "memories of the method: 2 MB" in told.out and told.err.count("set method.rank_low to 2") == 1
        fit_and_cut(path, tmp_path / "cut", 4)  # the save of step 3 has keys in the queues
        assert_same_bits(expected, fit_and_hold(path, tmp_path / "cut"))
