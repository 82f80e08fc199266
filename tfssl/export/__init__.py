"""The deployed network as a SavedModel and an ONNX bundle, published only if both compute what Keras computes.

Both take raw RGB images of any height and width; normalisation is inside, and so is the resizing to the size at which
training read its images, if it had one. What they give is the task's, at the image's own size. `product.py` says what
is exported, `package.py` in which order, `saved_model.py` and `onnx_file.py` what the files promise, `parity.py` when
they are refused.
"""

from tfssl.export.of_run import data_facts, export_run
from tfssl.export.onnx_file import ExportError
from tfssl.export.package import export
from tfssl.export.product import Product

__all__ = ["ExportError", "Product", "data_facts", "export", "export_run"]
