"""Requests that nobody should send, in numbers: each is answered, none by a failure, and none changes the server."""

import concurrent.futures
import contextlib
import gzip
import http.client
import json
import socket
import time

import grpc
import hypothesis
import pytest
import tensorflow as tf
from hypothesis import strategies as st
from tensorflow.core.framework import tensor_pb2

from tests.serving_for_tests import NAME, b64, encoded, pixels, publish, request, serving

DEADLINE = 15  # seconds for one answer on a busy machine
PICTURES = [encoded(pixels(20, 30)), encoded(pixels(16, 16), "JPEG"), encoded(pixels(1, 1))]
GOOD = [
    json.dumps({"instances": [b64(content) for content in PICTURES]}).encode(),
    json.dumps({"inputs": {"image_bytes": [b64(PICTURES[0])]}, "signature_name": "serving_default"}).encode(),
    json.dumps({"signature_name": "predict_uint8", "instances": pixels(3, 4)[None].tolist()}).encode(),
]
KNOWN = ["instances", "inputs", "signature_name", "b64", "image", "image_bytes", "serving_default", "logits", "", NAME]
FINE = {200, 400, 403, 404, 405, 408, 413, 415}  # no 429, 499, 5xx: nothing here is overload
FINE_RPC = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "UNIMPLEMENTED", "RESOURCE_EXHAUSTED"}


@st.composite
def spoiled(draw, originals):
    """Good bytes with parts cut out, doubled or overwritten."""
    content = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(content)))
        end = draw(st.integers(start, min(len(content), start + 50)))
        tripled = bytes(content[start:end]) * 3
        content[start:end] = draw(st.one_of(st.binary(max_size=6), st.just(tripled), st.just(b"")))
    return bytes(content[: draw(st.sampled_from([len(content), len(content), len(content) // 2]))])


words = st.one_of(st.sampled_from(KNOWN), st.text(max_size=8))
edges = st.sampled_from([255, 256, 2**63, -1])
numbers = st.one_of(st.integers(), st.integers(-(10**400), 10**400), st.floats(), edges)
files = st.builds(b64, st.one_of(spoiled(PICTURES), st.sampled_from(PICTURES), st.binary(max_size=30)))
leaves = st.one_of(st.none(), st.booleans(), numbers, words, files)
values = st.recursive(
    leaves,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(words, inner, max_size=4)),
    max_leaves=20,
)
rows = st.one_of(st.lists(files, max_size=4), values)
images = st.builds(
    lambda height, width, value: [[[[value] * 3] * width] * height],
    st.integers(0, 40),
    st.integers(0, 40),
    st.one_of(numbers, st.just(9)),
)
requests = st.one_of(
    values,
    st.fixed_dictionaries({"instances": rows}, optional={"signature_name": words}),
    st.fixed_dictionaries({"inputs": values}, optional={"signature_name": words}),
    st.fixed_dictionaries({"inputs": images, "signature_name": st.sampled_from(["logits", "predict_uint8"])}),
)
openings = st.sampled_from([b"[", b'{"a":', b'{"instances":['])
bodies = st.one_of(
    st.binary(max_size=200),
    spoiled(GOOD),
    requests.map(lambda value: json.dumps(value).encode()),
    requests.map(lambda value: json.dumps(value, ensure_ascii=False).encode("utf-16")),
    st.builds(lambda opening, count: opening * count, openings, st.integers(1, 50_000)),
    st.builds(lambda digits: b'{"instances": [' + b"9" * digits + b"]}", st.integers(1, 9000)),
)
packings = st.sampled_from(["none", "none", "none", "gzip", "cut", "bomb", "lie"])
tails = st.one_of(
    st.just(":predict"), st.sampled_from([":classify", "", "/metadata", "/versions/1:predict", "/labels/x:predict"]),
    st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=12),
)  # fmt: skip
addresses = st.builds(lambda tail: f"/v1/models/{NAME}{tail}", tails)
methods = st.sampled_from(["POST", "GET", "PUT", "DELETE", "OPTIONS", "HEAD"])
right_ones = st.just(("POST", f"/v1/models/{NAME}:predict"))
targets = st.one_of(right_ones, right_ones, right_ones, right_ones, st.tuples(methods, addresses))


def packed(body, how):
    """(body, headers)"""
    if how in ("none", "lie"):
        return body, {} if how == "none" else {"Content-Encoding": "gzip"}
    content = gzip.compress(b" " * (40 << 20) if how == "bomb" else body, 1)
    return content[: len(content) // 2] if how == "cut" else content, {"Content-Encoding": "gzip"}


sizes = st.one_of(st.integers(0, 20), st.integers(-3, 2**62))
texts = st.lists(st.one_of(spoiled(PICTURES), st.binary(max_size=9)), max_size=4)
numeric = ["int_val", "uint32_val", "int64_val", "float_val", "double_val", "bool_val", "half_val"]


@st.composite
def tensors(draw):
    made = tensor_pb2.TensorProto(dtype=draw(st.one_of(st.sampled_from([4, 4, 4, 7, 7]), st.integers(0, 130))))
    for size in draw(st.one_of(st.tuples(st.just(1), sizes, sizes, st.just(3)), st.lists(sizes, max_size=10))):
        made.tensor_shape.dim.add(size=size)
    made.tensor_shape.unknown_rank = draw(st.integers(0, 9)) == 0
    made.tensor_content = draw(st.one_of(st.just(b""), st.binary(max_size=100)))
    made.string_val.extend(draw(st.one_of(st.just([]), texts)))
    field = draw(st.sampled_from(numeric))
    getattr(made, field).extend(draw(st.lists(st.integers(0, 1 if field == "bool_val" else 300), max_size=20)))
    return made


@st.composite
def messages(draw):
    inputs = draw(st.dictionaries(st.sampled_from(["image", "image_bytes", "x", ""]), tensors(), max_size=2))
    made = request(inputs, draw(st.one_of(st.sampled_from(["", "logits", "predict_uint8"]), words)))
    made.model_spec.name = draw(st.sampled_from([NAME] * 5 + ["", "other"]))
    choice = draw(st.integers(0, 9))
    if choice == 0:
        made.model_spec.version.value = draw(st.integers(-(2**63), 2**63 - 1))
    elif choice == 1:
        made.model_spec.version_label = draw(words)
    made.output_filter.extend(draw(st.one_of(st.just([]), st.lists(words, max_size=2))))
    return made


written = messages().map(lambda message: message.SerializeToString())
good = [
    request({"image_bytes": PICTURES}).SerializeToString(),
    request({"image": pixels(3, 4)[None]}, "predict_uint8").SerializeToString(),
]
requests_over_grpc = st.one_of(written, spoiled(good), st.binary(max_size=60))
no_http = st.one_of(
    st.binary(max_size=300), spoiled([b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 2\r\n\r\n{}"])
)


def over_rest(server, method, path, body, headers):
    """The status of the answer; hanging up without one is a failure."""
    connection = http.client.HTTPConnection(server.rest, timeout=DEADLINE)
    with contextlib.closing(connection):
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        content = response.read()
    if response.status != 200 and method != "HEAD":
        told = json.loads(content)["error"]
        assert 0 < len(told) < 1100 and "Traceback" not in told, told
    return response.status


def over_socket(server, content):
    """The first line of what the server answers to bytes that are not HTTP, if anything."""
    host, port = server.rest.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=DEADLINE) as connection:
        connection.sendall(content)
        connection.shutdown(socket.SHUT_WR)
        return connection.recv(100).partition(b"\r\n")[0]


def over_grpc(server, content):
    call = server.channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
    try:
        call(content, timeout=DEADLINE)
    except grpc.RpcError as error:
        return error.code().name
    return "OK"


def many(server, count):
    """Send so many malformed requests; half of them over REST, a third over gRPC, the rest are not even HTTP."""
    ask = [server.post(GOOD[0]), server.post(GOOD[2])]
    assert [status for status, _ in ask] == [200, 200]
    seen = {}

    def tried(strategy, share):
        settings = hypothesis.settings(
            max_examples=int(count * share),
            deadline=None,  # requests have their own
            database=None,
            derandomize=True,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        return lambda function: settings(hypothesis.given(strategy)(function))()

    @tried(st.tuples(targets, bodies, packings), 0.5)
    def rest(drawn):
        (method, path), body, how = drawn
        status = over_rest(server, method, path, *packed(body, how))
        assert status in FINE, status
        seen[status] = seen.get(status, 0) + 1

    @tried(requests_over_grpc, 0.35)
    def rpc(content):
        status = over_grpc(server, content)
        assert status in FINE_RPC, status
        seen[status] = seen.get(status, 0) + 1

    @tried(no_http, 0.15)
    def bare(content):
        line = over_socket(server, content)
        assert not line or line.split()[1][:1] in b"1234", line

    assert server.process.poll() is None
    assert [server.post(GOOD[0]), server.post(GOOD[2])] == ask
    assert "Traceback" not in server.errors() and "Error" not in server.errors(), server.errors()
    assert sum(seen.values()) > 0.8 * 0.85 * count  # a strategy that ends early would send far fewer
    assert {400, 405, "INVALID_ARGUMENT", "FAILED_PRECONDITION"} <= seen.keys()
    return seen


def test_150_malformed_requests(served):
    many(served, 150)


@pytest.mark.slow
def test_1000_malformed_requests(served):
    many(served, 1000)


@pytest.mark.soak
def test_10000_malformed_requests(served):
    many(served, 10_000)


def busy(server, seconds, clients=4):
    """Clients of both transports ask for so long, each answer the same; the server's memory, sample by sample."""
    message, right = request({"image_bytes": PICTURES}), server.post(GOOD[0])
    expected = server.predictions.Predict(message).SerializeToString(deterministic=True)
    end = time.monotonic() + seconds

    def ask(number):
        count = 0
        while time.monotonic() < end:
            if number % 2:
                answer = server.predictions.Predict(message, timeout=DEADLINE)
                assert answer.SerializeToString(deterministic=True) == expected
            else:
                assert server.post(GOOD[0]) == right
            count += 1
        return count

    samples = []
    with concurrent.futures.ThreadPoolExecutor(clients) as threads:
        asking = [threads.submit(ask, number) for number in range(clients)]
        while time.monotonic() < end:
            samples.append((time.monotonic(), server.memory()))
            time.sleep(0.5)
    assert sum(task.result() for task in asking) > 10 * seconds
    return samples


def growth(samples, after):
    """Megabytes a minute, by the line through the samples of the time after so many seconds."""
    late = [(moment - samples[0][0], size / (1 << 20)) for moment, size in samples if moment - samples[0][0] > after]
    times, sizes = (tf.constant(column, tf.float64) for column in zip(*late, strict=True))
    times -= tf.reduce_mean(times)
    return 60 * float(tf.reduce_sum(times * sizes) / tf.reduce_sum(times * times))


@pytest.mark.slow
def test_a_minute_of_four_clients(models, tmp_path):
    publish(models[0], tmp_path, 1)
    with serving(tmp_path) as server:
        assert growth(busy(server, 60), after=20) < 8


@pytest.mark.soak
def test_ten_minutes_of_four_clients(models, tmp_path):
    publish(models[0], tmp_path, 1)
    with serving(tmp_path) as server:
        assert growth(busy(server, 600), after=120) < 1
