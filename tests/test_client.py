"""serving/client.py and serving/load_test.py: against the development server, and servers that misbehave."""

import contextlib
import csv
import http.server
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from serving import client as clients
from tests.serving_for_tests import decoded, encoded, pixels
from tests.stub_server_for_tests import READY, stub

SERVING = Path(__file__).parents[1] / "serving"
FILES = [encoded(pixels(33, 47, 1)), encoded(pixels(64, 20, 2), "JPEG", quality=90), encoded(pixels(9, 50, 3))]


@pytest.fixture(params=["rest", "grpc"])
def protocol(request):
    return request.param


@pytest.fixture
def connect(served, protocol):
    """A function that makes a client of the development server."""
    with contextlib.ExitStack() as stack:
        kind, address = {"rest": (clients.RestClient, served.rest), "grpc": (clients.GrpcClient, served.grpc)}[protocol]
        yield lambda **options: stack.enter_context(kind(address, **options))


@pytest.fixture
def server_option(served, protocol):
    return {"rest": ["--url", f"http://{served.rest}"], "grpc": ["--grpc", served.grpc]}[protocol]


@pytest.fixture(scope="module")
def right(called):
    """What the SavedModel answers in this process."""
    answer = called[0].signatures["serving_default"](image_bytes=tf.constant(FILES))
    return {name: value.numpy() for name, value in answer.items()}


def test_masks_of_mixed_sizes_are_those_of_the_saved_model(connect, right):
    answers = connect().segment(FILES)
    assert [answer.status for answer in answers] == ["ok"] * 3
    for number, answer in enumerate(answers):
        np.testing.assert_array_equal(answer.mask, decoded(right["mask_png_bytes"][number]))
        np.testing.assert_array_equal(answer.colours, decoded(right["color_png_bytes"][number]))
        assert answer.class_pixels.tolist() == right["class_pixels"][number].tolist()


def test_a_refused_image_says_why_and_leaves_the_others_alone(connect, right):
    first, bad, last = connect().segment([FILES[0], b"not a picture", FILES[2]])
    assert first.ok and last.ok and not bad.ok and len(bad.status) > 5 and bad.mask is None
    np.testing.assert_array_equal(last.mask, decoded(right["mask_png_bytes"][2]))


def test_status_metadata_and_arrays(connect, called):
    client = connect()
    assert client.status() == {1: "AVAILABLE"}
    signatures = client.metadata()
    assert signatures["predict_uint8"]["inputs"] == {"image": ("DT_UINT8", [-1, -1, -1, 3])}
    assert signatures["serving_default"]["outputs"]["status"] == ("DT_STRING", [-1])
    images = np.stack([pixels(12, 17, 4), pixels(12, 17, 5)])
    for name in "predict_uint8", "logits":  # the second has a single output, whose name REST leaves out
        expected = called[0].signatures[name](image=tf.constant(images))
        found = client.predict({"image": images}, name)
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            np.testing.assert_allclose(found[key], value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "codes", "told"),
    [
        ({"model": "unknown"}, {404, "NOT_FOUND"}, "unknown"),
        ({"version": 9}, {404, "NOT_FOUND"}, "9"),
        ({"label": "stable"}, {400, "INVALID_ARGUMENT"}, "stable"),
    ],
)
def test_what_the_server_does_not_have(connect, options, codes, told):
    for method in "status", "metadata":
        with pytest.raises(clients.ServingError, match=told) as raised:
            getattr(connect(**options), method)()
        assert raised.value.code in codes and "\n" not in str(raised.value)


def test_a_version_or_a_label(connect):
    assert connect(version=1).segment(FILES[:1])[0].ok
    with pytest.raises(ValueError, match="not both"):
        connect(version=1, label="stable")


def test_nobody_listens(protocol):
    kind = {"rest": clients.RestClient, "grpc": clients.GrpcClient}[protocol]
    with kind("127.0.0.1:1", timeout=5) as client, pytest.raises(clients.ServingError, match="no answer") as raised:
        client.status()
    assert raised.value.code is None


def test_an_address_that_is_none_and_one_of_another_protocol(served):
    with pytest.raises(clients.ServingError, match="not an address"):
        clients.RestClient("ftp://127.0.0.1")
    with clients.RestClient(served.grpc) as client, pytest.raises(clients.ServingError, match="no answer by HTTP"):
        client.status()
    unreadable = pytest.raises(clients.ServingError, match="not in JSON")
    with stub({"": (200, b"<html>")}) as url, clients.RestClient(url) as client, unreadable:
        client.status()


def test_a_connection_that_the_server_closed_is_opened_again():
    with stub(READY, keeps=False) as url, clients.RestClient(url) as client:
        assert [client.status() for _ in range(3)] == [{1: "AVAILABLE"}] * 3


def test_a_body_that_is_refused_before_it_was_read():
    with stub({":predict": (413, {"error": "too large"})}, keeps=False) as url, clients.RestClient(url) as client:
        with pytest.raises(clients.ServingError, match="too large") as raised:
            client.segment([bytes(8_000_000)])
        assert raised.value.code == 413


def test_a_slow_server_is_told_from_one_that_is_away():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    with server, clients.RestClient(f"127.0.0.1:{server.server_port}", timeout=0.2) as client:  # accepts, never answers
        with pytest.raises(clients.ServingError, match="timed out") as raised:
            client.status()
        assert raised.value.code == "TIMEOUT"


def test_command_writes_mask_and_overlay(server_option, right, exported, tmp_path, capsys):
    for folder, content in ("a", FILES[0]), ("b", FILES[2]):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "street.png").write_bytes(content)
    about = Path(exported["saved_model"]) / "assets" / "model.json"
    paths = [str(tmp_path / folder / "street.png") for folder in "ab"]
    command = [*paths, *server_option, "--output", str(tmp_path / "out"), "--about", str(about)]
    assert clients.main(command) == 0
    facts = json.loads(about.read_text())
    for number, name in (0, "street"), (2, "b_street"):
        mask = decoded(right["mask_png_bytes"][number])
        with Image.open(tmp_path / "out" / f"{name}_mask.png") as picture:
            assert picture.mode == "P"
            np.testing.assert_array_equal(np.asarray(picture), mask)
            np.testing.assert_array_equal(picture.convert("RGB"), np.uint8(facts["palette"])[mask])
        blended = (decoded(FILES[number]).astype(float) + np.asarray(facts["palette"])[mask]) / 2
        assert np.abs(decoded((tmp_path / "out" / f"{name}_overlay.png").read_bytes()) - blended).max() <= 1
    line = capsys.readouterr().out.splitlines()[0]
    shares = dict(zip(facts["classes"], 100 * right["class_pixels"][0] / 33 / 47, strict=True))
    assert line.startswith(f"{paths[0]}: ")
    for name, share in shares.items():
        assert (f"{name} {share:.1f} %" in line) == (share >= 0.05)


def test_command_goes_on_after_bad_images(served, tmp_path, capsys):
    (tmp_path / "text.jpg").write_text("hello")
    (tmp_path / "good.png").write_bytes(FILES[0])
    paths = [str(tmp_path / name) for name in ("text.jpg", "missing.png", "good.png")]
    assert clients.main([*paths, "--url", served.rest, "--output", str(tmp_path / "out")]) == 1
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2 and "text.jpg: the server refused it: " in told[0]
    assert told[1].endswith("missing.png: No such file or directory")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["good_mask.png", "good_overlay.png"]


def test_command_without_a_server_that_can_be_used(served, tmp_path, capsys):
    (tmp_path / "good.png").write_bytes(FILES[0])
    image = str(tmp_path / "good.png")
    loading = {**READY, "": (200, {"model_version_status": [{"version": "1", "state": "LOADING"}]})}
    other = {**READY, "/metadata": (200, {"metadata": {"signature_def": {"signature_def": {}}}})}
    with stub(loading) as unready, stub(other) as wrong:
        for options, told in [
            (["--url", "http://127.0.0.1:1"], "no answer"),
            (["--url", served.rest, "--model", "unknown"], "unknown"),
            (["--url", unready], "LOADING"),
            (["--url", wrong], "not image_bytes"),
            (["--url", served.rest, "--about", image], "model.json"),
        ]:
            assert clients.main([image, *options, "--output", str(tmp_path / "out")]) == 2
            [line] = capsys.readouterr().err.splitlines()
            assert line.startswith("error: ") and told in line
    assert not (tmp_path / "out").exists()


def test_the_output_of_a_regression_network(tmp_path, capsys):
    image = pixels(8, 9)
    (tmp_path / "noisy.png").write_bytes(FILES[0])
    content = {"b64": clients._to_json(encoded(image))["b64"]}
    answer = {"outputs": {"output_png_bytes": [content], "status": ["ok"]}}
    with stub({**READY, ":predict": (200, answer)}) as url:
        assert clients.main([str(tmp_path / "noisy.png"), "--url", url, "--output", str(tmp_path)]) == 0
    np.testing.assert_array_equal(decoded((tmp_path / "noisy_output.png").read_bytes()), image)


def test_overlay_of_other_kinds_of_pictures(tmp_path):
    """As the server reads them: 16 bits by their upper half, transparency ignored."""
    grays = np.arange(12, dtype=np.uint16).reshape(3, 4) * 5000
    answer = clients.Answer("ok", np.zeros([3, 4], np.uint8), np.zeros([3, 4, 3], np.uint8))
    deep = encoded(grays)
    clear = encoded(np.dstack([pixels(3, 4), np.zeros([3, 4], np.uint8)]))
    for name, content in ("deep", deep), ("clear", clear):
        clients.write(answer, content, tmp_path, name)
        expected = tf.io.decode_png(content, 3).numpy() / 2
        found = decoded((tmp_path / f"{name}_overlay.png").read_bytes())
        assert np.abs(found - expected).max() <= 1


def test_the_client_is_one_file(served, tmp_path):
    """Copied elsewhere it works alone, without this project on Python's path."""
    shutil.copy(SERVING / "client.py", tmp_path)
    (tmp_path / "image.png").write_bytes(FILES[0])
    command = [sys.executable, "-I", "client.py", "image.png", "--url", f"http://{served.rest}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "predictions" / "image_mask.png").is_file()


@pytest.fixture
def load_test(monkeypatch):
    monkeypatch.syspath_prepend(SERVING)
    import load_test

    return load_test


def test_load_test_counts_measures_and_draws(load_test, server_option, tmp_path, capsys):
    arguments = ["--requests", "40", "--clients", "3", "--seconds", "30", "--batch", "2", "--size", "40", "30"]
    assert load_test.main([*server_option, *arguments, "--output", str(tmp_path)]) == 0
    with open(tmp_path / "requests.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 40 and {row["client"] for row in rows} == {"0", "1", "2"}
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["ok"] == 40 and summary["errors"] == {} and summary["most_answers_to_one_request"] == 1
    times = [1000 * float(row["seconds"]) for row in rows]
    assert summary["latency_ms"]["p90"] == pytest.approx(np.percentile(times, 90))
    assert summary["latency_ms"]["max"] == pytest.approx(max(times))
    assert summary["images_per_second"] == pytest.approx(80 / summary["seconds"])
    with Image.open(tmp_path / "load_test.png") as picture:
        assert picture.width == 1200
    assert "40 of 40 requests answered" in capsys.readouterr().out


def test_load_test_ends_in_time(load_test, served, tmp_path):
    arguments = ["--requests", "5000", "--seconds", "0.5", "--clients", "2", "--size", "16", "16"]
    assert load_test.main(["--url", served.rest, *arguments, "--output", str(tmp_path)]) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert 1 < summary["requests"] < 5000 and 0.5 <= summary["seconds"] < 5


def test_load_test_tells_errors_by_kind(load_test, tmp_path, capsys):
    with stub({**READY, ":predict": (503, {"error": "overloaded"})}) as url:
        assert load_test.main(["--url", url, "--requests", "10", "--clients", "2", "--output", str(tmp_path)]) == 1
    assert "10 x 503" in capsys.readouterr().out
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["errors"] == {"503": 10} and summary["latency_ms"] == {}
    assert (tmp_path / "load_test.png").is_file()


def test_load_test_spares_other_machines(load_test, tmp_path, capsys):
    for target in ["--url", "http://192.0.2.1:8501"], ["--grpc", "192.0.2.1:8500"], ["--url", "0.0.0.0:8501"]:
        assert load_test.main([*target, "--output", str(tmp_path / "none")]) == 2
        assert "is not this machine; --allow-remote" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
    for nobody in ["--url", "http://127.0.0.1:1"], ["--url", "http://localhost:1"]:
        assert load_test.main([*nobody, "--output", str(tmp_path / "none")]) == 2
        assert "no answer" in capsys.readouterr().err
