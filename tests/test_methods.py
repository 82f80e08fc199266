"""What every method owes: the same contract tests over all of METHODS, of its networks and how they learn."""

import itertools

import keras
import numpy as np
import pytest

from tests.contracts import CONTRACTS, every_method, shown, started
from tests.networks_for_tests import (
    CLASSES,
    QUIET,
    all_networks,
    fill,
    gradients_by_network,
    make_batch,
    make_method,
    reached,
    remember,
    same,
    snapshot,
    step,
)
from tfssl.methods import METHODS

ALONE = {"supervised", "adversarial", "s4l", "unimatch", "fixmatch"}  # one network, or one and its average


@every_method
def test_logs_all_its_terms_and_ships_one_of_its_networks(name):
    method = started(name)
    logged = step(method, make_batch())
    assert set(logged) == {*method.terms, *method.watched}
    assert all(np.isfinite(value) for value in logged.values())
    assert method.deployed in method.roles.values()
    image, valid, *_ = make_batch()["unlabeled"]
    assert same(method(image), method.deployed(image, training=False))
    pseudo = method.pseudo_labels(image)
    assert pseudo is None or (pseudo.shape == valid.shape and set(np.unique(pseudo)) <= set(range(len(CLASSES))))
    assert (method.coupling(image) is None) == (name in ALONE)
    assert ("used_pixels" in method.watched) == (name not in {"supervised", "s4l"})  # which label no pixel


@every_method
def test_coupling_is_the_distance_of_the_two_that_are_nearest(name):
    """A network that becomes another one is noticed, whichever it is."""
    method, image = make_method(name), make_batch()["unlabeled"][0]
    networks = [*(method.apart or method.guides)]
    draw = np.random.default_rng(0)
    for network in networks:
        network.set_weights([weight * draw.uniform(0.3, 3, weight.shape) for weight in network.get_weights()])
    told = [method.task.activation(network(image, training=False)["logits"]).numpy() for network in networks]
    distances = [0.5 * np.abs(one - two).sum(-1).mean() for one, two in itertools.combinations(told, 2)]
    if name not in ALONE:
        np.testing.assert_allclose(method.coupling(image), min(distances), rtol=1e-4)
        assert method.coupling(image) > 0.01
        networks[-1].set_weights(networks[0].get_weights())
        assert method.coupling(image) == 0


@every_method
def test_phases_and_restarts(name):
    """The first phase and the first schedule begin at 0; entering in the middle begins nothing."""
    method = make_method(name, steps=1000)  # so many that no phase has but one
    firsts = [first for first, _, _ in method.phases()]
    for increasing in (firsts, method.restarts()):
        assert increasing[0] == 0 and increasing[-1] < 1000 and increasing == sorted(set(increasing))
    for first, function, _ in method.phases():
        method.enter(first, list)
        assert method.step_function == function
        method.enter(first + 1, lambda: pytest.fail("no phase begins here"))
        assert method.step_function == function


@pytest.mark.parametrize(("name", "options"), [*((name, {}) for name in METHODS), ("robust_mutual", {"p0": "stage"})])
def test_networks_share_nothing(name, options):
    method = shown(name, **options)
    networks = all_networks(method)
    assert len(networks) == len(CONTRACTS[name].networks) + (2 if options else 0)
    identities = [id(weight.value) for network in networks.values() for weight in network.weights]
    assert len(identities) == len(set(identities))
    for role, network in networks.items():
        before = snapshot(method)
        network.set_weights([weight + 1 for weight in network.get_weights()])
        changed = {other for other, found in snapshot(method).items() if not same(found, before[other])}
        assert changed == {role}


@every_method
def test_optimizer_holds_exactly_the_minimised_networks(name):
    method = shown(name)
    networks, taught = all_networks(method), CONTRACTS[name].taught_networks
    assert set(networks) == CONTRACTS[name].networks
    trained = [id(v) for role in taught for v in networks[role].trainable_variables]
    held = [id(v) for optimizer in method.optimizers for v in optimizer._trainable_variables]
    assert sorted(trained) == sorted(held)
    for role, network in networks.items():
        assert bool(network.trainable_variables) == (role in taught)


@every_method
def test_gradients_reach_exactly_the_networks_they_should(name):
    """No term has a gradient for a teacher, nor for another student: not a zero one, none."""
    found = gradients_by_network(started(name), make_batch())
    assert {term: reached(gradients) for term, gradients in found.items()} == CONTRACTS[name].taught
    for term, roles in CONTRACTS[name].taught.items():
        for role in roles:
            assert any(np.abs(value).max() > 1e-4 for value in found[term][role] if value is not None), (term, role)


@every_method
def test_teachers_follow_their_students_as_the_closed_form_says(name):
    """t_n = d t_(n-1) + (1 - d) s_n with d = min(1 - 1/n, 0.6), batch-norm statistics as all weights."""
    if not CONTRACTS[name].follows:
        pytest.skip("no network follows another")
    method = shown(name, ema_decay=0.6, rate=0.1)
    expected = {}
    for number in range(5):
        step(method, make_batch(number))
        decay = min(1 - 1 / (number + 1), 0.6)
        for teacher, student in CONTRACTS[name].follows.items():
            for n, weight in enumerate(all_networks(method)[student].weights):
                now = weight.numpy()
                expected[teacher, n] = decay * expected.get((teacher, n), now) + (1 - decay) * now
    for (teacher, n), value in expected.items():
        np.testing.assert_allclose(all_networks(method)[teacher].weights[n].numpy(), value, rtol=1e-5, atol=1e-6)


@every_method
def test_a_step_changes_the_taught_and_the_following_alone(name):
    method = started(name, **({"p0": "stage"} if name == "robust_mutual" else {}))
    before = snapshot(method)
    step(method, make_batch())
    after = snapshot(method)
    for role in [role for role in before if not role.startswith("memory")]:
        for weight in before[role]:
            still = np.array_equal(before[role][weight], after[role][weight])
            frozen = role.startswith("hidden") or role in CONTRACTS[name].fixed  # hidden: frozen for the stage
            assert still == frozen, (role, weight)


@every_method
def test_head_factor_speeds_the_head_alone(name):
    moved = {}
    for factor in (1.0, 10.0):
        method = shown(name, head_factor=factor, rate=0.01, **CONTRACTS[name].alone)  # no network moves another
        before = snapshot(method)
        step(method, make_batch())
        after = snapshot(method)
        for role in CONTRACTS[name].taught_networks & set(method.roles):
            network = method.roles[role]
            backbone = {id(w) for w in network.get_layer("encoder").get_layer("backbone").weights}
            for n, weight in enumerate(network.weights):
                if weight.trainable:
                    label = f"{n} {weight.name}"
                    moved[role, label, id(weight) in backbone, factor] = after[role][label] - before[role][label]
    assert {inside for _, _, inside, _ in moved} == {True, False}
    for role, label, inside, factor in moved:
        if factor == 1:
            wanted = (1 if inside else 10) * moved[role, label, inside, 1.0]
            np.testing.assert_allclose(moved[role, label, inside, 10.0], wanted, rtol=1e-3, atol=1e-5)


@every_method
def test_a_step_is_a_function_of_seed_and_number(name):
    results = []
    for seed in (0, 1):
        method = shown(name, seed=seed, rate=0.1)
        method.optimizer.iterations.assign(3)
        restore = remember(method)
        for number in (3, 3, 4):
            restore()
            method.optimizer.iterations.assign(number)
            results.append((step(method, make_batch()), snapshot(method)))
    first, again, later, other, *_ = results
    assert same(first, again)
    for different in (later, other):  # labels and images are the same: what differs is the noise
        assert all(first[0][term] != different[0][term] for term in method.terms if "supervised" in term)


@every_method
def test_teachers_are_deterministic_and_students_are_not(name):
    """Whatever teachers decide is the same under every seed; every loss of a student differs.

    What is watched belongs to the teachers where there are some, unless a detector judges the students too.
    """
    options = {"dropout": 0.5, **CONTRACTS[name].unmixed}
    results = []
    for seed in (0, 1):
        method = shown(name, seed=seed, **options)
        method.optimizer.iterations.assign(3)
        for memory in method.memories:
            fill(memory, np.random.default_rng(5))
        results.append(step(method, make_batch()))
    first, second = results
    for watched in method.watched:
        assert (first[watched] == second[watched]) == (watched not in CONTRACTS[name].noisy), watched
    assert all(first[term] != second[term] for term in method.terms)


@every_method
def test_thirty_steps_reduce_the_supervised_term(name):
    """Even when everything else of the method takes part."""
    method = shown(name, steps=30, rate=0.05, dropout=0.0, stochastic_depth=0.0)
    history = [step(method, make_batch(), traced=True) for _ in range(30)]
    for term in (term for term in method.terms if term.startswith("supervised")):
        assert history[-1][term] < 0.9 * history[0][term], term


@pytest.mark.slow
@every_method
def test_half_of_the_bits_give_nearly_the_same_step(name):
    """In mixed_bfloat16 what is learned, averaged and remembered stays float32, and so do the losses."""
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        method = started(name)
        logged = step(method, make_batch())
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert method.deployed.get_layer("encoder").compute_dtype == "bfloat16"
    held = [*all_networks(method).values(), *method.memories]
    assert {weight.dtype for layer in held for weight in layer.weights} <= {"float32", "int32"}
    assert all(np.isfinite(value) for value in logged.values())
    expected = step(started(name), make_batch())
    for term in (term for term in method.terms if term.startswith("supervised")):
        np.testing.assert_allclose(logged[term], expected[term], rtol=0.1)


@every_method
def test_on_labels_alone_a_method_is_supervised_learning(name):
    """Every unlabeled term and transfer at zero, batch norm frozen: five steps change the network alike."""
    method = shown(name, rate=0.05, **CONTRACTS[name].alone, **QUIET)
    plain = make_method("supervised", rate=0.05, **QUIET)
    plain.network.set_weights(method.roles[CONTRACTS[name].learner].get_weights())
    for seed in range(5):
        step(method, make_batch(seed))
        step(plain, make_batch(seed))
    pairs = zip(method.roles[CONTRACTS[name].learner].weights, plain.network.weights, strict=True)
    for mine, theirs in pairs:
        np.testing.assert_allclose(mine.numpy(), theirs.numpy(), atol=1e-6, err_msg=mine.path)


@every_method
def test_gradient_shares_are_measured_every_so_many_steps_and_change_nothing(name):
    """Against the gradients of each term at the last kernels of the encoders, taken one by one, move by move."""
    results = []
    for probe_every in (0, 2):
        method = shown(name, probe_every=probe_every, rate=0.05)
        for seed in range(2):
            step(method, make_batch(seed))
        restore = remember(method)
        found = gradients_by_network(method, make_batch(5)) if probe_every else {}
        restore()
        logged = step(method, make_batch(5))
        results.append((snapshot(method), logged))
    (plain, without), (probed, logged) = results
    assert same(plain, probed)
    shares = {term: logged.pop(f"gradient_share_{term}") for term in method.terms if len(method.terms) > 1}
    assert set(logged) == set(without)
    sizes = {term: size_at_last_kernels(method, gradients) for term, gradients in found.items()}
    for term, share in shares.items():
        beside = [sizes[other] for other in sizes if taught_by(method, found[other]) == taught_by(method, found[term])]
        np.testing.assert_allclose(share, sizes[term] / sum(beside), rtol=1e-3, atol=1e-5, err_msg=term)


def taught_by(method, gradients):
    """The networks that are moved together with those a term teaches: what `minimize` was given."""
    return {role for role in gradients if all_networks(method)[role].trainable}


def size_at_last_kernels(method, gradients):
    """The length of a term's gradients over the last kernel of each moved encoder, or of a head that moves alone."""
    networks = {role: all_networks(method)[role] for role in taught_by(method, gradients)}
    encoders = [role for role, network in networks.items() if "encoder" in {layer.name for layer in network.layers}]
    squares = 0.0
    for role in encoders or networks:
        part = networks[role].get_layer("encoder") if encoders else networks[role]
        kernels = [id(weight) for weight in part.trainable_variables if len(weight.shape) > 1]
        for weight, value in zip(networks[role].weights, gradients[role], strict=True):
            if kernels and id(weight) == kernels[-1] and value is not None:
                squares += float(np.square(value).sum())
    return np.sqrt(squares)
