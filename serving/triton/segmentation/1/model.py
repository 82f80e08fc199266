"""Triton's Python backend over the bundle's model.onnx, which lies beside this file: masks, or images of regression."""

from pathlib import Path

import onnxruntime
import triton_python_backend_utils as triton

TYPES = {"tensor(uint8)": "TYPE_UINT8", "tensor(int32)": "TYPE_INT32", "tensor(float)": "TYPE_FP32"}


def open_session(threads=0):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    path = Path(__file__).with_name("model.onnx")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def described(tensor):
    """As Triton wants it: without the batch, free sizes as -1."""
    sizes = [size if isinstance(size, int) else -1 for size in tensor.shape[1:]]
    return {"name": tensor.name, "data_type": TYPES[tensor.type], "dims": sizes}


class TritonPythonModel:
    @staticmethod
    def auto_complete_config(config):
        session = open_session()
        for tensor in session.get_inputs():
            config.add_input(described(tensor))
        for tensor in session.get_outputs():
            config.add_output(described(tensor))
        return config

    def initialize(self, arguments):
        config = triton.json.loads(arguments["model_config"])
        self.session = open_session(int(config["parameters"]["threads"]["string_value"]))

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        image = triton.get_input_tensor_by_name(request, "image").as_numpy()
        names = list(request.requested_output_names())
        if not image.size:
            message = f"image has no pixels, its shape is {list(image.shape)}"
            return triton.InferenceResponse(error=triton.TritonError(message, triton.TritonError.INVALID_ARG))
        try:
            arrays = self.session.run(names, {"image": image})
        except Exception as error:  # whatever ONNX Runtime raises belongs to this request, not to its neighbours
            return triton.InferenceResponse(error=triton.TritonError(str(error)))
        return triton.InferenceResponse([triton.Tensor(*pair) for pair in zip(names, arrays, strict=True)])
