"""python -m tfssl.next_labels RUN: the unlabeled images of a run that are most worth labelling next.

An image is doubtful where the networks of the run disagree and where what they say together is undecided. Of the most
doubtful ones those are taken that are unlike each other, since a label helps with all that looks like it.
"""

import argparse
import csv
import itertools
from pathlib import Path

import numpy as np
import tensorflow as tf

from tfssl import errors, losses, pictures, runs

COUNT, SHORTLIST, MOST = 16, 4, 2000  # images told, times as many to choose from, and so many looked at


def doubts(run, most=MOST):
    """(places, disagreement, entropy, features) of the unlabeled images that have no label, or `most` of them spread
    over the list.

    disagreement: of two networks, the mean over pixels and pairs of how far their predictions are apart, 0 to 1.
    entropy: of the mean prediction, the mean over pixels in shares of that of a uniform one; 0 where there are no
    classes. features: [N, D], the mean feature of each image in the network that ships, of length 1.
    """
    method, task = run.method, run.task
    networks = watched(method) or [run.deployed]
    if len(networks) < 2 and not task.has_classes:
        raise errors.UserError(f"{run.folder}: method {run.settings.method.name} has but one network, and where images "
                               "are predicted doubt is that two disagree; take a run of gct")  # fmt: skip
    examples, labeled = run.source.unlabeled, set(run.source.labeled.names)
    places = np.array([place for place, name in enumerate(examples.names) if name not in labeled], np.int64)
    if not len(places):
        raise errors.UserError(f"{run.folder}: all of its unlabeled images have a label; name others in data.unlabeled")

    @tf.function(reduce_retracing=True)
    def measure(place):
        image = examples.image(place)[None]
        told = [task.activation(network(image, training=False)["logits"]) for network in networks]
        pairs = [tf.reduce_mean(task.difference(*pair)) for pair in itertools.combinations(told, 2)]
        undecided = tf.constant(0.0)
        if task.has_classes:
            undecided = tf.reduce_mean(losses.entropy(tf.add_n(told) / len(told))) / np.log(task.channels)
        features = tf.reduce_mean(tf.cast(run.deployed(image, training=False)["features"], tf.float32), axis=[0, 1, 2])
        return tf.add_n(pairs) / len(pairs) if pairs else 0.0, undecided, tf.math.l2_normalize(features)

    looked_at, found = [], []
    for place in places[np.linspace(0, len(places) - 1, min(len(places), most)).astype(int)]:
        measured = measure(tf.constant(place, tf.int64))
        if examples.files is None or examples.files.good(int(place)):  # else its file has become bad
            looked_at.append(int(place))
            found.append([value.numpy() for value in measured])
    return looked_at, *map(np.array, zip(*found, strict=True))


def watched(method):
    """The networks whose disagreement counts: those that tell labels, or where there is but one those kept apart."""
    return list(method.guides if len(method.guides) > 1 else method.apart)


def choose(score, features, count):
    """The places of `count` images: first the one of the highest score, then always the one whose score times its
    distance (1 - cosine) to the nearest that is taken is greatest, of the SHORTLIST * count highest scores."""
    shortlist = np.argsort(-score, kind="stable")[: SHORTLIST * count]
    taken, distance = [], np.ones(len(shortlist))
    for _ in range(min(count, len(shortlist))):
        best = int(np.argmax(np.where(np.isin(shortlist, taken), -1.0, score[shortlist] * distance)))
        taken.append(int(shortlist[best]))
        distance = np.minimum(distance, 1 - features[shortlist] @ features[shortlist[best]])
    return taken


def tell(run, count=COUNT):
    """Write RUN/next_labels.csv and .png; the names of the images."""
    places, disagreement, entropy, features = doubts(run)
    names = [run.source.unlabeled.names[place] for place in places]
    score = disagreement + entropy
    chosen = choose(score, features, count)
    with open(run.folder / "next_labels.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["rank", "image", "disagreement", "entropy"])
        for rank, place in enumerate(chosen, 1):
            writer.writerow([rank, names[place], f"{disagreement[place]:.4f}", f"{entropy[place]:.4f}"])
    rows = [row(run, places[number]) for number in chosen]
    sheet = pictures.contact_sheet([list(shown.values()) for shown in rows], list(rows[0]))
    pictures.save_png(run.folder / "next_labels.png", sheet)
    return [names[place] for place in chosen]


def row(run, place):
    """{title: picture} of an unlabeled image: itself, what the network says, and how sure it is."""
    image = run.source.unlabeled.image(tf.constant(place, tf.int64))
    logits = run.deployed(image[None], training=False)["logits"][0]
    return {"image": np.uint8(np.round(image)), **run.task.predicted_panels(logits, run.settings.task.palette)}


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m tfssl.next_labels", description=__doc__)
    parser.add_argument("run", type=Path, help="the folder of a run that has a checkpoint")
    parser.add_argument("--count", type=int, default=COUNT, help=f"how many images (default: {COUNT})")
    given = parser.parse_args(arguments)
    if given.count < 1:
        raise errors.UserError(f"--count {given.count}: give 1 or more")
    run = runs.reopen(given.run)
    for name in tell(run, given.count):
        print(name)
    print(f"pictures: {given.run / 'next_labels.png'}, numbers: {given.run / 'next_labels.csv'}")


if __name__ == "__main__":
    errors.run(main)
