"""What an exported network computes, by each runtime that it is made for: functions from images to arrays by name."""

import contextlib
from importlib.metadata import version

import onnxruntime
import openvino
import tensorflow as tf

from tfssl import protocols
from tfssl.export import c_api


def keras_logits(product):
    """The reference, eagerly in Keras: a function images uint8 [B,H,W,3] -> logits [B,H,W,C].

    By TensorFlow's own antialiasing resize and one image at a time, as `evaluate` and `predict` do it.
    """
    task, size = product.task, product.size
    predict, activated = protocols.predictor(
        lambda image: product.network(image, training=False)["logits"], task, product.looking
    )

    def of_one(image):
        read = tf.cast(image, tf.float32)[None]
        if size is not None:
            read = tf.image.resize(read, size, antialias=True)
        found = predict(read)
        if size is not None:
            found = tf.image.resize(found, image.shape[:2])
        return task.logits(found)[0] if activated else found[0]

    return lambda images: tf.stack([of_one(image) for image in images])


@contextlib.contextmanager
def saved_model(path, task):
    """Within it a function images uint8 [B,H,W,3] -> {"logits" or "values", and what predict_uint8 gives}; and the
    signatures themselves, c_api.SavedModel."""
    model = c_api.SavedModel(path)
    try:
        yield lambda images: model("predict_uint8", image=images) | model(task.numbers, image=images), model
    finally:
        model.close()


def onnx_runtime(path):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda images: dict(zip(names, session.run(names, {"image": images}), strict=True))


def openvino_runtime(path):
    """OpenVINO in float32: by default it may compute in bfloat16."""
    model = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda images: {output.get_any_name(): value for output, value in model([images]).items()}


def versions():
    """{package: version} of what was compared."""
    return {name: version(name) for name in ("tensorflow", "keras", "onnxruntime", "openvino")}
