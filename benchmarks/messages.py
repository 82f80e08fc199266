"""python -m benchmarks.messages [CONFIG...]: what replicas tell each other in a step, in numbers and bytes.

The step of the last phase is traced for two replicas, not run, and every reduction and gathering of its graph is
counted as TensorFlow is asked for it. "reduced" are sums and means (gradients, statistics, flags): their bytes do not
depend on the number of replicas. "gathered" is what each replica gives for all to hold (keys, prototypes): all of it
together grows with their number.
"""

import argparse
import contextlib
from pathlib import Path

import tensorflow as tf
from tensorflow.python.distribute.cross_device_ops import CrossDeviceOps

from benchmarks.step_cost import build, last_phase, random_batch
from tfssl import errors

COLUMNS = ("config", "parameters, millions", "gradients and the rest reduced, MB", "reductions",
           "gathered, MB a replica", "gatherings")  # fmt: skip
REPLICAS = 2


@contextlib.contextmanager
def counted():
    """Yields ({"reduced": [bytes, ...], "gathered": [...]}) of one replica, that fills while a graph is traced."""
    found = {"reduced": [], "gathered": []}
    honest = {name: getattr(CrossDeviceOps, name) for name in ("reduce", "batch_reduce", "_gather")}

    def size(value):
        value = value.values[0] if hasattr(value, "values") else value
        return value.shape.num_elements() * value.dtype.size

    def reduce(self, operation, value, *rest, **named):
        found["reduced"].append(size(value))
        return honest["reduce"](self, operation, value, *rest, **named)

    def batch_reduce(self, operation, pairs, *rest, **named):
        found["reduced"].append(sum(size(value) for value, _ in pairs))  # packed together
        return honest["batch_reduce"](self, operation, pairs, *rest, **named)

    def gather(self, value, *rest, **named):
        found["gathered"].append(size(value))
        return honest["_gather"](self, value, *rest, **named)

    CrossDeviceOps.reduce, CrossDeviceOps.batch_reduce, CrossDeviceOps._gather = reduce, batch_reduce, gather
    try:
        yield found
    finally:
        for name, function in honest.items():
            setattr(CrossDeviceOps, name, function)


def messages(run):
    """What `counted` finds in a step of the last phase."""
    method, strategy = run.method, run.strategy
    batch = random_batch(run)
    shares = strategy.experimental_distribute_values_from_function(
        lambda context: tf.nest.map_structure(lambda each: tf.split(each, REPLICAS)[context.replica_id_in_sync_group],
                                              batch)
    )
    method.enter(last_phase(method), lambda: [])
    with counted() as found:
        tf.function(lambda: strategy.run(method.train_step, args=(shares,))).get_concrete_function()
    return found


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m benchmarks.messages", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("configs", nargs="*", default=[f"configs/paper/{name}.json" for name in (
        "u2pl_voc_supervised", "gct_voc", "u2pl_voc", "rml_voc", "ctt_voc", "gta_voc")])
    parser.add_argument("--classes", type=int, default=21)
    parser.add_argument("--set", action="append", default=[], metavar="A.B.C=JSON")
    given = parser.parse_args(arguments)
    device = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(device, [tf.config.LogicalDeviceConfiguration()] * REPLICAS)
    print("| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS), flush=True)
    for path in given.configs:
        run = build(path, given.classes, ["training.strategy=mirrored", *given.set])
        found = messages(run)
        moved = sum(variable.shape.num_elements() for optimizer in run.method.optimizers
                    for variable in optimizer._trainable_variables)  # fmt: skip
        cells = [Path(path).stem, f"{moved / 1e6:.1f}", *(
            text for kind in ("reduced", "gathered")
            for text in (f"{sum(found[kind]) / 1e6:,.1f}", str(len(found[kind]))))]  # fmt: skip
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    errors.run(main)
