"""A configuration tried out without its data: everything is built, two steps are made, and told what they need."""

import resource
import sys
import time
from pathlib import Path

import numpy as np
import tensorflow as tf

from tfssl import config, runs, strategies
from tfssl.data.datasets import IGNORE
from tfssl.data.examples import Examples, Source
from tfssl.data.sources import PUBLISHED, classes_of, palette_of

MARGIN = 1.25  # of a stand-in image over the crop
COUNT = 64  # stand-in images in each set
MEGABYTE = 2.0**20


def dry_run(path, overrides=()):
    """Build what a configuration describes, on stand-in data and from random weights; two steps of its last phase."""
    settings = runs.resolve(config.load(path, overrides), path)
    strategy = strategies.make(settings.training)
    runs.refuse_other_task(settings)
    source = stand_in(settings)
    runs.refuse_other_labels(settings, source)
    settings = runs.without_weights(runs.complete(settings, source))
    run = runs.build(settings, Path("none"), source, strategy)
    for line in sizes(run):
        print(line, flush=True)
    seconds, logged = two_steps(run)
    told = ", ".join(f"{name} {value:.4g}" for name, value in logged.items() if name in run.method.terms)
    height, width = settings.data.crop
    print(f"two steps at crop {height} x {width}: {told}")
    of_all = f" and {hours(seconds * settings.training.steps)} for {settings.training.steps:,} of them"
    of_all = of_all if settings.training.epochs is None else "; how many follow from the number of images"
    print(f"the second took {seconds:.2f} s here, so {1 / seconds:.2g} steps a second{of_all}")
    print(f"most memory of this process so far: {peak():,.0f} MB")


# The data.


def stand_in(settings):
    """A Source of random images and labels of the configuration's classes; nothing is read."""
    regression = settings.task.name == "regression"
    names = () if regression else classes_of(settings)
    size = settings.data.model_extra.get("size") or [round(MARGIN * side) for side in settings.data.crop]

    def image(index):
        return tf.random.stateless_uniform([*size, 3], [0, index], 0.0, 255.0)

    def label(index):
        if regression:
            return image(index)
        return tf.random.stateless_uniform(size, [1, index], 0, len(names), tf.int32)

    examples = Examples(tuple(map(str, range(COUNT))), image, label)
    unlabeled = Examples(examples.names, image)
    palette = () if regression else palette_of(settings)
    ignored = IGNORE if settings.data.source in PUBLISHED else None
    return Source(examples, unlabeled, examples, names, palette, held_out=examples, task=settings.task.name,
                  resamples=not regression, ignore_index=ignored)  # fmt: skip


# What it needs.


def sizes(run):
    """Lines that tell parameters, and memory on each device by what takes it."""
    method, training = run.method, run.settings.training
    networks = {**method.roles, **method.heads}
    for role, network in networks.items():
        trained = sum(int(np.prod(variable.shape)) for variable in network.trainable_variables)
        yield f"{role:12s} {network.count_params():12,d} parameters, {trained:,d} of them trained"
    weights = bytes_of(variable for network in networks.values() for variable in network.variables)
    gradients = bytes_of(variable for network in networks.values() for variable in network.trainable_variables)
    slots = bytes_of(variable for optimizer in method.optimizers for variable in optimizer.variables)
    shares = run.strategy.num_replicas_in_sync * training.accumulate
    images = training.labeled_batch // shares
    if method.uses_unlabeled:
        images += max(1, method.strong_views) * (training.unlabeled_batch // shares)
    maps = sum(activations(network, images, run.settings.data.crop) for network in method.roles.values()
               if network.trainable)  # fmt: skip
    parts = {"weights": weights, "gradients": gradients, "optimizer": slots,
             "memories": method.megabytes * MEGABYTE, "maps kept for the gradients, about": maps}  # fmt: skip
    yield "memory on each device: " + ", ".join(f"{name} {size / MEGABYTE:,.0f} MB" for name, size in parts.items())
    yield f"together about {sum(parts.values()) / MEGABYTE:,.0f} MB for {images} images at once in each network trained"


def bytes_of(variables):
    return sum(int(np.prod(variable.shape)) * np.dtype(variable.dtype).itemsize for variable in variables)


def activations(network, images, crop):
    """Bytes of all that a training pass computes from so many images: what the gradient may need. An upper estimate, as
    XLA and TensorFlow drop what they can compute again."""
    spec = tf.TensorSpec([images, *crop, 3], tf.float32)
    graph = tf.function(lambda image: network(image, training=True)["logits"]).get_concrete_function(spec).graph
    shapes = [(output.shape, output.dtype) for operation in graph.get_operations() for output in operation.outputs]
    return sum(shape.num_elements() * dtype.size for shape, dtype in shapes
               if shape.rank and shape.is_fully_defined() and shape[0] == images and dtype.is_floating)  # fmt: skip


def two_steps(run):
    """(seconds of the second, what was logged) of two steps in the last phase of the method."""
    method, first = run.method, run.method.phases()[-1][0]
    method.optimizer.iterations.assign(first)
    method.enter(first, lambda: runs.spread_batches(run, 0, 2))
    stream = iter(runs.spread_batches(run, 0, 2))
    for _ in range(2):
        started = time.perf_counter()
        logged = {name: float(value) for name, value in method.train_function(stream).items()}
        seconds = time.perf_counter() - started
    return seconds, logged


def hours(seconds):
    return f"{seconds / 3600:,.1f} hours" if seconds > 7200 else f"{seconds / 60:,.1f} minutes"


def peak():
    """Of this process in megabytes; Linux counts in kilobytes, macOS in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "linux" else MEGABYTE)
