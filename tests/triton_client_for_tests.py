"""Runs in .venv-triton, beside a server: python triton_client_for_tests.py HTTP GRPC FOLDER [PID]

Asks for every image of FOLDER/images.npz by tritonclient's two protocols, writes http.npz and grpc.npz, and prints as
JSON what the server says of bad requests, {protocol: {kind: status}}. With PID it asks for the images once only and
meanwhile ends that process as an operator does, which must not lose the request; it prints how long both took.
"""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import tritonclient.grpc
import tritonclient.http

MODEL = "segmentation"
BAD = {
    "no input": ([], MODEL),
    "another name": ([("picture", np.zeros([1, 4, 4, 3], np.uint8), "UINT8")], MODEL),
    "another type": ([("image", np.zeros([1, 4, 4, 3], np.float32), "FP32")], MODEL),
    "four channels": ([("image", np.zeros([1, 4, 4, 4], np.uint8), "UINT8")], MODEL),
    "no batch": ([("image", np.zeros([4, 4, 3], np.uint8), "UINT8")], MODEL),
    "no pixels": ([("image", np.zeros([1, 0, 4, 3], np.uint8), "UINT8")], MODEL),
    "too many images": ([("image", np.zeros([9, 4, 4, 3], np.uint8), "UINT8")], MODEL),
    "another model": ([("image", np.zeros([1, 4, 4, 3], np.uint8), "UINT8")], "unknown"),
}


def infer(module, client, inputs, model=MODEL):
    tensors = []
    for name, array, kind in inputs:
        tensors.append(module.InferInput(name, array.shape, kind))
        tensors[-1].set_data_from_numpy(array)
    return client.infer(model, tensors)


def answers(module, client, images):
    """{OUTPUT_NAME: array} for images by name."""
    found = {}
    for name, image in images.items():
        result = infer(module, client, [("image", image, "UINT8")])
        response = result.get_response()
        outputs = [each["name"] for each in response["outputs"]] if isinstance(response, dict) else None
        for output in outputs or [each.name for each in response.outputs]:
            found[f"{output}_{name}"] = result.as_numpy(output)
    return found


def refusal(module, client, inputs, model):
    try:
        infer(module, client, inputs, model)
    except tritonclient.http.InferenceServerException as error:  # that of tritonclient.grpc is the same class
        return error.status()


def ask_all(clients, folder, images):
    refusals = {}
    for name, (module, client) in clients.items():
        np.savez(folder / f"{name}.npz", **answers(module, client, images))
        refusals[name] = {kind: refusal(module, client, *request) for kind, request in BAD.items()}
    print(json.dumps(refusals))


def ask_while_it_ends(module, client, folder, images, process):
    seconds = []

    def work():
        started = time.perf_counter()
        np.savez(folder / "http.npz", **answers(module, client, images))
        seconds.append(time.perf_counter() - started)

    thread = threading.Thread(target=work)
    thread.start()
    time.sleep(0.4)  # so that the server has the request, and works at it
    running = thread.is_alive()
    os.kill(process, signal.SIGTERM)
    thread.join()
    print(json.dumps({"running": running, "seconds": seconds}))


def main(http, grpc, folder, *process):
    with np.load(Path(folder) / "images.npz") as archive:
        images = dict(archive)
    clients = {
        "http": (tritonclient.http, tritonclient.http.InferenceServerClient(http)),
        "grpc": (tritonclient.grpc, tritonclient.grpc.InferenceServerClient(grpc)),
    }
    if process:
        ask_while_it_ends(*clients["http"], Path(folder), images, int(process[0]))
    else:
        ask_all(clients, Path(folder), images)


if __name__ == "__main__":
    main(*sys.argv[1:])
