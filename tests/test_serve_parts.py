"""The development server's parts, one by one: values from JSON, sizes from headers, the gate."""

import asyncio
import gc
import io
import json
import threading
import time
import weakref

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.serving_for_tests import encoded, pixels
from tfssl.serve import limits, tensors
from tfssl.serve.gate import Gate
from tfssl.serve.refusals import Refusal, of_tensorflow


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        ([[1, 2], [3, 255]], np.uint8, [[1, 2], [3, 255]]),
        (7, np.int64, 7),
        ([-(2**63), 2**63 - 1], np.int64, [-(2**63), 2**63 - 1]),
        ([2**64 - 1], np.uint64, [2**64 - 1]),
        ([1, 2.5, float("nan"), float("-inf")], np.float32, [1, 2.5, np.nan, -np.inf]),
        ([True, False], np.bool_, [True, False]),
        (["é", {"b64": "/+8="}, {"b64": "/+8"}, {"b64": "/+\n8="}], object, ["é".encode()] + [b"\xff\xef"] * 3),
        ([], np.float32, []),
    ],
)
def test_json_becomes_an_array_of_the_signatures_type(value, kind, expected):
    array = tensors.as_array(json.loads(json.dumps(value)), np.dtype(kind), "x")
    assert array.dtype == np.dtype(kind)
    np.testing.assert_array_equal(array, np.array(expected, kind))


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ([256], np.uint8), ([-1], np.uint8), ([1.0], np.int32), ([True], np.int32), ([1], np.bool_), (["1"], np.int32),
        ([1e39], np.float32), ([2**63], np.int64), ([None], np.float32), ([[1], 2], np.int32), ([1, [2]], np.int32),
        ([[1], [2, 3]], np.int32), ([1], object), ([{"b64": "*"}], object), ([{"b64": "a"}], object), ([1], np.float16),
        ([10**400], np.float64), ([{"b64": "aaaa", "more": ""}], object), ([1, "a" * 1_000_000], np.int32),
    ],
)  # fmt: skip
def test_nothing_else_becomes_one(value, kind):
    with pytest.raises(Refusal) as refused:
        tensors.as_array(value, np.dtype(kind), "x")
    assert refused.value.http == (501 if kind is np.float16 else 400) and len(str(refused.value)) < 200


def test_depth_is_counted_outside_of_strings_only():
    limits.check_json(json.dumps({"a": ["[[[[", '"[[[[', "\\"]}).encode(), 2)
    limits.check_json(b'["unfinished [[[[[[', 2)
    limits.check_json(b'["\\" \\\\", [1]]', 2)
    for deep in b'["]]]]", [["[', b"[[[", b'{"a": {"b": {"c": 1}}}', b"[1], [[[1", b"[" * 2_000_000:
        with pytest.raises(Refusal, match="deeper than 2"):
            limits.check_json(deep, 2)
    started = time.monotonic()
    limits.check_json(b'"' + b'\\"' * 1_000_000, 2)  # a careless pattern would take minutes
    assert time.monotonic() - started < 5


def test_a_fragmented_text_is_refused():
    with pytest.raises(Refusal, match="1000001 arrays and objects"):
        limits.check_json(b"[" + b"[]," * (limits.MOST_CONTAINERS - 1) + b"[]]", 2)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}), ("PNG", {"dpi": (90, 90)}), ("JPEG", {}), ("JPEG", {"progressive": True}),
        ("JPEG", {"exif": b"Exif\0\0" + bytes(3000), "comment": b"x" * 500, "quality": 20, "restart_marker_rows": 1}),
    ],
)  # fmt: skip
def test_sizes_are_those_that_pillow_reads(kind, options):
    for height, width in (1, 1), (17, 300), (260, 9):
        content = encoded(pixels(height, width), kind, **options)
        assert limits.file_pixels(content) == height * width
        with Image.open(io.BytesIO(content)) as picture:
            assert picture.size == (width, height)


@pytest.mark.parametrize("strays", [b"\0", b"ab", b"\xff\0\x01", b"\xff\xff", b"\xff\xd1"])
def test_bytes_between_segments_do_not_hide_a_size(strays):
    content = encoded(pixels(40, 50), "JPEG")
    after = 4 + int.from_bytes(content[4:6]) if content[3] == 0xE0 else 2  # the end of the first segment
    content = content[:after] + strays + content[after:]
    assert limits.file_pixels(content) == 40 * 50
    assert tf.io.decode_jpeg(content).shape == [40, 50, 3]  # as a decoder reads it


def test_what_is_no_picture_has_no_size():
    jpeg = encoded(pixels(8, 8), "JPEG")
    for content in b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8", b"\xff\xd8\xff", jpeg[:30], b"GIF89a" + bytes(50):
        assert limits.file_pixels(content) == 0
    with pytest.raises(Refusal, match="no size in its first"):
        limits.file_pixels(b"\xff\xd8" + b"\xff\xe0\0\2" * 5000)


def test_an_answer_that_is_too_long_for_json_or_has_no_rows():
    with pytest.raises(Refusal, match="ask over gRPC"):
        tensors.written({"logits": np.zeros([1, 2000, 2001], np.float32)}, by_row=False)
    with pytest.raises(Refusal, match="no shape information"):
        tensors.written({"count": np.float32(1)}, by_row=True)
    with pytest.raises(Refusal, match="inconsistent batch sizes"):
        tensors.written({"a": np.zeros(2), "b": np.zeros(3)}, by_row=True)


def test_answers_keep_what_json_has_no_word_for():
    text = tensors.written({"x": np.array([np.nan, np.inf, 0.1], np.float32)}, by_row=True)
    assert text == b'{"predictions": [NaN, Infinity, 0.10000000149011612]}'
    text = tensors.written({"a_bytes": np.array([b"\xff"], object), "a": np.array([b"\xff"], object)}, by_row=True)
    assert json.loads(text) == {"predictions": [{"a_bytes": {"b64": "/w=="}, "a": "\ufffd"}]}


def test_what_tensorflow_says_is_told_without_its_stack():
    decode = tf.function(lambda content: tf.io.decode_png(content), input_signature=[tf.TensorSpec([], tf.string)])
    with pytest.raises(tf.errors.OpError) as failed:
        decode(b"no picture")
    refusal = of_tensorflow(failed.value)
    assert (refusal.code, refusal.http) == ("INVALID_ARGUMENT", 400)
    told = str(refusal)
    assert "decode_png" in told.lower() or "png" in told.lower()
    assert not [word for word in ("Detected at", "{{node", "Graph execution", "Op:", "\n") if word in told], told
    assert of_tensorflow(tf.errors.UnknownError(None, None, "strange")).http == 500


def test_the_gate_lets_in_so_many_and_gives_places_back():
    go, most = threading.Event(), []
    running = threading.Semaphore(0)

    def work():
        running.release()
        most.append(running._value)
        assert go.wait(10)
        running.acquire()
        return "done"

    async def scene():
        gate = Gate(concurrency=2, queue=1)
        calls = [asyncio.create_task(gate.run(work)) for _ in range(3)]
        await asyncio.sleep(0.1)
        with pytest.raises(Refusal) as refused:
            await gate.run(work)
        assert refused.value.code == "UNAVAILABLE" and refused.value.http == 503
        calls[2].cancel()  # it waits, and gives its place to another
        await asyncio.sleep(0.1)
        calls[2] = asyncio.create_task(gate.run(work))
        await asyncio.sleep(0.1)
        calls[0].cancel()  # it is being computed, and keeps its place
        await asyncio.sleep(0.1)
        with pytest.raises(Refusal):
            await gate.run(work)
        go.set()
        assert await asyncio.gather(*calls[1:]) == ["done"] * 2
        assert await gate.run(lambda: 5) == 5
        with pytest.raises(ZeroDivisionError):
            await gate.run(lambda: 1 / 0)
        assert await gate.run(lambda: 6) == 6

    asyncio.run(scene())
    assert max(most) == 2


def test_a_call_that_was_given_up_keeps_nothing_in_memory():
    class Body:
        pass

    go = threading.Event()

    async def scene():
        gate = Gate(concurrency=1, queue=5)
        running = asyncio.create_task(gate.run(go.wait, 10))
        await asyncio.sleep(0.05)
        bodies = [Body() for _ in range(5)]
        references = [weakref.ref(body) for body in bodies]
        waiting = [asyncio.create_task(gate.run(lambda body: None, body)) for body in bodies]
        await asyncio.sleep(0.05)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        del bodies, waiting, task
        gc.collect()
        assert [reference() for reference in references] == [None] * 5  # though the thread has not come to them
        go.set()
        assert await running

    asyncio.run(scene())
