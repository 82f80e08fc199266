"""Supervised learning, mean teacher and CutMix against their formulas."""

import numpy as np
import pytest
import tensorflow as tf

from tests.contracts import started
from tests.networks_for_tests import (
    CLASSES,
    QUIET,
    gradients_by_network,
    make_batch,
    make_method,
    same,
    step,
    tiny_network,
)
from tfssl import mixing


def test_supervised_needs_no_unlabeled_images():
    method = make_method("supervised")
    batch = make_batch()
    assert not method.uses_unlabeled and method.strong_views == 0
    step(method, {"labeled": batch["labeled"]})
    plain = make_method("supervised", ema_decay=None)
    assert plain.deployed is plain.network and plain.pseudo_labels(batch["labeled"][0]) is None
    step(plain, batch)
    assert same(plain.network.get_weights(), method.network.get_weights())


def softmax(logits):
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


@pytest.mark.parametrize("consistency", ["squared_error", "cross_entropy"])
@pytest.mark.parametrize(("name", "view"), [("mean_teacher", "weak"), ("mean_teacher", "strong"), ("cutmix", "weak")])
def test_consistency_is_what_its_formula_says(name, view, consistency):
    options = {"threshold": 0.8, "consistency_weight": 3.0, "student_view": view, "consistency": consistency,
               "mix": "none", "confidence": "selects", "ramp": "linear", "rate": 0.1, **QUIET}  # fmt: skip
    method = make_method(name, ramp_up=4, steps=8, **options)
    step(method, make_batch(1))
    batch = make_batch()
    weak, valid, strong, _ = (np.array(tensor) for tensor in batch["unlabeled"])
    target = softmax(np.array(method.teacher(weak, training=False)["logits"], "float64"))
    found = softmax(np.array(method.student(strong if view == "strong" else weak)["logits"], "float64"))
    sure = target.max(-1) > 0.8
    if consistency == "squared_error":
        distance = ((target - found) ** 2).sum(-1)
    else:
        distance = -np.log(np.take_along_axis(found, target.argmax(-1)[..., None], -1))[..., 0]
    logged = step(method, batch)
    share = (sure & valid).sum() / valid.sum()
    assert 0.02 < share < 0.98
    np.testing.assert_allclose(logged["used_pixels"], share, rtol=1e-4)
    weight = 3.0 * 1 / 4  # step 1 of a ramp-up of 4
    np.testing.assert_allclose(logged["consistency"], weight * (distance * sure)[valid].sum() / valid.sum(), rtol=1e-3)


def test_without_ramp_up_consistency_has_its_weight_from_the_first_step():
    batch = make_batch()
    logged = step(make_method("mean_teacher", ramp_up=0, threshold=0.0), batch)
    assert logged["consistency"] > 0


@pytest.mark.parametrize(
    ("ramp", "rise"),
    [("sigmoid", np.exp(-5 * (3 / 4) ** 2)), ("cosine", 0.5 - 0.5 * np.cos(np.pi / 4)), ("linear", 1 / 4)],
)
def test_how_the_consistency_rises(ramp, rise):
    """After one step of a ramp-up of four, against no ramp-up."""
    batch, found = make_batch(), []
    for ramp_up in (4, 0):
        method = make_method("mean_teacher", ramp=ramp, ramp_up=ramp_up, steps=8, **QUIET)
        method.optimizer.iterations.assign(1)
        found.append(step(method, batch)["consistency"])
    np.testing.assert_allclose(found[0], rise * found[1], rtol=1e-4)


@pytest.mark.parametrize("name", ["mean_teacher", "cutmix"])
def test_no_pixel_is_surer_than_certain(name):
    method = started(name, threshold=1.0, consistency="cross_entropy")
    logged = step(method, make_batch())
    assert logged["consistency"] == logged["used_pixels"] == 0 < logged["supervised"]


def test_cutmix_mixes_image_target_and_weight_by_one_mask(monkeypatch):
    """The student sees the mix, and each pixel is compared with what the teacher said of that very pixel."""
    seen, original = [], mixing.cutmix

    def record(key, *tensors):
        mixed = original(key, *tensors)
        seen.append((tensors, mixed))
        return mixed

    monkeypatch.setattr(mixing, "cutmix", record)
    method = started("cutmix", dropout=0.0, stochastic_depth=0.0)
    seen.clear()
    batch = make_batch()
    teacher = method.task.activation(method.teacher(batch["unlabeled"][0], training=False)["logits"])
    gradients_by_network(method, batch)
    ((image, target, sure, valid), mixed) = seen[0]
    np.testing.assert_array_equal(image, batch["unlabeled"][0])
    np.testing.assert_allclose(target, teacher, atol=1e-6)
    origin = np.abs(np.array(mixed[0])[:, None] - np.array(image)[None]).max(-1) == 0  # [mixed, image, H, W]
    assert 0.3 < 1 - origin[np.arange(4), np.arange(4)].mean() < 0.7 and origin.any(1).all()
    chosen = origin.argmax(1)
    rows, columns = np.indices(chosen.shape[1:])
    for before, after in zip((target, sure, valid), mixed[1:], strict=True):
        np.testing.assert_array_equal(np.array(before)[chosen, rows, columns], after)
    step(make_method("mean_teacher", mix="none"), make_batch())
    assert len(seen) == 1


def test_networks_of_the_tests_keep_the_contract():
    network = tiny_network(dropout=0.5)
    for size in (16, 21):
        outputs = network(tf.zeros([2, size, size, 3]))
        assert outputs["logits"].shape == (2, size, size, len(CLASSES))
    assert network.get_layer("encoder").get_layer("backbone")
