"""The variant in 8 bits: written only where both limits hold, and what is said of it either way."""

import json
import re
import shutil
import subprocess
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import tensorflow as tf

from tests.exports_for_tests import CLASSES, product
from tfssl.export import export, reduced
from tfssl.export.structured import structured_images
from tfssl.tasks import Regression, Segmentation

TASK = Segmentation(CLASSES)


class Scenes:
    """Examples whose labels are what the network itself says of them, some of it not known."""

    count = 4

    def __init__(self, seed=0):
        self.images = [structured_images(1, 32 + 8 * n, 48, seed=seed + n)[0] for n in range(self.count)]

    def image(self, index):
        return tf.cast(self.images[int(index)], tf.float32)

    def label(self, index):
        logits = product().network(self.image(index)[None], training=False)["logits"]
        label = tf.argmax(logits, axis=-1, output_type=tf.int32)[0].numpy()
        label[:4] = TASK.ignore_index
        return tf.constant(label)


@pytest.fixture
def limits(monkeypatch):
    def set_to(speedup=0.0, share=0.0):
        monkeypatch.setattr(reduced, "LEAST_SPEEDUP", speedup)
        monkeypatch.setattr(reduced, "LEAST_SHARE", share)
        monkeypatch.setattr(reduced, "TURNS", 3)

    return set_to


@pytest.fixture
def model(exported, tmp_path):
    return shutil.copy(exported["onnx"], tmp_path / "model.onnx")


def test_the_limits_are_those_that_were_agreed():
    assert (reduced.LEAST_SPEEDUP, reduced.LEAST_SHARE) == (1.3, 0.99)


def test_one_that_is_worth_it_is_written_and_computes_nearly_the_same(model, tmp_path, limits):
    limits()
    found = reduced.reduce(model, tmp_path, Scenes(10), Scenes(), TASK)
    assert {path.name for path in tmp_path.iterdir()} == {"model.onnx", "model.int8.onnx"}
    assert found["written"] is True and found["miou_float32"] == 1.0 and 0.8 < found["miou_int8"] <= 1
    assert found["why"].startswith("Written as model.int8.onnx; ") and "8 bits (QDQ" in found["why"]
    assert f"mIoU 100.00 -> {100 * found['miou_int8']:.2f} % on 4 validation images" in found["why"]
    assert "calibrated on 4 unlabeled images" in found["why"]
    assert f"{found['speedup']:.2f} times as fast" in found["why"]
    assert found["speedup"] == pytest.approx(found["milliseconds"][0] / found["milliseconds"][1])
    low, high = found["speedup_interval"]
    assert low <= found["speedup"] <= high
    assert json.loads(json.dumps(found)) == found
    kinds = [node.op_type for node in onnx.load(tmp_path / "model.int8.onnx").graph.node]
    assert kinds.count("Conv") == 3 and "QuantizeLinear" in kinds
    sessions = [onnxruntime.InferenceSession(str(tmp_path / name)) for name in ("model.onnx", "model.int8.onnx")]
    images = structured_images(2, 40, 40, seed=3)
    masks = [session.run(["mask"], {"image": images})[0] for session in sessions]
    assert np.mean(masks[0] == masks[1]) > 0.9
    assert not np.array_equal(*(session.run(["confidence"], {"image": images})[0] for session in sessions))


@pytest.mark.parametrize(("which", "says"), [({"speedup": 1e9}, "it must be 1000000000.0 times as fast"),
                                             ({"share": 1.5}, "keep 150% of the mIoU")])  # fmt: skip
def test_one_that_is_too_slow_or_too_bad_is_not_written_and_the_sentence_says_why(model, tmp_path, limits, which, says):
    limits(**which)
    found = reduced.reduce(model, tmp_path, Scenes(10), Scenes(), TASK)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    assert found["written"] is False and found["why"].startswith("Not written: ") and says in found["why"]
    assert re.search(r"\d\.\d\d times as fast as float32", found["why"])
    assert {"speedup", "milliseconds", "miou_float32", "miou_int8"} <= found.keys()


def test_it_must_be_fast_by_all_of_the_interval(model, tmp_path, limits, monkeypatch):
    limits(speedup=1.3)
    times = np.tile([1.0, 2.0], 30)  # medians 1.35 apart, and many draws of turns below 1.3
    monkeypatch.setattr(reduced, "_in_turn", lambda *_: [1.35 * times, times[::-1]])
    assert not reduced.reduce(model, tmp_path, Scenes(10), Scenes(), TASK)["written"]
    monkeypatch.setattr(reduced, "_in_turn", lambda *_: [1.35 * times, times])
    assert reduced.reduce(model, tmp_path, Scenes(10), Scenes(), TASK)["written"]


def test_a_quantizer_that_fails_is_told_and_stops_nothing(model, tmp_path, monkeypatch):
    def fail(model, path, unlabeled):
        path.with_name(reduced.PREPARED).write_bytes(b"half")
        raise RuntimeError("no shape")

    monkeypatch.setattr(reduced, "quantize", fail)
    found = reduced.reduce(model, tmp_path, Scenes(10), Scenes(), TASK)
    assert not found["written"] and "quantizer failed (RuntimeError)" in found["why"]
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_networks_without_classes_are_left_alone(model, tmp_path):
    found = reduced.reduce(model, tmp_path, None, None, Regression())
    assert not found["written"] and found["why"].startswith("Not tried: ")


def test_calibration_takes_a_hundred_images_at_most():
    examples = SimpleNamespace(count=1000, image=lambda index: tf.fill([2, 3, 3], 300.4 - float(index)))
    reader, seen = reduced.Images(examples), []
    while (given := reader.get_next()) is not None:
        seen.append(given["image"])
    assert len(seen) == reduced.CALIBRATION == 100
    assert seen[0].shape == (1, 2, 3, 3) and seen[0].dtype == np.uint8
    assert seen[0].max() == 255 and seen[99].max() == 201  # as 8 bits hold it


def test_it_is_part_of_the_bundle_and_of_its_sums(tmp_path, limits):
    limits()
    reduce = reduced.reducer(Scenes(10), Scenes(), TASK)
    place = export(product(), tmp_path, saved_model=False, sizes=[(33, 47)], reduce=reduce)["onnx"].parent
    assert "model.int8.onnx" in (place / "SHA256SUMS").read_text()
    assert subprocess.run(["sha256sum", "--status", "-c", "SHA256SUMS"], cwd=place).returncode == 0
    told = json.loads((place / "reduced_precision.json").read_text())
    assert told["written"] and told["why"] in (place / "MODEL_CARD.md").read_text()
    onnxruntime.InferenceSession(str(place / "model.int8.onnx"))
