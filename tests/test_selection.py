"""The network that ships is the one that was best on held-out images, wherever it is asked for."""

import json
from types import SimpleNamespace

import numpy as np
import onnx
import pytest

from tests.networks_for_tests import tiny_network
from tests.runs_for_tests import configuration, fit_and_cut, table, write_configuration, write_data
from tfssl import errors, evaluate, fit, runs, selection
from tfssl.errors import UserError
from tfssl.export.__main__ import main as export_main

SCORES = {2: 0.1, 4: 0.9, 6: 0.2}


pytestmark = pytest.mark.usefixtures("tiny_surroundings")


@pytest.fixture
def path(tmp_path):
    """A run of six steps, evaluated three times, that keeps what scores best on images held out."""
    content = configuration(
        write_data(tmp_path / "data"), data={"held_out": "held_out.txt"}, evaluation={"select": "held_out"},
        training={"evaluate_every": 2, "checkpoint_every": 2}, export={"onnx": True},
    )  # fmt: skip
    return write_configuration(tmp_path / "run.json", content)


@pytest.fixture
def offered(monkeypatch):
    """{step: the weights that were offered}, while the scores are those of SCORES."""
    seen, offer = {}, selection.Best.offer

    def with_score(self, network, step, score):
        assert 0 <= score <= 1
        seen[step] = network.get_weights()
        offer(self, network, step, SCORES[step])

    monkeypatch.setattr(selection.Best, "offer", with_score)
    return seen


def assert_best(weights, offered):
    for one, other in zip(weights, offered[4], strict=True):
        np.testing.assert_array_equal(one, other)
    assert any(np.any(one != other) for one, other in zip(weights, offered[6], strict=True))


def test_the_best_and_no_other_is_scored_exported_and_reopened(path, offered, tmp_path):
    folder = fit.fit(path, output_dir=tmp_path / "run")
    assert_best(runs.reopen(folder).deployed.get_weights(), offered)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert (metrics["steps"], metrics["shipped_step"]) == (6, 4)
    rows = {int(row["step"]): float(row["miou"]) for row in table(folder / "evaluations.csv")}
    assert metrics["miou"] == pytest.approx(rows[4], abs=1e-4)
    properties = {each.key: each.value for each in onnx.load(folder / "export/onnx/1/model.onnx").metadata_props}
    assert json.loads(properties["step"]) == 4
    assert "the weights are those of step 4" in (folder / "report.html").read_text()
    errors.run(evaluate.main, [str(folder)])
    again = json.loads((folder / "metrics_validation.json").read_text())["networks"]["average"]
    assert again["miou"] == pytest.approx(metrics["miou"], abs=1e-6)
    errors.run(export_main, [str(folder)])
    assert (folder / "export/onnx/2/model.onnx").is_file()


@pytest.mark.parametrize("step", [3, 5])
def test_a_cut_run_goes_on_with_what_was_best(step, path, offered, tmp_path):
    fit_and_cut(path, tmp_path / "run", step)
    fit.fit(path, output_dir=tmp_path / "run")
    assert_best(runs.reopen(tmp_path / "run").deployed.get_weights(), offered)


def test_what_a_run_kept_that_was_cut_before_its_first_save_is_forgotten(path, offered, tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "best.npz").write_bytes(b"of another run")
    fit_and_cut(path, tmp_path / "run", 1)
    assert not (tmp_path / "run" / "checkpoints" / "best.npz").exists()


def test_only_a_higher_score_replaces_the_best(tmp_path):
    best, networks = selection.Best(tmp_path), [tiny_network(seed) for seed in range(3)]
    for step, score in enumerate((0.5, 0.5, 0.4)):
        best.offer(networks[step], step, score)
    found = selection.Best(tmp_path)
    assert (found.step, found.score) == (0, 0.5) and [each.name for each in tmp_path.iterdir()] == ["best.npz"]
    found.restore(networks[2])
    for one, other in zip(networks[2].get_weights(), networks[0].get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_nothing_is_chosen_on_what_is_reported():
    def source(**names):
        sets = {"held_out": None, "validation": ("a", "b"), "test": None, **names}
        return SimpleNamespace(**{name: each and SimpleNamespace(names=each) for name, each in sets.items()})

    selection.refuse_reported(source(held_out=("c",)))
    with pytest.raises(UserError, match="no such set; name one in data.held_out"):
        selection.refuse_reported(source())
    with pytest.raises(UserError, match=r"1 image\(s\) of data.held_out, as b, are in data.validation too"):
        selection.refuse_reported(source(held_out=("b", "c")))
    with pytest.raises(UserError, match="as d, are in data.test too"):
        selection.refuse_reported(source(held_out=("d",), test=("d",)))
