"""python -m tests.worker_for_tests TASKS RESULT: one of several workers, by TF_CONFIG, does one task after another.

TASKS is a JSON list of [name of a function here, arguments...]; RESULT gets the JSON list of what they return.
`on_workers` starts such workers and gives what each has returned. They import TensorFlow once for all tasks.
"""

import json
import os
import socket
import subprocess
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import tensorflow as tf

from tests.contracts import CONTRACTS
from tests.networks_for_tests import QUIET, all_networks, make_batch, make_method, step
from tests.test_distribution import compare
from tests.test_non_finite import everything, spoiled
from tfssl import callbacks, strategies
from tfssl.methods.many_workers import ManyWorkers

PROJECT = Path(__file__).parent.parent


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def start_workers(command, logs, environments=({}, {})):
    """Processes of one command, as workers of one cluster; what each prints goes to a file of `logs`."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(len(logs))]
    processes = []
    for index, (log, environment) in enumerate(zip(logs, environments, strict=True)):
        cluster = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        own = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "TF_CONFIG": json.dumps(cluster), **environment}
        with open(log, "w") as file:
            words = command(index) if callable(command) else command
            processes.append(subprocess.Popen(words, cwd=PROJECT, env=own, stdout=file, stderr=file))
    return processes


def on_workers(folder, tasks, timeout=1200):
    """What the tasks return on each of two workers."""
    logs, results = ([folder / f"{what}_{index}" for index in range(2)] for what in ("log", "result"))
    words = [sys.executable, "-m", "tests.worker_for_tests", json.dumps(tasks)]
    processes = start_workers(lambda index: [*words, str(results[index])], logs)
    try:
        statuses = [process.wait(timeout) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert statuses == [0, 0], "\n".join(log.read_text()[-3000:] for log in logs)
    return [json.loads(result.read_text()) for result in results]


# The tasks. None of TensorFlow's operations may run before the strategy is made.


def shares(strategy):
    """What this worker is asked to make of each batch."""
    asked = []
    strategies.spread(strategy, lambda *given: asked.append(given) or tf.data.Dataset.range(1))
    return asked


def in_turn_and_together(strategy, name, xla=False):
    """Two workers against one process that sees the halves in turn, without batch statistics and noise."""
    compare(name, strategy, xla, equal=lambda method: None, **QUIET, **CONTRACTS[name].unmixed)
    keras.backend.clear_session()


def checksums_after(strategy, name, steps):
    """Ordinary training, with noise, mixing and batch statistics: the checksums of all variables, and what moved."""
    options = {**CONTRACTS[name].shown, "steps": max(steps, 2), "rate": 0.02}
    method = make_method(name, strategy=strategy, **options)
    before = checksums(method)
    for number in range(steps):
        logged = step(method, make_batch(seed=number))
    after = checksums(method)
    keras.backend.clear_session()
    return {"variables": after, "moved": [key for key in after if after[key] != before[key]], "logged": logged}


def spoiled_on_one(strategy, name):
    """A step in which the last image, seen by the second worker alone, is not finite: how it is counted and what it has
    written; and the checksums after one more."""
    method = make_method(name, strategy=strategy, rate=0.02, **CONTRACTS[name].shown)
    step(method, make_batch(seed=0))
    method.reset_trackers()
    before = everything(method)
    step(method, spoiled(make_batch(seed=1), "labeled"))
    counted, after = callbacks.skipped_steps(method), everything(method)
    written = [key for key in before if not np.array_equal(before[key], after[key], equal_nan=True)]
    step(method, make_batch(seed=2))
    found = {"counted": counted, "written": written, "variables": checksums(method)}
    keras.backend.clear_session()
    return found


def checksums(method):
    """{name: checksum} of the variables of networks, memories, optimizers and meters, as this worker holds them."""
    layers = {**all_networks(method), **{f"memory {n}": memory for n, memory in enumerate(method.memories)}}
    lists = {role: layer.weights for role, layer in layers.items()}
    lists |= {f"optimizer {n}": optimizer.variables for n, optimizer in enumerate(method.optimizers)}
    lists["faults"] = [method.faults]
    lists |= {f"meter {name}": tracker.variables for name, tracker in method.trackers.items()}
    return {f"{what} {n} {variable.name}": zlib.crc32(variable.numpy().tobytes())
            for what, variables in lists.items() for n, variable in enumerate(variables)}  # fmt: skip


class Plain(keras.Model):
    """What a user of Keras may write; its batches hold booleans."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1)
        self.dense.build([None, 2])
        self.built = True

    def call(self, batch):
        return self.dense(batch["x"])

    def train_step(self, batch):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.where(batch["here"], self(batch) - 1.0, 0.0) ** 2)
        gradients = tape.gradient(loss, [variable.value for variable in self.trainable_variables])
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        return {"loss": loss}


def plain_keras(strategy, *parts):
    """How `fit` of a plain Keras model ends on workers with these parts of the remedy: "ok", or what fails."""
    mended = type("Mended", (Plain,), {part: getattr(ManyWorkers, part) for part in parts})
    with strategy.scope():
        model = mended()
        model.compile(optimizer=keras.optimizers.SGD(0.1), jit_compile=False)
    batch = {"x": tf.ones([4, 2]), "here": tf.ones([4, 1], tf.bool)}
    data = strategy.distribute_datasets_from_function(lambda _: tf.data.Dataset.from_tensors(batch).repeat(3))
    try:
        loss = model.fit(data, steps_per_epoch=3, verbose=0).history["loss"]
    except Exception as error:  # whatever it is, a user of plain Keras meets it
        return f"{type(error).__name__}: {error}"
    return "ok" if len(loss) == 1 and 0 <= float(loss[0]) < 10 else f"loss {loss}"


def main(tasks, result):
    training = SimpleNamespace(strategy="multi_worker", accumulate=1, labeled_batch=4, unlabeled_batch=4)
    strategy, found = strategies.make(training), []
    for name, *arguments in json.loads(tasks):
        print(name, *arguments, flush=True)
        found.append(globals()[name](strategy, *arguments))
    strategies.gathered(strategy, 0)  # none leaves while another may need it
    Path(result).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
