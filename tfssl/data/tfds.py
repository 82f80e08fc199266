"""Datasets of TensorFlow Datasets, prepared as TFRecords.

A batch is a function of its number, so examples are read by theirs: where each record lies in its file is looked up
once, by the lengths in front of the records. Features are decoded by TensorFlow Datasets.
"""

import struct
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from tfssl.data.datasets import TRAIN_IDS
from tfssl.data.examples import Examples, Source
from tfssl.data.palettes import ADE20K, CITYSCAPES, default_palette
from tfssl.data.split_lists import BYTES, Byte, Size, refuse_overlaps
from tfssl.errors import UserError, attempt, raise_all

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
    known = KNOWN.get(builder.name)
    if known is None and not (image and label and classes):
        raise UserError(f"data.dataset {dataset}: its features are {', '.join(builder.info.features)}; say by "
                        "data.image, data.label and task.classes what they are")  # fmt: skip
    keys = image or known.image, label or known.label
    for key, feature in zip(("image", "label"), keys, strict=True):
        if feature not in builder.info.features:
            raise UserError(f"data.{key} {feature}: {dataset} has the features {', '.join(builder.info.features)}")
    names = tuple(classes or known.colours)
    colours = palette or (default_palette(len(names)) if classes or known is None else tuple(known.colours.values()))
    if len(colours) != len(names):
        raise UserError(f"task.palette has {len(colours)} colours for {len(names)} classes")
    values = values or (None if classes or known is None else known.values)
    meaning = None if values is None else tuple(values.get(value, ignore_index) for value in range(BYTES))
    splits = {"labeled": labeled, "unlabeled": unlabeled, "validation": validation, "test": test, "held_out": held_out}
    problems = []
    sets = {name: attempt(problems, _records, builder, name, split) for name, split in splits.items() if split}
    raise_all(problems)
    refuse_overlaps({name: {record: str(record) for record in records} for name, records in sets.items()})
    sets.setdefault("unlabeled", sets["labeled"])
    features = builder.info.features
    return Source(
        **{name: _examples(records, features, keys, meaning, size, name != "unlabeled")
           for name, records in sets.items()},
        classes=names, palette=tuple(map(tuple, colours)), flips=flips,
    )  # fmt: skip


def _builder(dataset, data_dir, download):
    import tensorflow_datasets  # slow, and of no use to other sources

    try:
        builder = tensorflow_datasets.builder(dataset, data_dir=data_dir)
    except (tensorflow_datasets.core.DatasetNotFoundError, ValueError) as error:
        raise UserError(f"data.dataset {dataset}: {str(error).strip().splitlines()[0]}") from error
    if not builder.is_prepared():
        if not download:
            raise UserError(f"data.dataset {dataset} is not prepared in {builder.data_dir}; give data.data_dir, or set "
                            "data.download to true")  # fmt: skip
        try:
            builder.download_and_prepare()
        except Exception as error:  # a download or a file that it needs may fail in any way
            raise UserError(f"data.dataset {dataset} cannot be prepared: {error}") from error
    if builder.info.file_format.value != "tfrecord":
        raise UserError(f"data.dataset {dataset} is prepared as {builder.info.file_format.value} in "
                        f"{builder.data_dir}; prepare it as tfrecord")  # fmt: skip
    return builder


def _records(builder, name, split):
    """[(path, offset, length), ...] of the records of a split."""
    try:
        parts = builder.info.splits[split].file_instructions
    except (KeyError, ValueError) as error:
        raise UserError(f"data.{name} {split}: there are the splits {', '.join(builder.info.splits)}, and parts of "
                        'them as "train[:10%]"') from error  # fmt: skip
    found = []
    for part in parts:
        places = _places(part.filename)
        last = len(places) if part.take == -1 else part.skip + part.take
        found += [(part.filename, *place) for place in places[part.skip : last]]
    if not found:
        raise UserError(f"data.{name} {split}: has no example")
    return found


def _places(path):
    """[(offset, length), ...] of the records in a TFRecord file."""
    places = []
    with open(path, "rb") as file:
        while header := file.read(_HEADER):
            (length,) = struct.unpack("<Q", header[:8])
            places.append((file.tell(), length))
            file.seek(length + _FOOTER, 1)
    return places


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
        indices = tf.cast(decoded(index, keys[1])[..., 0], tf.int32)
        return indices if meaning is None else tf.gather(np.int32(meaning), indices)

    names = tuple(f"{path.rpartition('/')[2]}, byte {offset}" for path, offset, _ in records)
    return Examples(names, image, label if with_labels else None)
