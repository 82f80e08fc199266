"""python -m benchmarks.strategies [CONFIG...]: what a step costs under "mirrored" on one replica, against "default".

Both are the step of `fit`, its stream of batches included, on random images held in memory, in turns in one process;
the ratio is the median of the turns' ratios.
"""

import argparse
import statistics
from functools import partial
from operator import truediv
from pathlib import Path

import tensorflow as tf

from benchmarks.step_cost import last_phase, random_batch, seconds
from tfssl import config, errors, runs, strategies

COLUMNS = ("config", "default, ms", "mirrored, ms", "ratio", "least", "most")


def step_of(path, overrides, strategy):
    """A step of the last phase, as `fit` makes it."""
    settings = runs.resolve(config.load(path, overrides), path)
    settings = runs.complete(settings, runs.make_source(settings))
    run = runs.build(settings, Path("none"), strategy=strategy)
    method, batch = run.method, random_batch(run)
    if not method.uses_unlabeled:
        del batch["unlabeled"]
    stream = strategies.spread(strategy, lambda *_: tf.data.Dataset.from_tensors(batch).repeat())
    method.enter(last_phase(method), lambda: [])
    method.optimizer.iterations.assign(last_phase(method))
    return partial(method.train_function, iter(stream))


def measure(path, overrides, turns, steps):
    """[(seconds under default, under mirrored)] of each turn."""
    device = (tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU"))[0].name
    both = [step_of(path, overrides, strategy)
            for strategy in (strategies.one(), tf.distribute.MirroredStrategy([device]))]  # fmt: skip
    return [[seconds(step, steps) for step in both] for _ in range(turns + 1)][1:]  # the first turn traces


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m benchmarks.strategies", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("configs", nargs="*", default=["configs/supervised.json", "configs/robust_mutual.json"])
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--steps", type=int, default=10, help="of each in a turn")
    parser.add_argument("--set", action="append", default=[], metavar="A.B.C=JSON")
    given = parser.parse_args(arguments)
    print("| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS), flush=True)
    for path in given.configs:
        default, mirrored = zip(*measure(path, given.set, given.turns, given.steps), strict=True)
        ratios = sorted(map(truediv, mirrored, default))
        cells = [Path(path).stem, *(f"{1000 * statistics.median(times):.0f}" for times in (default, mirrored)),
                 *(f"{value:.3f}" for value in (statistics.median(ratios), ratios[0], ratios[-1]))]  # fmt: skip
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    errors.run(main)
