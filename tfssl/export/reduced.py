"""A variant in 8 bits, written only where it is worth having: at least 1.3 times as fast and nearly as good.

Small networks with depthwise convolutions often gain nothing from 8 bits on CPUs; so both are measured on this machine,
in one run, on the run's own validation images.
"""

import time

import numpy as np
import onnx
import onnxruntime
import tensorflow as tf
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

LEAST_SPEEDUP = 1.3
LEAST_SHARE = 0.99  # of the mIoU
CALIBRATION = 100  # unlabeled images, at most
TURNS = 60  # each of one image in one and in the other, in turn
RESAMPLES = 1000
NAME, PREPARED = "model.int8.onnx", "prepared.onnx"


class Images(CalibrationDataReader):
    """Unlabeled images as the model takes them."""

    def __init__(self, examples):
        self._left = iter(range(min(CALIBRATION, examples.count)))
        self._examples = examples

    def get_next(self):
        number = next(self._left, None)
        return None if number is None else {"image": as_input(self._examples, number)}


def as_input(examples, number):
    """An example's image as uint8 [1,H,W,3]."""
    return np.uint8(np.clip(np.round(examples.image(tf.constant(number, tf.int64)).numpy()), 0, 255))[None]


def reducer(unlabeled, validation, task):
    """A function (model.onnx, folder) -> what came of it, {"written": bool, "why": sentence, ...}; see `reduce`."""
    return lambda model, folder: reduce(model, folder, unlabeled, validation, task)


def reduce(model, folder, unlabeled, validation, task):
    """Write folder/model.int8.onnx if it is fast and good enough; the measurements, and a sentence that says why."""
    if not task.has_classes:
        return {"written": False, "why": "Not tried: what it loses is measured in mIoU; this network has no classes."}
    small = folder / NAME
    try:
        quantize(model, small, unlabeled)
    except Exception as error:  # whatever the library's quantizer cannot do with a graph: the export goes on without
        for left in (small, folder / PREPARED):
            left.unlink(missing_ok=True)
        return {"written": False, "why": f"Not written: ONNX Runtime's quantizer failed ({type(error).__name__})."}
    sessions = [_session(path) for path in (model, small)]
    times = _in_turn(sessions, validation)
    seconds, (low, high) = np.median(times, axis=1), _interval(*times)
    scores = [_miou(session, validation, task) for session in sessions]
    speedup, share = float(seconds[0] / seconds[1]), scores[1] / max(scores[0], 1e-9)
    worth = bool(low >= LEAST_SPEEDUP and share >= LEAST_SHARE)
    if not worth:
        small.unlink()
    used = min(CALIBRATION, unlabeled.count)
    told = (f"8 bits (QDQ, convolutions but the first and the last, calibrated on {used} unlabeled images): "
            f"{speedup:.2f} times as fast as float32 (medians of {TURNS} turns, one thread; 95 % interval {low:.2f} "
            f"to {high:.2f}), mIoU {100 * scores[0]:.2f} -> {100 * scores[1]:.2f} % on {validation.count} validation "
            "images.")  # fmt: skip
    verdict = (f"Written as {NAME}; on processors without 8-bit dot products (VNNI) it may be slower and saturate."
               if worth else f"Not written: it must be {LEAST_SPEEDUP} times as fast by all of the interval, and keep "
               f"{LEAST_SHARE:.0%} of the mIoU.")  # fmt: skip
    return {"written": worth, "why": f"{verdict} {told}", "speedup": speedup,
            "speedup_interval": [low, high], "milliseconds": [1000 * float(each) for each in seconds],
            "miou_float32": scores[0], "miou_int8": scores[1]}  # fmt: skip


def quantize(model, path, unlabeled):
    """8-bit convolutions, per channel; the first one, the classifier and everything else stay in float32."""
    prepared = path.with_name(PREPARED)
    quant_pre_process(str(model), str(prepared), skip_symbolic_shape=True)
    convolutions = [node.name for node in onnx.load(prepared).graph.node if node.op_type == "Conv"]
    quantize_static(
        str(prepared), str(path), Images(unlabeled), quant_format=QuantFormat.QDQ, per_channel=True,
        op_types_to_quantize=["Conv"], activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        nodes_to_exclude=[convolutions[0], convolutions[-1]],
    )  # fmt: skip
    prepared.unlink()


def _session(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _in_turn(sessions, validation):
    """Seconds of each session, [sessions, TURNS]: image by image in one and the other, so both have the same luck."""
    times = [[] for _ in sessions]
    for turn in range(TURNS + 2):
        image = as_input(validation, turn % validation.count)
        for session, own in zip(sessions, times, strict=True):
            started = time.perf_counter()
            session.run(["mask"], {"image": image})
            own.append(time.perf_counter() - started)
    return [own[2:] for own in times]


def _interval(first, second):
    """The 95 % bootstrap interval, over turns, of the ratio of two medians."""
    drawn = np.random.default_rng(0).integers(0, len(first), [RESAMPLES, len(first)])
    ratios = np.median(np.array(first)[drawn], axis=1) / np.median(np.array(second)[drawn], axis=1)
    return tuple(float(end) for end in np.percentile(ratios, [2.5, 97.5]))


def _miou(session, validation, task):
    tally = 0
    for number in range(validation.count):
        (mask,) = session.run(["mask"], {"image": as_input(validation, number)})
        label = validation.label(tf.constant(number, tf.int64))
        resized = tf.image.resize(mask[0][..., None], tf.shape(label)[:2], method="nearest")[..., 0]
        tally = tally + task.tally(label, resized).numpy()
    return float(task.scores(tally)["miou"])
