"""Scores of networks on labeled examples, by one accumulating tally at the labels' own size."""

import argparse
import json
from pathlib import Path

import numpy as np
import tensorflow as tf

from tfssl import errors, runs

SETS = ("validation", "test", "held_out")


def tallier(predict, examples, task):
    """A function without arguments: what each example adds to the tally of `predict`, an array [N, ...].

    predict: image [1,H,W,3] -> logits [1,H,W,C], traced once, however often the scores are asked for. Logits are
    enlarged (bilinearly) to the label's size before the class is taken: the published protocol at original image
    size, whatever size the network reads. Padding does not occur; ignored pixels are not counted.
    """

    @tf.function(reduce_retracing=True)
    def tally(index):
        label = examples.label(index)
        logits = predict(examples.image(index)[None])
        logits = tf.image.resize(tf.cast(logits, tf.float32), tf.shape(label)[:2], method="bilinear")
        return task.tally(label, task.decode(logits)[0])

    return lambda: np.stack([tally(tf.constant(index, tf.int64)).numpy() for index in range(examples.count)])


def scorer(predict, examples, task):
    """A function without arguments: the scores of `predict` over all examples, as task.scores gives them."""
    tallies = tallier(predict, examples, task)
    return lambda: task.scores(tallies().sum(0))


def score_networks(networks, examples, task):
    """The scores of each network by its role: {role: what task.scores gives}."""
    return {role: scorer(logits_of(network), examples, task)() for role, network in networks.items()}


def logits_of(network):
    return lambda image: network(image, training=False)["logits"]


def watcher(method, examples, task, held_out=True, most=64):
    """A function without arguments: what images beside training tell of learning, (row, classes, one class).

    row: the coupling of two networks and, on held-out images, scores of the pseudo-labels, each where the method has
    it. classes: {name: {"accuracy", "iou"}} of the pseudo-labels, None where a class is not there; one class: that to
    which they have collapsed, or None. The labels are looked at only here, never learned from. The first `most`
    examples serve.
    """

    @tf.function(reduce_retracing=True)
    def measure(index):
        image = examples.image(index)[None]
        label = examples.label(index)
        pseudo, coupling = method.pseudo_labels(image) if held_out else None, method.coupling(image)
        tally = None
        if pseudo is not None:
            channels = pseudo if pseudo.shape.rank == 4 else pseudo[..., None]
            resized = tf.image.resize(channels, tf.shape(label)[:2], method="nearest")
            tally = task.tally(label, tf.reshape(resized, tf.shape(label)))
        return {"tally": tally, "coupling": coupling}

    def watch():
        found = [measure(tf.constant(index, tf.int64)) for index in range(min(examples.count, most))]
        row, classes, one_class = {}, {}, None
        if found and found[0]["tally"] is not None:
            result = task.scores(sum(each["tally"].numpy() for each in found))
            row |= {name: result[measure] for name, measure in task.pseudo_measures.items()}
            classes = {name: {"accuracy": accuracy, "iou": result["per_class_iou"][name]}
                       for name, accuracy in result.get("per_class_accuracy", {}).items()}  # fmt: skip
            one_class = result.get("one_class")
        if found and found[0]["coupling"] is not None:
            row["total_variation"] = float(np.mean([each["coupling"].numpy() for each in found]))
        return row, classes, one_class

    return watch


def write_tallies(path, tallies, names, step):
    """Image by image what the score of the network that ships is made of, for intervals over images; whole or not."""
    partial = path.with_name(f".partial-{path.name}")
    np.savez(partial, tallies=tallies, names=names, step=step)
    partial.replace(path)


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m tfssl.evaluate", description=__doc__)
    parser.add_argument("run", type=Path, help="the folder of a finished or interrupted run")
    parser.add_argument("--on", default="validation", choices=SETS)
    parser.add_argument("--set", action="append", default=[], metavar="A.B=JSON", help="change the run's configuration")
    given = parser.parse_args(arguments)
    run = runs.reopen(given.run, given.set)
    examples = getattr(run.source, given.on)
    if examples is None:
        raise errors.UserError(f"{given.run}: its data has no {given.on} set; name one in data.{given.on}")
    scored = run.method.scored
    tallies = {role: tallier(logits_of(network), examples, run.task)() for role, network in scored.items()}
    result = {"on": given.on, "images": examples.count, "step": run.step,
              "networks": {role: run.task.scores(tally.sum(0)) for role, tally in tallies.items()}}  # fmt: skip
    path = given.run / f"metrics_{given.on}.json"
    runs.write_json(path, result)
    if not given.set:  # what a comparison will take for this run's score
        path_of_tallies = given.run / f"tallies_{given.on}.npz"
        write_tallies(path_of_tallies, next(iter(tallies.values())), examples.names, run.step)
    for role, score in result["networks"].items():
        print(f"{role:12s} {run.task.summary(score)}")
    print(json.dumps({"wrote": str(path)}))


if __name__ == "__main__":
    errors.run(main)
