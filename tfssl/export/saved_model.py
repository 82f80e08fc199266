"""The SavedModel for TensorFlow Serving: its signatures, and the files that a server reads beside them."""

import io
import json
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from PIL import Image
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from tfssl.export.decoding import OK, decode
from tfssl.export.structured import structured_images

WARM_UP = (256, 256)  # beside the size at which the network reads images, if it has one


def write_saved_model(product, path):
    """Write a SavedModel with three signatures, whose batch, height and width are free.

    serving_default: image_bytes string [B], JPEG or PNG files of any mix of sizes -> mask_png_bytes string [B], 8-bit
    PNGs of class numbers at each image's own size; color_png_bytes string [B], the same in the palette's colours;
    class_pixels int32 [B,C]; status string [B], "ok" or what is wrong with a file, whose pictures are empty then.
    predict_uint8: image uint8 [B,H,W,3] -> mask uint8 [B,H,W], confidence float32 [B,H,W].
    logits: image uint8 [B,H,W,3] -> logits float32 [B,H,W,C].

    Where the output is an image: output_png_bytes and status; output_image uint8 [B,H,W,3]; and the signature values,
    float32 [B,H,W,3] in 0..255.
    """
    image = tf.TensorSpec([None, None, None, 3], tf.uint8, name="image")
    image_bytes = tf.TensorSpec([None], tf.string, name="image_bytes")
    task = product.task

    @tf.function(input_signature=[image])  # traced once, shared by the signatures
    def logits(image):
        # A server hands over whatever shape a client sends; a convolution of oneDNN ends the process at a wrong rank.
        image = tf.ensure_shape(image, [None, None, None, 3])
        return product.logits(tf.cast(image, tf.float32))

    def predict_uint8(image):
        outputs = task.outputs(logits(image))
        return outputs if task.has_classes else {task.picture: outputs[task.picture]}

    def numbers(image):
        return {task.numbers: task.values(logits(image))}

    answer, nothing = _answers(product)

    def serving_default(image_bytes):
        def of_one(content):
            picture, status = decode(content, product.most_pixels)
            found = tf.cond(status == OK, lambda: answer(task.outputs(logits(picture[None]))[task.picture][0]),
                            lambda: nothing)  # fmt: skip
            return found | {"status": status}

        kinds = {name: tf.TensorSpec(value.shape, value.dtype) for name, value in nothing.items()}
        kinds["status"] = tf.TensorSpec([], tf.string)
        # One image at a time: the network itself uses every core, and memory holds one image's features.
        image_bytes = tf.ensure_shape(image_bytes, [None])
        return tf.map_fn(of_one, image_bytes, parallel_iterations=1, fn_output_signature=kinds)

    archive = keras.export.ExportArchive()
    archive.track(product.network)
    archive.add_endpoint("serving_default", serving_default, [image_bytes])
    archive.add_endpoint("predict_uint8", predict_uint8, [image])
    archive.add_endpoint(task.numbers, numbers, [image])
    archive.write_out(str(path), verbose=False)
    write_beside(product, Path(path))


def _answers(product):
    """(a function from the 8-bit output of one image to what serving_default says of it, the same of no image)."""
    task = product.task
    if not task.has_classes:
        return lambda output: {"output_png_bytes": tf.io.encode_png(output)}, {"output_png_bytes": tf.constant(b"")}
    count = task.channels
    palette = tf.constant(product.palette, tf.uint8)

    def answer(mask):
        return {
            "mask_png_bytes": tf.io.encode_png(mask[..., None]),
            "color_png_bytes": tf.io.encode_png(tf.gather(palette, tf.cast(mask, tf.int32))),
            "class_pixels": tf.math.bincount(tf.cast(mask, tf.int32), minlength=count, maxlength=count),
        }

    empty = tf.constant(b"")
    return answer, {"mask_png_bytes": empty, "color_png_bytes": empty, "class_pixels": tf.zeros([count], tf.int32)}


def write_beside(product, path):
    """What travels with the graph: assets/model.json, warm-up records, how calls may be put together."""
    facts = json.dumps(product.facts, indent=2) + "\n"
    (path / "assets").mkdir(exist_ok=True)
    (path / "assets" / "model.json").write_text(facts, encoding="utf-8")
    (path / "assets.extra").mkdir()
    with tf.io.TFRecordWriter(str(path / "assets.extra" / "tf_serving_warmup_requests")) as file:
        for record in warm_up(product):
            file.write(record.SerializeToString())
    (path / "batching_params.pbtxt").write_text(BATCHING, encoding="utf-8")


def warm_up(product):
    """A PredictionLog of each signature and size that first requests are likely to have: a server replays them before
    it answers, so that the first answer takes no longer than the next one."""
    for height, width in dict.fromkeys([WARM_UP, *([product.size] if product.size else [])]):
        image = structured_images(1, height, width)
        file = io.BytesIO()
        Image.fromarray(image[0]).save(file, "PNG")
        encoded = np.array([file.getvalue()], object)
        for signature, inputs in (("serving_default", {"image_bytes": encoded}), ("predict_uint8", {"image": image}),
                                  (product.task.numbers, {"image": image})):  # fmt: skip
            request = predict_pb2.PredictRequest()
            request.model_spec.signature_name = signature
            for name, value in inputs.items():
                request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
            yield prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))


BATCHING = """\
# Read by TensorFlow Serving with --enable_batching --enable_per_model_batching_parameters. Calls of predict_uint8 and
# logits can be put together only where all clients send images of one size; those of serving_default always can. A
# request of more images than max_batch_size is refused.
max_batch_size { value: 8 }
batch_timeout_micros { value: 2000 }
max_enqueued_batches { value: 16 }
num_batch_threads { value: 2 }
"""
