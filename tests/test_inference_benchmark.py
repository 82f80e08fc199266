"""The benchmark of inference: its arithmetic, the turns of what it compares, and its tables on a tiny export."""

import numpy as np
import pytest

from benchmarks import inference


def test_an_interval_of_a_ratio_holds_it_and_is_as_wide_as_the_noise():
    random = np.random.default_rng(1)
    slow, fast = (level * random.lognormal(0, 0.1, 400) for level in (3.0, 2.0))
    ratio, low, high = inference.interval(slow, fast, np.divide)
    assert low < 1.5 < high and low < ratio < high and high - low < 0.1
    _, low, high = inference.interval(slow[:20], fast[:20], np.divide)
    assert high - low > 0.05  # of fewer turns it is wider
    assert inference.interval(slow, slow, np.subtract) == (0.0, 0.0, 0.0)


def test_every_turn_calls_everything_once_and_not_always_in_one_order():
    called = []
    calls = {name: (lambda name=name: called.append(name)) for name in "abc"}
    seconds = inference.in_turn(calls, turns=6, warm_up=2)
    assert {len(values) for values in seconds.values()} == {6}
    turns = ["".join(called[start : start + 3]) for start in range(0, len(called), 3)]
    assert len(turns) == 8 and {"".join(sorted(turn)) for turn in turns} == {"abc"}
    assert {turn[0] for turn in turns} == set("abc")


def test_the_runtimes_are_compared_on_an_export(exported):
    title, columns, rows = inference.table_of_runtimes(exported, (33, 47), threads=1, turns=3)
    assert title == "33 x 47, 1 thread, 3 turns" and len(columns) == 4
    assert [row[0] for row in rows] == ["SavedModel", "ONNX Runtime", "ONNX Runtime again (control)", "OpenVINO"]
    assert rows[0][2] == "1.000 (1.000 to 1.000)" and all(float(row[1]) > 0 for row in rows)


def test_goals_are_judged_by_the_numbers_shown(capsys):
    inference.judge("it takes", "0.950 (0.9 to 1.0)", 0.95)
    inference.judge("it adds", "+5.01 (+4.0 to +6.0)", 5)
    assert capsys.readouterr().out == (
        "PASS: it takes 0.950 (0.9 to 1.0), at most 0.95\nFAIL: it adds +5.01 (+4.0 to +6.0), at most 5\n"
    )
    rows = [["SavedModel", "10.00", "1.000", "1.1"], ["ORT", "9.60", "0.960", "1.0"], ["control", "9.00", "0.9", "1.0"]]
    inference.judge_runtimes(rows)
    told = capsys.readouterr().out
    assert "FAIL: ONNX Runtime, of the SavedModel's time, 0.960" in told and "PASS: ONNX Runtime, of OpenVINO's" in told
    assert "too noisy" in told


@pytest.mark.slow
def test_a_server_is_compared_with_the_same_call_here(exported):
    _, _, rows = inference.table_of_servers(exported, (33, 47), turns=5)
    assert [row[0] for row in rows] == ["in this process", "REST", "gRPC"]
    _, _, rows = inference.table_of_first_requests(exported, (33, 47), servers=1, later=5)
    assert [row[0] for row in rows] == ["REST", "gRPC"] and all(float(row[2]) > 0 for row in rows)
