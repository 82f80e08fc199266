"""The ONNX bundle in NVIDIA Triton: the real server, from its wheel, asked by its own clients."""

import contextlib
import json
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from tests.exports_for_tests import SIZES, tiny_network
from tfssl.export import Product, export
from tfssl.tasks import Regression

PROJECT = Path(__file__).parents[1]
PYTHON = PROJECT / ".venv-triton" / "bin" / "python"
SHAPES = [(1, 64, 96), (2, 33, 47), (3, 3, 2), (1, 1, 1), (8, 20, 130)]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON.is_file(), reason="no .venv-triton; `make serving-tools` installs it"),
]


def free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]


class Triton:
    """serving/triton/start.py over a bundle, on this machine."""

    def __init__(self, bundle, folder):
        self.log = folder / "triton.log"
        self.http, self.grpc = free_ports(2)
        command = [PYTHON, PROJECT / "serving" / "triton" / "start.py", bundle]
        ports = [f"--http-port={self.http}", f"--grpc-port={self.grpc}"]
        with open(self.log, "w") as log:
            self.process = subprocess.Popen([*command, *ports], stdout=log, stderr=subprocess.STDOUT)

    def get(self, place):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}/v2/{place}", timeout=5) as answer:
            return answer.read()

    def wait(self, seconds=60):
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.process.poll() is None:
            with contextlib.suppress(OSError):
                self.get("health/ready")
                return
            time.sleep(0.1)
        raise AssertionError(self.log.read_text())

    def ask(self, folder, images, *arguments):
        """(what the client prints, {protocol: arrays by name}) of images by name."""
        np.savez(folder / "images.npz", **images)
        addresses = [f"127.0.0.1:{port}" for port in (self.http, self.grpc)]
        script = PROJECT / "tests" / "triton_client_for_tests.py"
        command = [PYTHON, script, *addresses, folder, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout), {path.stem: dict(np.load(path)) for path in folder.glob("????.npz")}


@contextlib.contextmanager
def serving(bundle, folder):
    triton = Triton(bundle, folder)
    try:
        triton.wait()
        yield triton
    finally:
        triton.process.send_signal(signal.SIGTERM)
        triton.process.wait(60)


def right(bundle, image):
    """{output: array}, by ONNX Runtime in this process."""
    session = onnxruntime.InferenceSession(bundle / "model.onnx", providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"image": image}), strict=True))


def require_equal(arrays, bundle, images):
    assert len(arrays) == 2 * len(images)
    for name, image in images.items():
        for output, expected in right(bundle, image).items():
            assert arrays[f"{output}_{name}"].dtype == expected.dtype
            np.testing.assert_array_equal(arrays[f"{output}_{name}"], expected)


def images_of(shapes):
    generator = np.random.default_rng(0)
    return {str(n): generator.integers(0, 256, [*shape, 3], np.uint8) for n, shape in enumerate(shapes)}


@pytest.fixture(scope="module")
def bundle(exported):
    return Path(exported["onnx"]).parent


@pytest.fixture(scope="module")
def triton(bundle, tmp_path_factory):
    with serving(bundle, tmp_path_factory.mktemp("triton")) as server:
        yield server


def test_triton_describes_the_model(triton, bundle):
    described = json.loads(triton.get("models/segmentation"))
    assert described["versions"] == [bundle.name]
    assert described["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, -1, -1, 3]}]
    outputs = {each["name"]: (each["datatype"], each["shape"]) for each in described["outputs"]}
    assert outputs == {"mask": ("UINT8", [-1, -1, -1]), "confidence": ("FP32", [-1, -1, -1])}


def test_triton_answers_exactly_what_onnx_runtime_computes(triton, bundle, tmp_path):
    images = images_of(SHAPES)
    refusals, found = triton.ask(tmp_path, images)
    assert found.keys() == {"http", "grpc"}
    for arrays in found.values():
        require_equal(arrays, bundle, images)
    assert len(np.unique(found["http"]["mask_0"])) > 1
    for kind, status in refusals["http"].items():
        assert status in {"400", "404"}, kind
    for kind, status in refusals["grpc"].items():
        assert status in {"StatusCode.INVALID_ARGUMENT", "StatusCode.NOT_FOUND"}, kind
    assert refusals["http"]["another model"] == "404"
    assert triton.get("health/ready") == b""  # bad requests did not harm it


def test_triton_serves_images_of_a_regression_network(tmp_path):
    product = Product(tiny_network(), Regression(), facts={"name": "segmentation", "task": "regression"})
    bundle = Path(export(product, tmp_path / "export", sizes=SIZES)["onnx"]).parent
    with serving(bundle, tmp_path) as triton:
        images = images_of([(2, 33, 47)])
        _, found = triton.ask(tmp_path, images)
    for arrays in found.values():
        assert arrays.keys() == {"output_image_0", "values_0"}
        require_equal(arrays, bundle, images)


def test_triton_finishes_a_request_before_it_ends(bundle, tmp_path):
    images = images_of([(8, 1500, 1500)])  # 2 seconds, under the 64 MB that Triton takes
    with serving(bundle, tmp_path) as triton:
        report, found = triton.ask(tmp_path, images, triton.process.pid)
        assert report["running"], report  # at the signal
        require_equal(found["http"], bundle, images)
        assert triton.process.wait(60) == 0
    assert "Waiting for in-flight requests to complete" in triton.log.read_text()


@pytest.mark.parametrize("given", ["none", "."])
def test_a_folder_that_is_no_bundle(given, tmp_path):
    start = PROJECT / "serving" / "triton" / "start.py"
    done = subprocess.run([PYTHON, start, tmp_path / given], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "no model.onnx there" in done.stderr
