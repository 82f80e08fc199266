"""Each alarm by a planted fault, once, in plain words; and none without a fault."""

import html

import numpy as np
import pytest

from tests.runs_for_tests import configuration, surroundings, write_configuration, write_data
from tfssl import callbacks, fit
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
    alarms.after_evaluation(10, {"the network": None, "the pseudo-labels": None})
    alarms.after_evaluation(20, {"the network": None, "the pseudo-labels": "sky"})
    alarms.after_evaluation(30, {"the network": "sky", "the pseudo-labels": "sky"})
    kinds = [(20, "one class in the pseudo-labels"), (30, "one class in the network")]
    assert told(tmp_path / "alarms.csv") == kinds
    assert "of the pseudo-labels nearly all pixels are 'sky'" in capsys.readouterr().err


# In a run, where the fault is planted into the training itself.


@pytest.fixture
def faulty(tmp_path, monkeypatch):
    """Runs a method while `fault(method)` spoils it after every step; the alarms that are then in its folder."""

    def run(method, fault=lambda method: None, **data):
        def spoiled(self, batch, logs=None):
            fault(self.run.method)
            ends(self, batch, logs)

        ends = callbacks.Log.on_train_batch_end
        monkeypatch.setattr(callbacks.Log, "on_train_batch_end", spoiled)
        training = {"steps": 12, "evaluate_every": 12, "log_every": 1, "checkpoint_every": 12}
        content = configuration(root, method=method, training=training)
        content["data"] |= data
        path = write_configuration(tmp_path / "run.json", content)
        folder = fit.fit(path, output_dir=tmp_path / f"run_{len(list(tmp_path.glob('run_*')))}")
        report = html.unescape((folder / "report.html").read_text())
        assert all(row["text"] in report for row in read_table(folder / "alarms.csv"))
        return told(folder / "alarms.csv")

    root = write_data(tmp_path / "data")
    with surroundings(tmp_path):
        yield run


def test_a_run_whose_term_has_no_weight(faulty):
    assert faulty({"name": "mean_teacher", "consistency_weight": 0}) == [(10, "zero consistency")]


def test_a_run_whose_second_network_becomes_the_first(faulty):
    """Without a held-out part too."""

    def become_equal(method):
        method.networks[1].set_weights(method.networks[0].get_weights())

    assert faulty({"name": "cps"}, become_equal) == [(12, "equal networks")]


def test_a_run_whose_network_collapses(faulty):
    def collapse(method):
        bias = method.deployed.get_layer("classifier").get_layer("logits_convolution").bias
        bias.assign([0, 1000, 0])

    assert faulty({"name": "supervised", "ema_decay": None}, collapse) == [(12, "one class in the network")]


def test_a_run_whose_pseudo_labels_collapse(faulty):
    def collapse(method):
        bias = method.guides[0].get_layer("classifier").get_layer("logits_convolution").bias
        bias.assign([0, 1000, 0])

    kinds = {kind for _, kind in faulty({"name": "cps", "ema_decay": 0.9}, collapse, held_out="held_out.txt")}
    assert {"one class in the network", "one class in the pseudo-labels"} <= kinds


@pytest.mark.slow
def test_a_contrast_that_has_not_begun_is_no_fault(faulty):
    """The banks fill slowly; from start_by on it would be one."""
    method = {"name": "cross_teacher", "memory_size": 64, "start_by": 12}
    started = {**method, "start_by": 1, "high_weight": 0}
    first, second = ([kind for _, kind in faulty(each) if kind.startswith("zero")] for each in (method, started))
    assert first == [] and second == ["zero high_1", "zero high_2"]


def test_one_class_is_told_from_the_scores():
    task = Segmentation(["sky", "road"])
    assert task.scores(np.array([[50, 0], [50, 0]]))["one_class"] == "sky"
    assert task.scores(np.array([[999, 0], [1, 0]]))["one_class"] is None  # nearly all is sky
    assert task.scores(np.array([[50, 0], [0, 50]]))["one_class"] is None
    assert task.scores(np.zeros([2, 2], int))["one_class"] is None


def test_a_resumed_run_tells_again_only_what_came_later(tmp_path):
    first = Alarms(tmp_path / "alarms.csv")
    first.after_evaluation(10, {"the network": "sky"})
    first.after_evaluation(30, {}, coupling=0.0)
    resumed = Alarms(tmp_path / "alarms.csv", step=20)
    resumed.after_evaluation(25, {"the network": "sky"}, coupling=0.0)
    assert told(tmp_path / "alarms.csv") == [(10, "one class in the network"), (25, "equal networks")]
