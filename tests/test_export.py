"""Exports: what the signatures promise and answer, what is baked in, and what lies beside the graph."""

import io
import itertools
import json
from types import SimpleNamespace

import keras
import numpy as np
import onnxruntime
import pytest
import tensorflow as tf
from PIL import Image
from tensorflow_serving.apis import prediction_log_pb2

from tests.exports_for_tests import CLASSES, PALETTE, SIZES, product, tiny_network
from tfssl import config, evaluate, networks
from tfssl.errors import UserError
from tfssl.export import Product, c_api, export
from tfssl.export.package import views
from tfssl.export.structured import structured_images
from tfssl.tasks import Regression, Segmentation

CORRUPT = "is corrupt or cut short: it cannot be decoded"


@pytest.fixture(scope="module")
def network():
    return tiny_network()


def in_keras(network, images):
    """Classes int [B,H,W] by Keras."""
    return network(tf.cast(images, tf.float32), training=False)["logits"].numpy().argmax(-1)


def encoded(pixels, kind="PNG", mode="RGB", **options):
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, kind, **options)
    return file.getvalue()


def opened(content):
    picture = Image.open(io.BytesIO(content))
    assert picture.format == "PNG"
    return picture


def answers(loaded, files):
    """serving_default of files: one dict of plain values for each."""
    found = loaded.signatures["serving_default"](image_bytes=tf.constant(files))
    return [{name: values.numpy()[n] for name, values in found.items()} for n in range(len(files))]


def described(model):
    """{signature: {name: (dtype, shape)}} of what a server reads, by the C API."""
    def kind(tensor):
        sides = [side.size if side.size >= 0 else None for side in tensor.tensor_shape.dim]
        return tf.as_dtype(tensor.dtype).name, sides

    return {name: ({key: kind(value) for key, value in signature.inputs.items()},
                   {key: kind(value) for key, value in signature.outputs.items()})
            for name, signature in model.signatures.items() if signature.method_name}  # fmt: skip


# What there is.


def test_both_files_and_the_parity_numbers_are_published(exported):
    folder = exported["saved_model"].parents[1]
    assert (exported["saved_model"], exported["onnx"]) == (folder / "saved_model" / "1", folder / "onnx/1/model.onnx")
    assert exported["version"] == 1
    places = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and "/1/" not in str(path)}
    assert places == {"parity.json", "saved_model/models.config"}
    report = json.loads((folder / "parity.json").read_text())
    assert (report["saved_model"], report["onnx"]) == ("saved_model/1", "onnx/1")
    assert report["parity"] == exported["parity"] and report["seconds"] == exported["seconds"] > 0
    assert set(report["packages"]) == {"tensorflow", "keras", "onnxruntime", "openvino"}
    compared = [(row["runtime"], row["height"], row["width"]) for row in report["parity"]]
    runtimes = "saved_model", "onnxruntime", "openvino"
    expected = {*((name, *size) for name in runtimes for size in SIZES), ("saved_model", "mixed", "mixed")}
    assert set(compared) == expected and len(compared) == len(expected)
    assert all(row["compared"] > 0.9 and row["agreement"] == 1.0 for row in report["parity"])


def test_signatures_have_names_types_and_free_dimensions(exported):
    image = {"image": ("uint8", [None, None, None, 3])}
    found = described(c_api.SavedModel(exported["saved_model"]))
    assert found == {
        "serving_default": ({"image_bytes": ("string", [None])},
                            {"mask_png_bytes": ("string", [None]), "color_png_bytes": ("string", [None]),
                             "class_pixels": ("int32", [None, 3]), "status": ("string", [None])}),
        "predict_uint8": (image, {"mask": ("uint8", [None] * 3), "confidence": ("float32", [None] * 3)}),
        "logits": (image, {"logits": ("float32", [None, None, None, 3])}),
    }  # fmt: skip


def test_files_beside_the_graph(exported):
    place = exported["saved_model"]
    assert {path.name for path in place.iterdir()} == {"saved_model.pb", "variables", "fingerprint.pb", "assets",
                                                       "assets.extra", "batching_params.pbtxt"}  # fmt: skip
    facts = json.loads((place / "assets" / "model.json").read_text())
    assert (facts["classes"], facts["palette"], facts["ignore_index"]) == (CLASSES, PALETTE, 255)
    assert (facts["version"], facts["task"], facts["method"], facts["miou"]) == (1, "segmentation", "supervised", 0.5)
    parity = json.loads((place / "assets.extra" / "parity.json").read_text())
    assert parity["parity"] == exported["parity"]


def test_warm_up_records_are_requests_that_the_model_answers(exported, loaded):
    file = exported["saved_model"] / "assets.extra" / "tf_serving_warmup_requests"
    asked = []
    for record in tf.data.TFRecordDataset(str(file)):
        request = prediction_log_pb2.PredictionLog.FromString(record.numpy()).predict_log.request
        inputs = {name: tf.constant(tf.make_ndarray(value)) for name, value in request.inputs.items()}
        answer = loaded.signatures[request.model_spec.signature_name](**inputs)
        assert all(value.shape[0] == 1 for value in answer.values())
        if "status" in answer:
            assert answer["status"][0] == b"ok" and answer["class_pixels"].numpy().sum() == 256 * 256
        asked.append(request.model_spec.signature_name)
    assert asked == ["serving_default", "predict_uint8", "logits"]


# What it answers.


def test_encoded_images_of_mixed_sizes_and_kinds_in_one_call(network, loaded):
    kinds = [("PNG", "RGB", 33, 47, {}), ("JPEG", "RGB", 50, 20, {}), ("PNG", "L", 9, 64, {}),
             ("PNG", "RGBA", 16, 16, {}), ("PNG", "P", 40, 41, {}), ("JPEG", "L", 30, 30, {}),
             ("JPEG", "RGB", 61, 35, {"progressive": True}), ("PNG", "RGB", 1, 1, {})]  # fmt: skip
    files = [encoded(structured_images(1, height, width, seed=n)[0], kind, mode, **options)
             for n, (kind, mode, height, width, options) in enumerate(kinds)]  # fmt: skip
    seen = set()
    for (*_, height, width, _), file, answer in zip(kinds, files, answers(loaded, files), strict=True):
        pixels = tf.io.decode_image(file, channels=3)
        right = in_keras(network, pixels[None])[0]
        mask, colours = opened(answer["mask_png_bytes"]), opened(answer["color_png_bytes"])
        assert (mask.mode, colours.mode) == ("L", "RGB") and right.shape == (height, width)
        np.testing.assert_array_equal(np.asarray(mask), right)
        np.testing.assert_array_equal(np.asarray(colours), np.uint8(PALETTE)[right])
        np.testing.assert_array_equal(answer["class_pixels"], np.bincount(right.ravel(), minlength=3))
        assert answer["status"] == b"ok"
        seen |= set(np.unique(right))
    assert seen == {0, 1, 2}  # else agreement would mean little


def test_one_corrupt_image_of_eight(network, loaded):
    images = [structured_images(1, 20 + n, 30, seed=n)[0] for n in range(8)]
    files = [encoded(image) for image in images]
    alone = [answers(loaded, [file])[0] for file in files]
    for place, bad, says in (0, b"", "is empty"), (3, files[3][:-40], CORRUPT), (7, b"GIF89a", "is neither"):
        found = answers(loaded, [*files[:place], bad, *files[place + 1 :]])
        wrong = found.pop(place)
        assert wrong["status"].decode().startswith(says)
        assert wrong["mask_png_bytes"] == wrong["color_png_bytes"] == b"" and not wrong["class_pixels"].any()
        for answer, right in zip(found, alone[:place] + alone[place + 1 :], strict=True):
            assert all(np.array_equal(answer[name], right[name]) for name in right) and right["status"] == b"ok"


def test_no_image_at_all(loaded):
    found = loaded.signatures["serving_default"](image_bytes=tf.constant([], tf.string))
    assert {name: value.shape for name, value in found.items()} == {
        "mask_png_bytes": (0,), "color_png_bytes": (0,), "class_pixels": (0, 3), "status": (0,)}  # fmt: skip


@pytest.mark.parametrize("signature", ["predict_uint8", "logits"])
def test_answers_do_not_depend_on_the_batch(loaded, signature):
    images = tf.constant(structured_images(3, 40, 52))
    together = loaded.signatures[signature](image=images)
    for n in range(3):
        for name, value in loaded.signatures[signature](image=images[n : n + 1]).items():
            np.testing.assert_array_equal(value[0], together[name][n])


def test_mask_and_confidence_are_those_of_the_logits(network, loaded):
    images = structured_images(2, 35, 50)
    logits = loaded.signatures["logits"](image=tf.constant(images))["logits"].numpy()
    found = loaded.signatures["predict_uint8"](image=tf.constant(images))
    np.testing.assert_array_equal(found["mask"], logits.argmax(-1))
    np.testing.assert_allclose(found["confidence"], tf.nn.softmax(logits).numpy().max(-1), rtol=1e-5)
    np.testing.assert_allclose(logits, network(images.astype("float32"), training=False)["logits"], atol=1e-4)


def test_the_c_api_and_pythons_loader_give_equal_numbers(exported, loaded):
    images = structured_images(2, 33, 47, seed=5)
    files = np.array([encoded(images[0]), encoded(images[1], "JPEG"), b"no picture"], object)
    model = c_api.SavedModel(exported["saved_model"])
    for signature, inputs in (("predict_uint8", {"image": images}), ("logits", {"image": images}),
                              ("serving_default", {"image_bytes": files})):  # fmt: skip
        served = model(signature, **inputs)
        right = loaded.signatures[signature](**{name: tf.constant(value) for name, value in inputs.items()})
        assert served.keys() == right.keys()
        for name, value in served.items():
            np.testing.assert_array_equal(value, right[name].numpy(), err_msg=f"{signature} {name}")
    model.close()
    with pytest.raises(RuntimeError, match="nowhere"):
        c_api.SavedModel(exported["saved_model"].parent / "nowhere")


def test_a_wrong_shape_is_an_error_of_the_call_and_not_the_end_of_the_server(exported):
    """Session::Run looks at no shape, and a convolution of oneDNN ends the process at a wrong rank."""
    model = c_api.SavedModel(exported["saved_model"])
    wrong = [(5, 5, 3), (5, 3), (3,), (), (1, 5, 5, 4), (1, 5, 5, 1), (1, 1, 5, 5, 3), (0, 5, 5, 3), (1, 0, 5, 3)]
    for signature, shape in itertools.product(("predict_uint8", "logits"), wrong):
        with pytest.raises(RuntimeError, match=r"is not compatible with expected shape|Incompatible shapes"):
            model(signature, image=np.zeros(shape, np.uint8))
    for value in np.array(b"x", object), np.array([[b"x"]], object):
        with pytest.raises(RuntimeError, match="is not compatible with expected shape"):
            model("serving_default", image_bytes=value)
    with pytest.raises(RuntimeError, match="uint8 but float is provided"):
        model("predict_uint8", image=np.zeros([1, 5, 5, 3], np.float32))
    assert model("predict_uint8", image=structured_images(1, 9, 9))["mask"].shape == (1, 9, 9)


# What is baked in.


def evaluated(network, image, size, looking):
    """(probabilities [H,W,C], classes [H,W]) of an image by the way in which networks are scored."""
    read = image if size is None else tf.image.resize(image, size, antialias=True)
    examples = SimpleNamespace(count=1, image=lambda index: tf.cast(read, tf.float32),
                               label=lambda index: tf.zeros(image.shape[:2], tf.int32))  # fmt: skip
    _, activation, prediction = evaluate.predictions(network, examples, Segmentation(CLASSES), looking)(0)
    return activation.numpy(), prediction.numpy()


BAKED = {
    "smaller": ((24, 40), {}), "mirrored": (None, {"flip": True}),
    "windows of a mirrored image, larger": ((90, 60), {"protocol": "sliding", "crop": [24, 32], "flip": True}),
}  # fmt: skip


@pytest.mark.parametrize("case", BAKED)
def test_the_way_of_looking_travels_with_the_export(network, tmp_path, case):
    """SavedModel: as evaluation does it. ONNX: the same but for windows, which it says that it does not have."""
    size, options = BAKED[case]
    looking, whole = config.Evaluation(**options), config.Evaluation(flip=options.get("flip", False))
    facts = {"preprocessing": {"read_at": size, "views": views(looking)}}
    made = product(network, facts=facts, size=size, looking=looking)
    result = export(made, tmp_path, sizes=[(64, 96), (51, 33)])
    image = structured_images(1, 70, 50)[0]
    probabilities, classes = evaluated(network, image, size, looking)
    loaded = tf.saved_model.load(str(result["saved_model"])).signatures
    images = tf.constant(image[None])
    found = tf.nn.softmax(loaded["logits"](image=images)["logits"])[0]
    np.testing.assert_allclose(found, probabilities, atol=1e-4)
    (png,) = loaded["serving_default"](image_bytes=tf.constant([encoded(image)]))["mask_png_bytes"].numpy()
    assert np.mean(loaded["predict_uint8"](image=images)["mask"][0] == classes) > 0.999
    assert np.mean(np.asarray(opened(png)) == classes) > 0.999
    session = onnxruntime.InferenceSession(str(result["onnx"]), providers=["CPUExecutionProvider"])
    mask, confidence = session.run(["mask", "confidence"], {"image": image[None]})
    whole_probabilities, whole_classes = evaluated(network, image, size, whole)
    np.testing.assert_allclose(confidence[0], whole_probabilities.max(-1), atol=1e-4)
    assert np.mean(mask[0] == whole_classes) > 0.999
    assert ("windows" in case) == (np.abs(probabilities - whole_probabilities).max() > 0.01)  # else no difference
    stored = json.loads(session.get_modelmeta().custom_metadata_map["preprocessing"])
    assert stored["read_at"] == (list(size) if size else None) and stored["views"] == views(whole)
    told = json.loads((result["saved_model"] / "assets" / "model.json").read_text())["preprocessing"]["views"]
    assert told == views(looking) and ("windows of 24 x 32" in told) == ("windows" in case)
    file = result["saved_model"] / "assets.extra" / "tf_serving_warmup_requests"
    assert len(list(tf.data.TFRecordDataset(str(file)))) == (6 if size else 3)


def test_windows_of_images_in_one_batch_are_their_own(network, tmp_path):
    looking = config.Evaluation(protocol="sliding", crop=[24, 32])
    result = export(product(network, looking=looking), tmp_path, onnx=False, sizes=[(33, 47)])
    images = structured_images(2, 40, 50)
    loaded = tf.saved_model.load(str(result["saved_model"]))
    masks = loaded.signatures["predict_uint8"](image=tf.constant(images))["mask"]
    for mask, image in zip(masks, images, strict=True):
        assert np.mean(mask == evaluated(network, image, None, looking)[1]) > 0.999


def test_larger_images_than_allowed_are_refused_by_status(network, tmp_path):
    result = export(product(network, most_pixels=1000), tmp_path, onnx=False, sizes=[(20, 30)])
    small, large = (encoded(structured_images(1, 25, width)[0]) for width in (40, 41))
    found = answers(tf.saved_model.load(str(result["saved_model"])), [large, small])
    assert [answer["status"] for answer in found] == [b"has 25 x 41 pixels, more than 1000", b"ok"]


# Networks whose output is an image.


def test_an_export_of_a_network_that_makes_images(tmp_path):
    network = networks.build("unet", classes=3, seed=1, width=4, levels=1)
    facts = {"name": "regression", "task": "regression", "psnr": 30.0}
    result = export(Product(network, Regression(), facts=facts), tmp_path, sizes=SIZES)
    model = c_api.SavedModel(result["saved_model"])
    image = {"image": ("uint8", [None, None, None, 3])}
    assert described(model) == {
        "serving_default": ({"image_bytes": ("string", [None])},
                            {"output_png_bytes": ("string", [None]), "status": ("string", [None])}),
        "predict_uint8": (image, {"output_image": ("uint8", [None, None, None, 3])}),
        "values": (image, {"values": ("float32", [None, None, None, 3])}),
    }  # fmt: skip
    images = structured_images(1, 37, 50)
    right = 255 * np.clip(network(images.astype("float32"), training=False)["logits"].numpy(), 0, 1)
    np.testing.assert_allclose(model("values", image=images)["values"], right, atol=0.01)
    found = [model("predict_uint8", image=images)["output_image"][0]]
    answer = model("serving_default", image_bytes=np.array([encoded(images[0]), b"bad"], object))
    assert list(answer["status"]) == [b"ok", b"is neither a JPEG nor a PNG"] and answer["output_png_bytes"][1] == b""
    found.append(np.asarray(opened(answer["output_png_bytes"][0])))
    session = onnxruntime.InferenceSession(str(result["onnx"]), providers=["CPUExecutionProvider"])
    picture, values = session.run(["output_image", "values"], {"image": images})
    np.testing.assert_allclose(values, right, atol=0.03)
    for each in (*found, picture[0]):
        assert np.abs(each.astype(int) - np.round(right[0])).max() <= 1 and np.mean(each == np.round(right[0])) > 0.99
    assert 'name: "regression"' in (result["saved_model"].parent / "models.config").read_text()


# What cannot be exported.


def test_what_does_not_fit_the_network_is_refused(network, tmp_path):
    task = Segmentation(["a", "b"])
    with pytest.raises(UserError, match="names 2 classes, the network predicts 3"):
        export(Product(network, task), tmp_path)
    with pytest.raises(UserError, match="palette has 2 colours for 3 classes"):
        export(Product(network, Segmentation(CLASSES), ((0, 0, 0), (1, 1, 1))), tmp_path)
    with pytest.raises(UserError, match="predicts one class"):
        export(Product(tiny_network(classes=1), Segmentation(["a"]), ((0, 0, 0),)), tmp_path)
    image = keras.Input([None, None, 3], name="image")
    wide = keras.Model(image, {"logits": keras.layers.Conv2D(257, 1)(image)})
    with pytest.raises(UserError, match="predicts 257 classes; masks of 8 bits tell at most 256 apart"):
        export(Product(wide, Segmentation([f"class {n}" for n in range(257)])), tmp_path)
    assert list(tmp_path.iterdir()) == []
