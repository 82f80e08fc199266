"""Cross pseudo supervision: its terms against a NumPy reading of the paper, and who teaches whom."""

import numpy as np
import pytest

from tests.mutual_for_tests import cross_entropy, softmax
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
    tiny_network,
)
from tfssl import mixing
from tfssl.errors import UserError


def make(**options):
    return make_method("cps", **{"rate": 0.02, **options})


def distance(first, second, inside):
    """Total variation between the predictions of these logits, where they are inside the image."""
    return 0.5 * np.abs(softmax(first) - softmax(second)).sum(-1)[inside].mean()


def arrays(batch):
    return (np.array(part) for part in (*batch["labeled"], *batch["unlabeled"][:2]))


@pytest.mark.parametrize("options", [{}, {"cross_mean": "joint", "cross_weight": 6.0}], ids=str)
def test_the_step_is_what_the_paper_says(options):
    """Batch statistics are those of labeled and unlabeled images together, and the labels are of that very pass."""
    method, batch = make(dropout=0.0, stochastic_depth=0.0, **options), make_batch()
    image, label, weak, valid = arrays(batch)
    restore, expected = remember(method), {}
    logits = [np.array(net(np.concatenate([image, weak]), training=True)["logits"]) for net in method.networks]
    restore()  # of the batch-norm statistics
    inside = [label != VOID, valid]
    expected |= {"used_pixels": 1, "total_variation": distance(*(each[len(image) :] for each in logits), valid)}
    for k in range(2):
        mine, others = np.split(logits[k], 2), np.split(logits[1 - k], 2)
        told = [np.where(inside[n], others[n].argmax(-1), VOID) for n in range(2)]
        expected[f"supervised_{k + 1}"] = cross_entropy(label, mine[0])
        if options:
            expected[f"cross_{k + 1}"] = 6.0 * cross_entropy(np.concatenate(told), logits[k])
        else:
            expected[f"cross_{k + 1}"] = 1.5 * (cross_entropy(told[0], mine[0]) + cross_entropy(told[1], mine[1]))
    assert_close(step(method, batch), expected, 1e-4)


def test_what_is_mixed_keeps_the_labels_that_both_networks_gave_before(monkeypatch):
    seen, original = [], mixing.cutmix

    def record(key, *tensors):
        mixed = original(key, *tensors)
        seen.append(([np.array(part) for part in tensors], [np.array(part) for part in mixed]))
        return mixed

    monkeypatch.setattr(mixing, "cutmix", record)
    method, batch = make(mix="cutmix", **QUIET), make_batch()
    assert method.mixes and not make().mixes
    image, label, weak, valid = arrays(batch)
    gradients_by_network(method, batch)
    monkeypatch.undo()
    (((given, _, *labels), (mixed, inside, *told)),) = seen
    np.testing.assert_array_equal(given, weak)
    expected = {"total_variation": distance(*(net(mixed, training=True)["logits"] for net in method.networks), inside),
                "used_pixels": 1}  # fmt: skip
    for k, network in enumerate(method.networks):
        logits = np.array(network(weak, training=False)["logits"])
        np.testing.assert_array_equal(labels[k], np.where(valid, logits.argmax(-1), VOID))
    for k, network in enumerate(method.networks):
        other = method.networks[1 - k](image, training=True)["logits"]
        of_labeled = np.where(label != VOID, np.argmax(other, -1), VOID)
        mine = [network(part, training=True)["logits"] for part in (image, mixed)]
        expected[f"supervised_{k + 1}"] = cross_entropy(label, mine[0])
        both = cross_entropy(of_labeled, mine[0]) + cross_entropy(told[1 - k], mine[1])
        expected[f"cross_{k + 1}"] = 1.5 * both
    assert_close(step(method, batch), expected, 1e-4)


def spoil(network):
    """Turn the network's opinion round."""
    last = network.get_layer("classifier").get_layer("logits_convolution")
    last.kernel.assign(-last.kernel)


def test_each_network_learns_from_the_other_alone():
    """The opinion of network 2 is in what network 1 loses, and no gradient of that leads to network 2."""
    method, batch = make(mix="cutmix"), make_batch()
    found = gradients_by_network(method, batch)
    assert {term: reached(gradients) for term, gradients in found.items()} == {
        f"{kind}_{k}": {f"network_{k}"} for kind in ("supervised", "cross") for k in (1, 2)
    }
    restore = remember(method)
    plain = step(method, batch)
    restore()
    spoil(method.networks[1])
    spoiled = step(method, batch)
    assert {term for term in method.terms if spoiled[term] != plain[term]} == {"cross_1", "cross_2", "supervised_2"}


def test_networks_that_agree_for_sure_have_nothing_to_teach():
    """Where both are certain of the same, the cross terms vanish and the supervised stay."""
    method = make(learners=[tiny_network(3), tiny_network(4)], **QUIET)
    method.networks[1].set_weights(method.networks[0].get_weights())
    for network in method.networks:
        last = network.get_layer("classifier").get_layer("logits_convolution")
        last.kernel.assign(1e4 * last.kernel)
    logged = step(method, make_batch())
    assert logged["cross_1"] < 0.1 < logged["supervised_1"] and logged["cross_1"] == logged["cross_2"]


def test_swapping_the_networks_swaps_the_terms():
    first, second = (make(learners=[tiny_network(seed, frozen_norm=True) for seed in pair], **QUIET)
                     for pair in ((1, 2), (2, 1)))  # fmt: skip
    logged, mirrored = (step(method, make_batch()) for method in (first, second))
    for term in ("supervised", "cross"):
        np.testing.assert_allclose(logged[f"{term}_1"], mirrored[f"{term}_2"], rtol=1e-5)
    assert_close(snapshot(first)["network_1"], snapshot(second)["network_2"])


def test_without_an_average_the_first_network_ships():
    """The paper has none: an average is beside the step and changes nothing of it."""
    plain, averaged = make(), make(ema_decay=0.9)
    assert plain.deployed is plain.roles["network_1"] and list(plain.roles) == ["network_1", "network_2"]
    assert averaged.deployed is averaged.roles["average"]
    image = make_batch()["unlabeled"][0]
    told = averaged.networks[0](image, training=False)["logits"]
    for method in (plain, averaged):
        step(method, make_batch())
        step(method, make_batch(1))
    assert all(same(snapshot(plain)[role], snapshot(averaged)[role]) for role in plain.roles)
    assert not np.array_equal(averaged.pseudo_labels(image), np.argmax(told, -1))  # the networks have moved on
    now = averaged.networks[0](image, training=False)["logits"]
    np.testing.assert_array_equal(averaged.pseudo_labels(image), np.argmax(now, -1))


def test_the_distance_of_the_networks_is_told():
    method, image = make(), make_batch()["unlabeled"][0]
    first, second = (softmax(network(image, training=False)["logits"]) for network in method.networks)
    np.testing.assert_allclose(method.coupling(image), 0.5 * np.abs(first - second).sum(-1).mean(), rtol=1e-4)


def test_equal_networks_are_refused():
    with pytest.raises(UserError, match="networks: the two learners have equal weights"):
        make(learners=[tiny_network(3), tiny_network(3)])
