"""The development server's answers: right ones, compared with direct calls, and the documented errors."""

import json
import re

import numpy as np
import ovmsclient
import pytest
import tensorflow as tf
from tensorflow_serving.apis import classification_pb2, get_model_metadata_pb2, get_model_status_pb2

from tests.exports_for_tests import CLASSES, PALETTE
from tests.serving_for_tests import NAME, b64, code, decoded, encoded, pixels, request, unpacked

IMAGES = [pixels(33, 47, 1), pixels(64, 20, 2), pixels(9, 50, 3)]
FILES = [encoded(IMAGES[0]), encoded(IMAGES[1], "JPEG", quality=90), encoded(IMAGES[2])]
KINDS = {"class_pixels", "color_png_bytes", "mask_png_bytes", "status"}


@pytest.fixture(scope="module")
def right(called):
    """What the SavedModel answers in this process, {name: array}."""
    answer = called[0].signatures["serving_default"](image_bytes=tf.constant(FILES))
    return {name: value.numpy() for name, value in answer.items()}


def raw(called, images):
    answer = called[0].signatures["predict_uint8"](image=tf.constant(images))
    return {name: value.numpy() for name, value in answer.items()}


def test_masks_fit_the_pictures(right):
    """The oracle itself: sizes, and more than one class, or else nothing here would tell right from wrong."""
    masks = [decoded(content) for content in right["mask_png_bytes"]]
    assert [mask.shape for mask in masks] == [image.shape[:2] for image in IMAGES]
    assert all(len(np.unique(mask)) > 1 for mask in masks) and set(right["status"]) == {b"ok"}


def test_rows_over_rest(served, right):
    status, answer = served.post({"instances": [b64(content) for content in FILES]})
    assert status == 200 and [*answer] == ["predictions"]
    for number, row in enumerate(answer["predictions"]):
        assert row.keys() == KINDS and row["status"] == "ok"
        assert row["class_pixels"] == right["class_pixels"][number].tolist()
        for name in "mask_png_bytes", "color_png_bytes":
            assert unpacked(row[name]) == right[name][number]


def test_columns_over_rest_and_named_rows_say_the_same(served):
    rows = served.post({"instances": [{"image_bytes": b64(content)} for content in FILES]})[1]["predictions"]
    for inputs in [b64(content) for content in FILES], {"image_bytes": [b64(content) for content in FILES]}:
        status, answer = served.post({"signature_name": "serving_default", "inputs": inputs})
        assert status == 200
        assert answer["outputs"] == {name: [row[name] for row in rows] for name in KINDS}


def test_arrays_over_rest(served, called):
    images = np.stack([pixels(12, 17, 4), pixels(12, 17, 5)])
    expected = raw(called, images)
    _, rows = served.post({"signature_name": "predict_uint8", "instances": images.tolist()})
    _, columns = served.post({"signature_name": "predict_uint8", "inputs": images.tolist()})
    for name in "mask", "confidence":
        np.testing.assert_array_equal(np.array(columns["outputs"][name], expected[name].dtype), expected[name])
        assert [row[name] for row in rows["predictions"]] == columns["outputs"][name]


def test_a_single_output_has_no_name(served, called):
    image = pixels(5, 6)[None]
    expected = called[0].signatures["logits"](image=tf.constant(image))["logits"].numpy()
    for key, answer in ("instances", "predictions"), ("inputs", "outputs"):
        _, content = served.post({"signature_name": "logits", key: image.tolist()})
        np.testing.assert_array_equal(np.float32(content[answer]), expected)


def test_ovmsclient_over_rest(served, right):
    client = ovmsclient.make_http_client(served.rest)
    assert client.get_model_status(NAME, 1) == {1: {"state": "AVAILABLE", "error_code": 0, "error_message": ""}}
    known = client.get_model_metadata(NAME, 1)
    signature = known["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert known["model_spec"]["version"] == "1" and signature["outputs"].keys() == KINDS
    answer = client.predict({"image_bytes": FILES}, NAME, 1)
    for name in "mask_png_bytes", "color_png_bytes":
        assert [unpacked(value) for value in answer[name]] == list(right[name])
    with pytest.raises(ovmsclient.tfs_compat.base.errors.ModelNotFoundError):
        client.get_model_status("another", 1)


def test_ovmsclient_over_grpc(served, right):
    client = ovmsclient.make_grpc_client(served.grpc)
    assert client.get_model_status(NAME, 1)[1]["state"] == "AVAILABLE"
    assert client.get_model_metadata(NAME, 1)["outputs"].keys() == KINDS
    answer = client.predict({"image_bytes": FILES}, NAME, 1)
    for name in "mask_png_bytes", "color_png_bytes":
        assert list(answer[name]) == list(right[name])
    np.testing.assert_array_equal(answer["class_pixels"], right["class_pixels"])


def test_the_api_of_tensorflow_serving(served, right, called):
    answer = served.predictions.Predict(request({"image_bytes": FILES}), timeout=30)
    assert (answer.model_spec.name, answer.model_spec.version.value) == (NAME, 1)
    assert answer.model_spec.signature_name == "serving_default" and answer.outputs.keys() == KINDS
    for name in KINDS:
        np.testing.assert_array_equal(tf.make_ndarray(answer.outputs[name]), right[name])
    images = np.stack([pixels(20, 30, 6)])
    answer = served.predictions.Predict(request({"image": images}, "predict_uint8"), timeout=30)
    expected = raw(called, images)
    for name in "mask", "confidence":
        np.testing.assert_array_equal(tf.make_ndarray(answer.outputs[name]), expected[name])


def test_an_output_filter(served):
    message = request({"image_bytes": FILES})
    message.output_filter.append("status")
    assert served.predictions.Predict(message).outputs.keys() == {"status"}
    message.output_filter.append("status")
    assert code(served.predictions.Predict, message) == ("INVALID_ARGUMENT", "duplicate output tensor alias: status")
    message.output_filter[:] = ["depth"]
    assert code(served.predictions.Predict, message)[0] == "INVALID_ARGUMENT"


def test_one_corrupt_picture_among_eight(served, right):
    files = [FILES[number % 3] for number in range(8)]
    files[4] = files[4][:40]
    for content in range(2):
        if content:
            outputs = served.predictions.Predict(request({"image_bytes": files})).outputs
            masks, status = list(tf.make_ndarray(outputs["mask_png_bytes"])), tf.make_ndarray(outputs["status"])
            status = [text.decode() for text in status]
        else:
            rows = served.post({"instances": [b64(file) for file in files]})[1]["predictions"]
            masks, status = [unpacked(row["mask_png_bytes"]) for row in rows], [row["status"] for row in rows]
        assert masks[4] == b"" and status[4] != "ok"
        for number in {*range(8)} - {4}:
            assert masks[number] == right["mask_png_bytes"][number % 3] and status[number] == "ok"


def test_status_and_metadata_are_the_same_by_both_transports(served):
    row = {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    for which in "", "/versions/1":
        assert served.get(f"/v1/models/{NAME}{which}") == (200, {"model_version_status": [row]})
    message = get_model_status_pb2.GetModelStatusRequest(model_spec={"name": NAME})
    assert [(v.version, v.state) for v in served.models.GetModelStatus(message).model_version_status] == [(1, 30)]

    message = get_model_metadata_pb2.GetModelMetadataRequest(
        model_spec={"name": NAME}, metadata_field=["signature_def"]
    )
    signatures = get_model_metadata_pb2.SignatureDefMap()
    served.predictions.GetModelMetadata(message).metadata["signature_def"].Unpack(signatures)
    _, content = served.get(f"/v1/models/{NAME}/versions/1/metadata")
    assert content["model_spec"] == {"name": NAME, "signature_name": "", "version": "1"}
    told = content["metadata"]["signature_def"]["signature_def"]
    assert {"serving_default", "predict_uint8", "logits"} <= told.keys() == signatures.signature_def.keys()
    image = told["predict_uint8"]["inputs"]["image"]
    assert image["dtype"] == "DT_UINT8" and [dim["size"] for dim in image["tensor_shape"]["dim"]][3] == "3"
    assert image["name"] == signatures.signature_def["predict_uint8"].inputs["image"].name
    assert told["serving_default"]["method_name"] == "tensorflow/serving/predict"


ROWS = {"instances": [b64(FILES[0])]}
REST_ERRORS = [
    ("POST", "/v1/models/another:predict", ROWS, 404, "Servable not found for request: Latest(another)"),
    ("POST", f"/v1/models/{NAME}/versions/9:predict", ROWS, 404, f"Specific({NAME}, 9)"),
    ("POST", f"/v1/models/{NAME}/versions/99999999999999999999:predict", ROWS, 400, "to numeric"),
    ("POST", f"/v1/models/{NAME}/labels/stable:predict", ROWS, 400, "Unrecognized servable version label: stable"),
    ("POST", f"/v1/models/{NAME}:classify", {"examples": [{}]}, 400, "tensorflow/serving/classify"),
    ("POST", f"/v1/models/{NAME}:regress", {"examples": [{}]}, 400, "tensorflow/serving/regress"),
    ("POST", f"/v1/models/{NAME}:explain", ROWS, 400, "Malformed request"),
    ("POST", "/v1/other", ROWS, 400, "Malformed request: POST /v1/other"),
    ("GET", f"/v1/models/{NAME}:predict", None, 405, "POST"),
    ("POST", f"/v1/models/{NAME}", ROWS, 405, "GET"),
    ("DELETE", f"/v1/models/{NAME}/metadata", None, 405, "GET"),
    ("GET", "/v1/models/another", None, 404, "another"),
    ("GET", f"/v1/models/{NAME}/versions/9", None, 404, "Could not find version 9"),
    ("GET", "/favicon.ico", None, 404, "Not Found"),
    ("POST", "/", ROWS, 405, "Method Not Allowed"),
]


@pytest.mark.parametrize(("method", "path", "content", "status", "told"), REST_ERRORS)
def test_errors_of_addresses(served, method, path, content, status, told):
    got, headers, body = served.ask(method, path, content and json.dumps(content))
    assert got == status and headers["Content-Type"] == "application/json"
    assert told in json.loads(body)["error"]


IMAGE = [[[1, 2, 3], [4, 5, 6]]]
BAD_BODIES = [
    (b"", "The document is empty"),
    (b"{", "JSON Parse error"),
    (b"[1]", "Is not object"),
    (b"\xff{}", "not UTF-8"),
    ({}, "Missing 'inputs' or 'instances' key"),
    ({**ROWS, "inputs": []}, "only one of"),
    ({"instances": []}, "No values in 'instances'"),
    ({"instances": "x"}, "to be an list/array"),
    ({**ROWS, "signature_name": 3}, "must be a string"),
    ({**ROWS, "signature_name": "x"}, 'Serving signature key "x" not found.'),
    (b'{"instances": [1], "instances": [2]}', "stands twice"),
    (b'{"instances": [' + b"9" * 5000 + b"]}", "thousands of digits"),
    (b'{"instances": ["\\ud800"]}', "surrogate"),
    ({"instances": [{"b64": "no base64!"}]}, "Unable to base64 decode"),
    ({"instances": [{"b64": 5}]}, "keys must be equal to: image_bytes"),
    ({"instances": [5]}, "is neither a string nor"),
    ({"instances": [{"picture": b64(b"")}]}, "has the keys picture, keys must be equal to: image_bytes"),
    ({"instances": [b64(b""), {"image_bytes": b64(b"")}]}, "Expecting value/list but got object at item 1"),
    ({"inputs": {"picture": []}}, "Missing named input: image_bytes"),
    ({"inputs": {"image_bytes": ["a"], "more": 1}}, "does not have named input: 'more'"),
    ({"inputs": "alone"}, "is not the signature's"),
    ({"inputs": []}, "holds nothing"),
    ({"signature_name": "logits", "instances": [[[[1, 2, 256]]]]}, "out of bounds for uint8"),
    ({"signature_name": "logits", "instances": [[[[1, 2, 10**30]]]]}, "uint8"),
    ({"signature_name": "logits", "instances": [[[[1, 2, 3.0]]]]}, "3.0 is not of expected type: uint8"),
    ({"signature_name": "logits", "instances": [[[[1, 2, True]]]]}, "True is not of expected type: uint8"),
    ({"signature_name": "logits", "instances": [[[[1, 2, float("nan")]]]]}, "nan is not of expected type"),
    ({"signature_name": "logits", "instances": [[[[1, 2, "3"]]]]}, "'3' is not of expected type: uint8"),
    ({"signature_name": "logits", "instances": [[[[1, 2, 3], [1, 2]]]]}, "lists of 2 and of 3 values"),
    ({"signature_name": "logits", "instances": [IMAGE, IMAGE * 2]}, "side by side"),
    ({"signature_name": "logits", "instances": [[1, 2, 3]]}, "is not the signature's"),
    ({"signature_name": "logits", "instances": [[[[1, 2, 3, 4]]]]}, "is not the signature's"),
    ({"signature_name": "logits", "instances": [[[], []]]}, "is not the signature's"),
    ({"signature_name": "logits", "inputs": [[[[1, 2, [3]]]]]}, "[3] is not of expected type"),
]


@pytest.mark.parametrize(("content", "told"), BAD_BODIES)
def test_errors_of_bodies(served, content, told):
    status, answer = served.post(content)
    assert status == 400 and told in answer["error"] and len(answer["error"]) < 400


def test_text_that_is_no_picture_is_the_models_to_judge(served):
    """A plain string is legal where bytes are expected, as in TensorFlow Serving."""
    status, answer = served.post({"instances": ["not a picture"]})
    assert status == 200 and answer["predictions"][0]["status"] != "ok"


GRPC_ERRORS = [
    (request({"image_bytes": FILES}, name="another"), "NOT_FOUND", "Servable not found for request: Latest(another)"),
    (request({"image_bytes": FILES}, name=""), "INVALID_ARGUMENT", "no name"),
    (request({"image_bytes": FILES}, version=9), "NOT_FOUND", f"Servable not found for request: Specific({NAME}, 9)"),
    (request({"image_bytes": FILES}, label="x"), "INVALID_ARGUMENT", "Unrecognized servable version label: x"),
    (request({"image_bytes": FILES}, "x"), "FAILED_PRECONDITION", 'Serving signature key "x" not found.'),
    (request({"picture": FILES}), "INVALID_ARGUMENT", "Sent extra: {picture}. Missing but required: {image_bytes}."),
    (request(), "INVALID_ARGUMENT", "Sent extra: {}. Missing but required: {image_bytes}."),
    (request({"image_bytes": FILES[0]}), "INVALID_ARGUMENT", "is not the signature's"),
    (request({"image": np.zeros([1, 2, 2, 3], np.int32)}, "logits"), "INVALID_ARGUMENT", "int32 is provided"),
    (request({"image": np.zeros([1, 2, 2, 4], np.uint8)}, "logits"), "INVALID_ARGUMENT", "is not the signature's"),
    (request({"image": np.zeros([1, 0, 2, 3], np.uint8)}, "logits"), "INVALID_ARGUMENT", "holds nothing"),
]


@pytest.mark.parametrize(("message", "status", "told"), GRPC_ERRORS)
def test_errors_over_grpc(served, message, status, told):
    got, details = code(served.predictions.Predict, message)
    assert got == status and told in details


def test_what_the_server_does_not_offer_over_grpc(served):
    message = classification_pb2.ClassificationRequest(model_spec={"name": NAME})
    assert code(served.predictions.Classify, message)[0] == "UNIMPLEMENTED"
    message = get_model_metadata_pb2.GetModelMetadataRequest(model_spec={"name": NAME}, metadata_field=["weights"])
    assert code(served.predictions.GetModelMetadata, message) == (
        "INVALID_ARGUMENT", "Metadata field weights is not supported"
    )  # fmt: skip
    message = get_model_status_pb2.GetModelStatusRequest(model_spec={"name": NAME, "version": {"value": 3}})
    assert code(served.models.GetModelStatus, message)[0] == "NOT_FOUND"


def test_the_page_is_one_file_and_its_policy_lets_nothing_else_run(served):
    _, headers, body = served.ask("GET", "/")
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    assert body.count(b"<script") == body.count(b"<style") == 1 and not re.search(rb"\b(src|href)=\"?(http|//)", body)
    status, facts = served.get("/model.json")
    assert status == 200 and facts["classes"] == CLASSES and facts["palette"] == PALETTE
    assert (facts["model"], facts["version"]) == ("segmentation", 1)
