"""Scores of networks on labeled examples, by one accumulating tally at the labels' own size."""

import argparse
import json
from pathlib import Path

import numpy as np
import onnxruntime
import tensorflow as tf

from tfssl import errors, folders, protocols, runs

SETS = ("validation", "test", "held_out")


def predictions(network, examples, task, evaluation):
    """A function index -> (label [h,w], activation [h,w,C], prediction [h,w]) of an example as the protocol has them.

    network: images [B,H,W,3] -> {"logits"}. It is traced once, however often the function is called. Logits (of several
    views their mean probabilities) are enlarged bilinearly to the label's size before the class is taken: the published
    protocol at original image size, whatever size the network reads.
    """
    prepare = protocols.prepare(evaluation)
    predict, activated = protocols.predictor(lambda image: network(image, training=False)["logits"], task, evaluation)

    @tf.function(reduce_retracing=True)
    def of_example(index):
        image, label = prepare(examples.image(index), examples.label(index))
        values = tf.cast(predict(image[None]), tf.float32)
        values = tf.image.resize(values, tf.shape(label)[:2], method="bilinear")
        activation = values if activated else task.activation(values)
        return label, activation[0], task.decode(values)[0]

    return lambda index: of_example(tf.constant(index, tf.int64))


def tallier(network, examples, task, evaluation):
    """A function without arguments: what each example adds to the tally of a network, an array [N, ...]."""
    of_example = predictions(network, examples, task, evaluation)

    def tally(index):
        label, _, prediction = of_example(index)
        return task.tally(label, prediction).numpy()

    return lambda: np.stack(list(examples.each(tally)))


def scorer(network, examples, task, evaluation):
    """A function without arguments: the scores of a network over all examples, as task.scores gives them."""
    tallies = tallier(network, examples, task, evaluation)
    return lambda: task.scores(tallies().sum(0))


def score(network, examples, task, evaluation):
    """(scores, tallies [N, ...]) of a network, with all that takes longer: boundaries, calibration, an interval."""
    of_example = predictions(network, examples, task, evaluation)
    tallies, details = [], []
    for label, activation, prediction in examples.each(of_example):
        tallies.append(task.tally(label, prediction).numpy())
        details.append(task.details(label.numpy(), activation.numpy(), prediction.numpy()))
    tallies = np.stack(tallies)
    return {**task.scores(tallies.sum(0)), **task.detailed_scores(tallies, details)}, tallies


def score_networks(networks, examples, task, evaluation):
    """The scores of each network by its role: {role: scores}."""
    return {role: score(network, examples, task, evaluation)[0] for role, network in networks.items()}


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
        found = list(examples.each(lambda index: measure(tf.constant(index, tf.int64)), most))
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


def exported(kind, folder, task):
    """The network that a run's folder has exported: images at their own size -> {"logits"}."""
    place = folders.published(folder / "export").get(kind)
    if place is None:
        raise errors.UserError(f"{folder}: has no export as {kind}; make one by python -m tfssl.export {folder}")
    return {"saved_model": _saved_model, "onnx": _onnx}[kind](place, task)


def _saved_model(place, task):
    loaded = tf.saved_model.load(str(place))  # its signatures alone do not keep its variables

    def network(image, training=False):
        return loaded.signatures["logits"](image=tf.cast(image, tf.uint8))

    return network


def _onnx(place, task):
    """It gives a class and how sure it is; the rest of the probability is laid on the other classes in equal parts."""
    session = onnxruntime.InferenceSession(str(place))

    def run(image):
        return session.run(["mask", "confidence"], {"image": image})

    def network(image, training=False):
        mask, confidence = tf.numpy_function(run, [tf.cast(image, tf.uint8)], [tf.uint8, tf.float32])
        chosen = tf.one_hot(tf.ensure_shape(mask, [None, None, None]), task.channels)
        sure = tf.ensure_shape(confidence, [None, None, None])[..., None]
        return {"logits": task.logits(chosen * sure + (1 - chosen) * (1 - sure) / max(task.channels - 1, 1))}

    return network


def write_tallies(path, tallies, names, step):
    """Image by image what the score of the reported network is made of, for intervals over images; whole or not."""
    partial = path.with_name(f".partial-{path.name}")
    np.savez(partial, tallies=tallies, names=names, step=step)
    partial.replace(path)


def refuse_views(run):
    """What was exported looks at an image in its own way, which was chosen when it was exported."""
    evaluation = run.settings.evaluation
    if not run.task.has_classes:
        raise errors.UserError(f"--exported is for networks of classes, not for task.name {run.task.name}")
    if evaluation.protocol == "sliding" or evaluation.flip or tuple(evaluation.scales) != (1.0,):
        raise errors.UserError("--exported: windows and mirrored images are chosen on exporting (export.sliding, "
                               "export.flip); set evaluation.protocol=whole, flip=false and scales=[1]")  # fmt: skip


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m tfssl.evaluate", description=__doc__)
    parser.add_argument("run", type=Path, help="the folder of a finished or interrupted run")
    parser.add_argument("--on", default="validation", choices=SETS)
    parser.add_argument("--exported", choices=["saved_model", "onnx"], help="score what the run has exported, on "
                        "images at their own size, in place of its networks")  # fmt: skip
    parser.add_argument("--set", action="append", default=[], metavar="A.B=JSON", help="change the run's configuration")
    given = parser.parse_args(arguments)
    run = runs.reopen(given.run, given.set, original_size=bool(given.exported))
    if given.exported:
        refuse_views(run)
    examples = getattr(run.source, given.on)
    if examples is None:
        raise errors.UserError(f"{given.run}: its data has no {given.on} set; name one in data.{given.on}")
    evaluation = run.settings.evaluation
    scored = {given.exported: exported(given.exported, given.run, run.task)} if given.exported else run.scored
    found = {role: score(network, examples, run.task, evaluation) for role, network in scored.items()}
    usable = examples.usable()  # known now that all were read
    result = {"on": given.on, "images": len(usable), "step": run.step,
              "evaluation": evaluation.model_dump(mode="json"),
              "networks": {role: scores for role, (scores, _) in found.items()}}  # fmt: skip
    path = given.run / f"metrics_{'_'.join(filter(None, [given.on, given.exported]))}.json"
    folders.write_json(path, result)
    if not given.set and not given.exported:  # what a comparison will take for this run's score
        path_of_tallies = given.run / f"tallies_{given.on}.npz"
        write_tallies(path_of_tallies, next(iter(found.values()))[1], [examples.names[n] for n in usable],
                      run.step)  # fmt: skip
    for role, scores in result["networks"].items():
        print(f"{role:12s} {run.task.summary(scores)}")
    print(json.dumps({"wrote": str(path)}))


if __name__ == "__main__":
    errors.run(main)
