"""Whether exported files compute what the network computes in Keras: the check that an export must pass.

Reference: Keras, eagerly. Against it stand the SavedModel through TensorFlow's C API, and the ONNX file in ONNX Runtime
and in OpenVINO in float32.
"""

import io

import numpy as np
import tensorflow as tf
from PIL import Image

from tfssl.export import runtimes
from tfssl.export.onnx_file import ExportError
from tfssl.export.structured import structured_images

PARITY_SIZES = (64, 96), (75, 101), (33, 47), (5, 7), (128, 130)  # odd ones; one below every network's stride
# What values may differ by: logits as a share of their range, probabilities, pixel values as a share of theirs.
TOLERANCE = {"saved_model": 1e-5, "onnxruntime": 1e-4, "openvino": 1e-4}
AGREEMENT = {"saved_model": 1.0, "onnxruntime": 0.9999, "openvino": 0.9999}  # of the pixels that are no near-tie
WHITE = 255.0


def check_parity(product, saved_model=None, onnx=None, onnx_product=None, sizes=PARITY_SIZES):
    """Compare the files with the network in Keras on structured images, two at a time; raise ExportError.

    saved_model, onnx: paths, or None to leave one out. onnx_product: where the ONNX file looks at images in its own
    way.
    Returns one row per file and size: {"runtime", "height", "width", "max_difference": of the logits, as a share of
    their range (ONNX: of the confidences; where the output is an image, of its values, as a share of theirs),
    "agreement": the share of pixels whose class (or brightness) is the same, "clear_agreement": the same without those
    that are so near a tie (or to where rounding turns) that the tolerance may turn them, "compared": their share}. The
    SavedModel's row of "mixed" sizes is one call of serving_default with all sizes in it.
    """
    rows = []
    images = {size: structured_images(2, *size) for size in sizes}
    if saved_model is not None:
        with runtimes.saved_model(saved_model, product.task) as (run, model):
            logits = {size: runtimes.keras_logits(product)(batch).numpy() for size, batch in images.items()}
            for size, batch in images.items():
                rows.append(compare("saved_model", size, product.task, logits[size], run(batch)))
            rows.append(_mixed(model, product.task, product.palette, images, logits))
    if onnx is not None:
        reference = runtimes.keras_logits(onnx_product or product)
        logits = {size: reference(batch).numpy() for size, batch in images.items()}
        for name, make in (("onnxruntime", runtimes.onnx_runtime), ("openvino", runtimes.openvino_runtime)):
            run = make(onnx)
            for size, batch in images.items():
                rows.append(compare(name, size, product.task, logits[size], run(batch)))
    for row in rows:
        require(row)
    return rows


def compare(runtime, size, task, logits, found):
    """The row of one runtime and size. logits: Keras's, [B,H,W,C]; found: {name: array} of the runtime."""
    values, expected, spread = _values(task, logits, found)
    if values.shape != expected.shape or found[task.picture].shape[:3] != logits.shape[:3]:
        raise ExportError(f"{runtime} at {size[0]}x{size[1]}: outputs have the shapes {list(values.shape)} and "
                          f"{list(found[task.picture].shape)}, Keras gives {list(expected.shape)}")  # fmt: skip
    row = {"runtime": runtime, "height": size[0], "width": size[1],
           "max_difference": float(np.abs(values - expected).max() / spread)}  # fmt: skip
    return row | _agreement(task, logits, [found[task.picture]], TOLERANCE[runtime])


def _values(task, logits, found):
    """(the runtime's numbers, what they should be, the range that their difference is a share of)."""
    if task.numbers in found:
        expected = task.values(logits)
        expected = expected.numpy() if tf.is_tensor(expected) else expected
        return found[task.numbers], expected, WHITE if not task.has_classes else max(np.ptp(expected), 1e-6)
    return found["confidence"], task.outputs(logits)["confidence"].numpy(), 1.0


def _agreement(task, logits, pictures, tolerance):
    if task.has_classes:
        second, best = np.moveaxis(np.sort(logits, axis=-1)[..., -2:], -1, 0)
        clear = best - second > 2 * tolerance * np.ptp(logits)  # one may fall and the other rise by the tolerance
        right = logits.argmax(axis=-1)
    else:
        values = task.values(logits).numpy()
        clear = np.abs(values % 1 - 0.5) > WHITE * tolerance  # the others may be rounded either way
        right = np.round(values)
    equal = [picture == right for picture in pictures]
    return {
        "agreement": float(np.mean(equal)),
        "clear_agreement": float(np.mean([each[clear] for each in equal])) if clear.any() else 1.0,
        "compared": float(clear.mean()),
    }


def _mixed(model, task, palette, images, logits):
    """The row of one call of serving_default with an encoded image of every size in it."""
    files = np.array([_png(batch[0]) for batch in images.values()], object)
    answers = model("serving_default", image_bytes=files)
    rows = []
    for number, right in enumerate(logits.values()):
        picture = _picture(answers["mask_png_bytes" if task.has_classes else "output_png_bytes"][number])[None]
        if task.has_classes:
            _require_same_mask(picture[0], {name: values[number] for name, values in answers.items()}, palette)
        if picture.shape[:3] != right[:1].shape[:3]:
            raise ExportError(f"serving_default gives {picture.shape[1:3]} for an image of {right.shape[1:3]}")
        rows.append(_agreement(task, right[:1], [picture], TOLERANCE["saved_model"]))
    worst = min(rows, key=lambda row: row["clear_agreement"])
    return {"runtime": "saved_model", "height": "mixed", "width": "mixed", "max_difference": 0.0, **worst}


def _require_same_mask(mask, answer, palette):
    """Colours and counts of one image must tell what its mask tells."""
    colours, counts = _picture(answer["color_png_bytes"]), np.bincount(mask.ravel(), minlength=len(palette))
    if not np.array_equal(colours, np.asarray(palette, np.uint8)[mask]):
        raise ExportError("serving_default: color_png_bytes shows other classes than mask_png_bytes")
    if not np.array_equal(answer["class_pixels"], counts):
        raise ExportError("serving_default: class_pixels counts other classes than mask_png_bytes has")


def _picture(content):
    return np.asarray(Image.open(io.BytesIO(content)))


def _png(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def require(row):
    """Raise ExportError unless this row lies within the limits; a NaN does not."""
    name = row["runtime"]
    if not (row["max_difference"] <= TOLERANCE[name] and row["clear_agreement"] >= AGREEMENT[name]):
        raise ExportError(
            f"{name} differs from Keras at {row['height']}x{row['width']}: values by {row['max_difference']:.2e} "
            f"(limit {TOLERANCE[name]:.0e}), {row['clear_agreement']:.4%} of clear pixels agree "
            f"(limit {AGREEMENT[name]:.2%})"
        )
