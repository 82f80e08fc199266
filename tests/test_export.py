"""Exports: what the signatures promise, parity that can fail, and nothing partial ever in place."""

import io
import json

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
import tensorflow as tf
from PIL import Image

from tfssl import export as exporting
from tfssl import parity
from tfssl.errors import UserError

CLASSES = ["ground", "tree", "sky"]
PALETTE = [[90, 60, 20], [0, 120, 0], [80, 160, 255]]
FACTS = {"classes": CLASSES, "palette": PALETTE, "ignore_index": 255}


@keras.saving.register_keras_serializable("tests")
class ResizeLike(keras.layers.Layer):
    """Bilinear resizing of the first input to the height and width of the second."""

    def call(self, inputs):
        small, like = inputs
        return tf.image.resize(small, tf.shape(like)[1:3])

    def compute_output_shape(self, shapes):
        small, like = shapes
        return (*like[:3], small[-1])


def tiny_network(classes=3, seed=0):
    """The network contract in three layers, with batch norm and an output stride of 4."""
    keras.utils.set_random_seed(seed)
    image = keras.Input([None, None, 3], name="image")
    x = keras.layers.Rescaling(1 / 127.5, offset=-1.0)(image)
    x = keras.layers.Conv2D(8, 3, strides=2, padding="same", activation="relu")(x)
    x = keras.layers.BatchNormalization()(x)
    features = keras.layers.Conv2D(8, 3, strides=2, padding="same", activation="relu")(x)
    varied = keras.initializers.RandomNormal(0, 3)
    logits = keras.layers.Conv2D(classes, 1, kernel_initializer=varied)(features)
    outputs = {"logits": ResizeLike(dtype="float32")([logits, image]), "features": features}
    return keras.Model(image, outputs, name="tiny")


@pytest.fixture(scope="module")
def network():
    return tiny_network()


@pytest.fixture(scope="module")
def exported(network, tmp_path_factory):
    metadata = {"miou": 0.5, "method": "supervised"}
    return exporting.export(network, tmp_path_factory.mktemp("run") / "export", **FACTS, metadata=metadata)


def in_keras(network, images):
    logits = network(tf.cast(images, tf.float32), training=False)["logits"]
    return tf.nn.softmax(logits).numpy(), tf.argmax(logits, axis=-1).numpy()


def in_place(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.glob("*/*"))


def test_export_publishes_both_files_and_the_parity_numbers(exported):
    folder = exported["onnx"].parents[1]
    assert exported["saved_model"] == folder / "saved_model" / "1" and exported["version"] == 1
    assert in_place(folder) == ["onnx/model.onnx", "saved_model/1"]
    assert sorted(path.name for path in folder.iterdir()) == ["onnx", "parity.json", "saved_model"]
    report = json.loads((folder / "parity.json").read_text())
    assert report["saved_model"] == "saved_model/1" and report["parity"] == exported["parity"]
    compared = [(row["runtime"], row["height"], row["width"]) for row in report["parity"]]
    assert sorted(compared) == sorted(
        (name, *size) for name in ("saved_model", "onnx") for size in exporting.PARITY_SIZES
    )
    assert all(row["compared"] > 0.9 and row["mask_agreement"] == 1.0 for row in report["parity"])


def test_signatures_have_names_types_and_free_dimensions(exported):
    signatures = tf.saved_model.load(str(exported["saved_model"])).signatures
    found = {}
    for name, function in signatures.items():
        _, inputs = function.structured_input_signature
        specs = {**inputs, **function.structured_outputs}
        found[name] = {key: (spec.dtype.name, spec.shape.rank) for key, spec in specs.items()}
        assert all(size is None for spec in inputs.values() for size in spec.shape[:3])
    assert found == {
        "serving_default": {"image": ("uint8", 4), "mask": ("uint8", 3)},
        "probabilities": {"image": ("uint8", 4), "probabilities": ("float32", 4)},
        "encoded": {"image_bytes": ("string", 1), "mask_bytes": ("string", 1)},
    }


def test_encoded_images_of_mixed_sizes_and_kinds_in_one_call(network, exported):
    kinds = [("PNG", "RGB", 33, 47), ("JPEG", "RGB", 50, 20), ("PNG", "L", 9, 64), ("PNG", "RGBA", 16, 16)]
    files, expected = [], []
    for kind, mode, height, width in kinds:
        picture = Image.fromarray(parity.structured_images(1, height, width, seed=height)[0]).convert(mode)
        content = io.BytesIO()
        picture.save(content, kind)
        files.append(content.getvalue())
        pixels = tf.io.decode_image(files[-1], channels=3)
        expected.append(in_keras(network, pixels[None])[1][0])
    loaded = tf.saved_model.load(str(exported["saved_model"]))
    masks = loaded.signatures["encoded"](image_bytes=tf.constant(files))["mask_bytes"].numpy()
    for mask, right in zip(masks, expected, strict=True):
        with Image.open(io.BytesIO(mask)) as picture:
            assert picture.format == "PNG"
            np.testing.assert_array_equal(np.asarray(picture), right)


def test_masks_of_the_saved_model_do_not_depend_on_the_batch(exported):
    loaded = tf.saved_model.load(str(exported["saved_model"]))
    images = tf.constant(parity.structured_images(3, 40, 52))
    segment = loaded.signatures["serving_default"]
    together = segment(image=images)["mask"].numpy()
    alone = [segment(image=images[n : n + 1])["mask"].numpy()[0] for n in range(3)]
    np.testing.assert_array_equal(together, alone)


def test_onnx_file_names_everything_and_carries_its_metadata(exported):
    model = onnx.load(exported["onnx"])
    described = {}
    for value in [*model.graph.input, *model.graph.output]:
        tensor = value.type.tensor_type
        shape = [dimension.dim_param or dimension.dim_value for dimension in tensor.shape.dim]
        described[value.name] = (onnx.TensorProto.DataType.Name(tensor.elem_type), shape)
    assert described == {
        "image": ("FLOAT", ["batch", "height", "width", 3]),
        "mask": ("UINT8", ["batch", "height", "width"]),
        "probabilities": ("FLOAT", ["batch", "height", "width", 3]),
    }
    assert [(opset.domain, opset.version) for opset in model.opset_import if not opset.domain] == [("", 17)]
    stored = {item.key: item.value for item in model.metadata_props}
    assert json.loads(stored["classes"]) == CLASSES and json.loads(stored["palette"]) == PALETTE
    assert json.loads(stored["ignore_index"]) == 255 and json.loads(stored["miou"]) == 0.5
    assert json.loads(stored["method"]) == "supervised"
    assert stored["Image.BitmapPixelFormat"] == "Rgb8"


def test_onnx_equals_keras_at_sizes_the_stride_does_not_divide(network, exported):
    session = onnxruntime.InferenceSession(str(exported["onnx"]), providers=["CPUExecutionProvider"])
    for height, width in (33, 47), (9, 50):
        images = parity.structured_images(2, height, width, seed=3)
        mask, probabilities = session.run(["mask", "probabilities"], {"image": images.astype(np.float32)})
        expected, classes = in_keras(network, images)
        np.testing.assert_allclose(probabilities, expected, atol=1e-5)
        np.testing.assert_array_equal(mask, classes)


def test_structured_images_show_every_class(network):
    images = parity.structured_images(2, 64, 96)
    assert images.shape == (2, 64, 96, 3) and images.dtype == np.uint8
    assert len(np.unique(in_keras(network, images)[1])) == len(CLASSES)  # else agreement would mean little
    np.testing.assert_array_equal(images, parity.structured_images(2, 64, 96))
    smooth = np.abs(np.diff(images.astype(int), axis=2)).mean()
    assert smooth < 0.2 * np.abs(images[:, :, 1:].astype(int) - images[:, :, :-1].mean()).mean()


@pytest.mark.parametrize("size", [(24, 40), (100, 90)])
def test_the_size_at_which_images_are_read_travels_with_the_export(network, tmp_path, size):
    """The same mask as reading at that size, segmenting and enlarging; at the image's own size."""
    result = exporting.export(network, tmp_path, **FACTS, size=size, sizes=[(64, 96), (51, 33)])
    images = parity.structured_images(1, 70, 50)
    read = tf.image.resize(tf.cast(images, tf.float32), size, antialias=True)
    logits = tf.image.resize(network(read, training=False)["logits"], (70, 50))
    loaded = tf.saved_model.load(str(result["saved_model"])).signatures
    found = [loaded["probabilities"](image=tf.constant(images))["probabilities"]]
    session = onnxruntime.InferenceSession(str(result["onnx"]), providers=["CPUExecutionProvider"])
    found += session.run(["probabilities"], {"image": images.astype(np.float32)})
    for probabilities in found:
        np.testing.assert_allclose(probabilities, tf.nn.softmax(logits), atol=1e-4)
    (mask,) = loaded["encoded"](image_bytes=tf.io.encode_png(images[0])[None])["mask_bytes"].numpy()
    assert (tf.io.decode_png(mask)[..., 0].numpy() == logits.numpy()[0].argmax(-1)).mean() > 0.999
    stored = {entry.key: entry.value for entry in onnx.load(result["onnx"]).metadata_props}
    assert json.loads(stored["read_at"]) == list(size)


@pytest.mark.parametrize("written", ["saved_model", "onnx"])
def test_a_damaged_export_is_refused_and_leaves_nothing(tmp_path, monkeypatch, written):
    network = tiny_network()
    write = getattr(exporting, f"write_{written}")

    def write_then_damage(network, *arguments):
        write(network, *arguments)
        kernel = network.layers[2].kernel.numpy()
        kernel[1, 1, 0, 0] += 0.05
        network.layers[2].kernel.assign(kernel)

    monkeypatch.setattr(exporting, f"write_{written}", write_then_damage)
    kinds = {"saved_model": written == "saved_model", "onnx": written == "onnx"}
    with pytest.raises(exporting.ExportError, match=rf"{written} differs from Keras at 64x96: prob"):
        exporting.export(network, tmp_path / "export", **FACTS, **kinds)
    assert list((tmp_path / "export").iterdir()) == []


def test_a_failed_export_leaves_the_published_one_alone(network, tmp_path, monkeypatch):
    exporting.export(network, tmp_path, **FACTS, sizes=[(16, 16)])
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    monkeypatch.setattr(parity, "TOLERANCE", {"saved_model": 1e-5, "onnx": -1.0})
    with pytest.raises(exporting.ExportError, match="onnx differs from Keras at 16x16"):
        exporting.export(network, tmp_path, **FACTS, sizes=[(16, 16)])
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_comparison_counts_wrong_pixels_but_not_near_ties():
    expected = np.array([[[[0.9, 0.1], [0.50001, 0.49999], [0.2, 0.8], [0.7, 0.3]]]], np.float32)
    mask = np.array([[[0, 1, 1, 1]]], np.uint8)  # the second is a tie, the last is wrong
    row = parity._compare(expected, expected, [mask], tolerance=1e-4)
    assert row == {"max_difference": 0.0, "mask_agreement": pytest.approx(2 / 3), "compared": 0.75}
    with pytest.raises(exporting.ExportError, match="masks agree at 66.6667%"):
        parity._require_parity({"runtime": "onnx", "height": 1, "width": 4, **row})
    undefined = parity._compare(expected, expected * np.nan, [mask * [1, 1, 1, 0]], tolerance=1e-4)
    assert undefined["mask_agreement"] == 1.0
    with pytest.raises(exporting.ExportError, match="probabilities by nan"):
        parity._require_parity({"runtime": "onnx", "height": 1, "width": 4, **undefined})
    with pytest.raises(exporting.ExportError, match="shapes"):
        parity._compare(expected, expected[:, :, :3], [mask], tolerance=1e-4)


def test_any_other_resize_convention_is_refused():
    def graph(node):
        return onnx.helper.make_graph([node], "graph", [], [])

    def resize(**mode):
        return onnx.helper.make_node("Resize", ["x", "", "s"], ["y"], name="head/resize", **mode)

    exporting._check_resizes(graph(resize(coordinate_transformation_mode="half_pixel")))
    exporting._check_resizes(graph(resize()))
    wrong = graph(resize(coordinate_transformation_mode="asymmetric"))
    nested = graph(onnx.helper.make_node("If", ["c"], ["y"], then_branch=wrong, else_branch=wrong))
    for each in wrong, nested:
        with pytest.raises(exporting.ExportError, match="head/resize resizes with asymmetric"):
            exporting._check_resizes(each)


def test_versions_count_up_and_are_never_overwritten(network, tmp_path):
    for name in ("001", "4", ".tmp-9", "notes"):
        (tmp_path / "saved_model" / name).mkdir(parents=True)
    settings = {**FACTS, "onnx": False, "sizes": [(16, 24)]}
    result = exporting.export(network, tmp_path, **settings)
    assert result["version"] == 5 and "onnx" not in result and not (tmp_path / "onnx").exists()
    assert exporting.export(network, tmp_path, **settings, version=9)["saved_model"].name == "9"
    for taken in (1, 5):
        with pytest.raises(UserError, match=f"{taken} exists"):
            exporting.export(network, tmp_path, **settings, version=taken)
    for wrong in (0, -1, "2", 1.5):
        with pytest.raises(UserError, match="whole number"):
            exporting.export(network, tmp_path, **settings, version=wrong)


def test_class_names_must_be_as_many_as_the_network_predicts(network, tmp_path):
    with pytest.raises(UserError, match="names 2 classes, the network predicts 3"):
        exporting.export(network, tmp_path, **{**FACTS, "classes": ["a", "b"]})


def test_more_classes_than_a_byte_holds(tmp_path):
    facts = {"classes": [f"class {n}" for n in range(300)], "palette": None, "ignore_index": None}
    result = exporting.export(tiny_network(300), tmp_path, **facts, sizes=[(17, 22)])
    images = parity.structured_images(1, 17, 22)
    loaded = tf.saved_model.load(str(result["saved_model"]))
    mask = loaded.signatures["serving_default"](image=tf.constant(images))["mask"]
    assert mask.dtype == tf.int32 and mask.numpy().max() > 255
    session = onnxruntime.InferenceSession(str(result["onnx"]))
    assert session.run(["mask"], {"image": images.astype(np.float32)})[0].dtype == np.int32
