"""Prototypes and what they do to the pseudo-labels of robust mutual learning."""

import numpy as np
import pytest
import tensorflow as tf

from tests.mutual_for_tests import SILENT, apart, expected_prototypes, make
from tests.networks_for_tests import CLASSES, VOID, make_batch, remember, same, snapshot, step, stream, weights


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_equal_prototypes_rectify_nothing(value):
    """omega is then the same for all classes: robust mutual learning is indirect mutual learning, to the bit."""
    results = []
    for rectification in (True, False):
        method = apart(make(rectification=rectification, dropout=0.5))
        for memory in method.prototypes:
            memory.value.assign(np.full(memory.value.shape, value))
        results.append((step(method, make_batch()), snapshot(method)))
    assert same(*results)
    assert results[0][0]["rectified"] == 0


def test_prototypes_of_both_networks_matter():
    method = apart(make(**SILENT))
    restore, batch = remember(method), make_batch()
    plain = step(method, batch)
    for k in range(2):
        restore()
        method.prototypes[k].value.assign(-method.prototypes[k].value)
        logged = step(method, batch)
        changed = {term for term in method.terms if logged[term] != plain[term]}
        assert changed == {f"self_{k + 1}", f"peer_{2 - k}"}


def test_a_class_that_is_absent_keeps_its_prototype_to_the_bit():
    """Teachers that never say class 2."""
    method = apart(make())
    for teacher in method.teachers:
        last = teacher.get_layer("classifier").get_layer("logits_convolution")
        last.bias.assign([0.0, 0.0, -1000.0])
    before = [weights(memory) for memory in method.prototypes]
    step(method, make_batch())
    for memory, held in zip(method.prototypes, before, strict=True):
        for name, value in weights(memory).items():
            np.testing.assert_array_equal(value[2], held[name][2])
            assert (value != held[name]).any()


def test_a_full_pass_gives_plain_means_over_all_batches():
    """Every image of both streams once, each class's mean over the images that show it; nothing of before is left."""
    method = apart(make(prototype_start="full_pass", rate=0.0))
    batches = [make_batch(seed) for seed in range(3)]
    expected = []
    for k in range(2):
        value, seen = np.zeros([len(CLASSES), 8]), np.zeros(len(CLASSES))
        for batch in batches:
            (image, label), (weak, valid, *_) = batch["labeled"], batch["unlabeled"]
            output = method.teachers[k](tf.concat([image, weak], 0), training=False)
            inside = np.concatenate([np.array(label) != VOID, valid])
            value, seen = expected_prototypes(output, inside, value, seen, momentum=1.0)
        expected.append((value, seen))
    method.begin_stage(lambda: stream(method, *batches))
    for memory, (value, seen) in zip(method.prototypes, expected, strict=True):
        assert seen.max() > 10
        np.testing.assert_allclose(memory.value.numpy(), value, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(memory.seen.numpy(), seen)


def test_a_full_pass_is_traced_once(monkeypatch):
    """Tracing takes seconds with a real network, and a full pass has hundreds of batches."""
    method, traced = make(prototype_start="full_pass"), []
    gather = method.gather_prototypes
    monkeypatch.setattr(method, "gather_prototypes", lambda batch: traced.append(gather(batch)))
    method.begin_stage(lambda: stream(method, *map(make_batch, range(4))))
    assert len(traced) == 1


def test_momentum_one_freezes_the_prototypes_of_a_full_pass():
    """Equation 11 with lambda = 1; the full pass has taken the place of a start from nothing."""
    method = make(prototype_start="full_pass", prototype_momentum=1.0)
    method.begin_stage(lambda: stream(method, make_batch(1)))
    method.optimizer.iterations.assign(1)
    before = [memory.value.numpy() for memory in method.prototypes]
    step(method, make_batch(2))
    assert same(before, [memory.value.numpy() for memory in method.prototypes])
