"""Datasets of TensorFlow Datasets, prepared as TFRecords.

A batch is a function of its number, so examples are read by theirs: where each record lies in its file is looked up
once, by the lengths in front of the records. Features are decoded by TensorFlow Datasets.
"""

import os
import struct
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from tfssl.data.datasets import TRAIN_IDS
from tfssl.data.examples import Examples, Source, look
from tfssl.data.overlaps import refuse_overlaps
from tfssl.data.palettes import ADE20K, CITYSCAPES, colours_of
from tfssl.data.split_lists import Byte, Size, meaning_of
from tfssl.errors import UserError, attempt, raise_all

LOOKED_AT = 16  # examples of each set before training: a wrong number of classes shows in them; `check` reads all
_HEADER, _FOOTER = 12, 4  # bytes before and after a record: its length and checksums


@dataclass(frozen=True)
class Known:
    """The features of a dataset that are image and label, its classes with colours, and the values that mean them."""

    image: str
    label: str
    colours: dict
    values: dict


PET = {"pet": (128, 0, 0), "background": (0, 0, 0), "outline": (224, 224, 192)}
KNOWN = {
    "oxford_iiit_pet": Known("image", "segmentation_mask", PET, {1: 0, 2: 1, 3: 2}),
    "cityscapes": Known("image_left", "segmentation_label", CITYSCAPES, {v: n for n, v in enumerate(TRAIN_IDS)}),
    "scene_parse150": Known("image", "annotation", ADE20K, {value: value - 1 for value in range(1, 151)}),
}


def tfds(
    *,
    dataset: str = "oxford_iiit_pet",
    data_dir: str | None = None,
    download: bool = False,
    labeled: str = "train[:5%]",
    unlabeled: str | None = "train[5%:]",
    validation: str = "test[:50%]",
    test: str | None = "test[50%:]",
    held_out: str | None = None,
    image: str | None = None,
    label: str | None = None,
    values: dict[Byte, Byte] | None = None,
    size: Size = None,
    flips: bool = True,
    classes: tuple[str, ...] | None = None,
    palette: tuple[tuple[int, int, int], ...] | None = None,
    ignore_index: int = 255,
) -> Source:
    """The Source of a dataset of tensorflow_datasets.

    dataset: its name, as "oxford_iiit_pet" or "cityscapes/semantic_segmentation". data_dir: where it is prepared; None:
    its own default. download: whether to download and prepare what is not there.
    labeled, unlabeled, validation, test, held_out: splits in its own notation, as "train[:10%]". Without an unlabeled
    one the labeled images, without their labels, are the unlabeled ones.
    image, label: the names of the features; values: the class that each value of a label means, what is not named being
    ignored; and task.classes: to be given for datasets other than those of KNOWN.
    size: (height, width) in pixels that every image is resized to; None keeps each image's own.
    """
    builder = _builder(dataset, data_dir, download)
    own = own_classes(builder.name, label, classes, values)
    known, features = KNOWN.get(builder.name), builder.info.features
    keys = image or (known and known.image), label or (known and known.label)
    _refuse_features(dataset, features, keys)
    if None in keys or not (own or classes):
        raise UserError(f"data.dataset {dataset}: its features are {', '.join(features)}; say by "
                        "data.image, data.label and task.classes what they are")  # fmt: skip
    names = tuple(classes or own.colours)
    colours = colours_of(palette if palette or classes else own.colours.values(), len(names))
    meaning = meaning_of(values or (own and own.values), len(names), ignore_index)
    splits = {"labeled": labeled, "unlabeled": unlabeled, "validation": validation, "test": test, "held_out": held_out}
    problems = []
    sets = {name: attempt(problems, _records, builder, name, split)
            for name, split in splits.items() if split is not None}  # fmt: skip
    raise_all(problems)
    refuse_overlaps({name: {record: _name(record) for record in records} for name, records in sets.items()})
    sets.setdefault("unlabeled", sets["labeled"])
    sets = {name: _examples(records, features, keys, meaning, size, name != "unlabeled")
            for name, records in sets.items()}  # fmt: skip
    _refuse_examples(dataset, sets.values(), len(names), ignore_index)
    return Source(**sets, classes=names, palette=colours, flips=flips, origin=f"tfds {builder.info.full_name}")


def own_classes(dataset, label, classes, values):
    """The Known of a dataset whose values mean what it says; None where the labels are of the user's making."""
    known = KNOWN.get(dataset.partition("/")[0].partition(":")[0])
    if known is None or label not in (None, known.label):
        return None
    if classes and not values and len(classes) != len(known.colours):
        raise UserError(f"task.classes names {len(classes)} classes, but data.dataset {dataset} has "
                        f"{len(known.colours)}; leave task.classes out, or give data.values too")  # fmt: skip
    return known


def _builder(dataset, data_dir, download):
    try:
        import tensorflow_datasets  # slow, and of no use to other sources
    except ImportError as error:
        raise UserError(f"data.source tfds: {error}; pip install tensorflow-datasets importlib-resources") from error
    try:
        builder = tensorflow_datasets.builder(dataset, data_dir=data_dir)
    except Exception as error:  # for a name, a version or a broken file it raises whatever it likes
        told = str(error).strip().partition("\n")[0].rpartition('}": ')[2].partition(" Here are ")[0]
        raise UserError(f"data.dataset {dataset}: {told} (known here: {', '.join(KNOWN)}; data.data_dir: "
                        f"{data_dir or 'its default'})") from error  # fmt: skip
    if not builder.is_prepared():
        if not download:
            raise UserError(f"data.dataset {dataset} is not prepared in {builder.data_dir}; give as data.data_dir the "
                            f"folder that holds {builder.name}/, or set data.download to true")  # fmt: skip
        try:
            builder.download_and_prepare()
        except Exception as error:  # a download or a file that it needs may fail in any way
            raise UserError(f"data.dataset {dataset} cannot be prepared: {' '.join(str(error).split())}") from error
    if builder.info.file_format.value != "tfrecord":
        raise UserError(f"data.dataset {dataset} is prepared as {builder.info.file_format.value} in "
                        f"{builder.data_dir}; prepare it as tfrecord")  # fmt: skip
    return builder


def _refuse_features(dataset, features, keys):
    """Image and label must be pictures of 8 bits: the one in colour, the other of class numbers.

    A label of three channels may be one of class numbers that is stored so; see _examples.
    """
    for key, name, channels in (("image", keys[0], (3,)), ("label", keys[1], (1, 3))):
        fitting = [one for one, feature in features.items()
                   if isinstance(feature.shape, tuple) and len(feature.shape) == 3
                   and feature.shape[-1] in channels and feature.np_dtype == np.uint8]  # fmt: skip
        if name and name not in features:
            raise UserError(f"data.{key} {name}: {dataset} has the features {', '.join(features)}")
        if name and name not in fitting:
            raise UserError(f"data.{key} {name}: is no 8-bit picture of {' or '.join(map(str, channels))} channel(s); "
                            f"of the features of {dataset} there are {', '.join(fitting) or 'none'}")  # fmt: skip


def _refuse_examples(dataset, sets, classes, ignore_index):
    """The first examples of each set can be decoded and show classes that there are."""
    problems = []
    for examples in sets:
        for number in range(min(LOOKED_AT, examples.count)):
            attempt(problems, look, examples, number, classes, ignore_index)
    if problems:
        raise UserError(f"data.dataset {dataset}: {len(problems)} of the examples looked at, named above, cannot be "
                        "used", map(str, problems))  # fmt: skip


def _records(builder, name, split):
    """[(path, offset, length), ...] of the records of a split."""
    there = ", ".join(f"{one} ({info.num_examples} examples)" for one, info in builder.info.splits.items())
    told = f'there are the splits {there}, and parts of them as "train[:10%]"'
    try:
        parts = builder.info.splits[split].file_instructions
    except (KeyError, ValueError) as error:
        raise UserError(f"data.{name} {split}: {told}") from error
    found = []
    for part in parts:
        places = _places(part.filename)
        if len(places) != part.examples_in_shard:
            raise UserError(f"data.{name} {split}: {part.filename} has {len(places)} records that can be read in place "
                            f"of {part.examples_in_shard}; prepare the dataset again")  # fmt: skip
        last = len(places) if part.take == -1 else part.skip + part.take
        found += [(part.filename, *place) for place in places[part.skip : last]]
    if not found:
        raise UserError(f"data.{name} {split}: has no example; {told}")
    return found


def _places(path):
    """[(offset, length), ...] of the records in a TFRecord file that are whole; none where there is no file."""
    places, size = [], os.path.getsize(path) if os.path.isfile(path) else 0
    if not size:
        return places
    with open(path, "rb") as file:
        while len(header := file.read(_HEADER)) == _HEADER:
            (length,) = struct.unpack("<Q", header[:8])
            if file.tell() + length + _FOOTER > size:
                break
            places.append((file.tell(), length))
            file.seek(length + _FOOTER, 1)
    return places


def _name(record):
    path, offset, _ = record
    return f"{path.rpartition('/')[2]}, byte {offset}"


def _read(path, offset, length):
    path = path.item() if isinstance(path, np.ndarray) else path  # how numpy_function gives it outside of a graph
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(length)


def _examples(records, features, keys, meaning, size, with_labels):
    from tensorflow_datasets import decode

    paths, *places = zip(*records, strict=True)
    offsets, lengths = np.int64(places)

    def decoded(index, wanted):
        """One feature of an example; no other is decoded."""
        place = tf.gather(list(paths), index), tf.gather(offsets, index), tf.gather(lengths, index)
        content = tf.ensure_shape(tf.numpy_function(_read, place, tf.string, stateful=False), [])
        others = {key: decode.SkipDecoding() for key in keys if key != wanted}
        return features.deserialize_example(content, decoders=others)[wanted]

    def image(index):
        pixels = decoded(index, keys[0])
        if size is None:
            return tf.ensure_shape(tf.cast(pixels, tf.float32), [None, None, 3])
        return tf.ensure_shape(tf.image.resize(pixels, size, "bilinear", antialias=True), [*size, 3])

    def label(index):
        channels = decoded(index, keys[1])
        if channels.shape[-1] == 3:
            tf.debugging.assert_equal(channels[..., :1], channels[..., 1:], "is a colour picture, not class numbers")
        indices = tf.cast(channels[..., 0], tf.int32)
        return indices if meaning is None else tf.gather(np.int32(meaning), indices)

    return Examples(tuple(map(_name, records)), image, label if with_labels else None)
