"""In the graph that TensorFlow makes of a step, no network is read while it is moved; and it makes one graph only."""

import collections
import re

import pytest
import tensorflow as tf
from tensorflow.python.eager import context

from tests.contracts import every_method, started
from tests.networks_for_tests import make_batch, make_method, step

READERS = {"ReadVariableOp", "ResourceGather"}
PASSING = {"Identity", "Switch"}  # hand a variable on: a condition does so by switches, in its branches


def accesses(graph):
    """{variable: ([operations that read it], [all others that use it])} of an optimized graph."""
    nodes = {node.name: node for node in graph.node}
    given = [node for node in graph.node if node.op == "_Arg"]
    variables = {node.name for node in given if node.attr["T"].type == tf.resource.as_datatype_enum}

    def source(name):
        return source(inputs(nodes[name])[0]) if nodes[name].op in PASSING else name

    found = collections.defaultdict(lambda: ([], []))
    for node in graph.node:
        for name in map(source, inputs(node, control=False)):
            if name in variables and node.op not in PASSING:
                found[name][node.op not in READERS].append(node.name)
    return found


def inputs(node, control=True):
    """The names of the nodes that come before this one."""
    return [each.lstrip("^").split(":")[0] for each in node.input if control or not each.startswith("^")]


def unordered(graph):
    """[(read, write)] of one variable of which either may come first."""
    after = collections.defaultdict(list)
    for node in graph.node:
        for name in inputs(node):
            after[name].append(node.name)

    def reached(name):
        seen, todo = {name}, [name]
        while todo:
            new = set(after[todo.pop()]) - seen
            seen |= new
            todo += new
        return seen

    return [(read, write) for reads, writes in accesses(graph).values() for read in reads for write in writes
            if write not in reached(read) and read not in reached(write) and not exclude(read, write)]  # fmt: skip


def exclude(one, other):
    """Whether the two are in the two branches of one condition, of which a step takes one."""
    places = [re.match(r"(.*/cond[^/]*)/(then|else)/", name) for name in (one, other)]
    return all(places) and places[0][1] == places[1][1] and places[0][2] != places[1][2]


def optimized(method):
    """The graph that runs as a step of the method, after TensorFlow's passes: the largest there is."""
    with context.collect_graphs(optimized=True) as graphs:
        step(method, make_batch(), traced=True)
    return max(graphs, key=lambda graph: len(graph.node))


def assert_ordered(method):
    graph = optimized(method)
    reads, writes = (sum(map(len, each)) for each in zip(*accesses(graph).values(), strict=True))
    assert reads > 10 and writes > 10  # the variables are seen
    assert not unordered(graph)


@every_method
def test_no_network_is_read_while_it_is_moved(name):
    method, traces = started(name), []
    train_step = method.train_step
    method.train_step = lambda batch: traces.append(batch) or train_step(batch)
    assert_ordered(method)
    for seed in range(2):
        step(method, make_batch(seed), traced=True)
    assert len(traces) == 1  # it serves all steps


@pytest.mark.parametrize("options", [{"pairs": 1}, {"pairs": 3}, {"labels_from": "own"}, {"labels_from": "students"}])
def test_nor_with_other_pairs_and_labels(options):
    assert_ordered(make_method("cross_teacher", start_by=0, **options))
