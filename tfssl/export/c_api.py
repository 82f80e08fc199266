"""A SavedModel through TensorFlow's C API: the loader and the Session::Run that TensorFlow Serving uses.

Python's own loader reads the graph's objects; this one reads what a server reads, the MetaGraph with the tag "serve".
"""

import contextlib
import ctypes
from pathlib import Path

import numpy as np
import tensorflow as tf

LIBRARIES = "libtensorflow_cc.so.2", "libtensorflow_framework.so.2"  # which of them has a function has changed before
STRING_BYTES = 24  # of a TF_TString (tensorflow/core/platform/ctstring_internal.h)
VIEW = 3  # the kind of string that points to memory of somebody else's


class Output(ctypes.Structure):
    _fields_ = [("operation", ctypes.c_void_p), ("index", ctypes.c_int)]


class Buffer(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("length", ctypes.c_size_t), ("free", ctypes.c_void_p)]


class SavedModel:
    """signatures as functions: SavedModel(path)("predict_uint8", image=array) -> {name: array}. Close it in the end."""

    def __init__(self, path):
        self._graph = _call("TF_NewGraph")
        options, meta = _call("TF_NewSessionOptions"), Buffer()
        tags = (ctypes.c_char_p * 1)(b"serve")
        with _status() as status:
            self._session = _call("TF_LoadSessionFromSavedModel", options, None, ctypes.c_char_p(str(path).encode()),
                                  tags, ctypes.c_int(1), self._graph, ctypes.byref(meta), status)  # fmt: skip
        _call("TF_DeleteSessionOptions", options)
        graph = tf.compat.v1.MetaGraphDef.FromString(ctypes.string_at(meta.data, meta.length))
        self.signatures = graph.signature_def

    def __call__(self, signature, **inputs):
        described = self.signatures[signature]
        names = list(described.outputs)
        kept, tensors = [], []  # memory that must outlive the call
        for value in inputs.values():
            tensors.append(_to_tensor(value, kept))
        sources = (Output * len(inputs))(*(self._place(described.inputs[name]) for name in inputs))
        targets = (Output * len(names))(*(self._place(described.outputs[name]) for name in names))
        given = (ctypes.c_void_p * len(inputs))(*tensors)
        found = (ctypes.c_void_p * len(names))()
        try:
            with _status() as status:
                _call("TF_SessionRun", self._session, None, sources, given, ctypes.c_int(len(inputs)), targets, found,
                      ctypes.c_int(len(names)), None, ctypes.c_int(0), None, status)  # fmt: skip
            return {name: _to_array(tensor) for name, tensor in zip(names, found, strict=True)}
        finally:
            for tensor in [*tensors, *filter(None, found)]:
                _call("TF_DeleteTensor", ctypes.c_void_p(tensor))

    def close(self):
        with _status() as status:
            _call("TF_CloseSession", self._session, status)
            _call("TF_DeleteSession", self._session, status)
        _call("TF_DeleteGraph", self._graph)

    def _place(self, described):
        name, _, index = described.name.partition(":")
        operation = _call("TF_GraphOperationByName", self._graph, ctypes.c_char_p(name.encode()))
        return Output(operation.value, int(index))


def _to_tensor(value, kept):
    """A TF_Tensor with a copy of an array; of bytes, objects in an array, with their addresses."""
    value = np.asarray(value, order="C")
    kind = tf.as_dtype(value.dtype)
    if kind == tf.string:
        strings = [ctypes.create_string_buffer(each, len(each)) for each in value.ravel()]
        kept += strings
        cells = [[len(each) << 2 | VIEW, ctypes.addressof(each), 0] for each in strings]
        content = np.array(cells, np.uint64).tobytes()
    else:
        content = value.tobytes()
    sides = (ctypes.c_int64 * value.ndim)(*value.shape)
    tensor = _call("TF_AllocateTensor", ctypes.c_int(kind.as_datatype_enum), sides, ctypes.c_int(value.ndim),
                   ctypes.c_size_t(len(content)))  # fmt: skip
    ctypes.memmove(_call("TF_TensorData", tensor), content, len(content))
    return tensor.value


def _to_array(address):
    tensor = ctypes.c_void_p(address)
    kind = tf.as_dtype(_function("TF_TensorType", ctypes.c_int)(tensor))
    rank = _function("TF_NumDims", ctypes.c_int)(tensor)
    shape = [_function("TF_Dim", ctypes.c_int64)(tensor, ctypes.c_int(axis)) for axis in range(rank)]
    data = _call("TF_TensorData", tensor).value
    if kind == tf.string:
        values = [_bytes(data + STRING_BYTES * number) for number in range(int(np.prod(shape)))]
        return np.array(values, object).reshape(shape)
    size = _function("TF_TensorByteSize", ctypes.c_size_t)(tensor)
    content = ctypes.string_at(data, size) if size else b""
    return np.frombuffer(content, kind.as_numpy_dtype).reshape(shape).copy()


def _bytes(address):
    """The content of a TF_TString: within it if it is short, else where it points."""
    cell = ctypes.string_at(address, STRING_BYTES)
    kind, numbers = cell[0] & 3, np.frombuffer(cell, np.uint64)
    if kind == 0:
        return cell[1 : 1 + (cell[0] >> 2)]
    place = {1: 2, VIEW: 1}[kind]
    return ctypes.string_at(int(numbers[place]), int(numbers[0]) >> 2)


@contextlib.contextmanager
def _status():
    """A TF_Status; raises RuntimeError with its message where it is not OK in the end."""
    status = _call("TF_NewStatus")
    try:
        yield status
        if _function("TF_GetCode", ctypes.c_int)(status):
            raise RuntimeError(_function("TF_Message", ctypes.c_char_p)(status).decode())
    finally:
        _call("TF_DeleteStatus", status)


def _call(name, *arguments):
    """A function that returns an address or nothing."""
    return ctypes.c_void_p(_function(name, ctypes.c_void_p)(*arguments))


def _function(name, result):
    """Of the library that is loaded already: TensorFlow's, which this process has imported."""
    folder = Path(tf.__file__).parent
    for library in LIBRARIES:
        with contextlib.suppress(AttributeError):
            function = ctypes.CDLL(str(folder / library))[name]  # a new object, so its result is ours to set
            function.restype = result
            return function
    raise RuntimeError(f"TensorFlow's libraries have no {name}")
