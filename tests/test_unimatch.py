"""UniMatch and FixMatch: each term against NumPy, and that threshold, partners and perturbation do what they say."""

import numpy as np
import pytest
import tensorflow as tf

from tests.mutual_for_tests import softmax
from tests.networks_for_tests import (
    QUIET,
    VOID,
    gradients_by_network,
    make_batch,
    make_method,
    remember,
    same,
    snapshot,
    step,
)
from tfssl import mixing
from tfssl.methods import unimatch

TAU = 0.7


def make(name="unimatch", **options):
    return make_method(name, **{"rate": 0.02, "threshold": TAU, **options})


def arrays(batch):
    (image, label), (weak, valid, *strong) = batch["labeled"], batch["unlabeled"]
    return tuple(np.array(part) for part in (image, label, weak, valid, *strong))


def supervised_loss(label, logits):
    return term(label, logits, np.ones(label.shape))


def term(label, logits, sure):
    """Cross-entropy of the sure pixels, divided by the number of all that are inside."""
    counts = label != VOID
    chosen = np.take_along_axis(np.log(softmax(logits)), np.where(counts, label, 0)[..., None], -1)[..., 0]
    return -(chosen * sure)[counts].sum() / counts.sum()


def told_by(network, weak, valid, tau=TAU):
    probability = softmax(network(weak, training=False)["logits"])
    return np.where(valid, probability.argmax(-1), VOID), probability.max(-1) >= tau


def recorded(method, batch, monkeypatch):
    """What the next step gives to CutMix ("mixed") and to the perturbation ("dropped"), each with what comes back."""
    seen = {"mixed": [], "dropped": []}
    cutmix, drop = mixing.cutmix, unimatch.drop_channels

    def record_mix(key, *tensors):
        found = cutmix(key, *tensors)
        seen["mixed"].append(([np.array(part) for part in tensors], [np.array(part) for part in found]))
        return found

    def record_drop(key, features, rate):
        found = drop(key, features, rate)
        seen["dropped"].append((np.array(features), np.array(found)))
        return found

    monkeypatch.setattr(mixing, "cutmix", record_mix)
    monkeypatch.setattr(unimatch, "drop_channels", record_drop)
    gradients_by_network(method, batch)
    monkeypatch.undo()
    return seen


@pytest.mark.parametrize("options", [{}, {"strong_weight": 3.0, "feature_weight": 0.7, "loss_scale": 2.0}], ids=str)
def test_the_step_is_what_the_paper_says(options, monkeypatch):
    """L = (L_s + mu/2 (H(w, s1) + H(w, s2)) + lambda H(w, fp)) / 2 over pixels with max p_w >= tau."""
    method, batch = make(**QUIET, **options), make_batch()
    image, label, weak, valid, *strong = arrays(batch)
    seen = recorded(method, batch, monkeypatch)
    told, sure = told_by(method.network, weak, valid)
    network = method.network
    scale, strong_weight = options.get("loss_scale", 0.5), options.get("strong_weight", 0.5)
    expected = {"supervised": scale * supervised_loss(label, network(image)["logits"])}
    assert len(seen["mixed"]) == 2 and len(seen["dropped"]) == 1
    for n, ((given, *labels), (mixed, pseudo, where)) in enumerate(seen["mixed"]):
        np.testing.assert_array_equal(given, strong[n])
        np.testing.assert_array_equal(labels[0], told)
        np.testing.assert_array_equal(labels[1], sure)
        expected[f"strong_{n + 1}"] = scale * strong_weight / 2 * term(pseudo, network(mixed)["logits"], where)
    features, dropped = seen["dropped"][0]
    np.testing.assert_allclose(features, network(weak)["features"], atol=1e-5)
    coarse = network.get_layer("classifier")(dropped)
    logits = tf.image.resize(coarse, weak.shape[1:3]).numpy()
    expected["feature"] = scale * options.get("feature_weight", 0.5) * term(told, logits, sure)
    logged = step(method, batch)
    assert 0.05 < (sure & valid).sum() / valid.sum() < 0.95
    np.testing.assert_allclose(logged.pop("used_pixels"), (sure & valid).sum() / valid.sum(), rtol=1e-5)
    assert logged.keys() == expected.keys()
    for name, value in logged.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-4, err_msg=name)


def test_fixmatch_is_unimatch_with_one_view_and_no_perturbed_features(monkeypatch):
    method, general = (make(name, mix="none", **QUIET) for name in ("fixmatch", "unimatch"))
    assert method.strong_views == 1 and general.strong_views == 2
    general.network.set_weights(method.network.get_weights())
    batch = make_batch()
    image, label, weak, valid, strong, _ = arrays(batch)
    told, sure = told_by(method.network, weak, valid)
    expected = {"supervised": 0.5 * supervised_loss(label, method.network(image)["logits"]),
                "strong": 0.5 * term(told, method.network(strong)["logits"], sure)}  # fmt: skip
    logged, of_general = step(method, batch), step(general, batch)
    assert set(logged) == {"supervised", "strong", "used_pixels"}
    for name, value in expected.items():
        np.testing.assert_allclose(logged[name], value, rtol=1e-4)
    np.testing.assert_allclose(of_general["strong_1"], logged["strong"] / 4, rtol=1e-5)
    assert not recorded(make("fixmatch"), batch, monkeypatch)["dropped"]


# The threshold.


def test_the_threshold_takes_the_surest_pixels_and_its_own_value(monkeypatch):
    """Pixels at the threshold count (>=); with 0 all do, and the mean is over all pixels inside in any case."""
    batch = make_batch()
    losses, used = [], []
    for tau in (0.0, 0.5, 0.9):
        logged = step(make("fixmatch", threshold=tau, mix="none", **QUIET), batch)
        losses.append(logged["strong"])
        used.append(logged["used_pixels"])
    assert used[0] == 1 > used[1] > used[2] > 0 and losses[0] > losses[1] > losses[2] > 0
    certain = make("fixmatch", threshold=1.0, mix="none", **QUIET)
    last = certain.network.get_layer("classifier").get_layer("logits_convolution")
    last.kernel.assign(1e6 * last.kernel)
    assert step(certain, batch)["used_pixels"] > 0.9


def test_labels_are_told_without_noise_and_without_a_gradient():
    method, batch = make(dropout=0.5), make_batch()
    _, _, weak, valid, *_ = arrays(batch)
    before = snapshot(method)
    with tf.GradientTape() as tape:
        told, sure = method.tell(batch["unlabeled"][0], batch["unlabeled"][1])
        total = tf.reduce_sum(sure)
    assert tape.gradient(total, method.network.trainable_variables[0].value) is None
    expected = told_by(method.network, weak, valid)
    np.testing.assert_array_equal(told, expected[0])
    np.testing.assert_array_equal(sure, expected[1])
    assert same(before, snapshot(method))


# Mixing.


@pytest.mark.parametrize("name", ["unimatch", "fixmatch"])
def test_partners_are_other_images_and_each_view_has_a_mask_of_its_own(name, monkeypatch):
    method, batch = make(name), make_batch()
    seen = recorded(method, batch, monkeypatch)["mixed"]
    assert len(seen) == method.strong_views
    masks = []
    for (image, *given), (mixed, *others) in seen:
        origin = (mixed[:, None] == image[None]).all(-1)  # [mixed, image, H, W]
        own = np.arange(4)
        assert origin.any(1).all() and 0.3 < 1 - origin[own, own].mean() < 0.7  # the rest is of another image
        chosen = origin.argmax(1)
        rows, columns = np.indices(chosen.shape[1:])
        for before, after in zip(given, others, strict=True):
            np.testing.assert_array_equal(before[chosen, rows, columns], after)
        masks.append(origin[own, own])
    assert len(masks) == 1 or not np.array_equal(*masks)


def test_mixing_touches_the_strong_views_alone():
    batch = make_batch()
    mixed, plain = (step(make(mix=mix, **QUIET), batch) for mix in ("cutmix", "none"))
    assert {name for name in mixed if mixed[name] != plain[name]} == {"strong_1", "strong_2"}
    assert make().mixes and not make(mix="none").mixes


# Perturbed features.


def test_whole_channels_are_dropped_and_the_others_make_up_for_it():
    features = np.random.default_rng(0).uniform(1, 2, [6, 3, 4, 50]).astype("float32")
    for rate in (0.5, 0.2):
        dropped = unimatch.drop_channels(tf.constant([0, 1]), features, rate).numpy()
        gone = (dropped == 0).all((1, 2))
        np.testing.assert_array_equal(gone, (dropped == 0).any((1, 2)))
        expected = features / (1 - rate)
        np.testing.assert_allclose(dropped, np.where(gone[:, None, None], 0, expected), rtol=1e-6)
        assert abs(gone.mean() - rate) < 0.1 and len({row.tobytes() for row in gone}) == 6
    np.testing.assert_array_equal(unimatch.drop_channels(tf.constant([0, 1]), features, 0.0), features)
    other = unimatch.drop_channels(tf.constant([0, 2]), features, 0.5).numpy()
    assert ((other == 0) != (unimatch.drop_channels(tf.constant([0, 1]), features, 0.5).numpy() == 0)).any()


def test_only_the_weak_views_features_are_perturbed():
    batch = make_batch()
    dropped, plain = (step(make(channel_dropout=rate, **QUIET), batch) for rate in (0.5, 0.0))
    assert {name for name in dropped if dropped[name] != plain[name]} == {"feature"}


# What ships.


@pytest.mark.parametrize("name", ["unimatch", "fixmatch"])
def test_without_an_average_the_network_ships(name):
    """The paper has none: an average is beside the step, tells no labels and changes nothing."""
    plain, averaged = make(name), make(name, ema_decay=0.9)
    assert plain.deployed is plain.network and list(plain.roles) == ["network"]
    assert averaged.deployed is averaged.roles["average"]
    restore = remember(averaged)
    averaged.average.set_weights([-weight for weight in averaged.average.get_weights()])
    logged = step(averaged, make_batch())
    assert same(step(plain, make_batch()), logged)
    assert same(snapshot(plain)["network"], snapshot(averaged)["network"])
    restore()
    weak = make_batch()["unlabeled"][0]
    told = averaged.network(weak, training=False)["logits"]
    np.testing.assert_array_equal(averaged.pseudo_labels(weak), np.argmax(told, -1))


def test_the_papers_values_are_the_defaults():
    method, fix = make_method("unimatch"), make_method("fixmatch")
    for one in (method, fix):
        assert (one.threshold, one.loss_scale, one.mix, one.average) == (0.95, 0.5, "cutmix", None)
    assert method.stream_weights == [0.25, 0.25, 0.5] and fix.stream_weights == [1.0]
    assert method.channel_dropout == 0.5
