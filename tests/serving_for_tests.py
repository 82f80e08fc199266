"""The development server as a process of its own, versions to put in its folder, and pictures to send."""

import base64
import contextlib
import http.client
import io
import json
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import grpc
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tensorflow_serving.apis import model_service_pb2_grpc, predict_pb2, prediction_service_pb2_grpc

from tests.exports_for_tests import tiny_export

NAME = "segmentation"
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


class Server:
    """`python -m tfssl.serve` over a folder, at addresses that the system chose."""

    def __init__(self, base, *options):
        ports = ["--rest-port", "0", "--grpc-port", "0"]
        command = [sys.executable, "-m", "tfssl.serve", str(base), *ports, *map(str, options)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self._errors = []
        self._reader = threading.Thread(target=lambda: self._errors.extend(self.process.stderr), daemon=True)
        self._reader.start()
        ready = self.process.stdout.readline()
        addresses = re.search(r"ready: model (\S+), REST and page http://(\S+), gRPC (\S+)", ready)
        assert addresses, f"{ready!r} {self.errors()}"
        _, self.rest, self.grpc = addresses.groups()
        self.channel = grpc.insecure_channel(self.grpc, UNLIMITED)
        self.predictions = prediction_service_pb2_grpc.PredictionServiceStub(self.channel)
        self.models = model_service_pb2_grpc.ModelServiceStub(self.channel)

    def errors(self):
        """What it wrote to stderr, without TensorFlow's greetings."""
        return "".join(line for line in self._errors if line.startswith("tfssl") or "Error" in line or "  File" in line)

    def ask(self, method, path, body=None, headers=None, timeout=30):
        """(status, headers, body) of one request on a connection of its own."""
        connection = http.client.HTTPConnection(self.rest, timeout=timeout)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return response.status, response.headers, response.read()

    def post(self, content, which="", headers=None):
        """(status, JSON value) of a predict request; content: a JSON value or the body's bytes."""
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        status, _, answer = self.ask("POST", f"/v1/models/{NAME}{which}:predict", body, headers)
        return status, json.loads(answer)

    def get(self, path):
        status, _, answer = self.ask("GET", path)
        return status, json.loads(answer)

    def states(self):
        """{version: state}"""
        rows = self.get(f"/v1/models/{NAME}")[1]["model_version_status"]
        return {int(row["version"]): row["state"] for row in rows}

    def wait_for(self, states, seconds=30):
        """Until these versions are in these states; None stands for a version that is not listed."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            now = self.states()
            if all(now.get(number) == state for number, state in states.items()):
                return
            time.sleep(0.05)
        raise AssertionError(f"{self.states()}, not {states}; {self.errors()}")

    def memory(self):
        """Its resident bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) << 10

    def stop(self):
        """End it as a user does; its exit status."""
        self.channel.close()
        self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        self._reader.join(5)
        self.process.stdout.close()
        self.process.stderr.close()
        return status


@contextlib.contextmanager
def serving(base, *options):
    server = Server(base, *options)
    try:
        yield server
    finally:
        if server.process.returncode is None:
            server.stop()


@pytest.fixture(scope="session")
def served(exported):
    """A server over the tiny export, for tests that change nothing in it."""
    with serving(Path(exported["saved_model"]).parent) as server:
        yield server


@pytest.fixture(scope="session")
def models(exported, tmp_path_factory):
    """{seed: version folder} of two networks that predict different masks."""
    other = tiny_export(tmp_path_factory.mktemp("other"), seed=1)
    return {0: Path(exported["saved_model"]), 1: Path(other["saved_model"])}


@pytest.fixture(scope="session")
def called(models):
    """{seed: the loaded SavedModel}, called in this process."""
    return {seed: tf.saved_model.load(str(folder)) for seed, folder in models.items()}


def publish(folder, base, number):
    """A version, copied beside its place and renamed into it."""
    base.mkdir(exist_ok=True)
    shutil.copytree(folder, base / f".partial-{number}")
    (base / f".partial-{number}").rename(base / str(number))
    return base / str(number)


def pixels(height, width, seed=0):
    """An image with large and small patterns, uint8 RGB."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height)), int)
    return np.uint8(np.clip(smooth + generator.integers(-20, 20, smooth.shape), 0, 255))


def encoded(image, kind="PNG", **options):
    content = io.BytesIO()
    Image.fromarray(image).save(content, kind, **options)
    return content.getvalue()


def decoded(content):
    with Image.open(io.BytesIO(content)) as picture:
        return np.asarray(picture)


def b64(content):
    return {"b64": base64.b64encode(content).decode()}


def unpacked(value):
    return base64.b64decode(value["b64"])


def request(inputs=None, signature="", **spec):
    """A PredictRequest; inputs: {name: array or TensorProto}."""
    made = predict_pb2.PredictRequest()
    made.model_spec.name = spec.get("name", NAME)
    made.model_spec.signature_name = signature
    if "version" in spec:
        made.model_spec.version.value = spec["version"]
    if "label" in spec:
        made.model_spec.version_label = spec["label"]
    for name, value in (inputs or {}).items():
        message = value if hasattr(value, "tensor_shape") else tf.make_tensor_proto(value)
        made.inputs[name].CopyFrom(message)
    return made


def code(call, message, timeout=30, **options):
    """(status code's name, details) of a gRPC call."""
    try:
        call(message, timeout=timeout, **options)
    except grpc.RpcError as error:
        return error.code().name, error.details()
    return "OK", ""
