"""What the server refuses before it costs anything, and who else is answered meanwhile."""

import concurrent.futures
import contextlib
import gzip
import json
import socket
import time
from pathlib import Path

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2, types_pb2

from tests.serving_for_tests import NAME, b64, code, encoded, pixels, request, serving

PICTURE = encoded(pixels(20, 30))
BODY = json.dumps({"instances": [b64(PICTURE)]}).encode()
PATH = f"/v1/models/{NAME}:predict"
LIMIT = 300_000
SLACK = 100 << 20  # of memory: what TensorFlow and the allocator take now and then, and far less than what was asked


@pytest.fixture(scope="module")
def small(exported):
    base = Path(exported["saved_model"]).parent
    options = {"body-bytes": LIMIT, "pixels": 40_000, "concurrency": 1, "queue": 1, "timeout": 2, "json-depth": 8}
    with serving(base, *[f"--{name}={value}" for name, value in options.items()]) as server:
        yield server


@pytest.fixture
def unharmed(small):
    """After the test the server answers as before it, and has not grown."""
    before, memory = small.post(BODY), small.memory()
    assert before[0] == 200
    yield
    assert small.post(BODY) == before and small.memory() < memory + SLACK


def bomb(height, width):
    """The head of a PNG file that claims to be large."""
    size = height.to_bytes(4, "big"), width.to_bytes(4, "big")
    return b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + size[1] + size[0] + b"\x08\x02\0\0\0"


@pytest.mark.parametrize(
    ("body", "headers", "status", "told"),
    [
        (b" " * (LIMIT + 1), {}, 413, "more than 300000 bytes"),
        (b" " * (6 * LIMIT), {}, 413, "more than 300000 bytes"),
        (gzip.compress(b" " * (200 << 20)), {"Content-Encoding": "gzip"}, 413, "more than 300000 bytes"),
        (gzip.compress(BODY)[:-9], {"Content-Encoding": "gzip"}, 400, "ends before its end"),
        (gzip.compress(BODY) + b"more", {"Content-Encoding": "gzip"}, 400, "goes on after its end"),
        (BODY, {"Content-Encoding": "gzip"}, 400, "is not the gzip data"),
        (BODY, {"Content-Encoding": "br"}, 415, "gzip is"),
        (b"[" * 50_000, {}, 400, "deeper than 8"),
        (b'{"a":' * 50_000, {}, 400, "deeper than 8"),
        (b'{"instances": ' + b"[" * 8 + b'"]]]]]]]]"' + b"]" * 8 + b"}", {}, 400, "deeper than 8"),
        (b'{"instances": [' + b"[]," * 90_000 + b"[]]}", {}, 400, "is not the signature's"),
        (json.dumps({"instances": [b64(bomb(30_000, 30_000))]}).encode(), {}, 400, "900000000 pixels"),
        (json.dumps({"instances": [b64(bomb(150, 150))] * 2}).encode(), {}, 400, "45000 pixels"),
        (b'{"instances": ["' + b'","'.join([b"a"] * 50_000) + b"x" * 90_000 + b'"]}', {}, 400, "500000000 pixels"),
        (BODY, {"Origin": "http://elsewhere.example"}, 403, "elsewhere"),
        (BODY, {"Origin": "null"}, 403, "null"),
        (BODY, {"Host": "[::1"}, 403, "[::1"),
        (BODY, {"Host": "rebound.example:8501"}, 403, "rebound"),
        (gzip.compress(BODY), {"Content-Encoding": "gzip"}, 200, None),
    ],
)
def test_bodies_over_rest(small, unharmed, body, headers, status, told):
    got, answer = small.post(body, headers=headers)
    assert got == status and (told is None or told in answer["error"])


def test_nothing_lets_another_site_read_an_answer(small):
    for method, path in ("GET", "/"), ("POST", PATH), ("OPTIONS", PATH):
        _, headers, _ = small.ask(method, path, BODY if method == "POST" else None)
        assert not [name for name in headers if name.lower().startswith("access-control")]
    assert small.ask("POST", PATH, BODY, {"Origin": f"http://{small.rest}"})[0] == 200  # its own page may


def tensor(shape, kind=types_pb2.DT_UINT8, **values):
    made = tensor_pb2.TensorProto(dtype=kind, **values)
    for size in shape:
        made.tensor_shape.dim.add(size=size)
    return made


@pytest.mark.parametrize(
    ("message", "status", "told"),
    [
        (tensor([100_000, 100_000, 3], int_val=[1]), "INVALID_ARGUMENT", "takes 30000000000 bytes"),
        (tensor([1, 2**62, 2**62, 3], int_val=[1]), "INVALID_ARGUMENT", "at most 300000"),
        (tensor([1, 210, 210, 3], int_val=[1]), "INVALID_ARGUMENT", "44100 pixels"),
        (tensor([1, 190, 210, 3], int_val=[1]), "OK", ""),
        (tensor([1, -2, -2, 3], int_val=[1]), "INVALID_ARGUMENT", "negative"),
        (tensor([1] * 50, int_val=[1]), "INVALID_ARGUMENT", "more than 8 dimensions"),
        (tensor([1, 2, 2, 3], tensor_content=b"1234"), "INVALID_ARGUMENT", "tensor_content has 4 bytes"),
        (tensor([1, 2, 2, 3], int_val=[1], tensor_content=bytes(12)), "INVALID_ARGUMENT", "tensor_content"),
        (tensor([1, 2, 2, 3], int_val=[1, 2]), "INVALID_ARGUMENT", "has 2 values"),
        (tensor([1, 2, 2, 3], int_val=[256]), "INVALID_ARGUMENT", "256"),
        (tensor([1, 2, 2, 3], float_val=[1.0] * 12), "INVALID_ARGUMENT", "stand in float_val"),
        (tensor([1, 2, 2, 3], types_pb2.DT_FLOAT, float_val=[1.0]), "INVALID_ARGUMENT", "float32 is provided"),
        (tensor([1, 2, 2, 3], 999, int_val=[1]), "INVALID_ARGUMENT", "type 999"),
        (tensor_pb2.TensorProto(dtype=types_pb2.DT_UINT8), "INVALID_ARGUMENT", "is not the signature's"),
        (tensor_pb2.TensorProto(dtype=types_pb2.DT_UINT8, tensor_shape={"unknown_rank": True}), "INVALID_ARGUMENT", ""),
    ],
)
def test_tensors_over_grpc(small, unharmed, message, status, told):
    started = time.monotonic()
    got, details = code(small.predictions.Predict, request({"image": message}, "predict_uint8"))
    assert got == status and told in details and time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (tensor([10**9], types_pb2.DT_STRING, string_val=[b"a"]), "at most 300000"),
        (tensor([100_000], types_pb2.DT_STRING, string_val=[b"a"]), "has 1 values"),
        (tensor([2], types_pb2.DT_STRING, tensor_content=b"ab"), "tensor_content"),
        (tensor([2], types_pb2.DT_STRING, string_val=[bomb(150, 150)] * 2), "45000 pixels"),
    ],
)
def test_strings_over_grpc(small, unharmed, message, told):
    got, details = code(small.predictions.Predict, request({"image_bytes": message}))
    assert got == "INVALID_ARGUMENT" and told in details


def test_messages_over_grpc(small, unharmed):
    image = np.zeros([1, 400, 400, 3], np.uint8)
    assert code(small.predictions.Predict, request({"image": image}, "logits"))[0] == "RESOURCE_EXHAUSTED"
    message = request({"image_bytes": [bytes(20 << 20)]})  # packed, it is within the limit
    assert code(small.predictions.Predict, message, compression=grpc.Compression.Gzip)[0] == "UNIMPLEMENTED"
    garbage = small.channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
    assert code(garbage, b"\xff" * 100)[0] not in ("OK", "UNAVAILABLE")


def test_overload_is_answered_at_once_and_passes(small, unharmed):
    """One call is computed and one waits; of sixteen that come together the others are sent away by both transports."""
    slow = np.zeros([1, 180, 200, 3], np.uint8)
    body = json.dumps({"signature_name": "predict_uint8", "inputs": slow[:, :100, :100].tolist()}).encode()

    def over_rest(_):
        started = time.monotonic()
        return small.post(body)[0], time.monotonic() - started

    def over_grpc(_):
        started = time.monotonic()
        return code(small.predictions.Predict, request({"image": slow}, "predict_uint8"))[0], time.monotonic() - started

    for ask, fine, refused in (over_rest, 200, 503), (over_grpc, "OK", "UNAVAILABLE"):
        with concurrent.futures.ThreadPoolExecutor(16) as threads:
            answers = [answer for _ in range(4) for answer in threads.map(ask, range(16))]
        codes = [answer[0] for answer in answers]
        assert set(codes) == {fine, refused}
        assert max(seconds for got, seconds in answers if got == refused) < 2
        started = time.monotonic()
        assert ask(0)[0] == fine and time.monotonic() - started < 2


def test_slow_clients_are_hung_up_on_and_starve_nobody(small, unharmed):
    host, port = small.rest.rsplit(":", 1)
    beginnings = {
        "silent": b"",
        "half a header": b"POST " + PATH.encode() + b" HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-",
        "half a body": b"POST %b HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\n{" % PATH.encode(),
    }
    with contextlib.ExitStack() as stack:
        open_ones = []
        for number in range(60):
            connection = stack.enter_context(socket.create_connection((host, int(port)), timeout=10))
            connection.sendall(list(beginnings.values())[number % 3])
            open_ones.append(connection)
        assert small.post(BODY)[0] == 200
        assert code(small.predictions.Predict, request({"image_bytes": [PICTURE]}))[0] == "OK"
        started, ends = time.monotonic(), [connection.recv(1000) for connection in open_ones[:3]]
        assert ends[:2] == [b"", b""] and b" 408 " in ends[2].splitlines()[0]
        assert time.monotonic() - started < 8


def test_a_head_without_end(small, unharmed):
    host, port = small.rest.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(b"GET / HTTP/1.1\r\nX: " + b"a" * (1 << 20))
        with contextlib.suppress(ConnectionError):
            assert connection.recv(100).startswith(b"HTTP/1.1 400") or not connection.recv(100)


def test_masks_are_the_same_whatever_was_refused_before(small, called):
    right = called[0].signatures["serving_default"](image_bytes=tf.constant([PICTURE]))["mask_png_bytes"].numpy()
    outputs = small.predictions.Predict(request({"image_bytes": [PICTURE]})).outputs
    assert tf.make_ndarray(outputs["mask_png_bytes"])[0] == right[0]
