"""python -m tfssl.predict RUN IMAGES...: what the network of a run makes of image files, as PNG files."""

import argparse
from collections import Counter
from pathlib import Path

import numpy as np
import tensorflow as tf

from tfssl import errors, pictures, runs
from tfssl.data.files import decode_image, inspect


def predict(run, paths, folder, size=None):
    """Write folder/NAME_mask.png (palette PNG, its indices the classes) and NAME_overlay.png for each image file.

    Where the output is an image, folder/NAME_output.png. size: (height, width) the network reads the image at, as in
    training; the output has the image's own size.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise errors.UserError(f"{folder}: cannot write there ({error.strerror}); choose --output") from None
    palette, ignore = run.settings.task.palette, run.settings.task.ignore_index
    refuse_bad(paths)
    for path, name in distinct_names(paths).items():
        image = np.asarray(decode_image(path.read_bytes()))
        found = segment(run, image, size)
        if run.task.has_classes:
            pictures.save_palette_png(folder / f"{name}_mask.png", found, palette, ignore)
            overlay = pictures.overlay(image, found, palette, ignore_index=ignore)
            pictures.save_png(folder / f"{name}_overlay.png", overlay)
        else:
            pictures.save_png(folder / f"{name}_output.png", np.uint8(np.round(found)))
    return folder


def segment(run, image, size=None):
    """The class of each pixel of an image uint8 [H,W,3], int [H,W], or the image made of it, at its own size."""
    read = tf.cast(image, tf.float32)
    if size is not None:
        read = tf.image.resize(read, size, antialias=True)
    logits = run.deployed(read[None], training=False)["logits"]
    return run.task.decode(tf.image.resize(logits, image.shape[:2]))[0].numpy()


def refuse_bad(paths):
    """All files that training would not read either are named, before anything is written."""
    bad = []
    for path in paths:
        try:
            problem = inspect(path.read_bytes(), "image").problem
        except OSError as error:
            problem = error.strerror
        bad += [f"{path}: {problem}"] if problem else []
    if bad:
        raise errors.UserError(f"{len(bad)} of {len(paths)} images cannot be used, see above", bad)


def distinct_names(paths):
    """{path: name} of each file once: its own name, preceded by that of its folder where several have the same."""
    stems = Counter(path.stem for path in dict.fromkeys(paths))
    names = {}
    for path in sorted(dict.fromkeys(paths), key=lambda path: stems[path.stem]):  # plain names are taken first
        name = path.stem if stems[path.stem] == 1 else f"{path.resolve().parent.name}_{path.stem}"
        while name in names.values():
            name += "_"
        names[path] = name
    return names


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m tfssl.predict", description=__doc__)
    parser.add_argument("run", type=Path, help="the folder of a run that has a checkpoint")
    parser.add_argument("images", type=Path, nargs="+", help="JPEG or PNG files")
    parser.add_argument("--output", type=Path, help="where the PNGs go (default: RUN/predictions)")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=JSON", help="change the run's configuration")
    given = parser.parse_args(arguments)
    run = runs.reopen(given.run, given.set, data=False)
    size = runs.reading_size(run.settings)
    print(f"wrote {predict(run, given.images, given.output or given.run / 'predictions', size)}")


if __name__ == "__main__":
    errors.run(main)
