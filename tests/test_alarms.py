"""Each alarm by a planted fault, once, in plain words; and none without a fault."""

import numpy as np

from tfssl.alarms import PATIENCE, Alarms
from tfssl.tables import read_table
from tfssl.tasks import Segmentation


def told(path):
    return [(int(row["step"]), row["kind"]) for row in read_table(path)]


def test_a_term_that_stays_zero(tmp_path, capsys):
    alarms = Alarms(tmp_path / "alarms.csv")
    for row in range(1, 3 * PATIENCE):
        alarms.after_row(20 * row, {"supervised": 0.5, "contrast": 0.0})
    assert told(tmp_path / "alarms.csv") == [(20 * PATIENCE, "zero contrast")]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"alarm at step {20 * PATIENCE}: the term contrast was exactly 0") and "threshold" in line


def test_a_term_that_is_zero_now_and_then_is_no_fault(tmp_path, capsys):
    """Nor is one that is not there, as in a warm-up."""
    alarms = Alarms(tmp_path / "alarms.csv")
    for row in range(1, 4 * PATIENCE):
        terms = {"supervised": 0.5, "consistency": 0.1 if row % (PATIENCE - 1) == 0 else 0.0}
        alarms.after_row(row, terms if row % PATIENCE else {"supervised": 0.5})
    assert told(tmp_path / "alarms.csv") == [] and capsys.readouterr().err == ""


def test_networks_that_have_become_equal(tmp_path, capsys):
    alarms = Alarms(tmp_path / "alarms.csv")
    alarms.after_evaluation(10, {}, coupling=0.02)
    alarms.after_evaluation(20, {})
    assert told(tmp_path / "alarms.csv") == []
    alarms.after_evaluation(30, {}, coupling=1e-6)
    assert told(tmp_path / "alarms.csv") == [(30, "equal networks")] and "1.0e-06" in capsys.readouterr().err


def test_a_network_that_predicts_one_class(tmp_path, capsys):
    alarms = Alarms(tmp_path / "alarms.csv")
    alarms.after_evaluation(10, {"one_class": None})
    alarms.after_evaluation(20, {"one_class": "sky"})
    assert told(tmp_path / "alarms.csv") == [(20, "one class")] and "'sky'" in capsys.readouterr().err


def test_one_class_is_told_from_the_scores():
    task = Segmentation(["sky", "road"])
    assert task.scores(np.array([[50, 0], [50, 0]]))["one_class"] == "sky"
    assert task.scores(np.array([[999, 0], [1, 0]]))["one_class"] is None  # nearly all is sky
    assert task.scores(np.array([[50, 0], [0, 50]]))["one_class"] is None
    assert task.scores(np.zeros([2, 2], int))["one_class"] is None


def test_a_resumed_run_tells_again_only_what_came_later(tmp_path):
    first = Alarms(tmp_path / "alarms.csv")
    first.after_evaluation(10, {"one_class": "sky"})
    first.after_evaluation(30, {}, coupling=0.0)
    resumed = Alarms(tmp_path / "alarms.csv", step=20)
    resumed.after_evaluation(25, {"one_class": "sky"}, coupling=0.0)
    assert told(tmp_path / "alarms.csv") == [(10, "one class"), (25, "equal networks")]
