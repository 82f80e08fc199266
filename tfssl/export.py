"""The deployed network as a SavedModel and an ONNX file, published only if both compute what Keras computes.

Both take raw RGB images of any height and width; normalisation is inside, and so is the resizing to the size at which
training read its images, if it had one. What they give is the task's, at the image's own size: a mask (uint8, or int32
where there are more than 256 classes) and probabilities, or where the output is an image that image (uint8) and its
values before rounding.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import keras
import onnx
import tensorflow as tf
import tf2onnx

from tfssl import errors, runs
from tfssl.errors import UserError
from tfssl.parity import PARITY_SIZES, ExportError, check_parity
from tfssl.resizing import read_at
from tfssl.tasks import Segmentation

OPSET = 17  # ONNX Runtime 1.12 and later


def export(
    network,
    folder,
    *,
    classes=(),
    palette=(),
    ignore_index=None,
    task=None,
    saved_model=True,
    onnx=True,
    version=None,
    metadata=None,
    size=None,
    sizes=PARITY_SIZES,
):
    """Write folder/saved_model/<version>/ and folder/onnx/model.onnx, check both and publish them.

    network: the Functional model that ships, float32; classes: names; palette: [red, green, blue] per class; task:
    by default the segmentation into these classes; version: the SavedModel's number, by default the next free one;
    metadata: JSON values to store in the ONNX file; size: (height, width) the network reads images at, or None;
    sizes: (height, width) pairs at which the files are compared with Keras.

    Everything is written beside its place and renamed into it after the comparison: a server that watches
    the folder never meets a partial or a wrong version. The ONNX file has no versions: the last wins.
    Returns {"saved_model": path, "version": number, "onnx": path, "parity": rows, "seconds": float}, which is
    also in folder/parity.json with paths relative to the folder.
    """
    started = time.perf_counter()
    task = task or Segmentation(classes, ignore_index)
    channels = network.output["logits"].shape[-1]
    if task.has_classes and len(classes) != channels:
        raise UserError(f"task.classes names {len(classes)} classes, the network predicts {channels}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    destinations, written = {}, {}
    if saved_model:
        version = _free_version(folder / "saved_model", version)
        written["version"] = version
        destinations["saved_model"] = f"saved_model/{version}"
    if onnx:
        destinations["onnx"] = "onnx/model.onnx"

    with tempfile.TemporaryDirectory(prefix=".partial-", dir=folder) as partial:
        parts = {name: Path(partial, destination) for name, destination in destinations.items()}
        for part in parts.values():
            part.parent.mkdir()
        if saved_model:
            write_saved_model(network, parts["saved_model"], task, size)
        if onnx:
            facts = {"classes": classes, "palette": palette, "ignore_index": ignore_index} if task.has_classes else {}
            write_onnx(network, parts["onnx"], {**(metadata or {}), **facts, "read_at": size}, task, size)
        written["parity"] = check_parity(network, parts.get("saved_model"), parts.get("onnx"), sizes, task, size)
        written["seconds"] = round(time.perf_counter() - started, 2)
        report = Path(partial, "parity.json")
        report.write_text(json.dumps({**destinations, **written}, indent=2) + "\n")
        for name, destination in destinations.items():
            _publish(parts[name], folder / destination)
        _publish(report, folder / "parity.json")
    return {**{name: folder / destination for name, destination in destinations.items()}, **written}


def _free_version(parent, version):
    """The given version number, or the next; servers read 1 and 001 as the same number, and so do we."""
    names = [path.name for path in parent.iterdir()] if parent.is_dir() else []
    taken = {int(name) for name in names if name.isdecimal()}
    if version is None:
        return max(taken, default=0) + 1
    if not isinstance(version, int) or version < 1:
        raise UserError(f"export version {version!r}: give a whole number from 1 on")
    if version in taken:
        place = parent / str(version)
        raise UserError(f"{place} exists: choose another version, a published one never changes")
    return version


def _publish(part, destination):
    """Move a finished file or folder to its place in one step."""
    destination.parent.mkdir(exist_ok=True)
    try:
        os.replace(part, destination)
    except OSError as error:
        raise UserError(f"{destination}: cannot publish the export there ({error.strerror})") from error


def _prediction(network, task, size=None):
    """A function from images [B,H,W,3] to what the task gives of the network's logits: {name: tensor}.

    With a size the network reads the image at it, and its logits are enlarged to the image, as `predict` does.
    """

    def predict(image):
        image = tf.cast(image, tf.float32)
        logits = network(image if size is None else read_at(image, size), training=False)["logits"]
        if size is not None:
            logits = tf.image.resize(logits, tf.shape(image)[1:3])
        return task.outputs(logits)

    return predict


def write_saved_model(network, path, task, size=None):
    """Write a SavedModel with three signatures, whose batch, height and width are free.

    serving_default: image uint8 [B,H,W,3] -> mask [B,H,W]; probabilities: the same image -> probabilities
    float32 [B,H,W,C]; encoded: image_bytes string [B], JPEG or PNG files of any mix of sizes -> mask_bytes
    string [B], PNG files (16 bits where there are more than 256 classes) at each image's own size. Where the output
    is an image: output_image uint8 [B,H,W,3], values float32 [B,H,W,3] in 0..255 (also the signature's name), and
    output_image_bytes.
    """
    pixels, numbers = task.served
    image = tf.TensorSpec([None, None, None, 3], tf.uint8, name="image")
    image_bytes = tf.TensorSpec([None], tf.string, name="image_bytes")
    predict = tf.function(_prediction(network, task, size), [image])  # traced once, shared by the signatures

    def serving_default(image):
        return {pixels: predict(image)[pixels]}

    def as_numbers(image):
        return {numbers: predict(image)[numbers]}

    def predict_file(content):
        image = tf.io.decode_image(content, channels=3, expand_animations=False)
        picture = predict(image[None])[pixels][0]
        picture = picture if picture.shape.rank == 3 else picture[..., None]
        return tf.io.encode_png(picture if picture.dtype == tf.uint8 else tf.cast(picture, tf.uint16))

    def encoded(image_bytes):
        # One image at a time: the network itself uses every core, and memory holds one image's features.
        files = tf.map_fn(predict_file, image_bytes, parallel_iterations=1, fn_output_signature=tf.string)
        return {f"{pixels}_bytes": files}

    archive = keras.export.ExportArchive()
    archive.track(network)
    archive.add_endpoint("serving_default", serving_default, [image])
    archive.add_endpoint(numbers, as_numbers, [image])
    archive.add_endpoint("encoded", encoded, [image_bytes])
    archive.write_out(str(path), verbose=False)


def write_onnx(network, path, metadata, task, size=None):
    """Write an ONNX file: image float32 [batch,height,width,3], RGB 0..255 -> the task's outputs by their names.

    metadata: JSON values, stored one by one as JSON text in the file's metadata_props.
    """
    image = tf.TensorSpec([None, None, None, 3], tf.float32, name="image")
    model, _ = tf2onnx.convert.from_function(tf.function(_prediction(network, task, size)), [image], opset=OPSET)
    for value in [*model.graph.input, *model.graph.output]:
        dimensions = value.type.tensor_type.shape.dim[:3]
        for dimension, name in zip(dimensions, ("batch", "height", "width"), strict=True):
            dimension.dim_param = name
    del model.graph.value_info[:]  # the converter's guesses, under the old names of the dimensions
    pixels = {"Image.BitmapPixelFormat": "Rgb8", "Image.NominalPixelRange": "NominalRange_0_255"}
    values = {name: json.dumps(value) for name, value in metadata.items()}
    onnx.helper.set_model_props(model, {**pixels, **values})
    onnx.checker.check_model(model, full_check=True)
    _check_resizes(model.graph)
    onnx.save(model, path)


def _check_resizes(graph):
    """TensorFlow samples at pixel centres; any other convention shifts every mask by part of a pixel."""
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                _check_resizes(attribute.g)
        modes = [item.s for item in node.attribute if item.name == "coordinate_transformation_mode"]
        if node.op_type == "Resize" and modes not in ([], [b"half_pixel"]):  # absent: half_pixel
            raise ExportError(f"onnx: {node.name} resizes with {modes[0].decode()}, not with half_pixel")


def export_run(run):
    """Export the network of a run that ships, as its configuration says; {what: path}, empty if nothing was wanted."""
    settings = run.settings
    if not (settings.export.saved_model or settings.export.onnx):
        return {}
    measure, scores = run.task.measures[0], run.folder / "metrics.json"
    score = json.loads(scores.read_text())[measure] if scores.is_file() else None  # a cut run has none yet
    facts = {"method": settings.method.name, "step": runs.shipped_step(run), measure: score,
             "input": "RGB 0..255, normalised inside"}  # fmt: skip
    written = export(
        runs.plain_deployed(run), run.folder / "export", classes=list(settings.task.classes),
        palette=[list(colour) for colour in settings.task.palette], ignore_index=settings.task.ignore_index,
        task=run.task, saved_model=settings.export.saved_model, onnx=settings.export.onnx, metadata=facts,
        size=runs.reading_size(settings),
    )  # fmt: skip
    return {name: written[name] for name in ("saved_model", "onnx") if name in written}


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m tfssl.export", description="Export the network of a run again, "
                                     "as the next version.")  # fmt: skip
    parser.add_argument("run", help="the folder of a run that has a checkpoint")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=JSON", help="change the run's configuration")
    given = parser.parse_args(arguments)
    for name, place in export_run(runs.reopen(given.run, given.set, data=False)).items():
        print(f"{name}: {place}")


if __name__ == "__main__":
    errors.run(main)
