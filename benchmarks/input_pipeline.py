"""python -m benchmarks.input_pipeline: how many images a second one core makes ready, beside plain decode-and-crop.

Files of the sizes of VOC (JPEG, 375 x 500, some 100 kB, palette masks) and Cityscapes (PNG, 1024 x 2048, gray masks)
are made of two photographs in a temporary folder. Each stream is read by one thread of tf.data; the rounds take turns,
the median counts.

  bound    decode image and label, cut one random crop out of both
  weak     labeled images as training sees them: scaled, mirrored, cropped
  paired   as many labeled and unlabeled ones, each unlabeled with a weak and two strong views
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image
from sklearn.datasets import load_sample_images

from tfssl.data.palettes import default_palette
from tfssl.data.split_lists import split_lists
from tfssl.data.streams import paired_stream

FILES = 16
BATCH = 4
CASES = {  # size of the files, crop, kind of image, whether masks are palette PNGs
    "voc": ((375, 500), (321, 321), "jpg", True),
    "cityscapes": ((1024, 2048), (512, 1024), "png", False),
}


def write_files(folder, size, kind, palette):
    """FILES images with masks, and the list that names them."""
    photographs = [Image.fromarray(image) for image in load_sample_images().images]
    lines = []
    for number in range(FILES):
        image = photographs[number % 2].resize(size[::-1]).rotate(number, fillcolor=(90, 90, 90))
        image.save(folder / f"{number}.{kind}", quality=98)
        coarse = np.random.default_rng(number).integers(0, 19, (size[0] // 25 + 1, size[1] // 25 + 1), dtype=np.uint8)
        mask = Image.fromarray(np.kron(coarse, np.ones((25, 25), np.uint8))[: size[0], : size[1]])
        if palette:
            mask.putpalette([channel for colour in default_palette(256) for channel in colour])
        mask.save(folder / f"mask_{number}.png")
        lines.append(f"{number}.{kind} mask_{number}.png\n")
    (folder / "all.txt").write_text("".join(lines))
    (folder / "last.txt").write_text(lines.pop())
    (folder / "others.txt").write_text("".join(lines))


def plain(folder, kind, source, crop):
    """The bound: nothing but what must be done to have a crop, whose bytes alone become numbers."""

    def example(position):
        index = position % source.labeled.count
        name = tf.strings.as_string(index)
        image = tf.io.decode_image(tf.io.read_file(f"{folder}/" + name + f".{kind}"), 3, expand_animations=False)
        label = source.labeled.label(index)
        top, left = (tf.random.uniform([], 0, tf.shape(label)[axis] - crop[axis], tf.int32) for axis in (0, 1))
        image, label = (each[top : top + crop[0], left : left + crop[1]] for each in (image, label))
        return tf.cast(image, tf.float32), label

    return tf.data.Dataset.range(10**6).map(example).batch(BATCH).prefetch(2)


def streams(folder, kind, source, crop):
    """{name: (dataset, images of which one element is made)}."""
    common = {"seed": 0, "start": 0, "stop": 10**5, "crop": crop, "ignore_index": 255, "labeled_batch": BATCH}
    return {
        "bound": (plain(folder, kind, source, crop), BATCH),
        "weak": (paired_stream(source, unlabeled_batch=0, strong_views=0, **common), BATCH),
        "paired": (paired_stream(source, unlabeled_batch=BATCH, strong_views=2, **common), 2 * BATCH),
    }


def one_thread(dataset):
    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    options.threading.max_intra_op_parallelism = 1
    options.autotune.enabled = False
    return dataset.with_options(options)


def rate(dataset, images, seconds):
    """Images a second over at least so many seconds, not counting what was read ahead before."""
    iterator = iter(dataset)
    for _ in range(4):
        next(iterator)
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        next(iterator)
        count += images
    return count / (time.perf_counter() - started)


def measure(case, rounds, seconds):
    """{stream: [images a second in each round]}."""
    size, crop, kind, palette = CASES[case]
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        write_files(folder, size, kind, palette)
        source = split_lists(root=str(folder), labeled="others.txt", validation="last.txt",
                             classes=tuple(map(str, range(19))))  # fmt: skip
        measured = streams(folder, kind, source, crop)
        found = {name: [] for name in measured}
        for _ in range(rounds):
            for name, (dataset, images) in measured.items():
                found[name].append(rate(one_thread(dataset), images, seconds))
    return found


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.input_pipeline", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each stream in each round")
    parser.add_argument("--step", type=float, default=0.5, help="seconds of a step on the GPU that is to be fed")
    parser.add_argument("--batch", type=int, default=16, help="labeled images in it, and as many unlabeled ones")
    given = parser.parse_args()
    print("| files | bound | weak | of the bound | paired | of the bound | cores for a step |")
    print("|---|---|---|---|---|---|---|")
    for case in CASES:
        found = measure(case, given.rounds, given.seconds)
        medians = {name: statistics.median(rates) for name, rates in found.items()}
        ratios = {name: statistics.median(one / bound for one, bound in zip(found[name], found["bound"], strict=True))
                  for name in ("weak", "paired")}  # fmt: skip
        cores = 2 * given.batch / given.step / medians["paired"]
        print(f"| {case} | {medians['bound']:.0f} | {medians['weak']:.0f} | {ratios['weak']:.2f} | "
              f"{medians['paired']:.0f} | {ratios['paired']:.2f} | {cores:.1f} |", flush=True)  # fmt: skip
    print(f"\nimages a second on one core; cores that feed a step of {given.step:g} s with {given.batch} labeled and "
          "as many unlabeled images")  # fmt: skip


if __name__ == "__main__":
    main()
