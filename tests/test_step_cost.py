"""The lower bound of a step is made of the method's own passes: which there are, and where gradients go back."""

import pytest
import tensorflow as tf

from benchmarks.step_cost import bound_of, recorded
from tests.contracts import CONTRACTS
from tests.networks_for_tests import all_networks, make_batch, make_method, streamed
from tfssl.methods import METHODS


def moves_of(name, **options):
    """(the method, its moves as [(roles that are moved, [(network, training, back, further inputs), ...]), ...])."""
    method = make_method(name, **{**CONTRACTS[name].shown, **options})
    method.enter(0, list)
    with recorded(method) as moves:
        method.train_step(streamed(method, make_batch()))
    roles = {id(network): role for role, network in all_networks(method).items()}
    parts = {id(part): f"{role}/{part.name}" for role, network in all_networks(method).items()
             for part in network.layers}  # fmt: skip
    named = [
        ({roles[id(network)] for network in networks},
         [(roles.get(id(call.network)) or parts[id(call.network)], call.training, call.back, call.further)
          for call in calls])
        for networks, _, calls in moves
    ]  # fmt: skip
    return method, moves, named


def test_labelling_has_no_way_back():
    _, _, ((moved, calls),) = moves_of("cps")
    assert moved == {"network_1", "network_2"}
    assert calls == [(f"network_{k}", training, training, set()) for training in (False, True) for k in (1, 2)]


def test_parts_of_networks_are_passes_too():
    """UniMatch perturbs features: its encoder sees four views, its classifier their features and two versions."""
    _, _, ((_, calls),) = moves_of("unimatch")
    assert ("network/encoder", True, True, set()) in calls
    assert all(further == {0} for part, _, back, further in calls if part == "network/classifier" and back)
    assert any(part == "network/classifier" and back for part, _, back, _ in calls)


def test_a_fixed_judge_hands_the_gradient_on():
    _, _, (first, second) = moves_of("gct")
    judged = [(back, further) for role, _, back, further in first[1] if role == "flaw_detector"]
    assert judged == [(True, {0})] * 2 and second == ({"flaw_detector"}, [("flaw_detector", True, True, set())])


@pytest.mark.parametrize("name", METHODS)
def test_the_bound_moves_what_the_method_moves(name):
    """A bound of a method has a gradient for each of its variables that the step has one for."""
    method, moves, named = moves_of(name)
    assert {role for roles, _ in named for role in roles} == CONTRACTS[name].taught_networks
    before = {
        role: [tf.identity(v) for v in network.trainable_variables] for role, network in all_networks(method).items()
    }
    for sizes, _ in bound_of(moves)():
        assert all(float(size) >= 0 for size in sizes)
    for role in CONTRACTS[name].taught_networks:
        now = all_networks(method)[role].trainable_variables
        still = [v.path for v, old in zip(now, before[role], strict=True) if not tf.reduce_any(v.value != old)]
        assert not still, (role, still)
