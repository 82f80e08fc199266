"""python -m benchmarks.thresholds RUN: what a threshold on the teacher's confidence keeps of its pseudo-labels.

On the images of `data.held_out`, at the run's newest checkpoint, for each threshold: the share of the pixels that stay,
how many of these are right, and class by class what share of its pixels (by the truth) stay with the right label. One
Markdown table, all in percent.
"""

import argparse
from pathlib import Path

import numpy as np
import tensorflow as tf

from tfssl import errors, runs
from tfssl.data.streams import like_image

THRESHOLDS = (0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.99)


def tallies(confidence, told, truth, classes, thresholds=THRESHOLDS):
    """For each threshold: pixels kept, those of them right, and the right ones class by class: int [T, 2 + C].

    confidence: float [...]; told, truth: int [...]; a truth outside of the classes is left out.
    """
    known = (truth >= 0) & (truth < classes)
    rows = []
    for threshold in thresholds:
        kept = known & (confidence >= threshold)
        right = kept & (told == truth)
        rows.append([kept.sum(), right.sum(), *np.bincount(truth[right], minlength=classes)])
    return np.array(rows)


def measured(run):
    """The tallies over all watched images, and the pixels of each class there: int [T, 2 + C], [C]."""
    examples, task = run.source.held_out, run.task
    if examples is None:
        raise errors.UserError("the run has no data.held_out: no images to watch pseudo-labels on")
    teacher = run.method.guides[0]
    total, pixels = 0, 0
    for index in range(examples.count):
        image = examples.image(tf.constant(index, tf.int64))
        truth = like_image(examples.label(tf.constant(index, tf.int64)), image).numpy()
        prediction = task.activation(teacher(image[None], training=False)["logits"])[0].numpy()
        total = total + tallies(prediction.max(-1), prediction.argmax(-1), truth, task.channels)
        pixels = pixels + np.bincount(truth[truth < task.channels], minlength=task.channels)
    return total, pixels


def table(total, pixels, classes, thresholds=THRESHOLDS):
    text = [f"| threshold | kept | right | {' | '.join(classes)} |", "|" + "---|" * (3 + len(classes))]
    for threshold, (kept, right, *of_class) in zip(thresholds, total, strict=True):
        shares = 100 * np.array(of_class) / np.maximum(pixels, 1)
        numbers = [100 * kept / pixels.sum(), 100 * right / max(kept, 1), *shares]
        text.append(f"| {threshold} | " + " | ".join(f"{number:.0f}" for number in numbers) + " |")
    return "\n".join(text)


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m benchmarks.thresholds", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("run", type=Path)
    run = runs.reopen(parser.parse_args(arguments).run)
    if not run.method.guides:
        raise errors.UserError(f"{run.folder}: its method has no teacher")
    print(table(*measured(run), run.settings.task.classes))


if __name__ == "__main__":
    errors.run(main)
