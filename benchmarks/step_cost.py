"""python -m benchmarks.step_cost [CONFIG...]: what a step of each method costs above its own lower bound.

The lower bound of a method are its own network passes, learned plainly: what each network is called on, how often, in
training or not, and through which calls gradients go back, is recorded from the method's step; the bound makes the
same calls on the same shapes, minimises the supervised loss of each prediction that gradients go back through, as if
all its images were labeled (of other outputs, such as flaw maps, the mean square), and applies the same optimizers, one
move after the other: networks that know nothing of each other could otherwise be computed at once.
No pseudo-labels, mixing, memories, averages of weights or terms of the method. The last column is the ratio to less
still: to the same passes with means of squares in place of all losses. All three are timed in turns in one process; a
ratio is the median of the turns' ratios. Random images: what they show changes no cost.

--classes 21 60 150: the same for so many classes each, to see how the cost grows with them.
"""

import argparse
import contextlib
import statistics
import time
from dataclasses import dataclass, field
from functools import partial
from operator import truediv
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from tfssl import config, errors, runs
from tfssl.randomness import noise
from tfssl.resizing import resize_like

COLUMNS = ("config", "classes", "step, ms", "bound, ms", "ratio", "least", "most", "ratio without losses")


def build(path, classes, overrides):
    """The run of a configuration, for so many classes (None: as the source says)."""
    settings = runs.resolve(config.load(path, overrides), path)
    if classes is None:
        settings = runs.complete(settings, runs.make_source(settings))
    else:
        names = [f"class {number}" for number in range(classes)]
        settings = settings.model_copy(update={"task": settings.task.model_copy(update={"classes": names})})
    return runs.build(settings, Path("none"))


def random_batch(run, seed=0):
    """A batch as the method wants it, of noise; a tenth of the labels unknown."""
    draw, training, crop = np.random.default_rng(seed), run.settings.training, run.settings.data.crop

    def images(count):
        return tf.constant(draw.uniform(0, 255, (count, *crop, 3)), tf.float32)

    if run.task.has_classes:
        label = draw.integers(run.task.channels, size=(training.labeled_batch, *crop))
        label = np.where(draw.random(label.shape) < 0.1, run.task.ignore_index, label)
        label = tf.constant(label, tf.int32)
    else:
        label = images(training.labeled_batch)
    count = training.unlabeled_batch
    valid = tf.ones((count, *crop), tf.bool)
    return {"labeled": (images(training.labeled_batch), label),
            "unlabeled": (images(count), valid, *[images(count) for _ in range(run.method.strong_views)])}  # fmt: skip


@dataclass
class Call:
    """One pass of a network in a move: what went in, and where gradients came back."""

    network: keras.Model
    inputs: list
    training: bool | None
    back: bool = False  # into what came out
    further: set = field(default_factory=set)  # and on into these inputs

    def came_back(self):
        self.back = True


@contextlib.contextmanager
def recorded(method):
    """Yields a list that fills, while the method makes a step, with its moves: [(networks, optimizer, calls), ...]."""
    moves, calls, depth, minimize = [], [], 0, method.minimize

    def call(network, *inputs, training=None, **rest):
        nonlocal depth
        made = Call(network, [(each.shape, each.dtype) for each in inputs], training)
        if depth == 0:  # networks within networks belong to that call
            calls.append(made)
            inputs = [told_of(each, partial(made.further.add, n)) for n, each in enumerate(inputs)]
        depth += 1
        outputs = keras.layers.Layer.__call__(network, *inputs, training=training, **rest)
        depth -= 1
        return outputs if depth else tf.nest.map_structure(lambda each: told_of(each, made.came_back), outputs)

    def move(losses, networks, optimizer):
        before = len(calls)
        found = minimize(losses, networks, optimizer)
        moves.append((networks, optimizer, calls[before:]))
        return found

    keras.Model.__call__, method.minimize = call, move
    try:
        yield moves
    finally:
        del keras.Model.__call__, method.minimize


def told_of(tensor, tell):
    """The tensor, and tell() when a gradient comes back to it."""

    def backward(gradient):
        tell()
        return gradient

    return tf.custom_gradient(lambda value: (tf.identity(value), backward))(tensor)


def mean_square(output):
    return tf.reduce_mean(tf.square(tf.cast(output, tf.float32)))


def supervised_loss(run):
    """Of predictions the supervised loss of the run's task at the images' size, of other outputs the mean square."""
    crop, task = run.settings.data.crop, run.task

    def loss(output):
        if output.shape.rank != 4 or output.shape[-1] != task.channels:
            return mean_square(output)
        like = tf.zeros([output.shape[0], *crop], tf.int32)  # a label, of classes
        logits = resize_like(tf.cast(output, tf.float32), like)  # where a method calls a part of a network
        return task.loss(like if task.has_classes else tf.zeros(logits.shape), logits)

    return loss


def bound_of(moves, loss=mean_square):
    """The lower bound as generator function, from the recorded moves of a step: yields what must be computed.

    loss: what is minimised of each output that gradients go back through.
    """
    made = [[[tf.cast(tf.random.normal(shape), dtype) for shape, dtype in call.inputs] for call in calls]
            for _, _, calls in moves]  # fmt: skip

    def step():
        done = []
        for (networks, optimizer, calls), given in zip(moves, made, strict=True):
            with tf.control_dependencies(done):  # a move begins when the one before has ended, as in the method
                given = [[tf.identity(each) for each in inputs] for inputs in given]
            variables = [variable for network in networks for variable in network.trainable_variables]
            through = [inputs[n] for call, inputs in zip(calls, given, strict=True) for n in call.further]
            with tf.GradientTape() as tape:
                tape.watch(through)
                sizes, total = [], 0.0
                for number, (call, inputs) in enumerate(zip(calls, given, strict=True)):
                    # another key for each pass and step: what could be drawn once would be, and shared
                    with noise(tf.stack([number, tf.cast(optimizer.iterations, tf.int32)])):
                        outputs = tf.nest.flatten(call.network(*inputs, training=call.training))
                    size = tf.add_n([(loss if call.back else mean_square)(output) for output in outputs])
                    sizes.append(size)  # what is not asked for is not computed
                    total += size if call.back else 0.0
            sources = [variable.value for variable in variables]
            gradients, further = tape.gradient(total, (sources, through))
            optimizer.apply_gradients(zip(gradients, variables, strict=True))
            done = [variable.value.read_value() for variable in variables]
            yield sizes, further

    return step


def measure(run, turns, steps):
    """Seconds of a step, of its lower bound and of its passes alone: each turn's three."""
    batch, method = random_batch(run), run.method
    method.enter(last_phase(method), lambda: [batch])
    method.optimizer.iterations.assign(last_phase(method))
    with recorded(method) as moves:
        tf.function(method.train_step).get_concrete_function(batch)  # traced, not run
    bounds = [bound_of(moves, loss) for loss in (supervised_loss(run), mean_square)]
    compiled = [tf.function(lambda bound=bound: list(bound()), jit_compile=method.xla) for bound in bounds]
    variables = [*method.variables, *(variable for optimizer in method.optimizers for variable in optimizer.variables)]
    start = [variable.numpy() for variable in variables]

    def timed(function):
        for variable, value in zip(variables, start, strict=True):  # what was learned before is nonsense: start anew
            variable.assign(value)
        return seconds(function, steps)

    functions = [partial(tf.function(method.train_step), batch), *compiled]
    return [[timed(function) for function in functions] for _ in range(turns + 1)][1:]  # the first turn warms up


def last_phase(method):
    return method.phases()[-1][0]


def seconds(function, steps):
    """The median of so many steps: of their mean one interruption by another process would make anything.

    After one that is not counted, which has to fetch what was set back before it.
    """
    times = []
    for _ in range(steps + 1):
        start = time.perf_counter()
        tf.nest.map_structure(lambda each: each.numpy(), function())
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step_cost", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("configs", nargs="*", default=sorted(map(str, Path("configs").glob("*.json"))))
    parser.add_argument("--classes", nargs="+", type=int, default=[None])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20, help="of each in a turn")
    parser.add_argument("--set", action="append", default=[], metavar="A.B.C=JSON")
    given = parser.parse_args(arguments)
    print("| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS), flush=True)
    for path in given.configs:
        for classes in given.classes:
            run = build(path, classes, given.set)
            step, bound, bare = zip(*measure(run, given.turns, given.steps), strict=True)
            ratios, without_losses = (sorted(map(truediv, step, other)) for other in (bound, bare))
            cells = [Path(path).stem, str(run.task.channels)]
            cells += [f"{1000 * statistics.median(times):.0f}" for times in (step, bound)]
            cells += [f"{value:.2f}" for value in (statistics.median(ratios), ratios[0], ratios[-1],
                                                   statistics.median(without_losses))]  # fmt: skip
            print("| " + " | ".join(cells) + " |", flush=True)
            keras.backend.clear_session()


if __name__ == "__main__":
    errors.run(main)
