"""Versions that come, go and break under a server that goes on answering."""

import concurrent.futures
import itertools
import json
import shutil
import signal
import socket
import threading
import time

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from tests.serving_for_tests import NAME, b64, code, encoded, pixels, publish, request, serving, unpacked
from tfssl import errors
from tfssl.errors import UserError
from tfssl.serve import __main__ as command
from tfssl.serve.models import WARM_UP
from tfssl.serve.versions import Versions

FILE = encoded(pixels(40, 56, 7))
BODY = json.dumps({"instances": [b64(FILE)]}).encode()


@pytest.fixture(scope="module")
def base(models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("versions")
    (folder / "notes").mkdir()  # what is no number is nobody's business
    (folder / ".partial-9").mkdir()
    publish(models[0], folder, 1)
    return folder


@pytest.fixture(scope="module")
def server(base):
    with serving(base, "--poll", 0.1, "--label", "stable=1", "--concurrency", 2) as made:
        yield made


@pytest.fixture
def number(server, counter=itertools.count(2)):  # noqa: B008  tests take turns with numbers
    return next(counter)


@pytest.fixture(scope="module")
def masks(called):
    """{seed: the right mask's PNG file}; they differ."""
    answers = {
        seed: model.signatures["serving_default"](image_bytes=tf.constant([FILE])) for seed, model in called.items()
    }
    found = {seed: answer["mask_png_bytes"].numpy()[0] for seed, answer in answers.items()}
    assert found[0] != found[1]
    return found


def mask(server, which=""):
    status, answer = server.post(BODY, which)
    assert status == 200, answer
    return unpacked(answer["predictions"][0]["mask_png_bytes"])


def test_a_new_version_is_taken_up_and_the_old_one_dropped(server, number, base, models, masks):
    publish(models[1], base, number)
    server.wait_for({number: "AVAILABLE"})
    assert mask(server) == mask(server, f"/versions/{number}") == masks[1]
    again = 1000 + number
    publish(models[0], base, again)
    server.wait_for({number: "END", again: "AVAILABLE"})
    assert mask(server) == masks[0] and server.post(BODY, f"/versions/{number}")[0] == 404
    shutil.rmtree(base / str(again))
    server.wait_for({again: None, number: "AVAILABLE"})  # the newest that is left comes back


def test_a_label_stays_with_its_version(server, number, base, models, masks):
    publish(models[1], base, number)
    server.wait_for({number: "AVAILABLE", 1: "AVAILABLE"})
    assert mask(server, "/labels/stable") == mask(server, "/versions/1") == masks[0] != mask(server)
    answer = server.predictions.Predict(request({"image_bytes": [FILE]}, label="stable"))
    assert answer.model_spec.version.value == 1
    assert server.get(f"/v1/models/{NAME}/labels/stable/metadata")[1]["model_spec"]["version"] == "1"


def test_the_removed_version_gives_way_to_the_newest_that_is_left(server, number, base, models, masks):
    publish(models[1], base, number)
    server.wait_for({number: "AVAILABLE"})
    left = max(int(path.name) for path in base.iterdir() if path.name.isdecimal() and int(path.name) < number)
    shutil.rmtree(base / str(number))
    server.wait_for({number: None, left: "AVAILABLE"})
    assert server.predictions.Predict(request({"image_bytes": [FILE]})).model_spec.version.value == left


def test_a_broken_version_is_told_and_tried_again_when_it_is_mended(server, number, base, models, masks):
    before = mask(server)
    (base / str(number)).mkdir()
    (base / str(number) / "saved_model.pb").write_bytes(b"not a graph")
    server.wait_for({number: "END"})
    row = server.get(f"/v1/models/{NAME}/versions/{number}")[1]["model_version_status"][0]
    assert row["status"]["error_code"] == "UNKNOWN" and row["status"]["error_message"]
    assert mask(server) == before and f"version {number} cannot be loaded" in server.errors()
    shutil.copytree(models[1], base / str(number), dirs_exist_ok=True)
    server.wait_for({number: "AVAILABLE"})
    assert mask(server) == masks[1]


def test_a_warm_up_that_fails_fails_the_version(server, number, base, models, tmp_path):
    before = mask(server)
    folder = shutil.copytree(models[1], tmp_path / "version")
    (folder / WARM_UP).parent.mkdir(exist_ok=True)
    log = prediction_log_pb2.PredictionLog()
    log.predict_log.request.CopyFrom(request({"picture": [FILE]}))
    with tf.io.TFRecordWriter(str(folder / WARM_UP)) as writer:
        writer.write(log.SerializeToString())
    publish(folder, base, number)
    server.wait_for({number: "END"})
    row = server.get(f"/v1/models/{NAME}/versions/{number}")[1]["model_version_status"][0]
    assert "record 0 fails" in row["status"]["error_message"] and mask(server) == before
    shutil.rmtree(base / str(number))


def swap_under_load(server, base, models, masks, numbers, clients=4):
    """Publish versions one after the other while clients ask; every answer must be one version's, whole."""
    ended, answers = threading.Event(), []

    def ask(over_grpc):
        while not ended.is_set():
            if over_grpc:
                outputs = server.predictions.Predict(request({"image_bytes": [FILE]}), timeout=60).outputs
                answers.append(tf.make_ndarray(outputs["mask_png_bytes"])[0])
            else:
                answers.append(mask(server))

    with concurrent.futures.ThreadPoolExecutor(clients) as threads:
        asking = [threads.submit(ask, client % 2) for client in range(clients)]
        try:
            for number in numbers:
                publish(models[number % 2], base, number)
                server.wait_for({number: "AVAILABLE"}, 120)
                seen = len(answers)
                while len(answers) < seen + 2 * clients and not any(task.done() for task in asking):
                    time.sleep(0.01)
                assert answers[-1] == masks[number % 2]
        finally:
            ended.set()
    for task in asking:
        task.result()
    assert set(answers) == set(masks.values())


def test_no_request_is_lost_in_a_swap(server, base, models, masks):
    swap_under_load(server, base, models, masks, [101, 102])
    for number in 101, 102:
        shutil.rmtree(base / str(number))
    server.wait_for({101: None, 102: None})


@pytest.mark.soak
def test_twenty_swaps(base, models, masks, tmp_path):
    publish(models[0], tmp_path, 1)
    with serving(tmp_path, "--poll", 0.1) as server:
        swap_under_load(server, tmp_path, models, masks, range(3, 7))
        before = server.memory()
        swap_under_load(server, tmp_path, models, masks, range(7, 23))
        assert server.memory() < before + (64 << 20)


def test_without_any_version_left_the_loaded_one_serves_on(models, masks, tmp_path):
    """And the end: a signal lets calls in flight finish, and is no error."""
    publish(models[1], tmp_path, 3)
    with serving(tmp_path, "--poll", 0.1) as server:
        shutil.rmtree(tmp_path / "3")
        time.sleep(0.5)
        assert mask(server) == masks[1] and server.states() == {3: "AVAILABLE"}
        large = np.zeros([1, 1200, 1600, 3], np.uint8)
        call = server.predictions.Predict.future(request({"image": large}, "predict_uint8"), timeout=60)
        while server.get(f"/v1/models/{NAME}")[0] != 200 or not call.running():
            time.sleep(0.01)
        time.sleep(0.2)
        server.process.send_signal(signal.SIGTERM)
        assert tf.make_ndarray(call.result().outputs["mask"]).shape == (1, 1200, 1600)
        assert server.process.wait(20) == 0
        assert code(server.predictions.Predict, request({"image_bytes": [FILE]}), 5)[0] == "UNAVAILABLE"


def test_mistakes_on_the_command_line(models, tmp_path, capsys):
    def told(*arguments):
        with pytest.raises(SystemExit) as ended:
            errors.run(command.main, [*map(str, arguments)])
        assert ended.value.code == 2
        return capsys.readouterr().err

    (tmp_path / "1").mkdir()
    assert "no such folder" in told(tmp_path / "nowhere")
    assert "no numeric version folder in it" in told(tmp_path / "1")
    assert "is one version; give the folder above it" in told(models[0])
    assert "write NAME=VERSION" in told(tmp_path, "--label", "stable")
    assert "not a port" in told(tmp_path, "--rest-port", "70000")
    assert "not a whole number from 1 to 500" in told(tmp_path, "--json-depth", "0")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"--rest-port {port}: cannot be used" in told(tmp_path, "--rest-port", port)


def test_folders_that_can_be_named(models, tmp_path):
    base = tmp_path / "run" / "export" / "saved_model"
    (base / "1").mkdir(parents=True)
    assert {command.base_of(folder) for folder in (tmp_path / "run", base.parent, base)} == {base}


def test_a_folder_from_which_nothing_can_be_served(models, tmp_path):
    def started(labels=None):
        Versions(tmp_path, NAME, labels).start(60)

    (tmp_path / "2").mkdir()
    with pytest.raises(UserError, match="no version of it can be loaded") as ended:
        started()
    assert str(tmp_path / "2") in ended.value.details[0]
    publish(models[0], tmp_path, 1)
    with pytest.raises(UserError, match="stable=2: .* cannot be loaded"):
        started({"stable": 2})
    with pytest.raises(UserError, match="stable=3: .* no such folder"):
        started({"stable": 3})


