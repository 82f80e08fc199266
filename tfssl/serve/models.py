"""One version of a model in memory: its signatures, the checks that precede a call, the call, and the warm-up."""

import json
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import prediction_log_pb2

from tfssl.serve import protobufs
from tfssl.serve.limits import Limits, check_pixels
from tfssl.serve.refusals import Refusal, invalid, of_tensorflow

DEFAULT_SIGNATURE = "serving_default"
WARM_UP = Path("assets.extra", "tf_serving_warmup_requests")
MOST_WARM_UP = 1000


class Model:
    """A loaded SavedModel. `signatures`: {name: SignatureDef}; `facts`: what assets/model.json says, or {}."""

    def __init__(self, folder, number):
        self.number = number
        self.signatures = _signatures(folder)
        self.facts = _facts(folder)
        self._loaded = tf.saved_model.load(str(folder))
        self._inputs = {name: _specs(signature.inputs) for name, signature in self.signatures.items()}

    def signature(self, name):
        """The name of a signature that can be called, of a name that may be empty."""
        name = name or DEFAULT_SIGNATURE
        if name not in self.signatures or name not in self._loaded.signatures:
            raise Refusal("FAILED_PRECONDITION", f'Serving signature key "{name[:100]}" not found.')
        return name

    def inputs(self, signature):
        """{name: tf.TensorSpec}"""
        return self._inputs[signature]

    def array_types(self, signature):
        """{name: NumPy dtype} of the inputs, object for strings."""
        return {name: np.dtype(spec.dtype.as_numpy_dtype) for name, spec in self._inputs[signature].items()}

    def call(self, signature, inputs, most_pixels, wanted=()):
        """{name: array}; inputs: {name: array}; wanted: names of outputs, all if empty."""
        self._check(signature, inputs)
        names = self._wanted(signature, wanted)
        check_pixels(inputs, most_pixels)
        try:
            tensors = {name: tf.constant(array, self._inputs[signature][name].dtype) for name, array in inputs.items()}
            outputs = self._loaded.signatures[signature](**tensors)
            return {name: np.asarray(outputs[name].numpy()) for name in names}
        except tf.errors.OpError as error:
            raise of_tensorflow(error) from error

    def predict(self, request, limits):
        """(signature's name, {name: array}) for a PredictRequest."""
        signature = self.signature(request.model_spec.signature_name)
        specs = self._inputs[signature]
        _check_names(request.inputs.keys(), specs.keys())
        inputs = {
            name: protobufs.as_array(message, specs[name].dtype, name, limits.body)
            for name, message in request.inputs.items()
        }
        return signature, self.call(signature, inputs, limits.pixels, request.output_filter)

    def _check(self, signature, inputs):
        specs = self._inputs[signature]
        _check_names(inputs.keys(), specs.keys())
        for name, array in inputs.items():
            if not specs[name].shape.is_compatible_with(array.shape):
                raise invalid(f'input "{name}": shape {list(array.shape)} is not the signature\'s, {specs[name].shape}')
            if array.size == 0:
                raise invalid(f'input "{name}": shape {list(array.shape)} holds nothing')

    def _wanted(self, signature, wanted):
        known = self.signatures[signature].outputs
        for name in wanted:
            if name not in known:
                raise invalid(
                    f"output tensor alias not found in signature: {name[:100]} Outputs expected to be in the set "
                    f"{{{','.join(sorted(known))}}}."
                )
        if len(set(wanted)) < len(wanted):
            raise invalid("duplicate output tensor alias: " + next(n for n in wanted if list(wanted).count(n) > 1))
        return list(wanted) or sorted(known)


def _check_names(sent, known):
    if sent != known:
        extra, missing = sorted(name[:100] for name in sent - known)[:10], sorted(known - sent)
        raise invalid(
            f"input size does not match signature: {len(sent)}!={len(known)}. Sent extra: {{{','.join(extra)}}}. "
            f"Missing but required: {{{','.join(missing)}}}."
        )


def _signatures(folder):
    """{name: SignatureDef} from the file itself, which has the tensors' names that metadata tells."""
    content = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    for graph in content.meta_graphs:
        if set(graph.meta_info_def.tags) == {"serve"}:
            return {name: _copy(signature) for name, signature in graph.signature_def.items()}
    raise ValueError("no graph in it has the tag serve")


def _copy(message):
    """A message of its own: a part of a larger one would keep all of that in memory."""
    return type(message).FromString(message.SerializeToString())


def _specs(inputs):
    return {
        name: tf.TensorSpec(tf.TensorShape(info.tensor_shape), tf.as_dtype(info.dtype), name)
        for name, info in inputs.items()
    }


def _facts(folder):
    """Of a model that tfssl exported; another one has none, and is served all the same."""
    path = folder / "assets" / "model.json"
    content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return content if isinstance(content, dict) else {}


def warm_up(model, folder):
    """Replay the recorded requests; one that fails is an error, as it is in TensorFlow Serving."""
    limits = Limits(body=1 << 40, pixels=1 << 40)  # whoever writes a version may run whatever is in it
    path = folder / WARM_UP
    if not path.is_file():
        return
    for number, record in enumerate(tf.data.TFRecordDataset(str(path))):
        if number == MOST_WARM_UP:
            raise ValueError(f"{WARM_UP} has more than {MOST_WARM_UP} records")
        log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
        if log.WhichOneof("log_type") != "predict_log":
            raise ValueError(f"{WARM_UP}: record {number} is not a request to predict")
        try:
            model.predict(log.predict_log.request, limits)
        except Refusal as error:
            raise ValueError(f"{WARM_UP}: record {number} fails: {error}") from error
