"""JSON and tensors: TensorFlow Serving's row and column formats, read and written."""

import base64
import binascii
import itertools
import json

import numpy as np

from tfssl.serve.limits import check_json
from tfssl.serve.refusals import Refusal, invalid

MOST_NUMBERS = 4_000_000  # of an answer as JSON text; each costs some 50 bytes on the way
_KINDS = {"b": bool, "i": int, "u": int}  # the JSON type that a NumPy kind takes; floats take two


def read_request(body, most_depth):
    """The JSON object of a predict request; what is told of a mistake names it as TensorFlow Serving does."""
    if not body:
        raise invalid("JSON Parse error: The document is empty")
    check_json(body, most_depth)
    try:
        content = json.loads(body.decode("utf-8"), object_pairs_hook=_without_duplicates)
    except UnicodeDecodeError as error:
        raise invalid(f"JSON Parse error: not UTF-8 at offset {error.start}") from None
    except json.JSONDecodeError as error:
        raise invalid(f"JSON Parse error: {error}") from None
    except ValueError:
        raise invalid("JSON Parse error: an integer has thousands of digits") from None
    if not isinstance(content, dict):
        raise invalid(f"JSON Value: {told(content)} Is not object")
    if not isinstance(content.get("signature_name", ""), str):
        raise invalid("'signature_name' key must be a string value.")
    formats = [key for key in ("inputs", "instances") if key in content]
    if not formats:
        raise invalid("Missing 'inputs' or 'instances' key")
    if len(formats) > 1:
        raise invalid("Expecting only one of 'inputs' or 'instances' keys to exist")
    return content


def _without_duplicates(pairs):
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        name = next(name for name in names if names.count(name) > 1)
        raise invalid(f"JSON Parse error: the key {told(name)} stands twice in an object")
    return content


def told(value):
    """A JSON value, short enough for a message."""
    text = repr(value[:40] if isinstance(value, (str, list)) else value) if not isinstance(value, dict) else "{...}"
    return text if len(text) <= 60 else text[:57] + "..."


def inputs_of(content, dtypes):
    """{name: array} of a request; dtypes: {name: NumPy dtype} of the signature, object where it takes strings."""
    columns = _rows(content["instances"], dtypes) if "instances" in content else _columns(content["inputs"], dtypes)
    return {name: as_array(value, dtypes[name], name) for name, value in columns.items()}


def _rows(rows, dtypes):
    if not isinstance(rows, list):
        raise invalid("Expecting 'instances' to be an list/array")
    if not rows:
        raise invalid("No values in 'instances' array")
    named = _has_names(rows[0])
    if not named and len(dtypes) > 1:
        raise invalid(f"instances is a plain list, but expecting a list of objects with the keys {_names(dtypes)}")
    for number, row in enumerate(rows):
        if _has_names(row) != named:
            wanted, got = ("object", "value/list") if named else ("value/list", "object")
            raise invalid(f"Expecting {wanted} but got {got} at item {number} of input list")
        if named and row.keys() != dtypes.keys():
            raise invalid(
                f"Failed to process element: {number} of 'instances' list. JSON object: has the keys {_names(row)}, "
                f"keys must be equal to: {_names(dtypes)}"
            )
    return {name: [row[name] for row in rows] for name in dtypes} if named else {next(iter(dtypes)): rows}


def _columns(value, dtypes):
    if not _has_names(value):
        if len(dtypes) > 1:
            raise invalid(f"inputs is a plain value/list, but expecting an object with the keys {_names(dtypes)}")
        return {next(iter(dtypes)): value}
    for name in dtypes:
        if name not in value:
            raise invalid(f"Missing named input: {name} in 'inputs' object.")
    for name in value:
        if name not in dtypes:
            raise invalid(f"JSON object: does not have named input: {told(name)}, the signature has {_names(dtypes)}")
    return value


def _has_names(value):
    return isinstance(value, dict) and not _is_base64(value)


def _is_base64(value):
    return len(value) == 1 and isinstance(value.get("b64"), str)


def _names(names):
    listed = sorted(name if len(name) <= 40 else name[:40] + "..." for name in names)
    return ",".join(listed[:10] + ["..."] * (len(listed) > 10))


def as_array(value, dtype, name):
    """A nested list as an array of exactly this type; nothing is rounded, wrapped around or guessed."""
    leaves, shape = _flattened(value, name)
    if dtype.kind == "O":
        array = np.empty(len(leaves), object)
        array[:] = [_as_bytes(leaf, name) for leaf in leaves]
        return array.reshape(shape)
    if dtype.kind not in "biuf" or dtype.itemsize == 2 and dtype.kind == "f":
        raise Refusal("UNIMPLEMENTED", f'input "{name}": JSON cannot carry {dtype.name}, gRPC can')
    allowed = {int, float} if dtype.kind == "f" else {_KINDS[dtype.kind]}
    if not set(map(type, leaves)) <= allowed:
        leaf = next(leaf for leaf in leaves if type(leaf) not in allowed)
        raise invalid(f'input "{name}": JSON Value: {told(leaf)} is not of expected type: {dtype.name}')
    try:
        with np.errstate(over="raise"):
            array = np.array(leaves, np.float64).astype(dtype) if dtype.kind == "f" else np.array(leaves, dtype)
    except (OverflowError, FloatingPointError) as error:
        raise invalid(f'input "{name}": {error}; the signature takes {dtype.name}') from None
    return array.reshape(shape)


def _flattened(value, name):
    """The leaves of nested lists, and their shape."""
    level, shape = [value], []
    while level and isinstance(level[0], list):
        if set(map(type, level)) != {list}:
            raise invalid(f'input "{name}": a value stands where others have a list, {len(shape)} levels deep')
        sizes = set(map(len, level))
        if len(sizes) > 1:
            raise invalid(
                f'input "{name}": lists of {min(sizes)} and of {max(sizes)} values stand side by side, '
                f"{len(shape)} levels deep: a tensor has the same size everywhere"
            )
        shape.append(sizes.pop())
        level = list(itertools.chain.from_iterable(level))
    return level, shape


def _as_bytes(leaf, name):
    if isinstance(leaf, str):
        try:
            return leaf.encode()
        except UnicodeEncodeError:
            raise invalid(f'input "{name}": a string holds half of a surrogate pair, which is no text') from None
    if not (isinstance(leaf, dict) and _is_base64(leaf)):
        raise invalid(f'input "{name}": JSON Value: {told(leaf)} is neither a string nor {{"b64": "..."}}')
    text = leaf["b64"]
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except (binascii.Error, ValueError):
        pass
    try:  # TensorFlow Serving's decoder takes line breaks, and does without the padding
        text = "".join(text.split()).rstrip("=")
        return binascii.a2b_base64(text + "=" * (-len(text) % 4), strict_mode=True)
    except (binascii.Error, ValueError):
        raise invalid(f'input "{name}": Unable to base64 decode {told(leaf["b64"])}') from None


def written(outputs, by_row):
    """The JSON text of an answer; outputs: {name: array}."""
    numbers = sum(array.size for array in outputs.values() if array.dtype != object)
    if numbers > MOST_NUMBERS:
        raise invalid(f"the answer has {numbers} numbers, JSON carries at most {MOST_NUMBERS} here; ask over gRPC")
    if by_row:
        _check_rows(outputs)
    plain = {name: _as_json(array, name.endswith("_bytes")) for name, array in outputs.items()}
    if len(plain) == 1:
        answer = next(iter(plain.values()))
    elif by_row:
        answer = [dict(zip(plain, row, strict=True)) for row in zip(*plain.values(), strict=True)]
    else:
        answer = plain
    return json.dumps({"predictions" if by_row else "outputs": answer}).encode()


def _check_rows(outputs):
    for name, array in outputs.items():
        if array.ndim == 0:
            raise invalid(f'Tensor name: "{name}" has no shape information, so it cannot be told by row; send "inputs"')
    sizes = {name: len(array) for name, array in outputs.items()}
    if len(set(sizes.values())) > 1:
        raise invalid(f'Tensors have inconsistent batch sizes {sizes}, so they cannot be told by row; send "inputs"')


def _as_json(array, as_base64):
    if array.dtype != object:
        return array.tolist()
    if as_base64:
        leaves = [{"b64": base64.b64encode(value).decode()} for value in array.ravel()]
    else:
        leaves = [value.decode(errors="replace") for value in array.ravel()]
    shaped = np.empty(len(leaves), object)
    shaped[:] = leaves
    return shaped.reshape(array.shape).tolist()
