"""Direct mutual learning: equation 3 in NumPy, and that it is the setting of robust mutual learning it claims to be."""

import numpy as np
import pytest

from tests.mutual_for_tests import SILENT, cross_entropy, softmax
from tests.networks_for_tests import (
    VOID,
    assert_close,
    gradients_by_network,
    make_batch,
    make_method,
    reached,
    same,
    step,
    tiny_network,
    weights,
)
from tfssl.errors import UserError

DIRECT = {"labels_from": "students", "self_supervision": False, "rectification": False}


def make(name="mutual", **options):
    return make_method(name, **{"warm_up": 0, "rate": 0.02, **options})


@pytest.mark.parametrize("input_noise", [True, False])
def test_the_step_is_what_equation_3_says(input_noise):
    method, batch = make(input_noise=input_noise, unlabeled_weight=2.0, **SILENT), make_batch()
    image, label = (np.array(tensor) for tensor in batch["labeled"])
    weak, valid, *strong = (np.array(tensor) for tensor in batch["unlabeled"])
    told = [softmax(student(weak, training=False)["logits"]) for student in method.students]
    expected = {"used_pixels": 1, "total_variation": 0.5 * np.abs(told[0] - told[1]).sum(-1)[valid].mean()}
    for k, student in enumerate(method.students):
        logits = student(strong[k] if input_noise else weak, training=True)["logits"]
        pseudo = np.where(valid, told[1 - k].argmax(-1), VOID)
        expected[f"supervised_{k + 1}"] = cross_entropy(label, student(image, training=True)["logits"])
        expected[f"peer_{k + 1}"] = 2.0 * cross_entropy(pseudo, logits)
    assert_close(step(method, batch), expected, 1e-4)


def test_it_is_a_setting_of_robust_mutual_learning():
    """The same numbers and students, with all noise and over the warm-up's end; the prototypes are not missed."""
    method, general = make(warm_up=2), make("robust_mutual", warm_up=2, **DIRECT)
    for seed in range(4):
        logged, expected = (step(one, make_batch(seed)) for one in (method, general))
        assert_close(logged, {name: expected[name] for name in logged})
        assert set(logged) == ({"supervised_1", "supervised_2"} if seed < 2 else {*method.terms, *method.watched})
    for role, other in {"average_1": "teacher_1", "student_2": "student_2"}.items():
        assert_close(weights(method.roles[role]), weights(general.roles[other]))
    assert not method.memories and general.memories


def test_a_student_learns_from_its_peer_and_labels_come_from_no_average():
    method, batch = make(**SILENT), make_batch()
    found = gradients_by_network(method, batch)
    assert {term: reached(gradients) for term, gradients in found.items()} == {
        f"{kind}_{k}": {f"student_{k}"} for kind in ("supervised", "peer") for k in (1, 2)
    }
    other = make(**SILENT)
    for average in other.teachers:
        average.set_weights([-weight for weight in average.get_weights()])
    assert same(step(method, batch), step(other, batch))
    weak = batch["unlabeled"][0]
    told = method.students[0](weak, training=False)["logits"]
    np.testing.assert_array_equal(method.pseudo_labels(weak), np.argmax(told, -1))
    assert method.deployed is method.roles["average_1"]


def test_equal_networks_are_refused():
    with pytest.raises(UserError, match="networks: the two learners have equal weights"):
        make(learners=[tiny_network(3), tiny_network(3)])
