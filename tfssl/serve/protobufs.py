"""TensorProto and arrays: what a message claims is checked before anything of that size is made."""

import math

import numpy as np
import tensorflow as tf

from tfssl.serve.limits import MOST_RANK
from tfssl.serve.refusals import invalid

_SMALL = ["int8", "uint8", "int16", "uint16", "int32"]
_FIELDS = {  # of a TensorProto, by type; a complex number takes two of its values
    "bfloat16": "half_val", "float16": "half_val", "float32": "float_val", "float64": "double_val",
    "string": "string_val", "int64": "int64_val", "bool": "bool_val", "uint32": "uint32_val", "uint64": "uint64_val",
    "complex64": "scomplex_val", "complex128": "dcomplex_val", **dict.fromkeys(_SMALL, "int_val"),
}  # fmt: skip


def as_array(message, dtype, name, most_bytes):
    """The array of a TensorProto, which must have this tf.DType and be no larger than a body could be."""
    if message.dtype != dtype.as_datatype_enum:
        raise invalid(f'input "{name}": Expects it to be {dtype.name} but {_type_name(message.dtype)} is provided')
    shape = _shape(message, name)
    count, size = math.prod(shape), 1 if dtype == tf.string else dtype.size
    if count * size > most_bytes:
        raise invalid(f'input "{name}": its shape {shape} takes {count * size} bytes, at most {most_bytes} are read')
    given = _count(message, dtype, name)
    if message.tensor_content:
        if dtype == tf.string or given or len(message.tensor_content) != count * size:
            raise invalid(
                f'input "{name}": tensor_content has {len(message.tensor_content)} bytes, a {dtype.name} tensor of '
                f"shape {shape} has other ones"
            )
    elif given != count * (2 if dtype.is_complex else 1) and (given > 1 or dtype == tf.string):
        # One number, or none for zero, fills a tensor, as everywhere in TensorFlow.
        raise invalid(f'input "{name}": has {given} values, its shape {shape} has room for {count}')
    try:
        return np.asarray(tf.make_ndarray(message)).reshape(shape)
    except (ValueError, TypeError, OverflowError) as error:  # values in the wrong field, or out of the type's range
        raise invalid(f'input "{name}": not a {dtype.name} tensor of shape {shape} ({error})') from None


def _count(message, dtype, name):
    """How many values stand in the field of this type; in another one they would be read as zeros."""
    field = _FIELDS.get(dtype.name)
    for other in {*_FIELDS.values()} - {field}:
        if getattr(message, other):
            raise invalid(f'input "{name}": its values stand in {other}, those of {dtype.name} belong in {field}')
    return len(getattr(message, field)) if field else 0


def _shape(message, name):
    if message.tensor_shape.unknown_rank:
        raise invalid(f'input "{name}": its shape has an unknown rank')
    shape = [dimension.size for dimension in message.tensor_shape.dim[: MOST_RANK + 1]]
    if len(shape) > MOST_RANK or min(shape, default=0) < 0:
        raise invalid(f'input "{name}": its shape {shape} has a negative size, or more than {MOST_RANK} dimensions')
    return shape


def _type_name(number):
    try:
        return tf.as_dtype(number).name
    except TypeError:
        return f"type {number}"


def as_message(array):
    return tf.make_tensor_proto(array)
