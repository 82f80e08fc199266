"""ClassMix on a mean teacher: its step against a NumPy reading of the paper."""

import numpy as np
import pytest

from tests.mutual_for_tests import softmax
from tests.networks_for_tests import QUIET, gradients_by_network, make_batch, make_method, step
from tfssl import mixing

THRESHOLD = 0.8


def make(name="classmix", **options):
    """A method some steps on, without noise, whose threshold part of the pixels pass."""
    method = make_method(name, **{"threshold": THRESHOLD, "rate": 0.1, "ramp_up": 0, **QUIET, **options})
    step(method, make_batch(1))
    return method


def recorded(method, batch, monkeypatch):
    """What the next step of a method gives to ClassMix, and what comes back."""
    seen, original = [], mixing.classmix

    def record(key, label, *tensors, **known):
        mixed = original(key, label, *tensors, **known)
        seen.append((np.array(label), *([np.array(part) for part in parts] for parts in (tensors, mixed))))
        return mixed

    monkeypatch.setattr(mixing, "classmix", record)
    gradients_by_network(method, batch)
    (call,) = seen
    return call


def expected_terms(method, batch, mixed, how):
    """The consistency and the share of confident pixels, for the mixed image, label, confidence and inside."""
    image, label, sure, inside = mixed
    logits = method.student(np.concatenate([batch["labeled"][0], image]), training=True)["logits"][4:]
    found = softmax(logits)
    distance = -np.log(np.take_along_axis(found, np.where(inside, label, 0)[..., None], -1))[..., 0]
    total = 0.0
    for n in range(len(image)):
        share = {"weighs_images": sure[n].sum() / inside[n].sum(), "weighs_batch": sure.sum() / inside.sum()}
        total += (distance[n] * inside[n] * (sure[n] if how == "selects" else share[how])).sum()
    return total / inside.sum(), sure.sum() / inside.sum()


@pytest.mark.parametrize("how", ["weighs_images", "weighs_batch", "selects"])
def test_the_step_is_what_the_paper_says(how, monkeypatch):
    """Half of the classes the teacher sees, pasted; cross-entropy times the share of its confident pixels."""
    method, batch = make(confidence=how), make_batch()
    weak, valid, strong, _ = (np.array(part) for part in batch["unlabeled"])
    told = softmax(method.teacher(weak, training=False)["logits"])
    label, given, mixed = recorded(method, batch, monkeypatch)
    np.testing.assert_array_equal(label, np.where(valid, told.argmax(-1), 255))
    np.testing.assert_array_equal(given[0], strong)
    np.testing.assert_array_equal(given[1], label)
    np.testing.assert_array_equal(given[2], (told.max(-1) > THRESHOLD) & valid)
    consistency, share = expected_terms(method, batch, mixed, how)
    logged = step(method, batch)
    assert 0.02 < share < 0.98
    np.testing.assert_allclose(logged["used_pixels"], share, rtol=1e-4)
    np.testing.assert_allclose(logged["consistency"], consistency, rtol=1e-3)


def test_each_pixel_is_compared_with_what_the_teacher_said_of_it(monkeypatch):
    method, batch = make(), make_batch()
    label, (image, *given), (mixed, *others) = recorded(method, batch, monkeypatch)
    origin = (mixed[:, None] == image[None]).all(-1)  # [mixed, image, H, W]
    assert origin.any(1).all()
    chosen = origin.argmax(1)
    rows, columns = np.indices(chosen.shape[1:])
    for before, after in zip(given, others, strict=True):
        np.testing.assert_array_equal(before[chosen, rows, columns], after)
    for n in range(4):
        kept = set(label[n][chosen[n] == n].tolist())
        assert len(kept) == len(set(np.unique(label[n])) - {255}) // 2 and 255 not in kept


def test_the_papers_values_are_the_defaults():
    method = make_method("classmix")
    assert (method.ema_decay, method.threshold, method.consistency_weight) == (0.99, 0.968, 1.0)
    assert method.mixes and method.strong_views == 1 and method.ramp_up == 0
    assert (method.consistency, method.confidence, method.mix) == ("cross_entropy", "weighs_images", "classmix")
    method = make_method("cutmix")
    assert (method.ema_decay, method.threshold, method.consistency_weight) == (0.99, 0.97, 1.0)
    assert method.mixes and method.strong_views == 0 and method.ramp_up == 0
    assert (method.consistency, method.confidence, method.mix) == ("squared_error", "weighs_batch", "cutmix")


@pytest.mark.parametrize("name", ["mean_teacher", "cutmix"])
def test_how_confidence_acts_is_an_option_of_its_neighbours_too(name):
    losses = {}
    for how in ("selects", "weighs_images", "weighs_batch"):
        method = make(name, mix="none", student_view="strong", confidence=how)
        losses[how] = step(method, make_batch())["consistency"]
    assert len(set(losses.values())) == 3 and all(value > 0 for value in losses.values())


def test_mean_teacher_can_mix_classes():
    assert make_method("mean_teacher", mix="classmix").mixes
    assert step(make("mean_teacher", mix="classmix"), make_batch())["consistency"] > 0
