"""python -m benchmarks.inference RUN: what an answer of the exported network costs, by runtime and through a server.

Three tables, of one run of this command:

1. Runtimes: the SavedModel (`predict_uint8`), ONNX Runtime and OpenVINO in float32 and, where it was written, the
   variant in 8 bits: each answers the same image in turn, with so many threads, in a process of its own. A second
   session of ONNX Runtime stands beside the first as a control: what these two differ by is noise.
2. A server: `serving_default` (an encoded image in, PNGs out) over REST and gRPC from `python -m tfssl.serve`, and the
   same call in this process, in turn; TensorFlow has all cores.
3. The first request after loading, which a server answers after its warm-up, against later ones; on new servers.

Ratios and differences are those of the medians, with 95 % bootstrap intervals over turns.
"""

import argparse
import base64
import contextlib
import http.client
import io
import json
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import grpc
import numpy as np
import onnxruntime
import openvino
import tensorflow as tf
from PIL import Image
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from tfssl import errors, folders
from tfssl.export.structured import structured_images

RESAMPLES = 2000
NAME = "segmentation"


def in_turn(calls, turns, warm_up=5):
    """{name: seconds of each turn} of functions without arguments, each called once a turn, in changing order."""
    seconds = {name: [] for name in calls}
    names = list(calls)
    for turn in range(turns + warm_up):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            started = time.perf_counter()
            calls[name]()
            seconds[name].append(time.perf_counter() - started)
    return {name: np.array(values[warm_up:]) for name, values in seconds.items()}


def interval(first, second, compare):
    """(compare of the medians, its 95 % interval) of two series of the same turns, turns drawn anew."""
    random = np.random.default_rng(0)
    draws = random.integers(0, len(first), [RESAMPLES, len(first)])
    found = compare(np.median(first[draws], axis=1), np.median(second[draws], axis=1))
    return float(compare(np.median(first), np.median(second))), *np.percentile(found, [2.5, 97.5])


def runtimes(exports, image, threads):
    """{name: function} of all that can answer `image` [1,H,W,3]."""
    loaded = tf.saved_model.load(str(exports["saved_model"]))
    constant = tf.constant(image)
    calls = {"SavedModel": lambda: loaded.signatures["predict_uint8"](image=constant)["mask"].numpy()}

    def session(path):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        own = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return lambda: own.run(None, {"image": image})

    calls["ONNX Runtime"] = session(exports["onnx"])
    calls["ONNX Runtime again (control)"] = session(exports["onnx"])
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    compiled = openvino.Core().compile_model(str(exports["onnx"]), "CPU", settings)
    calls["OpenVINO"] = lambda: compiled([image])
    small = exports["onnx"].with_name("model.int8.onnx")
    if small.is_file():
        calls["ONNX Runtime, 8 bits"] = session(small)
    return calls


def table_of_runtimes(exports, size, threads, turns):
    seconds = in_turn(runtimes(exports, structured_images(1, *size), threads), turns)
    rows = []
    for name, own in seconds.items():
        row = [name, f"{1000 * np.median(own):.2f}"]
        for other in ("SavedModel", "OpenVINO"):
            row.append("{:.3f} ({:.3f} to {:.3f})".format(*interval(own, seconds[other], np.divide)))
        rows.append(row)
    title = f"{size[0]} x {size[1]}, {threads} thread{'s' if threads > 1 else ''}, {turns} turns"
    return title, ["runtime", "median, ms", "of the SavedModel's time", "of OpenVINO's time"], rows


@contextlib.contextmanager
def server(folder):
    """(REST address, gRPC address) of `python -m tfssl.serve` over a folder, ready."""
    command = [sys.executable, "-m", "tfssl.serve", str(folder), "--rest-port", "0", "--grpc-port", "0", "--name", NAME]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            ready = process.stdout.readline()
            yield re.search(r"REST and page http://(\S+), gRPC (\S+)", ready).groups()
        finally:
            process.terminate()


def encoded(size):
    file = io.BytesIO()
    Image.fromarray(structured_images(1, *size)[0]).save(file, "JPEG", quality=90)
    return file.getvalue()


@contextlib.contextmanager
def clients(rest, remote, content):
    """{name: function}: a request of `content` over each transport, on a connection that stays open."""
    connection = http.client.HTTPConnection(rest)
    body = json.dumps({"instances": [{"image_bytes": {"b64": base64.b64encode(content).decode()}}]})
    request = predict_pb2.PredictRequest()
    request.model_spec.name = NAME
    request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto([content]))

    def over_rest():
        connection.request("POST", f"/v1/models/{NAME}:predict", body)
        answer = json.loads(connection.getresponse().read())["predictions"][0]
        return base64.b64decode(answer["mask_png_bytes"]["b64"])

    with contextlib.closing(connection), grpc.insecure_channel(remote) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        grpc.channel_ready_future(channel).result(10)
        yield {"REST": over_rest, "gRPC": lambda: stub.Predict(request).outputs["mask_png_bytes"].string_val[0]}


def table_of_servers(exports, size, turns):
    content = encoded(size)
    loaded = tf.saved_model.load(str(exports["saved_model"]))
    constant = tf.constant([content])

    def here():
        answer = loaded.signatures["serving_default"](image_bytes=constant)
        return answer["mask_png_bytes"].numpy()[0]

    with server(exports["saved_model"].parent) as addresses, clients(*addresses, content) as remote:
        calls = {"in this process": here, **remote}
        assert len({call() for call in calls.values()}) == 1  # the same picture
        seconds = in_turn(calls, turns)
    rows = []
    for name, own in seconds.items():
        added = interval(1000 * own, 1000 * seconds["in this process"], np.subtract)
        added = "{:+.2f} ({:+.2f} to {:+.2f})".format(*added)
        rows.append([name, f"{1000 * np.median(own):.2f}", f"{1000 * np.percentile(own, 90):.2f}", added])
    title = f"serving_default, {size[0]} x {size[1]} JPEG in, PNGs out, {turns} turns"
    return title, ["call", "median, ms", "p90, ms", "added, ms"], rows


def table_of_first_requests(exports, size, servers, later=20):
    content, rows = encoded(size), []
    for transport in ("REST", "gRPC"):
        ratios, firsts = [], []
        for _ in range(servers):
            with server(exports["saved_model"].parent) as addresses, clients(*addresses, content) as calls:
                seconds = in_turn({"": calls[transport]}, later + 1, warm_up=0)[""]
            firsts.append(1000 * seconds[0])
            ratios.append(float(seconds[0] / np.median(seconds[1:])))
        rows.append([transport, f"{statistics.median(firsts):.2f}", f"{statistics.median(ratios):.2f}",
                     f"{min(ratios):.2f} to {max(ratios):.2f}"])  # fmt: skip
    title = f"the first request after loading, {servers} servers a row, against the median of the next {later}"
    return title, ["call", "first, ms", "ratio, median", "ratios"], rows


def show(title, columns, rows):
    print(f"\n{title}\n")
    print("\n".join("| " + " | ".join(row) + " |" for row in [columns, ["---"] * len(columns), *rows]), flush=True)


def judge(name, value, most):
    """A line that says whether a goal was met, as the rows above have its value."""
    print(f"{'PASS' if float(value.split()[0]) <= most else 'FAIL'}: {name} {value}, at most {most}", flush=True)


def judge_runtimes(rows):
    own, control = rows[1], rows[2]
    judge("ONNX Runtime, of the SavedModel's time,", own[2], 0.95)
    judge("ONNX Runtime, of OpenVINO's time,", own[3], 1.15)
    apart = float(own[1]) / float(control[1])
    if not 0.97 <= apart <= 1.03:
        print(f"(the control is off by {apart:.3f}: too noisy a machine to trust these)", flush=True)


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m benchmarks.inference", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("run", type=Path, help="the folder of a run that has both exports")
    parser.add_argument("--size", type=int, nargs=2, default=(256, 256), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--threads", type=int, default=1, help="of each runtime in the first table")
    parser.add_argument("--turns", type=int, default=100)
    parser.add_argument("--servers", type=int, default=5, help="started one after the other for the third table")
    parser.add_argument("--only", choices=["runtimes", "servers"], help="these tables; else both, in two processes")
    given = parser.parse_args(arguments)
    if given.only is None:
        print(f"load of the machine before: {os.getloadavg()[0]:.1f}", flush=True)
        for each in ("runtimes", "servers"):
            again = [sys.executable, "-m", "benchmarks.inference", *(arguments or sys.argv[1:]), "--only", each]
            if subprocess.run(again).returncode:
                sys.exit(2)
        return
    exports = folders.published(given.run / "export")
    missing = {"saved_model", "onnx"} - exports.keys()
    if missing:
        raise errors.UserError(f"{given.run}: has no export as {', '.join(sorted(missing))}; make one by "
                               f"python -m tfssl.export {given.run}")  # fmt: skip
    if exports["saved_model"].name != exports["onnx"].parent.name:
        raise errors.UserError(f"{given.run}: its newest SavedModel and ONNX bundle are not of one export; make one by "
                               f"python -m tfssl.export {given.run}")  # fmt: skip
    if given.only != "servers":
        tf.config.threading.set_intra_op_parallelism_threads(given.threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        table = table_of_runtimes(exports, given.size, given.threads, given.turns)
        show(*table)
        judge_runtimes(table[2])
    if given.only != "runtimes":
        table = table_of_servers(exports, given.size, given.turns)
        show(*table)
        for row in table[2][1:]:
            judge(f"{row[0]} adds, ms,", row[3], 5)
        table = table_of_first_requests(exports, given.size, given.servers)
        show(*table)
        for row in table[2]:
            judge(f"first request over {row[0]}, of a later one's time,", row[2], 1.5)


if __name__ == "__main__":
    errors.run(main)
