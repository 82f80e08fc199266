"""A step is traced once for each phase and replica: a trace of a real network takes longer than a hundred steps."""

import pytest

from tests.contracts import shown
from tests.networks_for_tests import make_batch, stream
from tfssl.methods import METHODS

FAST = ("supervised", "robust_mutual")


def run_steps(method, count, each=2):
    """(the numbers of steps at which `train_step` was traced, those at which a phase began), of so many steps as `fit`
    makes them: with a new iterator every so many steps, as when it goes on after what was left of a cut epoch."""
    honest, traced, phases = method.train_step, [], []

    def train_step(batch):
        traced.append(number)
        return honest(batch)

    method.train_step = train_step
    for number in range(count):
        before = method.step_function
        method.enter(number, lambda: stream(method, make_batch(9)))
        if method.step_function != before:
            phases.append(number)
        if number % each == 0:
            data = iter(stream(method, *(make_batch(seed) for seed in range(number, number + each))))
        method.train_function(data)
    return traced, phases


@pytest.mark.parametrize("name", [
    name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in METHODS])  # fmt: skip
def test_a_step_is_traced_once(name):
    traced, phases = run_steps(shown(name, rate=0.02), 6)
    assert traced == phases and phases[0] == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mean_teacher", "u2pl", "gta"])
def test_once_on_each_replica(name, two_replicas):
    traced, phases = run_steps(shown(name, rate=0.02, strategy=two_replicas), 6)
    assert traced == [number for number in phases for _ in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mean_teacher", "cross_teacher"])
def test_once_under_xla(name):
    traced, phases = run_steps(shown(name, rate=0.02, xla=True), 6)
    assert traced == phases


def test_a_phase_is_traced_when_it_begins():
    """Here after a warm-up of two steps."""
    traced, phases = run_steps(shown("gta", rate=0.02, warm_up=2), 6)
    assert traced == phases == [0, 2]
