"""Every network of the project is exported, and what is published equals Keras at sizes of all kinds."""

import keras
import numpy as np
import onnx
import openvino
import pytest
import tensorflow as tf

from tests.test_export_threads import fused
from tfssl import networks
from tfssl.export import Product, export
from tfssl.export.onnx_file import MOST_TRANSPOSES
from tfssl.export.parity import PARITY_SIZES
from tfssl.export.structured import structured_images
from tfssl.networks import resnet, vit
from tfssl.tasks import Regression, Segmentation

CLASSES = [f"class {number}" for number in range(6)]
SMALL = {"feature_channels": 24, "weights": None}
V3_PLUS = "deeplab_v3_plus", {"weights": None}, 2
# network, its arguments, how many Transpose nodes its ONNX file has at most (segformer's has 59 or 60)
CASES = {
    "deeplab_v3_plus, full": ("deeplab_v3_plus", {"backbone": "resnet50_deep_stem", "separable": False,
                                                  "cut": "decoder", "low_level_channels": 16, **SMALL}, 2),
    "deeplab_v2": ("deeplab_v2", {"backbone": "resnet50", "weights": None}, 2),
    "deeplab_v2, features": ("deeplab_v2", {"backbone": "resnet50_caffe", **SMALL}, 4),  # two are group norm's
    "unet": ("unet", {}, 4),
    "segformer": ("segformer", {"weights": None, "depths": (1, 1, 1, 1)}, 64),
    "setr": ("setr", {"encoder": "vit_tiny", **SMALL}, 20),
    "dpt": ("dpt", {"encoder": "dinov2_small", "weights": None}, 36),
}  # fmt: skip
SLOW = "deeplab_v2, features", "segformer"  # a process keeps the memory of every graph it has traced: the rest in soak
TRANSFORMERS = "segformer", "setr", "dpt"


@pytest.fixture
def shallow(monkeypatch):
    """Backbones of the same parts, with fewer of them, and narrower transformers."""
    monkeypatch.setitem(resnet.DEPTHS, "resnet50", (2, 1, 2, 2))
    monkeypatch.setitem(vit.ENCODERS, "vit_tiny", vit.Sizes(64, 2, 2, 16, 24))
    monkeypatch.setitem(vit.ENCODERS, "dinov2_small", vit.Sizes(48, 4, 2, 14, 37, True, (1, 2, 3, 4)))


def as_if_trained(name, arguments):
    """The network with logits whose deviation is 3, as those of a trained one, and with batch norms that matter."""
    network = networks.build(name, classes=len(CLASSES), seed=1, **arguments)
    generator = np.random.default_rng(0)
    for layer in network._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.moving_mean.assign(generator.normal(0, 0.1, layer.moving_mean.shape))
            layer.moving_variance.assign(generator.uniform(0.5, 1.5, layer.moving_variance.shape))
    image = structured_images(1, 64, 96).astype("float32")
    spread = np.std(network(image, training=False)["logits"])
    for layer in network.get_layer("classifier")._flatten_layers():
        if getattr(layer, "filters", None) == len(CLASSES):
            layer.kernel.assign(layer.kernel * 3 / spread)
    return network


def made_of(network):
    palette = tuple((number, number, number) for number in range(len(CLASSES)))
    facts = {"name": "segmentation", "task": "segmentation", "classes": CLASSES, "palette": palette}
    return Product(network, Segmentation(CLASSES), palette, facts=facts)


def assert_equal_everywhere(result):
    """The published numbers themselves, near ties and all."""
    rows = result["parity"]
    assert {(row["height"], row["width"]) for row in rows} == {*PARITY_SIZES, ("mixed", "mixed")}
    for row in rows:
        exact = row["runtime"] == "saved_model"
        assert row["max_difference"] <= (1e-5 if exact else 1e-4), row
        assert row["agreement"] >= (1.0 if exact else 0.9999), row
        if row["height"] != PARITY_SIZES[3][0]:  # of one place of the features, where a group's norm may be 0
            assert row["compared"] > 0.98, row  # else agreement would mean little


def transposes(path):
    return sum(node.op_type == "Transpose" for node in onnx.load(path).graph.node)


@pytest.mark.slow
def test_the_default_network(tmp_path):
    """And OpenVINO reads the graph of predict_uint8 without the detour over ONNX."""
    name, arguments, most = V3_PLUS
    network = as_if_trained(name, arguments)
    result = export(made_of(network), tmp_path)
    assert_equal_everywhere(result)
    assert transposes(result["onnx"]) == most
    assert not any("Add" in each for each in fused(network, least=20))
    loaded = tf.saved_model.load(str(result["saved_model"]))
    images = structured_images(2, 75, 101)
    right = loaded.signatures["predict_uint8"](image=tf.constant(images))
    assert len(np.unique(right["mask"])) > 1
    compiled = openvino.compile_model(openvino.convert_model(loaded.signatures["predict_uint8"]), "CPU",
                                      {"INFERENCE_PRECISION_HINT": "f32"})  # fmt: skip
    found = {value.dtype.kind: value for value in compiled([images]).values()}
    assert np.mean(found["u"] == right["mask"]) >= 0.9999
    np.testing.assert_allclose(found["f"], right["confidence"], atol=1e-4)


@pytest.mark.parametrize("case", [
    pytest.param(case, marks=pytest.mark.slow if case in SLOW else pytest.mark.soak) for case in CASES
])  # fmt: skip
def test_each_network(case, shallow, tmp_path):
    name, arguments, most = CASES[case]
    network = as_if_trained(name, arguments)
    result = export(made_of(network), tmp_path)
    assert_equal_everywhere(result)
    found = transposes(result["onnx"])
    assert found <= most and (found > MOST_TRANSPOSES) == (name in TRANSFORMERS)
    assert not any("Add" in each for each in fused(network, least=1))


@pytest.mark.soak
def test_a_network_that_makes_images(tmp_path):
    network = networks.build("unet", classes=3, seed=1)
    result = export(Product(network, Regression(), facts={"name": "regression", "task": "regression"}), tmp_path)
    assert all(row["clear_agreement"] == 1 and row["agreement"] >= 0.9999 for row in result["parity"])
    assert transposes(result["onnx"]) <= MOST_TRANSPOSES


def test_each_network_is_among_them():
    assert {name for name, *_ in (V3_PLUS, *CASES.values())} == set(networks.NETWORKS)
