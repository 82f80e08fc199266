"""Whether exported files compute what the network computes in Keras: the check that an export must pass."""

import io

import numpy as np
import onnxruntime
import tensorflow as tf
from PIL import Image

PARITY_SIZES = (64, 96), (75, 101)  # the second is divisible by no stride
TOLERANCE = {"saved_model": 1e-4, "onnx": 1e-4}  # of probabilities; rounding alone was seen to make 1.5e-5
MASK_AGREEMENT = {"saved_model": 1.0, "onnx": 0.9999}  # of the pixels that are no near-tie
WHITE = 255.0  # pixel values may differ by the tolerance times this


class ExportError(RuntimeError):
    """An exported file does not compute what the network computes."""


def structured_images(batch, height, width, seed=0):
    """Smooth random blobs, one hard-edged rectangle and a little noise: uint8 [batch,height,width,3]."""
    random = np.random.default_rng(seed)
    images = np.empty([batch, height, width, 3], np.float32)
    for image in images:
        coarse = Image.fromarray(random.integers(0, 256, [5, 7, 3], np.uint8))
        image[:] = coarse.resize((width, height), Image.Resampling.BICUBIC)
        image[height // 4 : height // 2, width // 3 : 2 * width // 3] = random.integers(0, 256, 3)
    return np.clip(images + random.normal(0, 4, images.shape), 0, 255).astype(np.uint8)


def check_parity(network, saved_model=None, onnx=None, sizes=PARITY_SIZES, task=None, size=None):
    """Compare the files with the network in Keras on structured images, two at a time; raise ExportError.

    saved_model, onnx: paths, or None to leave one out; sizes: (height, width) pairs; size: that at
    which the network reads every image, or None. Probabilities may differ
    by TOLERANCE; masks must agree at MASK_AGREEMENT of the pixels, leaving out those whose two best classes
    this tolerance may swap. task: whose outputs the files have; by default the classes of segmentation. Of images the
    values may differ by TOLERANCE of their range, and 8-bit pixels must agree but for those that lie as near to where
    rounding turns. Returns one row per file and size: {"runtime", "height", "width",
    "max_difference", "mask_agreement" or "image_agreement", "compared": share of pixels that were no near-tie}.
    """
    names = task.served if task else ("mask", "probabilities")
    runtimes = {}
    if saved_model is not None:
        runtimes["saved_model"] = _saved_model_runtime(saved_model, *names)
    if onnx is not None:
        runtimes["onnx"] = _onnx_runtime(onnx, *names)
    rows = []
    for height, width in sizes:
        images = structured_images(2, height, width)
        logits = _logits(network, tf.cast(images, tf.float32), size)
        expected = (task.outputs(logits)[names[1]] if task else tf.nn.softmax(logits)).numpy()
        for name, run in runtimes.items():
            row = {"runtime": name, "height": height, "width": width}
            row |= COMPARISONS[names[0]](expected, *run(images), TOLERANCE[name])
            _require_parity(row)
            rows.append(row)
    return rows


def _logits(network, images, size):
    """What `predict` computes, by TensorFlow's own resizing."""
    if size is None:
        return network(images, training=False)["logits"]
    read = tf.image.resize(images, size, antialias=True)
    return tf.image.resize(network(read, training=False)["logits"], images.shape[1:3])


def _saved_model_runtime(path, pixels, numbers):
    """The SavedModel as a function: images -> probabilities (or values), [mask (or image), the same of PNG files]."""
    loaded = tf.saved_model.load(str(path))

    def run(images):
        call = loaded.signatures  # asked of the loaded object, which owns the variables
        found = call[numbers](image=tf.constant(images))[numbers].numpy()
        direct = call["serving_default"](image=tf.constant(images))[pixels].numpy()
        files = tf.stack([tf.io.encode_png(image) for image in images])
        pictures = call["encoded"](image_bytes=files)[f"{pixels}_bytes"]
        decoded = np.stack([Image.open(io.BytesIO(picture)) for picture in pictures.numpy()])
        return found, [direct, decoded]

    return run


def _onnx_runtime(path, pixels, numbers):
    """The ONNX file as a function: images -> probabilities (or values), [mask (or image)]."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(images):
        feed = {"image": images.astype(np.float32)}
        picture, found = session.run([pixels, numbers], feed)
        return found, [picture]

    return run


def _compare(expected, probabilities, masks, tolerance):
    """The numbers of one row: arrays [B,H,W,C] twice and a list of masks [B,H,W]."""
    if probabilities.shape != expected.shape or any(mask.shape != expected.shape[:-1] for mask in masks):
        shapes = [list(array.shape) for array in (probabilities, *masks)]
        raise ExportError(f"outputs have the shapes {shapes}, Keras gives {list(expected.shape)}")
    second, best = np.moveaxis(np.sort(expected, axis=-1)[..., -2:], -1, 0)
    clear = best - second > 2 * tolerance  # one may fall and the other rise by the tolerance
    equal = [(mask == expected.argmax(axis=-1))[clear] for mask in masks]
    return {
        "max_difference": float(np.abs(probabilities - expected).max()),
        "mask_agreement": float(np.mean(equal)) if clear.any() else 1.0,
        "compared": float(clear.mean()),
    }


def _compare_images(expected, values, images, tolerance):
    """The numbers of one row where the output is an image: values [B,H,W,3] in 0..255 twice and a list of images."""
    if any(array.shape != expected.shape for array in (values, *images)):
        shapes = [list(array.shape) for array in (values, *images)]
        raise ExportError(f"outputs have the shapes {shapes}, Keras gives {list(expected.shape)}")
    clear = np.abs(expected % 1 - 0.5) > WHITE * tolerance  # the others may be rounded either way
    equal = [(image == np.round(expected))[clear] for image in images]
    return {
        "max_difference": float(np.abs(values - expected).max()),
        "image_agreement": float(np.mean(equal)) if clear.any() else 1.0,
        "compared": float(clear.mean()),
    }


COMPARISONS = {"mask": _compare, "output_image": _compare_images}  # by the name of the 8-bit output


def _require_parity(row):
    """Raise ExportError unless this row lies within the limits; a NaN does not."""
    name, of_images = row["runtime"], "image_agreement" in row
    limit = TOLERANCE[name] * (WHITE if of_images else 1)
    agreement = row["image_agreement" if of_images else "mask_agreement"]
    if not (row["max_difference"] <= limit and agreement >= MASK_AGREEMENT[name]):
        numbers, pixels = ("pixel values", "images") if of_images else ("probabilities", "masks")
        raise ExportError(
            f"{name} differs from Keras at {row['height']}x{row['width']}: {numbers} by "
            f"{row['max_difference']:.2e} (limit {limit:.0e}), {pixels} agree at "
            f"{agreement:.4%} of clear pixels (limit {MASK_AGREEMENT[name]:.2%})"
        )
