"""What every method owes: the same contract tests over all of METHODS, of what batches may hold."""

import numpy as np
import pytest
import tensorflow as tf

from tests.contracts import CONTRACTS, every_method, shown, started
from tests.networks_for_tests import VOID, all_networks, assert_close, make_batch, remember, same, snapshot, step

SEE_PREDICTIONS = {"flaw_detector", "discriminator"}


@every_method
@pytest.mark.parametrize("count", [2, 21])
def test_few_and_many_classes(name, count):
    method = shown(name, classes=tuple(f"class {k}" for k in range(count)), rate=0.02)
    for seed in range(2):
        logged = step(method, make_batch(seed, classes=count))
    assert set(logged) == {*method.terms, *method.watched} and all(np.isfinite(value) for value in logged.values())
    assert all(logged[term] > 0 for term in method.terms if term.startswith("supervised"))


def degenerate(kind):
    batch = make_batch()
    (image, label), (weak, valid, *strong) = batch["labeled"], batch["unlabeled"]
    if kind in ("nothing counts", "all labels void"):
        label = tf.fill(label.shape, VOID)
    if kind in ("nothing counts", "all outside"):
        valid = tf.zeros_like(valid)
    if kind == "one class":
        label = tf.ones_like(label)
    if kind == "black":
        image, weak, *strong = (tf.zeros_like(view) for view in (image, weak, *strong))
    return {"labeled": (image, label), "unlabeled": (weak, valid, *strong)}


@every_method
def test_degenerate_batches_are_finite(name):
    method = started(name)
    for kind in ("nothing counts", "all labels void", "all outside", "one class", "black"):
        logged = step(method, degenerate(kind))
        assert all(np.isfinite(value) for value in logged.values()), kind
        assert all(np.isfinite(value).all() for value in tf.nest.flatten(snapshot(method))), kind
        if kind == "nothing counts":
            assert not any(logged[term] for term in method.terms)


def rename_classes(method, order):
    """Call class c order[c] in all that a method holds."""
    places = np.argsort(order)
    for role in SEE_PREDICTIONS & method.heads.keys():  # a channel for each class, after those of the image
        first = next(layer for layer in method.heads[role].layers if layer.weights)
        others = first.kernel.shape[-2] - len(places)
        first.kernel.assign(tf.gather(first.kernel, [*range(others), *(others + places)], axis=-2))
    for network in (network for role, network in all_networks(method).items() if role not in method.heads):
        last = network.get_layer("classifier").get_layer("logits_convolution")
        last.kernel.assign(tf.gather(last.kernel, places, axis=-1))
        last.bias.assign(tf.gather(last.bias, places))
    for memory in method.memories:
        for weight in (weight for weight in memory.weights if len(weight.shape)):
            # [C, ...], but queues lie one after another, then a row of nothing
            if weight.shape[0] == len(places):
                weight.assign(tf.gather(weight, places))
            else:
                queues, rest = weight[:-1], weight[-1:]
                queues = tf.gather(tf.reshape(queues, [len(places), -1, queues.shape[-1]]), places)
                weight.assign(tf.concat([tf.reshape(queues, [-1, rest.shape[-1]]), rest], 0))


@every_method
def test_renaming_the_classes_renames_the_step(name):
    """Nothing but labels, the last layer and the prototypes knows a class by its number."""
    order = np.array([2, 0, 1])
    batch = make_batch()
    (image, label), unlabeled = batch["labeled"], batch["unlabeled"]
    renamed = tf.where(label == VOID, VOID, tf.gather(order.astype("int32"), tf.where(label == VOID, 0, label)))
    method, other = (started(name, rate=0.05, **CONTRACTS[name].nameless) for _ in range(2))
    rename_classes(other, order)
    logged = step(other, {"labeled": (image, renamed), "unlabeled": unlabeled})
    rename_classes(other, np.argsort(order))
    assert_close(step(method, batch), logged)
    assert_close(snapshot(method), snapshot(other))


@every_method
def test_what_lies_outside_has_no_part(name):
    """Pixels out of reach of any that counts may hold anything: the step stays the same to the bit."""
    if CONTRACTS[name].sees_all:
        pytest.skip("a head sees the whole image: no pixel is out of reach")
    batch = make_batch()
    (image, label), (weak, valid, *strong) = batch["labeled"], batch["unlabeled"]
    outside = np.zeros(valid.shape, bool)
    outside[:, :, 12:] = True
    label, valid = tf.where(outside, VOID, label), valid & ~outside
    poison = np.zeros((*valid.shape, 1), bool)
    poison[:, :, 28:] = True  # the network sees no further than 16 pixels
    results = []
    for garbage in (0.0, 255.0):
        image, weak, *strong = (tf.where(poison, garbage, view) for view in (image, weak, *strong))
        method = started(name, frozen_norm=True, rate=0.05, **CONTRACTS[name].unmixed)
        logged = step(method, {"labeled": (image, label), "unlabeled": (weak, valid, *strong)})
        results.append((logged, snapshot(method)))
    assert same(*results)
    assert all(results[0][0][term] for term in method.terms)


@every_method
def test_every_supervised_term_is_that_of_the_task(name):
    """With hard pixels alone it is greater."""
    method, batch = started(name), make_batch()
    back = remember(method)
    plain = step(method, batch)
    back()
    method.task.ohem = 0.3
    hard = step(method, batch)
    found = [term for term in plain if term.startswith("supervised") or term == "assistant_labeled"]
    assert found and all(hard[term] > plain[term] + 0.01 for term in found)
