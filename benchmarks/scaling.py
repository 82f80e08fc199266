"""python -m benchmarks.scaling [QUANTITY...]: what a step costs as classes, images, batches, replicas and queues grow.

Each point is a process of its own, whose greatest resident memory counts; its time is the median of some steps after
two that do not count. All else stays as the configuration has it. `order` is the slope from point to point on
logarithmic axes: 1 is linear growth, 0 none. Images are random, and of the number of images only the index is there:
what a step takes of a data set is its order. Replicas are logical CPUs of one machine, each with the same share, so
that their work grows with their number.
"""

import argparse
import csv
import json
import math
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tfssl import errors

CONFIG = "configs/u2pl.json"
STEPS = 9


@dataclass(frozen=True)
class Quantity:
    """What grows; `unit`: what the values are; settings: overrides of the configuration at a value."""

    unit: str
    values: tuple[int, ...]
    settings: object = staticmethod(lambda value: [])
    config: str = CONFIG


def queues(value):
    return [f"method.queue_capacity={value}", f"method.background_capacity={value}"]


def batches(value):
    return [f"training.labeled_batch={value}", f"training.unlabeled_batch={value}"]


QUANTITIES = {
    "classes": Quantity("classes", (2, 11, 21, 60, 150), lambda value: queues(1000)),
    "pixels": Quantity("pixels of a crop", (64**2, 128**2, 256**2),
                       lambda value: [f"data.crop=[{math.isqrt(value)},{math.isqrt(value)}]"]),
    "batch": Quantity("labeled, and as many unlabeled, images", (2, 4, 8), batches),
    "replicas": Quantity("replicas with 2 and 2 images each", (1, 2, 4),
                         lambda value: [*batches(2 * value), "training.strategy=mirrored"]),
    "queue": Quantity("keys a class", (1000, 10_000, 100_000), queues),
    "images": Quantity("images, by index alone", (100, 1000, 10_000, 100_000, 1_000_000)),
}  # fmt: skip


def point(quantity, value):
    """{"seconds": of a step, "megabytes": greatest so far}, in this process."""
    import tensorflow as tf

    if quantity == "images":
        seconds = order_of(value)
    else:
        if quantity == "replicas":
            device = tf.config.list_physical_devices("CPU")[0]
            tf.config.set_logical_device_configuration(device, [tf.config.LogicalDeviceConfiguration()] * value)
        seconds = step_of(quantity, value)
    return {"seconds": seconds, "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def step_of(quantity, value):
    """Seconds of a step of the whole method."""
    import tensorflow as tf

    from benchmarks.step_cost import build, last_phase, random_batch

    own = QUANTITIES[quantity]
    classes = value if quantity == "classes" else 11
    run = build(own.config, classes, ["networks.0.weights=null", *own.settings(value)])
    method, strategy = run.method, run.strategy
    batch = random_batch(run)
    count = strategy.num_replicas_in_sync
    shares = strategy.experimental_distribute_values_from_function(
        lambda context: tf.nest.map_structure(lambda each: tf.split(each, count)[context.replica_id_in_sync_group],
                                              batch)
    )
    method.enter(last_phase(method), lambda: [batch])
    method.optimizer.iterations.assign(last_phase(method))
    step = tf.function(lambda: strategy.run(method.train_step, args=(shares,)))
    return timed(lambda: tf.nest.map_structure(str, step()))


def order_of(count):
    """Seconds of a batch of a stream over so many images that are made of their index."""
    import tensorflow as tf

    from tfssl.data.examples import Examples, Source
    from tfssl.data.streams import paired_stream

    def image(index):
        return tf.fill([32, 32, 3], tf.cast(index % 256, tf.float32))

    labeled = Examples(range(min(count, 100)), image, lambda index: tf.zeros([32, 32], tf.int32))
    source = Source(labeled, Examples(range(count), image), labeled, ("a", "b"), ((0, 0, 0), (9, 9, 9)))
    stream = iter(paired_stream(source, seed=0, start=0, stop=10**9, labeled_batch=8, unlabeled_batch=8,
                                strong_views=0, crop=(32, 32), ignore_index=255))  # fmt: skip
    return timed(lambda: [next(stream) for _ in range(50)]) / 50


def timed(function):
    times = []
    for _ in range(STEPS + 2):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return statistics.median(times[2:])


def measure(quantity, path):
    """[{"value", "seconds", "megabytes", "order": of time, "memory_order"}], each in a process of its own, but for
    those that a table at `path` has already."""
    rows = []
    for value in QUANTITIES[quantity].values:
        row = measured(path).get((quantity, value)) or measure_point(quantity, value, path)
        if rows:
            row["order"], row["memory_order"] = (slope(rows[-1], row, key) for key in ("seconds", "megabytes"))
        rows.append(row)
        print(line(row), flush=True)
    return rows


def measure_point(quantity, value, path):
    command = [sys.executable, "-m", "benchmarks.scaling", "--point", quantity, str(value)]
    found = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    row = {"quantity": quantity, "value": value, **json.loads(found.splitlines()[-1])}
    begun = path.is_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", newline="") as file:
        table = csv.DictWriter(file, row)
        if not begun:
            table.writeheader()
        table.writerow(row)
    return row


def measured(path):
    """{(quantity, value): row} of a table of points."""
    if not path.is_file():
        return {}
    with open(path, newline="") as file:
        rows = [{"quantity": row["quantity"], "value": int(row["value"]), "seconds": float(row["seconds"]),
                 "megabytes": float(row["megabytes"])} for row in csv.DictReader(file)]  # fmt: skip
    return {(row["quantity"], row["value"]): row for row in rows}


def slope(before, after, key):
    return math.log(after[key] / before[key]) / math.log(after["value"] / before["value"])


def line(row):
    orders = [f"{row[name]:+.2f}" if name in row else "" for name in ("order", "memory_order")]
    cells = [row["quantity"], f"{row['value']:,}", f"{1000 * row['seconds']:.2f}", orders[0],
             f"{row['megabytes']:,.0f}", orders[1]]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def draw(rows, path):
    """Time and memory against each quantity, both as multiples of the first point's, on logarithmic axes."""
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    for panel, key, title in zip(panels, ("seconds", "megabytes"), ("time of a step", "greatest memory"), strict=True):
        for quantity, own in QUANTITIES.items():
            mine = [row for row in rows if row["quantity"] == quantity]
            if mine:
                panel.loglog([row["value"] / own.values[0] for row in mine], [row[key] / mine[0][key] for row in mine],
                             "o-", label=f"{quantity} from {own.values[0]:,}")  # fmt: skip
        panel.loglog([1, 100], [1, 100], ":", color="gray", label="linear")
        panel.set(title=f"{title}, as a multiple of the first", xlabel="the quantity, as a multiple of the first",
                  ylim=(0.5, 60), xlim=(0.9, 2e4))  # fmt: skip
        panel.grid(True, which="both", alpha=0.2)
    panels[0].legend(fontsize=8)
    figure.savefig(path, dpi=110)


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("quantities", nargs="*", metavar="QUANTITY", help=f"of {', '.join(QUANTITIES)}; all by default")
    parser.add_argument("--point", nargs=2, metavar=("QUANTITY", "VALUE"), help="one point, in this process")
    parser.add_argument("--points", type=Path, default=Path("runs/scaling.csv"),
                        help="the table of points; those it has already are not measured again")  # fmt: skip
    parser.add_argument("--figure", type=Path, default=Path("runs/scaling.png"))
    given = parser.parse_args(arguments)
    if given.point:
        print(json.dumps(point(given.point[0], int(given.point[1]))))
        return
    unknown = set(given.quantities) - set(QUANTITIES)
    if unknown:
        raise errors.UserError(f"{', '.join(sorted(unknown))}: no such quantity; there are {', '.join(QUANTITIES)}")
    print("| quantity | value | step, ms | order | memory, MB | order |\n|---|---|---|---|---|---|", flush=True)
    rows = [row for quantity in given.quantities or QUANTITIES for row in measure(quantity, given.points)]
    given.figure.parent.mkdir(parents=True, exist_ok=True)
    draw(rows, given.figure)
    print(f"\nfigure: {given.figure}")


if __name__ == "__main__":
    errors.run(main)
