"""Parity: each way in which an exported file can be wrong is found, and near ties are no reason to refuse one."""

import re

import numpy as np
import onnx
import pytest
import tensorflow as tf

from tests.exports_for_tests import CLASSES, PALETTE, product, tiny_network
from tfssl.export import ExportError, c_api, export, package, parity, runtimes
from tfssl.export.structured import structured_images
from tfssl.tasks import Regression, Segmentation

SIZES = (33, 47), (9, 13)
EVERY = "saved_model", "onnxruntime", "openvino"


def damaged(change=0.05, value=None):
    """The product of seed 0 with one value of a kernel changed, or set."""
    network = tiny_network()
    kernel = network.layers[2].kernel.numpy()
    kernel[1, 1, 0, 0] = kernel[1, 1, 0, 0] + change if value is None else value
    network.layers[2].kernel.assign(kernel)
    return product(network)


def test_the_files_of_the_same_network_are_equal_to_it(exported):
    rows = parity.check_parity(product(), exported["saved_model"], exported["onnx"], sizes=SIZES)
    assert [row["runtime"] for row in rows] == ["saved_model"] * 3 + ["onnxruntime"] * 2 + ["openvino"] * 2
    for row in rows:
        assert row["agreement"] == row["clear_agreement"] == 1 and row["compared"] > 0.9
        assert row["max_difference"] < (1e-6 if row["runtime"] == "saved_model" else 1e-5)


def test_the_sizes_that_every_export_is_compared_at():
    heights, widths = zip(*parity.PARITY_SIZES, strict=True)
    assert len(parity.PARITY_SIZES) == 5 and min(heights + widths) < 16 and {h % 2 for h in heights} == {0, 1}
    assert max(parity.TOLERANCE.values()) <= 1e-4 and parity.TOLERANCE["saved_model"] == 1e-5
    assert parity.AGREEMENT == {"saved_model": 1.0, "onnxruntime": 0.9999, "openvino": 0.9999}


@pytest.mark.parametrize("kind", ["saved_model", "onnx"])
def test_another_kernel_is_found(exported, kind):
    """Of the network here; of the file it would be the same."""
    name = "saved_model" if kind == "saved_model" else "onnxruntime"
    with pytest.raises(ExportError, match=f"^{name} differs from Keras at 33x47: values by"):
        parity.check_parity(damaged(), **{kind: exported[kind]}, sizes=SIZES)


@pytest.mark.parametrize("kind", ["saved_model", "onnx"])
def test_a_kernel_that_is_no_number_is_found(exported, kind):
    with pytest.raises(ExportError, match="differs from Keras at 33x47: values by nan"):
        parity.check_parity(damaged(value=np.nan), **{kind: exported[kind]}, sizes=SIZES)


def test_a_changed_weight_in_the_onnx_file_is_found_in_each_runtime(exported, tmp_path, monkeypatch):
    model = onnx.load(exported["onnx"])
    kernels = [tensor for tensor in model.graph.initializer if len(tensor.dims) == 4]
    values = onnx.numpy_helper.to_array(kernels[0]).copy()
    values.flat[0] += 0.5
    kernels[0].CopyFrom(onnx.numpy_helper.from_array(values, kernels[0].name))
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(ExportError, match="^onnxruntime differs"):
        parity.check_parity(product(), onnx=tmp_path / "model.onnx", sizes=SIZES)
    monkeypatch.setattr(runtimes, "onnx_runtime", runtimes.openvino_runtime)
    monkeypatch.setitem(parity.TOLERANCE, "onnxruntime", 10.0)
    monkeypatch.setitem(parity.AGREEMENT, "onnxruntime", 0.0)
    with pytest.raises(ExportError, match="^openvino differs"):
        parity.check_parity(product(), onnx=tmp_path / "model.onnx", sizes=SIZES)


def test_what_only_serving_default_gets_wrong_is_found(exported, monkeypatch):
    """The other signatures are right, but the encoded answers are not."""
    call = c_api.SavedModel.__call__

    def refused_after(change, says):
        def changed(self, signature, **inputs):
            found = call(self, signature, **inputs)
            return change(found) if signature == "serving_default" else found

        with monkeypatch.context() as patch, pytest.raises(ExportError, match=says):
            patch.setattr(c_api.SavedModel, "__call__", changed)
            parity.check_parity(product(), exported["saved_model"], sizes=SIZES)

    def all_ground(found):
        masks = [np.zeros(size, np.uint8) for size in SIZES]
        found["mask_png_bytes"][:] = [parity._png(mask) for mask in masks]
        found["color_png_bytes"][:] = [parity._png(np.uint8(PALETTE)[mask]) for mask in masks]
        found["class_pixels"][:] = [[mask.size, 0, 0] for mask in masks]
        return found

    def reversed_batch(found):
        return {name: values[::-1] for name, values in found.items()}

    refused_after(all_ground, "^saved_model differs from Keras at mixedxmixed")
    refused_after(reversed_batch, re.escape("serving_default gives (9, 13) for an image of (33, 47)"))
    black = np.array([parity._png(np.zeros([*size, 3], np.uint8)) for size in SIZES], object)
    refused_after(lambda found: found | {"color_png_bytes": black}, "color_png_bytes shows other classes")
    refused_after(lambda found: found | {"class_pixels": found["class_pixels"] + 1}, "class_pixels counts other")


# One comparison.


def of_logits(logits, mask, numbers=None, runtime="onnxruntime"):
    task = Segmentation(CLASSES)
    confidence = task.outputs(logits)["confidence"].numpy() if numbers is None else numbers
    return parity.compare(runtime, logits.shape[1:3], task, logits, {"mask": mask, "confidence": confidence})


def test_wrong_pixels_count_and_near_ties_do_not():
    logits = np.array([[[[9, 1, 0], [5, 4.9999, 0], [2, 8, 0], [7, 3, 0]]]], np.float32)
    right = np.array([[[0, 0, 1, 0]]], np.uint8)
    assert of_logits(logits, right) == {"runtime": "onnxruntime", "height": 1, "width": 4, "max_difference": 0.0,
                                        "agreement": 1.0, "clear_agreement": 1.0, "compared": 0.75}  # fmt: skip
    row = of_logits(logits, np.array([[[0, 1, 1, 0]]], np.uint8))
    assert (row["agreement"], row["clear_agreement"]) == (0.75, 1.0)
    parity.require(row)
    row = of_logits(logits, np.array([[[0, 1, 1, 1]]], np.uint8))
    assert (row["agreement"], row["clear_agreement"]) == (0.5, pytest.approx(2 / 3))
    with pytest.raises(ExportError, match=r"66.6667% of clear pixels agree \(limit 99.99%\)"):
        parity.require(row)


def test_the_limits_are_met_or_not_to_the_digit():
    row = {"runtime": "saved_model", "height": 1, "width": 4, "max_difference": 1e-5, "clear_agreement": 1.0}
    parity.require(row)
    for wrong in {"max_difference": 1.001e-5}, {"max_difference": float("nan")}, {"clear_agreement": 0.99999}:
        with pytest.raises(ExportError, match="^saved_model differs from Keras at 1x4"):
            parity.require(row | wrong)
    for runtime in EVERY[1:]:
        parity.require(row | {"runtime": runtime, "max_difference": 1e-4, "clear_agreement": 0.9999})
        for wrong in {"max_difference": 1.001e-4}, {"clear_agreement": 0.99989}, {"clear_agreement": float("nan")}:
            with pytest.raises(ExportError, match=runtime):
                parity.require(row | wrong | {"runtime": runtime})


def test_numbers_that_are_off_or_none_and_wrong_shapes_are_found():
    logits = np.float32(structured_images(1, 6, 7)) / 20
    mask = logits.argmax(-1).astype(np.uint8)
    confidence = tf.nn.softmax(logits).numpy().max(-1)
    parity.require(of_logits(logits, mask, confidence))
    for wrong in confidence + np.float32(0.001), confidence * np.nan:
        with pytest.raises(ExportError, match="onnxruntime differs from Keras at 6x7: values by"):
            parity.require(of_logits(logits, mask, wrong))
    for numbers, picture in (confidence[:, :5], mask), (confidence, mask[:, :, :5]), (confidence, mask[0]):
        with pytest.raises(ExportError, match=r"onnxruntime at 6x7: outputs have the shapes"):
            of_logits(logits, picture, numbers)


def test_logits_are_compared_as_a_share_of_their_range():
    logits = np.float32(structured_images(1, 6, 7))
    found = {"mask": logits.argmax(-1), "logits": logits + np.float32(np.ptp(logits) * 3e-6)}
    row = parity.compare("saved_model", (6, 7), Segmentation(CLASSES), logits, found)
    assert row["max_difference"] == pytest.approx(3e-6, rel=0.1) and row["agreement"] == 1


def test_images_are_compared_but_for_where_rounding_turns():
    values = np.full((1, 2, 2, 3), 100.2, np.float32)
    values[0, 0, 0] = 99.5  # may be rounded either way
    image = np.round(values).astype(np.uint8)
    image[0, 0, 0] = 99

    def row(numbers, picture):
        found = {"values": numbers, "output_image": picture}
        return parity.compare("onnxruntime", (2, 2), Regression(), values / 255, found)

    found = row(values, image)
    assert (found["clear_agreement"], found["compared"]) == (1, 0.75) and found["max_difference"] < 1e-6
    assert found["agreement"] in (0.75, 1.0)
    wrong = image.copy()
    wrong[0, 1, 1] = 101
    with pytest.raises(ExportError, match="66.6667% of clear pixels"):
        parity.require(row(values, wrong))
    with pytest.raises(ExportError, match="values by 1.96e-03"):
        parity.require(row(values + 0.5, image))
    with pytest.raises(ExportError, match="shapes"):
        row(values[:, :1], image)


# In an export.


@pytest.mark.parametrize("kind", ["saved_model", "onnx"])
def test_an_export_that_fails_publishes_nothing_and_leaves_what_is_there(exported, tmp_path, monkeypatch, kind):
    write = getattr(package, f"write_{kind}")

    def write_then_change(made, path):
        write(made, path)
        made.network.layers[2].kernel.assign_add(tf.fill(made.network.layers[2].kernel.shape, 0.02))

    (tmp_path / "saved_model" / "1").mkdir(parents=True)
    (tmp_path / "saved_model" / "1" / "saved_model.pb").write_bytes(b"published")
    (tmp_path / "parity.json").write_text("{}")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    monkeypatch.setattr(package, f"write_{kind}", write_then_change)
    with pytest.raises(ExportError, match="differs from Keras"):
        export(product(), tmp_path, saved_model=kind == "saved_model", onnx=kind == "onnx", sizes=SIZES)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert {path.name for path in tmp_path.iterdir()} == {"saved_model", "parity.json"}
